import json
import socket
import subprocess
import sys

import pytest

from tune_sam.cli import _strict, app, main

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)
HEAVY = {"torch", "torch_geometric", "torchvision", "ray", "mlflow", "optuna", "pandas", "sklearn", "scipy",
         "matplotlib"}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """The command line, in this process, with a home that does not exist yet: status, output, errors."""
    monkeypatch.delenv("TUNE_SAM_DATA", raising=False)
    monkeypatch.setenv("TUNE_SAM_HOME", str(tmp_path / "home"))

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


@pytest.mark.parametrize(("words", "said"), [
    (["search", "gnc"], "there is no workload 'gnc'"),
    (["search", "gcn", "--dataset", "zinc"], "has no data set 'zinc'; choose from mutagenicity, digits"),
    (["search", "gcn", "--optimizer", "adamw"], "there is no optimizer 'adamw'"),
    (["search", "gcn", "--dataset", "digits", "--rho", "1:0.1"], "--rho 1:0.1"),
    (["search", "gcn", "--dataset", "digits", "--rho=-0.1:1"], "--rho -0.1:1"),
    (["search", "gcn", "--dataset", "digits", "--lr", "slow:fast"], "--lr slow:fast"),
    (["search", "gcn", "--dataset", "digits", "--batch-size", "0"], "--batch-size 0"),
    (["search", "gcn", "--dataset", "digits", "--batch-size", "64,1079"], "1079 is larger than the 1078 training"),
    (["search", "gcn", "--dataset", "digits", "--trials", "0"], "--trials 0"),
    (["search", "gcn", "--dataset", "digits", "--epochs", "x"], "'x'"),
    (["search", "gcn", "--dataset", "digits", "--rho", "0.5:0.9", "--optimizer", "asam-all"], "is not in 0.5:0.9"),
    (["search", "gcn", "--dataset", "digits", "--cpus-per-trial", "4096"], "--cpus-per-trial 4096 cannot be met"),
    (["search", "gcn", "--dataset", "digits", "--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
    (["search", "gcn", "--dataset", "digits", "--tracking-uri", "sqlite:///relative.db"], "sqlite:///relative.db"),
    (["search", "gcn", "--dataset", "digits", "--name", "a/b"], "--name a/b"),
    (["search", "gcn", "--dataset", "digits", "--storage", "nosuch://x"], "nosuch://x"),
    (["search", "gcn", "--dataset", "digits", "--address", "127.0.0.1:1"], "--address 127.0.0.1:1"),
    (["search", "gcn", "--data", "/nowhere"], "/nowhere/Mutagenicity/raw/Mutagenicity_A.txt is missing"),
    (["search"], "WORKLOAD"),
    (["search", "gcn", "--bogus"], "--bogus"),
    (["searhc"], "searhc"),
    (["best", "none"], "there is no study 'none'"),
    (["trials", "none"], "there is no study 'none'"),
    (["trials", "none", "--json", "--csv"], "exclude each other"),
    (["resume", "none"], "there is no study 'none'"),
    (["ui"], "there is no study"),
])
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(run, tmp_path, words, said):
    assert_refused(run(*words), said, tmp_path)


def test_a_home_that_cannot_be_is_refused(run, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nope"):
        result = run("search", "gcn", "--dataset", "digits", "--home", place)
        assert_refused(result, str(place), tmp_path)


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


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"1, 2\n", "has 1 lines in place of 266894")])
def test_a_damaged_data_file_is_refused(run, tmp_path, content, said):
    raw = tmp_path / "data" / "Mutagenicity" / "raw"
    raw.mkdir(parents=True)
    (raw / "Mutagenicity_A.txt").write_bytes(content)
    assert_refused(run("search", "gcn", "--data", tmp_path / "data"), said, tmp_path)


def test_a_config_file_with_an_unknown_key_is_refused(run, tmp_path):
    (tmp_path / "c.yaml").write_text("trails: 3\n")
    assert_refused(run("search", "gcn", "--config", tmp_path / "c.yaml"), "unknown option 'trails'", tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"tune-sam {command}" in out
    assert "Example" in out


@pytest.mark.parametrize("words", [["--help"], ["search", "--help"], ["search", "nope"],
                                   ["search", "gcn", "--rho", "1:0.1"], ["search", "gcn", "--dataset", "zinc"],
                                   ["search", "gcn", "--data", "/nowhere"], ["best", "none"]])
def test_help_and_refusals_import_nothing_heavy(tmp_path, words):
    code = ("import atexit, sys\n"
            "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))\n"
            "from tune_sam.cli import main\nmain()")
    done = subprocess.run([sys.executable, "-c", code, *words, ], capture_output=True, text=True, check=False,
                          env={"TUNE_SAM_HOME": str(tmp_path / "home"), "PATH": ""})
    assert done.returncode == (0 if "--help" in words else 2), done.stderr
    imported = {name.partition(".")[0] for name in done.stderr.rpartition("MODULES")[2].split()}
    assert not imported & HEAVY


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


def test_json_has_no_nan():
    assert _strict({"a": [float("nan"), float("inf"), 1.5, "x"], "b": {"c": float("-inf")}}) == {
        "a": [None, None, 1.5, "x"], "b": {"c": None}}
