import gc
import logging
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from zlib import crc32

import pytest
import warm
from once import made_once
from xdist.scheduler import LoadScopeScheduling

# What takes seconds to import is imported where it is needed: the process that only hands out the tests needs none.

pytest.register_assert_rewrite("tune_sam.testing")

REAL_DATA = "TUNE_SAM_REAL_DATA"
"""The variable that names the folder of real data to this process and those that it hands tests to."""

if "TUNE_SAM_DATA" in os.environ:
    os.environ[REAL_DATA] = os.environ.pop("TUNE_SAM_DATA")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Show the folder of real data to the tests of them alone; a study of another test would be of that folder."""
    os.environ.pop("TUNE_SAM_DATA", None)
    if "real_data" in item.fixturenames and REAL_DATA in os.environ:
        os.environ["TUNE_SAM_DATA"] = os.environ[REAL_DATA]


@pytest.fixture(autouse=True)
def numbers_below_the_smallest_normal_one():
    """A training in the test's own process takes them for zero from then on; the next test must not."""
    import torch

    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def one_thread():
    """Processes of tests share the machine, and a training leaves the threads that it had."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def the_log_as_it_was():
    """A command line in the test's own process prints the log from then on; what the next test prints is its own."""
    log = logging.getLogger("tune_sam")
    before = log.handlers
    yield
    log.handlers = before


@pytest.fixture(scope="module")
def blank_figures():
    """Files of figures of one colour each, that of their texts, for tests that do not look at what is drawn."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from PIL import Image

    def saved(figure, file, **options):
        texts = "".join(text.get_text() for text in figure.findobj(Text))
        Image.new("RGB", (4, 3), f"#{crc32(texts.encode()) & 0xFFFFFF:06x}").save(file, options["format"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", saved)
        yield


@pytest.fixture(scope="module")
def coarse_measures():
    """Sharpness of few steps, for tests that need it to be measured in this process: most of an analysis is ascents."""
    from tune_sam import flatness

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flatness, "worst_case", partial(flatness.worst_case, steps=2, restarts=1))
        patch.setattr(flatness, "average_case", partial(flatness.average_case, pairs=2))
        yield


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """The folder that holds the three real data sets; for tests marked `data`. Beats are cached for this run alone."""
    if not (named := os.environ.get(REAL_DATA)):
        pytest.skip("$TUNE_SAM_DATA names no folder of real data")
    root = Path(named)
    for folder in ("Mutagenicity/raw", "mitdb", "cifar-10-batches-py"):
        assert (root / folder).is_dir(), f"$TUNE_SAM_DATA names a folder without {folder}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_SAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield root


@pytest.fixture(scope="session", autouse=True)
def commands_are_built_once():
    """Typer builds all commands for each command line, which takes longer than most of what one does in a test."""
    import typer.main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def tables_of_mlflow(tmp_path_factory):
    """A database of MLflow's with nothing in it, which new ones in files are copies of."""
    import databases

    made = made_once(tmp_path_factory, "tables.db", databases.make_tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(databases.TABLES, str(made))
        yield made


@pytest.fixture(scope="session")
def searched_once(tmp_path_factory):
    from studies import searched_study

    return made_once(tmp_path_factory, "searched", searched_study)


@pytest.fixture(scope="session")
def refitted_once(tmp_path_factory, searched_once):
    from studies import INLINE

    from tune_sam.operations.refit import refit

    def make(home):
        shutil.copytree(searched_once, home)
        refit("one", home=home, seeds=2, executor=INLINE)

    return made_once(tmp_path_factory, "refitted", make)


@pytest.fixture(scope="module")
def searched(searched_once, tmp_path_factory):
    """A home with the study `one`: two optimizers on the digits, three complete trials each."""
    return Path(shutil.copytree(searched_once, tmp_path_factory.mktemp("searched") / "home"))


@pytest.fixture(scope="module")
def refitted(refitted_once, tmp_path_factory):
    """As `searched`, with a refit of two seeds."""
    return Path(shutil.copytree(refitted_once, tmp_path_factory.mktemp("refitted") / "home"))


@pytest.fixture(autouse=True)
def workers_are_forked(monkeypatch):
    """Of a Ray that a test starts in its own process: from the process that has the imports of the command lines."""
    monkeypatch.setattr("tune_sam.cluster.connection.served", lambda: nullcontext(warm.Forking()))


@pytest.fixture
def cluster():
    """A Ray of four CPUs and one GPU that is only counted. It stays up while the next test wants it, too."""
    import odd_workload
    import ray

    from tune_sam.cluster.ray_internals import without_attendants, workers_started_by

    if not ray.is_initialized():
        with without_attendants(), workers_started_by(warm.forking()), pytest.MonkeyPatch.context() as patch:
            # Workers import the tests' own workloads by their names, as they would a user's. In a runtime environment
            # of Ray's it would reach no worker that Ray starts at once, and others would have to be started.
            patch.setenv("PYTHONPATH", odd_workload.PYTHONPATH)
            ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Stop the Ray of `cluster` where the next test has no use for it."""
    if "cluster" in item.fixturenames and "cluster" not in getattr(nextitem, "fixturenames", ()):
        import ray

        ray.shutdown()


SLOW_TO_MAKE = {"cluster", "measured", "analysis"}
"""Fixtures that take over ten seconds, for whatever little the test then takes: a Ray, and what analyses measure."""

WITH_RAY = {
    "tests/tuning/test_runner.py",
    "tests/test_trainable.py",
    "tests/trainables/test_trainables.py",
    "tests/cluster/test_connection.py",
    "tests/cluster/test_executor.py",
    "tests/cluster/test_gpu.py",
    "tests/cluster/test_sharing.py",
    "tests/operations/test_check.py",
}
"""Files whose tests start a Ray in their own process: one process takes them all."""


LONGEST = (
    "tests/test_pages.py",
    "tests/test_clusters.py",
    "tests/test_install.py",
    "tests/deploy/test_slurm.py",
    "tests/test_docs.py",
    "tests/faults/test_secrets.py",
    "tests/test_homes.py",
    "tests/faults/test_trainings.py",
    "tests/test_notebook.py",
    "tests/tuning/test_ledger.py",
    "tests/reporting/test_page.py",
)
"""Other files that take long, for much of which they wait: begun early, they end while others still run."""


class ByFile(LoadScopeScheduling):
    """Gives each file to one process. pytest-xdist 3.8 finds no `xdist_group` in the ids of pytest 9.2."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "with Ray" if file in WITH_RAY else file


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Begin with the tests that take longest, first those with Ray; those that share one Ray are neighbours."""
    for item in items:
        if not SLOW_TO_MAKE.isdisjoint(item.fixturenames):
            item.add_marker("slow")
    items.sort(key=lambda item: (_rank(_file(item)), "cluster" in item.fixturenames))
    for item in items:
        if "cluster" in item.fixturenames and _file(item) not in WITH_RAY:
            raise pytest.UsageError(f"{item.nodeid} needs Ray; add its file to WITH_RAY")


def _rank(file):
    if file in WITH_RAY:
        return 0
    return LONGEST.index(file) + 1 if file in LONGEST else len(LONGEST) + 1


def _file(item):
    return item.nodeid.partition("::")[0]


def pytest_addoption(parser):
    parser.addoption(
        "--quick-limit", type=float, metavar="SECONDS", help="fail where a test takes longer that is not marked slow"
    )


def pytest_configure(config):
    if limit := config.getoption("--quick-limit"):
        config.pluginmanager.register(QuickLimit(limit))


def pytest_unconfigure():
    """Let all that is left go with the process: pytest would look through it five times for what nobody refers to."""
    gc.freeze()


class QuickLimit:
    """Fails a run, not a test, where quick tests are no longer quick.

    Once is no proof: a machine that the tests share with others may stand still for a second, and the first test that
    imports a package pays for all. What is over the limit is run alone, twice in one process; the second time counts.
    """

    ALONE = "TUNE_SAM_TESTS_ALONE"
    TWICE = "import sys, pytest; pytest.main(sys.argv[1:]); sys.exit(pytest.main(sys.argv[1:]))"

    def __init__(self, seconds):
        self.seconds, self.over = seconds, {}

    def pytest_runtest_logreport(self, report):
        quick = not {"slow", "data"} & set(report.keywords)
        if quick and report.when == "call" and report.duration > self.seconds:
            self.over[report.nodeid] = report.duration

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        hands_out = not hasattr(session.config, "workerinput")
        if hands_out and self.over and session.exitstatus == pytest.ExitCode.OK and not self._are_quick_alone():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _are_quick_alone(self):
        if self.ALONE in os.environ:
            return False
        words = ["-n", "0", "-q", "--quick-limit", str(self.seconds), *self.over]
        alone = subprocess.run(
            [sys.executable, "-c", self.TWICE, *words], env=os.environ | {self.ALONE: "1"}, stdout=subprocess.DEVNULL
        )
        return alone.returncode == pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter):
        if self.over:
            terminalreporter.section(f"over {self.seconds:g} s and not marked slow")
            terminalreporter.write_line("\n".join(f"{took:.1f} s {test}" for test, took in self.over.items()))
