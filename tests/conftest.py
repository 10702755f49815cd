import logging
import os
from pathlib import Path

import odd_workload
import pytest
import ray
import torch
from studies import searched_study

pytest.register_assert_rewrite("tune_sam.testing")


@pytest.fixture(autouse=True)
def numbers_below_the_smallest_normal_one():
    """A training in the test's own process takes them for zero from then on; the next test must not."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def one_thread():
    """Processes of tests share the machine, and a training leaves the threads that it had."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def the_log_as_it_was():
    """A command line in the test's own process prints the log from then on; what the next test prints is its own."""
    log = logging.getLogger("tune_sam")
    before = log.handlers
    yield
    log.handlers = before


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """The folder that holds the three real data sets; for tests marked `data`. Beats are cached for this run alone."""
    if not (named := os.environ.get("TUNE_SAM_DATA")):
        pytest.skip("$TUNE_SAM_DATA names no folder of real data")
    root = Path(named)
    for folder in ("Mutagenicity/raw", "mitdb", "cifar-10-batches-py"):
        assert (root / folder).is_dir(), f"$TUNE_SAM_DATA names a folder without {folder}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_SAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield root


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A home with the study `one`: two optimizers on the digits, three complete trials each."""
    home = tmp_path_factory.mktemp("home")
    searched_study(home)
    return home


@pytest.fixture
def cluster():
    """A Ray of four CPUs and one GPU that is only counted. It stays up while the next test wants it, too."""
    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            # Workers import the tests' own workloads by their names, as they would a user's.
            runtime_env={"env_vars": {"PYTHONPATH": odd_workload.PYTHONPATH}},
        )


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Stop the Ray of `cluster` where the next test has no use for it."""
    if "cluster" in item.fixturenames and "cluster" not in getattr(nextitem, "fixturenames", ()):
        ray.shutdown()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep each file in one process, all tests with Ray in one, and begin with those."""
    for item in items:
        if "cluster" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=_order)


def _order(item):
    """Those with Ray come first, for they take longest; of them those that share one Ray are neighbours."""
    return item.get_closest_marker("xdist_group").args != ("ray",), "cluster" in item.fixturenames
