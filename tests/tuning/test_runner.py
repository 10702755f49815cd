import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import databases
import odd_workload
import pytest
import torch
import warm
from studies import INLINE

import tune_sam
from tune_sam.cli.main import main
from tune_sam.errors import Refused
from tune_sam.metrics import Classification
from tune_sam.provenance import source_commit
from tune_sam.reporting.page import report
from tune_sam.samples import with_train_subset
from tune_sam.settings import SearchOptions
from tune_sam.study.lock import study_lock
from tune_sam.study.records import find_study, open_study, studies
from tune_sam.study.settings import ENDINGS
from tune_sam.study.spent import ended_by
from tune_sam.study.storage import open_storage
from tune_sam.training import Trainer, default_device, evaluate
from tune_sam.tuning.plan import create, grown, planned, store, where_it_is
from tune_sam.workload import find_workload

ODD = "odd_workload:Odd"

OF_AN_EPOCH = {
    *(f"{split}/{name}" for split in ("train", "val", "gap") for name in ("loss", "accuracy")),
    "val/macro_f1",
    "train/lr",
    "time/epoch_s",
    "compute/gradients",
}


def ledgers(study):
    """State of each trial by key, as Optuna, MLflow and we see it; a key that is there twice fails."""
    from mlflow import MlflowClient

    storage = open_storage(study.home)
    optuna = {}
    for optimizer in study.settings.optimizers:
        for trial in storage.get_all_trials(storage.get_study_id_from_name(f"{study.name}/{optimizer}")):
            optuna[f"{study.name}/{optimizer}/{trial.number}"] = trial.state.name
    client = MlflowClient(study.tracking_uri)
    runs = client.search_runs([study.experiment_id], "tags.`mlflow.parentRunId` != ''", max_results=1000)
    keys = [run.data.tags["tune_sam.key"] for run in runs]
    assert len(keys) == len(set(keys)), Counter(keys).most_common(3)
    mlflow = {run.data.tags["tune_sam.key"]: run for run in runs}
    ours = {trial.key: trial for trial in study.records()}
    return ours, optuna, mlflow, client


def assert_agreement(study, trials):
    """Every trial is once in each ledger, ended the same in all, and MLflow has each epoch once."""
    ours, optuna, mlflow, client = ledgers(study)
    assert len(ours) == trials * len(study.settings.optimizers)
    assert ours.keys() == optuna.keys() == mlflow.keys()
    for key, trial in ours.items():
        assert trial.state in ENDINGS
        assert optuna[key] == ENDINGS[trial.state].optuna
        assert mlflow[key].info.status == ENDINGS[trial.state].mlflow
        assert mlflow[key].info.run_id == trial.mlflow_run_id
        assert mlflow[key].data.tags["tune_sam.state"] == trial.state
        history = client.get_metric_history(trial.mlflow_run_id, "val/accuracy")
        reported = trial.epochs if trial.metrics else trial.epochs - (trial.state == "diverged")
        assert sorted(point.step for point in history) == list(range(1, max(reported, 0) + 1)), key
    assert client.get_run(study.mlflow_run_id).info.status == "FINISHED"
    assert not list(study.home.study(study.name).glob("mlflow*")), "everything was delivered"


TRIALS = 6
"""Of the seed 3: they meet every ending."""


@pytest.fixture(scope="module", params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def study(request, tmp_path_factory):
    """A real search on the digits that meets every ending; under Ray a process dies of some, too."""
    # Workers import the workload by its name, as they would a user's own.
    os.environ["PYTHONPATH"] = odd_workload.PYTHONPATH
    config = tmp_path_factory.mktemp("config") / "odd.yaml"
    config.write_text(f"epochs: 4\ntrials: {TRIALS}\nseed: 3\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune_sam.tuning.callback.DEATHS", 2)  # so that one process dies less
        return tune_sam.search(
            ODD,
            config=config,
            dataset="digits",
            train_subset=256,
            optimizers=["sam"],
            name="odd",
            home=tmp_path_factory.mktemp("home"),
            executor=INLINE if request.param == "inline" else None,
        )


def test_every_ending_is_the_same_in_every_ledger(study):
    assert set(study.counts()) == set(ENDINGS), study.trials()[["state", "reason", "batch_size"]]
    assert_agreement(study, TRIALS)


def test_an_ending_says_why(study):
    for trial in study.records():
        batch = trial.config.batch_size
        if trial.state == "failed" and batch == odd_workload.FAILS:
            assert trial.reason == "RuntimeError: this batch size is broken"
        elif trial.state == "failed":
            assert trial.reason
        elif trial.state == "diverged":
            assert batch == odd_workload.DIVERGES
            assert trial.reason == "a loss or a weight was not finite in epoch 1"
        elif trial.state == "pruned":
            assert trial.reason == "not in the better half after epoch 2"
        else:
            assert trial.reason == ""
            assert trial.epochs == 4


def test_a_record_is_whole(study):
    for trial in study.records():
        row = trial.to_json()
        assert list(row) == [
            "key",
            "study",
            "workload",
            "dataset",
            "preset",
            "train_subset",
            "optimizer",
            "number",
            "state",
            "reason",
            "config",
            "value",
            "epochs",
            "metrics",
            "seconds",
            "precision",
            "device",
            "compile",
            "node",
            "pid",
            "started",
            "ended",
            "mlflow_run_id",
            "optuna_trial_number",
            "checkpoint",
            "heard",
            "log",
        ]
        assert list(row["config"]) == ["rho", "lr", "batch_size", "seed"]
        assert row["config"]["seed"] == 3 + trial.number
        assert row["started"] <= row["ended"]
        if trial.state == "complete":
            assert trial.value == trial.metrics["val/accuracy"]
            assert set(trial.metrics) == OF_AN_EPOCH
            assert (trial.precision, trial.compile) == ("bf16" if torch.cuda.is_available() else "fp32", False)
            assert trial.pid
        else:
            assert trial.value is None


def test_mlflow_has_parameters_tags_and_few_metric_names(study):
    _, _, mlflow, client = ledgers(study)
    best = study.best()
    run = mlflow[best.key]
    assert run.data.params == {
        "optimizer": "sam",
        "rho": str(best.config.rho),
        "lr": str(best.config.lr),
        "batch_size": "64",
        "seed": str(best.config.seed),
        "epochs": "4",
    }
    assert set(run.data.metrics) == OF_AN_EPOCH
    assert run.data.metrics["val/accuracy"] == best.value
    assert run.data.tags["mlflow.parentRunId"] == study.mlflow_run_id
    assert run.data.tags["tune_sam.optimizer"] == "sam"
    assert run.data.tags["tune_sam.dataset"] == "digits"
    assert {"version.torch", "version.ray", "version.optuna", "tune_sam.seed"} <= run.data.tags.keys()
    parent = client.get_run(study.mlflow_run_id)
    assert "0.001:1" in parent.data.tags["mlflow.note.content"]


def test_the_loaded_model_gives_the_recorded_numbers(study):
    best = study.best("sam")
    workload = find_workload(ODD)
    validation, device = workload.splits("digits", None).validation, default_device()
    found = evaluate(best.load_model(), workload, validation, device, Classification())
    assert found.scores["accuracy"] == best.metrics["val/accuracy"] == best.value
    assert found.loss == best.metrics["val/loss"]


def test_a_trial_has_the_numbers_of_the_same_training_without_ray(study):
    best = study.best()
    workload = find_workload(ODD)
    splits = with_train_subset(workload.splits("digits", None), 256)
    trainer = Trainer(workload, workload.settings["digits"], best.config, splits, epochs=4)
    while not trainer.finished:
        trainer.epoch()
    assert {k: v for k, v in trainer.last.metrics.items() if k != "time/epoch_s"} == {
        k: v for k, v in best.metrics.items() if k != "time/epoch_s"
    }


def test_only_the_last_checkpoint_of_a_trial_is_kept(study):
    for trial in study.records():
        if trial.checkpoint:
            folder = os.path.dirname(trial.checkpoint)
            assert [name for name in os.listdir(folder) if name.startswith("checkpoint")] == [
                os.path.basename(trial.checkpoint)
            ]


def test_the_table_has_a_row_a_trial(study):
    table = study.trials()
    assert len(table) == TRIALS
    assert {"key", "state", "value", "rho", "lr", "batch_size", "val/accuracy", "gap/loss"} <= set(table.columns)
    assert table.loc[table["value"].idxmax(), "key"] == study.best().key
    assert table["lr"].tolist() == [trial.config.lr for trial in study.records()]


@pytest.mark.slow
def test_the_command_line_shows_what_python_does(study, monkeypatch, capsys):
    def shown(*words):
        monkeypatch.setattr(sys, "argv", ["tune-sam", *words, "--home", str(study.home.path)])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
        return capsys.readouterr().out

    rows = [json.loads(json.dumps(trial.to_json())) for trial in study.records()]
    assert json.loads(shown("trials", "odd", "--json")) == rows
    assert json.loads(shown("best", "odd", "--optimizer", "sam", "--json"))["key"] == study.best().key
    assert json.loads(shown("best", "odd", "--json")).keys() == {"sam"}
    assert json.loads(shown("studies", "--json")) == [study.to_json()]
    assert len(shown("trials", "odd", "--csv").strip().splitlines()) == 1 + TRIALS
    assert f"{study.best().value:.4f}" in shown("best", "odd")
    assert "failed" in shown("trials", "odd")
    assert "odd" in shown("studies")


def test_a_study_is_found_again(study):
    assert open_study("odd", study.home.path) == study
    assert [found.name for found in studies(study.home.path)] == ["odd"]
    with pytest.raises(Refused, match="'other'.*odd"):
        open_study("other", study.home.path)


def test_a_login_that_has_changed_is_taken(study, monkeypatch):
    tried = []
    monkeypatch.setattr("tune_sam.tracking.client.check", tried.append)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "another")
    before = replace(study, tracking_uri="http://me:old@host:5000", storage="s3://bucket?region=a")
    for uri in ("http://me:new@host:5000/", "http://host:5000"):
        chosen = SearchOptions(workload=ODD, tracking_uri=uri, storage="s3://me:new@bucket?region=a")
        after = where_it_is(before, chosen)
        assert after == replace(before, tracking_uri=uri)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == "new"
        assert tried.pop() == uri
    assert where_it_is(before, SearchOptions(workload=ODD)) == before
    assert not tried


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("s3://bucket?region=a", "s3://bucket?region=b"),
        ("s3://one/me@x/runs", "s3://two/me@x/runs"),
        ("/one", "/two"),
    ],
)
def test_results_do_not_move(study, before, wanted):
    with pytest.raises(Refused, match="study odd exists with --storage .*, not "):
        where_it_is(replace(study, storage=before), SearchOptions(workload=ODD, storage=wanted))


@pytest.mark.slow
def test_a_name_is_gone_on_with_only_as_what_it_is(study):
    same = dict(dataset="digits", train_subset=256, optimizers=["sam"], trials=TRIALS, epochs=4, seed=3)
    same |= dict(name="odd", home=study.home.path)
    assert tune_sam.search(ODD, **same).counts() == study.counts(), "nothing is left to do"
    for option, value in {"epochs": 5, "seed": 4, "rho": "0.01:1", "scheduler": "none"}.items():
        with pytest.raises(Refused, match=f"exists with {option if option != 'rho' else 'another search space'}"):
            tune_sam.search(ODD, **{**same, option: value})
    with pytest.raises(Refused, match="exists with workload odd_workload:Odd, not gcn"):
        tune_sam.search("gcn", **{**same, "rho": "0.001:1"})
    with pytest.raises(Refused, match=f"{TRIALS} trials"):
        tune_sam.resume("odd", home=study.home.path, trials=3)


def test_without_git_or_outside_our_repository_there_is_no_commit(monkeypatch, tmp_path):
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        subprocess.run(
            [
                "git",
                "-C",
                tmp_path,
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "commit",
                "-q",
                "--allow-empty",
                "-m",
                "another project",
            ],
            check=True,
        )
    (tmp_path / "launch.py").touch()  # installed below it, and not tracked there
    monkeypatch.setattr("tune_sam.provenance.__file__", str(tmp_path / "launch.py"))
    assert source_commit() is None
    monkeypatch.setenv("PATH", "")
    assert source_commit() is None


@pytest.mark.slow
def test_a_locked_study_is_refused(study):
    with study_lock(study.home, "odd"):
        _, said = command(study.home.path, "resume", "odd", "--workload", ODD, "--trials", "20").communicate()
    assert "study odd is in use by another process" in " ".join(said.split())
    assert open_study("odd", study.home.path).settings.trials == TRIALS


def grow(study):
    store(grown(study, 5))


def make_anew(study):
    tune_sam.delete(study.name, home=study.home)
    create(study.name, study.settings, study.home, study.tracking_uri, study.storage)


@pytest.mark.parametrize(
    ("change", "left", "said"),
    [
        (lambda study: tune_sam.delete(study.name, home=study.home), None, "there is no study 'one'"),
        (make_anew, 2, "study one was made anew, or given more trials, by another process just now; give the command"),
        (grow, 5, "study one was made anew, or given more trials, by another process just now; give the command"),
    ],
)
def test_a_study_that_changes_while_its_lock_is_waited_for_stays_as_it_is(tmp_path, monkeypatch, change, left, said):
    given = {"workload": "foreign_workload:Regression", "optimizers": ["base"], "trials": 2, "name": "one"}
    study, _ = planned(SearchOptions.read({**given, "home": tmp_path}))

    @contextmanager
    def waited_for(home, name):
        change(study)
        with study_lock(home, name):
            yield

    monkeypatch.setattr("tune_sam.tuning.runner.study_lock", waited_for)
    with pytest.raises(Refused, match=said):
        tune_sam.resume("one", home=tmp_path, executor=INLINE)
    found = find_study("one", tmp_path)
    assert (found and found.settings.trials) == left


@pytest.mark.slow
def test_a_preset_is_a_plain_grid_of_its_own_model(tmp_path):
    study = tune_sam.search(
        "odd_workload:Reported",
        preset="report",
        epochs=2,
        train_subset=200,
        home=tmp_path,
        name="reported",
        executor=INLINE,
    )
    assert study.settings.optimizers == ("base", "asam-all")
    assert study.counts() == {"complete": 5}
    assert [trial.config.rho for trial in study.records("asam-all")] == list(odd_workload.Reported.published_rho)
    assert {(trial.config.lr, trial.config.batch_size) for trial in study.records()} == {(0.01, 64)}
    best = study.best("asam-all")
    assert best.load_model().convolutions[0].lin_rel.weight.shape == (8, 17)
    assert {name for name in best.metrics if name.startswith("val/f1/")} <= {f"val/f1/{name}" for name in "abcdefghij"}
    assert "val/macro_f1" in best.metrics
    assert (study.settings.trials, study.to_json()["train_subset"]) == (4, 200)
    with pytest.raises(Refused, match="tries the points of a grid, to which --trials 30 can add none"):
        tune_sam.resume("reported", home=tmp_path, trials=30)
    assert tune_sam.resume("reported", home=tmp_path).counts() == {"complete": 5}
    _, _, runs, client = ledgers(study)
    assert {run.data.tags["tune_sam.train_subset"] for run in runs.values()} == {"200"}
    assert client.get_run(study.mlflow_run_id).data.tags["tune_sam.preset"] == "report"
    assert (best.preset, best.train_subset) == ("report", 200)
    assert not list((study.home.study("reported") / "data").iterdir()), "the shared data are gone"


@pytest.mark.slow
def test_a_finished_study_grows(tmp_path):
    options = dict(dataset="digits", optimizers=["base"], train_subset=128, name="grow", home=tmp_path, epochs=2)
    before = tune_sam.search("gcn", trials=2, executor=INLINE, **options).records()
    study = tune_sam.resume("grow", home=tmp_path, trials=4, executor=INLINE)
    assert study.records()[:2] == before
    assert study.to_json()["trials_asked"] == 4
    assert_agreement(study, 4)
    assert open_study("grow", tmp_path).settings.trials == 4


@pytest.mark.slow
def test_a_search_in_which_every_trial_fails_ends_with_status_1(cluster, tmp_path, monkeypatch, capsys):
    words = ("--optimizer", "base", "--trials", "2", "--epochs", "2", "--name", "broken", "--home", str(tmp_path))
    words = ("search", "odd_workload:Broken", "--dataset", "digits", *words, "--json")
    monkeypatch.setattr(sys, "argv", ["tune-sam", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert json.loads(capsys.readouterr().out) == {"base": None}
    study = open_study("broken", tmp_path)
    assert {trial.reason for trial in study.records()} == {"RuntimeError: no batch works"}
    assert_agreement(study, 2)


@pytest.mark.slow
def test_a_time_budget_ends_a_search_on_a_cluster_and_what_trained_is_resumed_from_there(cluster, tmp_path):
    options = {"dataset": "digits", "batch_size": 64, "train_subset": 128, "optimizers": ["base"], "scheduler": "none"}
    options |= {"trials": 2, "epochs": 3, "max_concurrent": 1, "time_budget": "0.3s"}
    study = tune_sam.search("odd_workload:Slow", name="ended", home=tmp_path, **options)
    assert ended_by(study).why == "its time budget of 0.3s is spent"
    before = study.records()
    trained = sum(trial.epochs for trial in before)
    assert "waiting" in study.counts()
    assert 0 < trained < 6
    study = tune_sam.resume("ended", home=tmp_path, time_budget="off", executor=INLINE)
    assert_agreement(study, 2)
    assert study.counts() == {"complete": 2}
    for trial, cut in zip(study.records(), before, strict=False):
        assert [*study.history(trial)] == [1, 2, 3], "each epoch once"
        assert trial.metrics["compute/gradients"] == 3 * 128, "none was trained anew"
        assert trial.mlflow_run_id == cut.mlflow_run_id


@pytest.mark.slow
def test_mlflows_pages_show_the_study(study):
    """The real server over the home's store answers with the parent run and its trials."""
    import requests

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = command(study.home.path, "ui", "--port", str(port))
    try:
        wait_until(process, lambda: answers(f"http://127.0.0.1:{port}/health"))
        found = requests.post(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
            json={"experiment_ids": [study.experiment_id]},
            timeout=30,
        ).json()["runs"]
        assert len(found) == 1 + TRIALS
        assert "MLflow" in requests.get(f"http://127.0.0.1:{port}/", timeout=30).text
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url):
    import requests

    try:
        return requests.get(url, timeout=1).ok
    except requests.RequestException:
        return False


def command(home, *words):
    """The command line as its own process, in a session of its own, as a terminal would start it."""
    variables = {**os.environ, "PYTHONPATH": odd_workload.PYTHONPATH}
    return warm.command(*words, "--home", home, env=variables)


def smallest(name, home):
    options = {"dataset": "digits", "optimizers": ["base"], "trials": 1, "epochs": 1, "train_subset": 128}
    tune_sam.search("gcn", name=name, home=home, executor=INLINE, **options)


@pytest.mark.slow
def test_two_searches_that_begin_in_one_fresh_home_both_run(tmp_path, monkeypatch):
    monkeypatch.delenv(databases.TABLES)  # each would copy the tables, where MLflow makes them one by one
    both = [warm.Command(smallest, name, tmp_path) for name in ("one", "two")]
    assert [search.wait() for search in both] == [0, 0], [search.communicate() for search in both]
    records = [trial for name in ("one", "two") for trial in open_study(name, tmp_path).records()]
    assert [trial.state for trial in records] == ["complete"] * 2
    assert len({trial.mlflow_run_id for trial in records}) == 2
    assert not list(tmp_path.glob("studies/*/mlflow*")), "everything was delivered"


def wait_until(process, condition):
    """Poll a search that runs in another process; it must not end before the condition holds."""
    for _ in range(1200):
        assert process.poll() is None, "the search ended before it was interrupted"
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("the condition never held")


CUT = (
    *("search", "odd_workload:Slow", "--dataset", "digits", "--batch-size", "64", "--train-subset", "128"),
    *("--optimizer", "sam", "--trials", "3", "--epochs", "12", "--max-concurrent", "1", "--name", "cut"),
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The study of `CUT`, searched without an interrupt, and without Ray."""
    options = dict(dataset="digits", batch_size=64, train_subset=128, optimizers=["sam"], trials=3, epochs=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(odd_workload.Slow, "SECONDS", 0)
        return tune_sam.search(
            "odd_workload:Slow", name="cut", home=tmp_path_factory.mktemp("straight"), executor=INLINE, **options
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [(signal.SIGTERM, 130, "Interrupted; resume it with `tune-sam "), (signal.SIGKILL, -9, "")],
    ids=["SIGTERM", "SIGKILL"],
)
def test_an_interrupted_search_goes_on_and_ends_as_a_straight_one(straight, tmp_path, sent, status, said):
    first = command(tmp_path / "cut", *CUT)
    # Its results, not its records: to read these again and again would take the time that it needs.
    wait_until(first, lambda: list(tmp_path.glob("cut/studies/cut/ray-*/sam-0001.*/checkpoint_*")))
    first.send_signal(sent)
    printed = " ".join(first.communicate()[1].split())
    assert first.returncode == status, printed
    assert said in printed
    assert "core_worker" not in printed
    between = open_study("cut", tmp_path / "cut").records()
    # On a busy machine the second trial may reach its rung, after epoch 4, before the signal arrives.
    assert [trial.state for trial in between] in [["complete", second, "waiting"] for second in ("waiting", "pruned")]
    if told := re.search(
        "`tune-sam (.*)`", printed
    ):  # the command as it is printed, in a process that knows no code yet
        assert command(tmp_path / "cut", *told[1].split()).wait() == 0
    else:
        tune_sam.resume("cut", home=tmp_path / "cut", executor=INLINE)
    cut = open_study("cut", tmp_path / "cut")
    assert_agreement(cut, 3)
    for one, two in zip(cut.records(), straight.records(), strict=True):
        assert (one.config, one.state, one.value, one.epochs) == (two.config, two.state, two.value, two.epochs)
    for one, two in zip(cut.best().load_model().parameters(), straight.best().load_model().parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.slow
def test_a_search_for_two_objectives_ends_with_a_front(tmp_path):
    study = tune_sam.search(
        "gcn",
        dataset="digits",
        optimizers=["base", "sam"],
        trials=3,
        epochs=2,
        train_subset=256,
        objective="two",
        name="two",
        home=tmp_path,
        executor=INLINE,
    )
    assert_agreement(study, 3)
    assert study.settings.scheduler == "none"
    assert study.counts() == {"complete": 6}
    front = study.pareto()
    assert front[0].value == study.best().value == max(trial.value for trial in study.records())
    flattest = min(study.records(), key=lambda trial: trial.metrics["val/sharpness"])
    assert front[-1].metrics["val/sharpness"] == flattest.metrics["val/sharpness"] > 0
    _, _, mlflow, _ = ledgers(study)
    assert mlflow[flattest.key].data.metrics["val/sharpness"] == flattest.metrics["val/sharpness"]
    shown, _ = command(tmp_path, "best", "two", "--pareto", "--json").communicate()
    assert [trial["key"] for trial in json.loads(shown)] == [trial.key for trial in front]
    page = report("two", home=tmp_path).page
    assert (page.parent / "figures" / "pareto.png").exists()
    assert "on the Pareto front" in page.read_text()
