import json
import os
import re
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tune_sam.cli.app import app
from tune_sam.cli.console import print_json
from tune_sam.cli.main import main
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.settings import SearchOptions, flag_of
from tune_sam.study.records import Study
from tune_sam.study.settings import StudySettings
from tune_sam.trainables.data import mutagenicity
from tune_sam.tuning import plan
from tune_sam.workload import find_workload

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)
HEAVY = {
    "torch",
    "torch_geometric",
    "torchvision",
    "ray",
    "mlflow",
    "optuna",
    "pandas",
    "sklearn",
    "scipy",
    "matplotlib",
}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The command line, in this process, with a home that does not exist yet: status, output, errors."""
    monkeypatch.delenv("TUNE_SAM_DATA", raising=False)
    monkeypatch.setenv("TUNE_SAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tune_sam.tuning.runner.launch", lambda study, *_: pytest.fail(f"study {study.name} begins"))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tune-sam", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        found = capsys.readouterr()
        return left.value.code, found.out, found.err

    return call


def assert_refused(result, said, tmp_path):
    status, out, err = result
    assert status == 2, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert said in err
    assert not (tmp_path / "home").exists(), "a refusal leaves nothing behind"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "gnc"], "there is no workload 'gnc'"),
        (["search", "gcn", "--dataset", "zinc"], "has no data set 'zinc'; choose from mutagenicity, digits"),
        (["search", "gcn", "--optimizer", "adamw"], "there is no optimizer 'adamw'"),
        (["search", "gcn", "--dataset", "digits", "--rho", "1:0.1"], "--rho 1:0.1"),
        (["search", "gcn", "--dataset", "digits", "--rho=-0.1:1"], "--rho -0.1:1"),
        (["search", "gcn", "--dataset", "digits", "--lr", "slow:fast"], "--lr slow:fast: expected"),
        (["search", "gcn", "--dataset", "digits", "--lr", "a:b"], "--lr a:b: expected"),  # and no emoji
        (["search", "gcn", "--dataset", "digits", "--lr", "1\n:2\t:3"], "--lr 1 :2 :3: expected"),
        (["search", "gcn", "--dataset", "digits", "--batch-size", "0"], "--batch-size 0"),
        (["search", "gcn", "--dataset", "digits", "--batch-size", "64,1079"], "1079 is larger than the 1078 training"),
        (["search", "gcn", "--dataset", "digits", "--trials", "0"], "--trials 0"),
        (["search", "gcn", "--preset", "big"], "workload gcn has no preset 'big'; choose from report"),
        (["refit", "gcn", "--preset", "big"], "workload gcn has no preset 'big'; choose from report"),
        (["refit", "gcn", "--preset", "report-network"], "--preset report-network is no plain grid"),
        (["refit", "gcn", "--preset", "report", "--top", "2"], "--top 2 goes with a search alone"),
        (["refit", "gcn", "--preset", "report", "--seeds", "3,3"], "--seeds 3,3: a seed comes twice"),
        (["refit", "one", "--name", "two"], "--name two goes with --preset or --config alone"),
        (["search", "gcn", "--dataset", "digits", "--lr", "0.01,0.1"], "--lr 0.01,0.1: values are for a plain grid"),
        (
            ["search", "gcn", "--dataset", "digits", "--sampler", "grid", "--lr", "0.01:0.1"],
            "--lr 0.01:0.1 changes nothing where a grid alone is tried; give values",
        ),
        (["search", "gcn", "--dataset", "digits", "--rho", "0"], "--rho 0: values must be finite and above 0"),
        (["search", "gcn", "--dataset", "digits", "--objective", "val/f1"], "--objective val/f1"),
        (
            ["search", "gcn", "--dataset", "digits", "--objective", "two", "--scheduler", "asha"],
            "--scheduler asha compares trials by one number",
        ),
        (
            ["search", "gcn", "--dataset", "digits", "--objective", "two", "--sampler", "cmaes"],
            "--sampler cmaes compares trials by one number",
        ),
        (["search", "gcn", "--preset", ""], "has no preset ''"),
        (["search", "gcn", "--preset", "report", "--no-grid"], "preset 'report' is a plain grid, and --no-grid would"),
        (
            ["search", "gcn", "--preset", "report", "--sampler", "tpe"],
            "preset 'report' is a plain grid, and --sampler tpe",
        ),
        (["search", "gcn", "--preset", "report", "--trials", "2"], "--trials 2 does not go with a grid of 4 points"),
        (["search", "gcn", "--preset", "report", "--lr", "0.001:0.1"], "--lr 0.001:0.1 would make it another study"),
        (["search", "gcn", "--preset", "report", "--batch-size", "32,64"], "--batch-size 32,64 would make it another"),
        (["search", "gcn", "--preset", "report", "--rho", "0.02,0.2"], "--rho 0.02,0.2 would make it another study"),
        (
            ["search", "gcn", "--preset", "report", "--dataset", "digits"],
            "preset 'report' is of the data set mutagenicity",
        ),
        (["search", "gcn", "--dataset", "digits", "--train-subset", "9"], "--train-subset 9 is not possible"),
        (["search", "gcn", "--dataset", "digits", "--train-subset", "1079"], "give from 10 to 1078"),
        (["search", "gcn", "--dataset", "digits", "--train-subset", "20"], "larger than the 20 training samples"),
        (["search", "gcn", "--dataset", "digits", "--precision", "fp16"], "--precision fp16"),
        (["search", "wideresnet", "--data", "/nowhere"], "/nowhere/cifar-10-batches-py/data_batch_1 is missing"),
        (["search", "attention", "--data", "/nowhere"], "/nowhere/mitdb/100."),
        (["search", "gcn", "--dataset", "digits", "--epochs", "x"], "'x'"),
        (["search", "gcn", "--dataset", "digits", "--seed", "-1"], "--seed -1"),
        (["search", "gcn", "--dataset", "digits", "--gpus-per-trial", "inf"], "--gpus-per-trial inf"),
        (["search", "gcn", "--dataset", "digits", "--gpus-per-trial", "1.5"], "--gpus-per-trial 1.5"),
        (["search", "gcn", "--dataset", "digits", "--name", "x" * 300], "at most 80 characters"),
        (["search", "gcn", "--dataset", "digits", "--lr", "0.05:0.1", "--optimizer", "base"], "is not in 0.05:0.1"),
        (["search", "gcn", "--dataset", "digits", "--cpus-per-trial", "4096"], "--cpus-per-trial 4096 cannot be met"),
        (["search", "gcn", "--dataset", "digits", "--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["search", "gcn", "--dataset", "digits", "--tracking-uri", "sqlite:///relative.db"], "sqlite:///relative.db"),
        (["search", "gcn", "--dataset", "digits", "--name", "a/b"], "--name a/b"),
        (["search", "gcn", "--dataset", "digits", "--storage", "nosuch://x"], "nosuch://x"),
        (["search", "gcn", "--dataset", "digits", "--storage", "/proc/nope"], "--storage /proc/nope"),
        pytest.param(
            ["search", "gcn", "--dataset", "digits", "--tracking-uri", "sqlite:////proc/nope/x.db"],
            "sqlite:////proc/nope/x.db",
            marks=pytest.mark.slow,  # MLflow tries several times
        ),
        (["search", "gcn", "--dataset", "digits", "--address", "127.0.0.1:1"], "--address 127.0.0.1:1"),
        (["search", "gcn", "--dataset", "digits", "--address", "127.0.0.1:65536"], "--address 127.0.0.1:65536"),
        (["search", "gcn", "--dataset", "digits", "--address", "nonsense"], "--address nonsense"),
        (["search", "gcn", "--data", "/nowhere"], "/nowhere/Mutagenicity/raw/Mutagenicity_A.txt is missing"),
        (["search"], "WORKLOAD"),
        (["search", "gcn", "--bogus"], "--bogus"),
        (["searhc"], "searhc"),
        (["best", "none"], "there is no study 'none'"),
        (["trials", "none"], "there is no study 'none'"),
        (["trials", "none", "--json", "--csv"], "exclude each other"),
        (["resume", "none"], "there is no study 'none'"),
        (["report", "none"], "there is no study 'none'"),
        (["status", "none"], "there is no study 'none'"),
        (["run", "nope"], "there is no workload 'nope'"),
        (["check", "nope"], "there is no workload 'nope'"),
        (["doctor", "none"], "there is no study 'none'"),
        (["sync", "none"], "there is no study 'none'"),
        (["run", "gcn", "--dataset", "digits", "--seeds", "1,x"], "--seeds 1,x"),
        (["run", "gcn", "--dataset", "digits", "--seeds", "-3,"], "--seeds -3: give a number of seeds, or a list"),
        (["search", "--home"], "'--home' requires an argument"),
        (["ui"], "there is no study"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(run, tmp_path, words, said):
    assert_refused(run(*words), said, tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "refit one --epochs 0",
        "search gcn --dataset digits --max-concurrent 0",
        "resume none --trials 0",
        "analyze one --sample 0",
        "analyze one --grid 1",
    ],
)
def test_a_number_out_of_range_is_named_with_its_option(run, tmp_path, words):
    """Typer's own words, in which the value's place is another in each release."""
    *_, option, value = words.split()
    result = run(*words.split())
    assert_refused(result, f"'{option}': ", tmp_path)
    assert re.search(rf"\b{value}\b", result[2])


@pytest.mark.parametrize("words", [["--home", "~nosuchuser/x"], ["--data", "~nosuchuser/x"]])
def test_a_person_who_is_not_there_is_named(run, tmp_path, words):
    assert_refused(run("search", "gcn", "--dataset", "digits", *words), "~nosuchuser/x", tmp_path)


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_home_that_reads_otherwise_as_an_address_is_refused(run, tmp_path, name):
    assert_refused(run("studies", "--home", tmp_path / name), name, tmp_path)


def test_a_workload_beside_the_person_is_found(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from trainables.gcn import GCN\nclass Mine(GCN):\n    name = 'mine'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert_refused(run("search", "mine:Mine", "--dataset", "zinc"), "has no data set 'zinc'", tmp_path)


def test_a_home_that_cannot_be_is_refused(run, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nope"):
        result = run("search", "gcn", "--dataset", "digits", "--home", place)
        assert_refused(result, str(place), tmp_path)
    for command in ("best none", "trials none", "resume none", "studies", "ui"):
        assert_refused(run(*command.split(), "--home", tmp_path / "file"), "file is a file; give --home a", tmp_path)


def test_a_place_for_results_that_cannot_be_is_refused(run, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run("search", "gcn", "--dataset", "digits", "--storage", place)
        assert_refused(result, f"--storage {place} cannot be used", tmp_path)


def test_a_gpu_that_is_not_there_is_refused(run, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run("search", "gcn", "--dataset", "digits", "--gpus-per-trial", "0.25")
    assert_refused(result, "--gpus-per-trial 0.25 cannot be met", tmp_path)


def test_a_tracking_server_that_does_not_answer_is_refused(run, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{probe.getsockname()[1]}"
    result = run("search", "gcn", "--dataset", "digits", "--tracking-uri", uri)
    assert_refused(result, "127.0.0.1", tmp_path)
    assert "secret" not in result[2]


@pytest.mark.parametrize(
    ("gpus", "node", "said"),
    [
        (0.5, {"CPU": 8}, "0 GPUs"),
        (1, {"CPU": 8, "GPU": 0.5}, "0.5 GPUs"),
        (0, {"CPU": 2}, "2 CPUs"),
    ],
)
def test_a_cluster_is_asked_what_it_offers(run, tmp_path, monkeypatch, gpus, node, said):
    left = []
    monkeypatch.setitem(
        sys.modules,
        "ray",
        SimpleNamespace(
            is_initialized=lambda: False,
            init=lambda **options: left.append(options["address"]),
            nodes=lambda: [{"Alive": True, "Resources": node}, {"Alive": False, "Resources": {"CPU": 99, "GPU": 99}}],
            shutdown=lambda: left.append("shutdown"),
        ),
    )
    result = run(
        "search", "gcn", "--dataset", "digits", "--address", "auto", "--gpus-per-trial", gpus, "--cpus-per-trial", 3
    )
    assert_refused(result, f"cannot be met, the cluster's largest node has {said}", tmp_path)
    assert left == ["auto", "shutdown"]


@pytest.mark.parametrize(
    "words",
    [
        ["--tracking-uri", "sqlite:///relative.db"],
        ["--cpus-per-trial", "4096"],
        ["--storage", "nosuch://x"],
        ["--home", "/proc/nope"],
        ["--batch-size", "9999"],
    ],
)
def test_nothing_is_downloaded_for_a_request_that_is_refused(run, tmp_path, monkeypatch, words):
    monkeypatch.setattr(mutagenicity, "download", lambda root: pytest.fail("it was downloaded"))
    assert_refused(run("search", "gcn", *words), words[1], tmp_path)


@pytest.mark.slow
def test_a_download_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(root):
        raise Refused("Mutagenicity could not be downloaded (no route); give --data a folder that holds it.")

    monkeypatch.setattr(mutagenicity, "download", fail)
    assert_refused(run("search", "gcn"), "could not be downloaded (no route)", tmp_path)
    assert_refused(run("search", "gcn", "--home", tmp_path / "a" / "b"), "could not be downloaded", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"1, 2\n", "has 1 lines in place of 266894")])
def test_a_damaged_data_file_is_refused(run, tmp_path, content, said):
    raw = tmp_path / "data" / "Mutagenicity" / "raw"
    raw.mkdir(parents=True)
    (raw / "Mutagenicity_A.txt").write_bytes(content)
    assert_refused(run("search", "gcn", "--data", tmp_path / "data"), said, tmp_path)


def test_a_config_file_with_an_unknown_key_is_refused(run, tmp_path):
    (tmp_path / "c.yaml").write_text("trails: 3\n")
    assert_refused(run("search", "gcn", "--config", tmp_path / "c.yaml"), "unknown option 'trails'", tmp_path)


@pytest.fixture
def one(run, tmp_path):
    """A study called `one` of three trials of base, none of which has begun; afterwards it is as it was."""
    home = Home(tmp_path / "home")
    home.path.mkdir()
    options = SearchOptions(workload="gcn", dataset="digits", optimizers=("base",), trials=3)
    space = plan.search_space(options, find_workload("gcn"), "digits", "base")
    settings = StudySettings(
        workload="gcn", dataset="digits", optimizers=("base",), trials=3, epochs=10, spaces={"base": space}
    )
    study = Study(
        "one",
        home,
        settings,
        "2026-01-02T03:04:05+00:00",
        home.tracking_uri,
        "1",
        "p",
        str(home.path / "studies"),
    )
    plan.store(study)
    before = sorted(home.path.rglob("*")), study.to_json()
    yield
    assert (sorted(home.path.rglob("*")), study.to_json()) == before


SAME = ["--name", "one", "--dataset", "digits", "--optimizer", "base", "--trials", "3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "odd_workload:Broken", *SAME], "study one exists with workload gcn, not odd_workload:Broken"),
        (["search", "gcn", *SAME, "--optimizer", "sam"], "exists with optimizers base, not "),
        (["search", "gcn", *SAME, "--epochs", "3"], "exists with epochs 10, not 3"),
        (["search", "gcn", *SAME, "--lr", "1e-3:1"], "exists with another search space"),
        (
            ["search", "gcn", *SAME, "--tracking-uri", "http://u:secret@127.0.0.1:1"],
            "http://***@127.0.0.1:1; give another --name, or this one without --tracking-uri and "
            "$TUNE_SAM_TRACKING_URI",
        ),
        (
            ["search", "gcn", *SAME, "--storage", "/elsewhere"],
            "not /elsewhere; give another --name, or this one without",
        ),
        (["search", "gcn", *SAME, "--trials", "2"], "has 3 trials of each optimizer already, more than 2"),
        (["resume", "one", "--trials", "2"], "has 3 trials of each optimizer already, more than 2"),
        (["resume", "one", "--address", "127.0.0.1:1"], "--address 127.0.0.1:1"),
        (["best", "one", "--optimizer", "asam"], "study one did not search 'asam'; it has base"),
        (["best", "two"], "there is no study 'two'"),
        (["refit", "two"], "there is no study 'two'"),
        (["sync", "two"], "there is no study 'two'"),
        (["best", "one", "--pareto"], "study one has one objective, val/accuracy, so it has no Pareto front"),
        (["refit", "one", "--seeds", "3,x"], "--seeds 3,x: expected a number of seeds"),
        (["refit", "one", "--each-batch-size", "--top", "2"], "--top 2 is not possible with --each-batch-size"),
        (["refit", "one", "--seeds", "0"], "--seeds 0: there is nothing to train"),
        (["refit", "one", "--seeds", "4,4"], "--seeds 4,4: a seed comes twice"),
        (["analyze", "two"], "there is no study 'two'"),
        (["analyze", "one", "--optimizer", "asam"], "study one did not search 'asam'; it has base"),
        (["analyze", "one", "--all", "--top", "2"], "--all and --top 2 exclude each other"),
        (["analyze", "one", "--all", "--grid", "5"], "--all and --grid 5 exclude each other"),
    ],
)
@pytest.mark.usefixtures("one")
def test_a_study_is_what_it_is(run, words, said):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.usefixtures("one")
def test_a_study_without_a_complete_trial_has_no_best(run):
    status, out, err = run("best", "one", "--optimizer", "base")
    assert (status, out) == (1, "")
    assert "tune-sam resume one" in err
    status, out, err = run("best", "one", "--yaml")
    assert (status, out) == (1, "")
    status, out, err = run("analyze", "one")
    assert (status, out) == (1, "")
    assert "study one has no complete trial yet; run `tune-sam resume one`" in err
    status, out, err = run("refit", "one")
    assert (status, out) == (2, "")
    assert "study one has no complete trial, so there is nothing to train again" in err
    status, out, _ = run("best", "one", "--json")
    assert (status, json.loads(out)) == (1, {"base": None})
    status, out, _ = run("studies", "--json")
    assert status == 0
    assert json.loads(out) == [
        {
            "name": "one",
            "kind": "search",
            "workload": "gcn",
            "dataset": "digits",
            "preset": None,
            "epochs": 10,
            "train_subset": None,
            "label_noise": None,
            "split_seed": 0,
            "optimizers": ["base"],
            "seed": 0,
            "sampler": "tpe",
            "scheduler": "asha",
            "objective": "val/accuracy",
            "score": "accuracy",
            "score_direction": "maximize",
            "precision": None,
            "compile": False,
            "trial_timeout": 0.0,
            "stall_timeout": 3600.0,
            "time_budget": 0.0,
            "epoch_budget": 0,
            "budget": "trials",
            "patience": 0,
            "from_study": None,
            "log": [],
            "cpus_per_trial": 1,
            "gpus_per_trial": None,
            "refit_of": None,
            "train_alone": False,
            "trials_asked": 3,
            "counts": {},
            "created": "2026-01-02T03:04:05+00:00",
            "mlflow_run_id": "p",
        }
    ]
    assert run("trials", "one", "--json")[:2] == (0, "[]\n")


def test_brackets_in_a_path_are_only_brackets(run, tmp_path):
    status, out, _ = run("studies", "--home", tmp_path / "[bold]" / "[")
    assert status == 0
    assert f"{tmp_path}/[bold]/[ yet" in out
    assert_refused(run("ui", "--home", tmp_path / "[bold]"), f"{tmp_path}/[bold] yet", tmp_path)


def test_without_a_command_the_help_is_shown(run):
    status, out, err = run()
    assert (status, err) == (2, "")
    assert re.search(r"search .*studies", out, re.DOTALL)


def test_symbols_keep_their_case_in_help(run):
    _, out, _ = run("search", "--help")
    assert re.search(r"ρ of every.*TPE.*ASHA|TPE.*ASHA.*ρ of every", out, re.DOTALL)
    assert not re.search(r"Ρ|Tpe|Asha", out)


def test_a_search_has_an_option_for_each_field_of_its_options(run):
    _, out, _ = run("search", "--help")
    missing = {name for name in SearchOptions.model_fields if f"{flag_of(name)} " not in out}
    assert missing == {"workload", "ranges"}, "the argument, and what a file alone can hold"


def test_a_new_field_is_an_option_of_the_command_line(tmp_path):
    code = (
        "import tune_sam.settings as settings\n"
        "from pydantic import Field\n"
        "class SearchOptions(settings.SearchOptions):\n"
        "    weight_decay: float = Field(default=0.5, description='Weight decay of the base optimizer.')\n"
        "settings.SearchOptions = SearchOptions\n"
        "from tune_sam.cli.main import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "search", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    line = next(line for line in done.stdout.splitlines() if "--weight-decay" in line)
    assert "Weight decay of the base optimizer." in line
    assert "[default: (0.5)]" in line


def test_the_command_line_is_a_module_too(run, tmp_path):
    words = ["status", "gone"]
    here = run(*words)
    done = subprocess.run(
        [sys.executable, "-m", "tune_sam", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TUNE_SAM_HOME": str(tmp_path / "home")},
    )
    assert (done.returncode, done.stdout, done.stderr) == here
    assert_refused(here, "gone", tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"tune-sam {command}" in out
    assert "Example" in out


LIGHT = [
    ["--help"],
    ["search", "--help"],
    ["search", "nope"],
    ["search", "gcn", "--rho", "1:0.1"],
    ["search", "gcn", "--dataset", "zinc"],
    ["search", "gcn", "--data", "/nowhere"],
    ["best", "none"],
    ["analyze", "none"],
    ["refit", "none"],
    ["refit", "none", "--seeds", "x"],
    ["report", "none"],
    ["status", "none"],
    ["sync", "none"],
    ["check", "none"],
    ["run", "none"],
    ["search", "wideresnet", "--data", "/nowhere"],
    ["search", "attention", "--data", "/nowhere"],
    *(
        []
        if os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd")
        else [["search", "gcn", "--dataset", "digits", "--gpus-per-trial", "0.5"]]
    ),
]
"""What is answered before torch, Ray, Optuna or MLflow is imported."""

ANSWERS = """
import contextlib, io, json, sys
from tune_sam.cli.main import main

found = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["tune-sam", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as left:
            status = left.code
    found.append([words, status, sorted({name.partition(".")[0] for name in sys.modules})])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_help_and_refusals_import_nothing_heavy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, json.dumps(LIGHT)],
        capture_output=True,
        text=True,
        check=False,
        env={"TUNE_SAM_HOME": str(tmp_path / "home"), "PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    assert done.returncode == 0, done.stderr
    for words, status, imported in json.loads(done.stdout):
        assert status == (0 if "--help" in words else 2), words
        assert not HEAVY & set(imported), words


def test_a_home_without_studies_has_none(run, tmp_path):
    status, out, _ = run("studies", "--json")
    assert (status, json.loads(out)) == (0, [])
    status, out, _ = run("studies")
    assert status == 0
    assert "no study" in out
    assert not (tmp_path / "home").exists()


def test_workloads_need_no_data(run):
    status, out, _ = run("workloads", "--json")
    assert status == 0
    (found,) = [workload for workload in json.loads(out) if workload["name"] == "gcn"]
    assert found["parameters"] == 125_442
    status, out, _ = run("workloads")
    assert status == 0
    assert "125,442 parameters" in out
    assert re.search(r"^ *digits +1,078 +179 +540 +10 *$", out, re.MULTILINE)


def test_a_workload_without_classes_is_listed_too(run, monkeypatch):
    described = find_workload("gcn").to_json()
    described["datasets"]["digits"]["classes"] = None
    monkeypatch.setattr("tune_sam.workload.Workload.to_json", lambda self: described)
    status, out, _ = run("workloads")
    assert status == 0
    assert re.search(r"^ *digits +1,078 +179 +540 +– *$", out, re.MULTILINE)


def test_json_has_no_nan(capsys):
    print_json({"a": [float("nan"), float("inf"), 1.5, "x"], "b": {"c": float("-inf")}})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [None, None, 1.5, "x"],
        "b": {"c": None},
    }
