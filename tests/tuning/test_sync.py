"""What the ledger has is what MLflow gets: while a study is searched, afterwards, and after any death."""

import json
import math
import os
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import mlflow
import optuna
import pytest
import warm
from services import free_port, wait_for

from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.space import LogRange, Space, grid
from tune_sam.study.lock import study_lock
from tune_sam.study.records import open_study
from tune_sam.study.settings import StudySettings
from tune_sam.study.storage import open_storage
from tune_sam.tracking.runs import open_study_run
from tune_sam.tuning.delivery import adopt_epochs, deliver, sync, tracked
from tune_sam.tuning.ledger import Ledger, Outcome
from tune_sam.tuning.plan import create, store

SPACE = Space(LogRange(0.001, 1.0), LogRange(1e-4, 1e-1), (64,), grid((0.01, 0.1), (0.01,), (64,)))
SETTINGS = StudySettings(
    workload="gcn",
    dataset="digits",
    data=".",
    optimizers=("sam",),
    trials=2,
    epochs=10,
    seed=0,
    scheduler="none",
    spaces={"sam": SPACE},
)
PATIENCE = 60.0


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database of MLflow's, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    place = folder / "mlflow.db"
    open_study_run(f"sqlite:///{place}", experiment="gcn", artifact_root=str(folder / "artifacts"), name="first")
    return place


@pytest.fixture
def study(database, tmp_path):
    shutil.copy(database, tmp_path / "mlflow.db")
    home = Home(tmp_path)
    return create("one", SETTINGS, home, home.tracking_uri, str(tmp_path / "studies"))


def metrics_of(epoch):
    return {"val/accuracy": epoch / 100, "val/loss": 1 / epoch, "train/lr": 0.01}


def train(study, epochs=10, ended=True, first=1):
    """The next trial of a study, in the ledger alone; its number."""
    book = Ledger(open_storage(study.home), study.name, "sam", study.settings)
    number = book.suggest("tune").number
    for epoch in range(first, epochs + 1):
        book.report(number, epoch, metrics_of(epoch))
    if ended:
        book.end(number, Outcome("complete", "", epochs, metrics_of(epochs), 1.0, "node", 1, "fp32"))
    return number


def runs_of(study):
    client = mlflow.MlflowClient(study.tracking_uri)
    condition = f"tags.`mlflow.parentRunId` = '{study.mlflow_run_id}'"
    runs = client.search_runs([study.experiment_id], condition, max_results=100)
    found = {run.data.tags["tune_sam.key"]: run for run in runs}
    assert len(found) == len(runs), "a trial has two runs"
    return found


def history(study, key, metric="val/loss"):
    client = mlflow.MlflowClient(study.tracking_uri)
    points = client.get_metric_history(runs_of(study)[key].info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def assert_once(study, key, epochs):
    for metric in metrics_of(1):
        assert history(study, key, metric) == [(epoch, metrics_of(epoch)[metric]) for epoch in range(1, epochs + 1)]


def test_a_trial_of_the_ledger_is_a_run_of_mlflow(study):
    train(study)
    train(study)
    assert sync("one", home=study.home.path) == 0
    found = runs_of(study)
    assert set(found) == {"one/sam/0", "one/sam/1"}
    for trial in open_study("one", study.home.path).records():
        run = found[trial.key]
        assert_once(study, trial.key, 10)
        assert (run.info.run_id, run.info.status, run.info.run_name) == (
            trial.mlflow_run_id, "FINISHED", f"sam {trial.number} ρ={trial.config.rho:.3g} lr=0.01 b=64",
        )  # fmt: skip
        assert run.data.params == {
            "optimizer": "sam", "rho": str(trial.config.rho), "lr": "0.01", "batch_size": "64",
            "seed": str(trial.number), "epochs": "10",
        }  # fmt: skip
        tags = {name: value for name, value in run.data.tags.items() if name.startswith("tune_sam.")}
        assert tags == {
            "tune_sam.key": trial.key, "tune_sam.state": "complete", "tune_sam.precision": "fp32",
            "tune_sam.optimizer": "sam", "tune_sam.seed": str(trial.number), "tune_sam.dataset": "digits",
            "tune_sam.tune_trial_id": "tune", "tune_sam.epoch": "10", "tune_sam.epochs": "10",
            "tune_sam.compile": "False", "tune_sam.cpus_per_trial": "1", "tune_sam.split_seed": "0",
        }  # fmt: skip
        assert study.versions.items() <= run.data.tags.items()
    assert open_study("one", study.home.path).versions == study.versions != {}
    assert mlflow.MlflowClient(study.tracking_uri).get_run(study.mlflow_run_id).info.status == "FINISHED"


def test_a_metric_that_has_no_value_is_not_what_mlflow_lacks(study):
    """From Python 3.13 on, dataclasses that hold one nan are not equal, so that nothing may be left of it."""
    book = Ledger(open_storage(study.home), study.name, "sam", study.settings)
    number = book.suggest("tune").number
    book.report(number, 1, metrics_of(1))
    book.report(number, 2, {**metrics_of(2), "val/loss": math.nan, "gap/loss": math.inf})
    assert sync("one", home=study.home.path) == 0
    assert "gap/loss" not in runs_of(study)["one/sam/0"].data.metrics
    assert history(study, "one/sam/0") == [(1, 1.0)]
    assert history(study, "one/sam/0", "val/accuracy") == [(1, 0.01), (2, 0.02)]


def test_a_study_that_grows_is_running_again(study):
    for _ in range(2):
        train(study)
    assert sync("one", home=study.home.path) == 0
    store(replace(study, settings=replace(SETTINGS, trials=3)))
    assert sync("one", home=study.home.path) == 0
    assert mlflow.MlflowClient(study.tracking_uri).get_run(study.mlflow_run_id).info.status == "RUNNING"


def test_an_epoch_that_is_trained_again_after_an_interrupt_is_there_once(study):
    train(study, epochs=5, ended=False)
    assert sync("one", home=study.home.path) == 0
    assert runs_of(study)["one/sam/0"].info.status == "RUNNING"
    assert train(study, first=4) == 0, "the same trial, from the checkpoint of epoch 3"
    assert sync("one", home=study.home.path) == 0
    assert_once(study, "one/sam/0", 10)


def test_a_server_that_is_away_leaves_everything_in_the_ledger(study, monkeypatch):
    monkeypatch.setattr("tune_sam.tuning.delivery.PATIENCE", 0.1)
    uri = f"http://127.0.0.1:{free_port()}"
    away = replace(study, tracking_uri=uri, home=replace(study.home, named_tracking_uri=uri))
    with tracked(away):
        train(study)
        assert list(study.history(study.records()[0])) == list(range(1, 11))
        train(study)
    assert deliver(away, 0.1) == 3, "two trials, and the study"
    assert deliver(study, PATIENCE) == 0
    for number in range(2):
        assert_once(study, f"one/sam/{number}", 10)


def test_only_who_holds_the_study_delivers_it(study):
    with study_lock(study.home, "one"), pytest.raises(Refused, match="in use by another process"):
        sync("one", home=study.home.path)


def test_mlflow_is_not_asked_for_the_epochs_of_a_study_of_this_release(study, caplog):
    book = Ledger(open_storage(study.home), study.name, "sam", study.settings)
    book.end(book.suggest("tune").number, Outcome("diverged", "why", 1, {}, 1.0, "node", 1, "fp32"))
    assert sync("one", home=study.home.path) == 0
    study.home.tracking_file.unlink()
    adopt_epochs(study)
    assert not caplog.messages


def test_what_release_0_1_left_in_its_files_is_delivered_and_they_are_removed(study):
    """It had given MLflow the first epochs of a trial, and kept the next for a server that was away."""
    folder = study.home.study("one")
    train(study, epochs=3, ended=False)
    assert deliver(study, PATIENCE) == 0
    client, run = mlflow.MlflowClient(study.tracking_uri), runs_of(study)["one/sam/0"].info.run_id
    client.delete_tag(run, "tune_sam.epoch")
    event = {"event": "log", "study": [study.experiment_id, study.mlflow_run_id], "key": "one/sam/0"}
    lines = [{**event, "time": 1000 + epoch, "step": epoch, "metrics": metrics_of(epoch)} for epoch in (3, 4, 5)]
    refused = [{"error": "why", "event": {**event, "time": 1006, "step": 6, "metrics": metrics_of(6)}}]
    (folder / "mlflow.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"event":"lo')
    (folder / "mlflow.rejected.jsonl").write_text("\n".join(map(json.dumps, refused)) + "\n")
    (folder / "mlflow.offset").write_text("10")
    train(study, first=7)
    assert sync("one", home=study.home.path) == 0
    assert_once(study, "one/sam/0", 10)
    assert not list(folder.glob("mlflow*"))


def test_what_release_0_1_was_refused_is_delivered_also_below_what_mlflow_has(study):
    folder = study.home.study("one")
    train(study, epochs=5)
    assert deliver(study, PATIENCE) == 0
    client, run = mlflow.MlflowClient(study.tracking_uri), runs_of(study)["one/sam/0"].info.run_id
    client.delete_tag(run, "tune_sam.epoch")
    with closing(sqlite3.connect(study.home.tracking_file)) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE step IN (2, 3)")
    event = {"event": "log", "study": [study.experiment_id, study.mlflow_run_id], "key": "one/sam/0"}
    refused = [
        {"error": "why", "event": {**event, "time": 1000 + step, "step": step, "metrics": metrics_of(step)}}
        for step in (2, 3)
    ]
    (folder / "mlflow.rejected.jsonl").write_text("\n".join(map(json.dumps, refused)) + "\n")
    assert sync("one", home=study.home.path) == 0
    assert_once(study, "one/sam/0", 5)
    assert not list(folder.glob("mlflow*"))


def drive(study, accepted):
    """A driver to be killed: it notes on disk which epoch has been accepted."""
    with study_lock(study.home, "one"), tracked(study), accepted.open("ab", buffering=0) as notes:
        book = Ledger(open_storage(study.home), "one", "sam", study.settings)
        number = book.suggest("tune").number
        for epoch in range(1, 100_000):
            book.report(number, epoch, metrics_of(epoch))
            notes.write(f"{epoch}\n".encode())


def die(target, args, ready, after):
    """Run a function in a process of its own and kill it some seconds after it is at work."""
    process = warm.Command(target, *args)
    wait_for(lambda: ready() or process.returncode is not None, "it is at work")
    time.sleep(after)
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)  # it may have been through


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kill_9_loses_and_doubles_nothing(seed, study, tmp_path):
    chance, accepted, key = random.Random(seed), tmp_path / "accepted", "one/sam/0"
    die(drive, (study, accepted), lambda: accepted.exists() and runs_of(study), chance.uniform(0, 1.5))
    last = int(accepted.read_text().split()[-1])
    die(deliver, (study, PATIENCE), lambda: True, chance.uniform(0, 0.6))
    assert sync("one", home=study.home.path) == 0
    epochs = len(study.history(study.records()[0]))
    assert epochs - last in (0, 1), "the last may have been killed before it was noted"
    assert_once(study, key, epochs)


def leave_a_commit_halfway(file):
    """End in the middle of a commit to a database, a part of which is in the file already."""
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("CREATE TABLE halfway (x)")
    connection.executemany("INSERT INTO halfway VALUES (?)", [("x" * 1000,)] * 1000)
    os._exit(0)


@pytest.mark.slow
def test_what_a_process_left_of_a_commit_is_undone_and_holds_nothing_up(study):
    train(study)
    file = study.home.path / "mlflow.db"
    assert warm.Command(leave_a_commit_halfway, file).wait() == 0
    assert file.with_name("mlflow.db-journal").stat().st_size
    assert sync("one", home=study.home.path) == 0
    assert_once(study, "one/sam/0", 10)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM halfway").fetchone() == (0,)


def test_a_trial_that_is_read_while_it_begins_is_delivered_later(study):
    trial = optuna.load_study(study_name="one/sam", storage=open_storage(study.home)).ask()
    trial.set_user_attr("attempt", 1)  # its parameters were read before it had them
    deliver(study, 10)
    assert not runs_of(study)
    for name, value in (("rho", 0.1), ("lr", 0.01)):
        trial.suggest_float(name, value, value)
    trial.suggest_categorical("batch_size", [64])
    deliver(study, 10)
    assert set(runs_of(study)) == {"one/sam/0"}
