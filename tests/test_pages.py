"""Each command and each snippet that the pages show is run, on a few of the digits."""

import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from pages import ROOT, blocks, commands, write_files
from studies import INLINE
from torch import nn
from typer.testing import CliRunner

import tune_sam
from tune_sam.cli.app import app

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures", "coarse_measures")]

ELSEWHERE = {
    "ui": "tests/test_browser.py",
    "submit": "tests/operations/test_submit.py",
    "check": "tests/test_docs.py",
    "two-nodes": "tests/test_docs.py",
    "--trained": "tests/benchmarks/test_gpu_kit.py",
}
"""What another test runs, which has the server, the cluster or the file that it needs; by a word of it."""

SMALL = {"dataset": "digits", "train_subset": 256, "epochs": 1}

ADDED = {
    "search": "--trials 1 --epochs 1 --train-subset 128 --dataset digits",
    "run": "--refit-epochs 1 --seeds 2 --sample 32",
    "refit": "--seeds 3 --epochs 1",
    "resume": "--trials 5",
    "analyze": "--sample 32",
    "delete": "--yes",
}
"""What makes a command small, or answers it: the last value of an option counts."""

WORKLOADS = ("gcn", "attention", "wideresnet")


@pytest.fixture(autouse=True)
def trainings_are_made_here(monkeypatch):
    for module in ("evaluation.analysis", "tuning.runner", "operations.refit", "operations.run"):
        monkeypatch.setattr(f"tune_sam.{module}.RayExecutor", lambda *_, **__: INLINE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with two studies of all that the pages speak of: one refitted and measured, one with two objectives."""
    home = tmp_path_factory.mktemp("made") / "home"
    options = {**SMALL, "scheduler": "none", "home": home, "executor": INLINE}
    tune_sam.search("gcn", name="one", optimizers=["base", "sam", "asam", "asam-all"], trials=4, **options)
    more = {"objective": "two", "params": {"m": "16,32"}}
    tune_sam.search("gcn", name="two", optimizers=["base", "sam"], trials=2, **more, **options)
    tune_sam.search("gcn", name="three", optimizers=["base"], trials=1, **options)
    tune_sam.refit("one", seeds=2, home=home, executor=INLINE)
    tune_sam.analyze("one", sample=32, grid=3, home=home, executor=INLINE)
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """A copy of it, which commands find; what the pages name beside it is there, too."""
    found = Path(shutil.copytree(made, tmp_path / "home"))
    monkeypatch.setenv("TUNE_SAM_HOME", str(found))
    monkeypatch.chdir(tmp_path)
    for folder in ("results", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return found


def called(words, into=None):
    done = CliRunner().invoke(app, words)
    if isinstance(done.exception, Exception):
        raise done.exception
    assert done.exit_code == 0, done.output
    if into:
        Path(into).write_text(done.stdout)


def cases(on_real_data):
    """Each command that has another's options or workload than those before it, for its values are made small.

    Real data are wanted by those that name a preset, or another data set than the digits.
    """
    met = set()
    for page, words in commands():
        real = {"--preset", "mitbih-interpatient"} & set(words)
        kind = (words[0], *(word for word in words[1:] if word.startswith("-") or word in WORKLOADS or ":" in word))
        if kind not in met and bool(real) == on_real_data and not ELSEWHERE.keys() & set(words):
            met.add(kind)
            yield pytest.param(words, id=f"{page}: {shlex.join(words)}")


def filled(words, home):
    """Put in for what a reader puts in: studies that are there, also where a page means that of another command."""
    name, *rest = words
    studies = iter(("two", "one", "three") if {"--pareto", "m=16"} & set(words) else ("one", "two", "three"))
    rest = [next(studies) if word == "STUDY" else word.replace("$seed", "0").replace("DIR", str(home)) for word in rest]
    of_a_study = name not in ("search", "run", "import") and rest and not rest[0].startswith("-")
    if of_a_study and rest[0] not in (*WORKLOADS, "one", "two"):
        rest[0] = "one"
    return [name, *rest]


def small(words):
    """Give the options that make a command small. Some can do so in a file alone, which is as the page's otherwise."""
    name, *rest = words
    workload = rest[0] if name in ("search", "run", "refit") else ""
    added = ADDED.get(name, "").split()
    if ":" in workload:  # a reader's own, of one small data set
        return ["--trials", "1", "--epochs", "1"] + (added if name == "run" else [])
    if workload not in WORKLOADS or (name == "search" and "--config" not in rest):
        return added
    given = yaml.safe_load(Path(rest[rest.index("--config") + 1]).read_text()) if "--config" in rest else {}
    kept = {name: value for name, value in given.items() if name not in ("preset", "batch_size")}  # of other data
    Path("small.yaml").write_text(yaml.safe_dump({**kept, **SMALL}))
    one = [] if name == "refit" or given.get("sampler") == "grid" else ["--trials", "1"]
    no_gpu = ["--gpus-per-trial", "0"] if "--gpus-per-trial" in rest else []
    return ["--config", "small.yaml", *one, *no_gpu, *(added if name != "search" else [])]


@pytest.mark.parametrize("words", list(cases(on_real_data=False)))
def test_a_command_runs(words, home):
    if words[0] == "import":
        tune_sam.export("one", "FILE.tar.gz")
    if "best.yaml" in words and ">" not in words:
        called(["best", "one", "--yaml"], into="best.yaml")
    words = filled(words[: words.index(">")] if ">" in words else words, home)
    called([*words, *small(words)])


@pytest.mark.data
@pytest.mark.parametrize("words", list(cases(on_real_data=True)))
def test_a_command_runs_on_real_data(words, home, real_data, monkeypatch):
    monkeypatch.setenv("TUNE_SAM_DATA", str(real_data))
    added = ["--epochs", "1", *(("--train-subset", "128") if words[0] == "search" else ("--seeds", "1"))]
    if "report" not in words:  # whose trials are given
        added += ["--trials", "1", "--optimizer", "base"]
    elif words[1] == "wideresnet":  # planned alone, for it takes hours
        monkeypatch.setattr("tune_sam.tuning.runner.launch", lambda study, *_: study)
        with pytest.raises(AssertionError, match="No trial of base, asam-all is complete"):
            called([*words, *added])
        return
    called([*filled(words, home), *added])


def run(code, **names):
    exec(compile(code, "page", "exec"), names)
    return names


def test_the_measures_of_all_trials_are_a_table(home):
    code, *_ = blocks("flatness.md", "python")
    table = run(code.replace('"STUDY"', '"one"').replace("2602", "32"))["analysis"].table()
    assert len(table) == 16


def test_the_spectrum_of_a_model_of_ones_own(capsys):
    _, code, *_ = blocks("flatness.md", "python")
    torch.manual_seed(0)
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(2)]
    run(code, model=nn.Linear(4, 3), loss_fn=nn.functional.cross_entropy, batches=batches)
    assert "λ_max" in capsys.readouterr().out


def test_the_ranks_of_what_the_page_measured(home, capsys):
    _, _, code, _ = blocks("flatness.md", "python")
    run(code)
    assert capsys.readouterr().out.count("statistic=") == 2


def test_the_surfaces_of_two_networks(home):
    *_, code = blocks("flatness.md", "python")
    tune_sam.search("wideresnet", name="wideresnet-cifar", optimizers=["base", "asam"], trials=1, **SMALL)
    smaller = {"cifar10": "digits", "2000": "256", "256).train, 256": "64).train, 64", "grid(2)": "grid(2, steps=3)"}
    for there, here in smaller.items():
        assert there in code
        code = code.replace(there, here)
    code = code.replace("docs/flatness/", "")
    assert set(run(code)["frame"]["optimizer"]) == {"base", "asam"}
    assert Path("wideresnet-surfaces.png").exists()


def test_a_network_comes_back_from_the_registry(home):
    (code,) = [code for code in blocks("mlflow.md", "", "python") if code.startswith("import mlflow")]
    tune_sam.refit("one", seeds=2, register="mutagenicity")
    found = run(code.replace("/home/me/.tune_sam", str(home)))
    assert isinstance(found["network"], nn.Module)


def test_the_answers_of_a_refit_and_its_measures(home):
    (code,) = blocks("refits.md", "python")
    small = code.replace('analyze("STUDY"', 'analyze("STUDY", sample=32, grid=3').replace("seeds=5", "seeds=2")
    found = run(small.replace("STUDY", "one"))
    assert set(found["networks"]["optimizer"]) >= {"base", "sam"}


def test_a_search_and_its_best_network(home, monkeypatch):
    (code,) = blocks("searches.md", "python")
    small = {**SMALL, "trials": 1}
    monkeypatch.setattr(
        tune_sam,
        "search",
        partial(lambda search, *given, **named: search(*given, **{**named, **small}), tune_sam.search),
    )
    assert isinstance(run(code)["model"], nn.Module)


def test_a_file_of_options(home):
    (text,) = blocks("searches.md", "yaml")
    Path("search.yaml").write_text(text)
    called(["search", "gcn", "--config", "search.yaml", "--name", "mine", *ADDED["search"].split()])
    spaces = tune_sam.open_study("mine").settings.spaces
    assert str(spaces["sam"].rho) == "0.01:0.5"


def test_the_slopes_over_the_batch_size(home, capsys):
    (code,) = blocks(ROOT / "results" / "README.md", "python")
    run(code)
    assert "base" in capsys.readouterr().out
