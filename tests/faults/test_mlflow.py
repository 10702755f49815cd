"""MLflow refuses, loses or damages its side: what it lacks is said, and it gets all of it again, once."""

import os
import shutil
import sqlite3
from contextlib import closing

import mlflow
import pytest
from services import mlflow_server
from studies import INLINE, searched_study

from tune_sam.errors import Refused
from tune_sam.operations.doctor import diagnose, mend
from tune_sam.operations.status import status
from tune_sam.study.records import open_study
from tune_sam.tracking.client import connect, metric_history
from tune_sam.tuning.delivery import sync
from tune_sam.tuning.runner import resume


@pytest.fixture
def home(searched_once, tmp_path):
    """A home with a finished study, which MLflow has whole."""
    return shutil.copytree(searched_once, tmp_path / "home")


def troubles(home):
    return {one.key: one.trouble for one in diagnose("one", home=home) if one.trouble}


def assert_whole(home, trials=6):
    """Assert that MLflow has every trial of the study as the ledger has it, each value of each epoch once."""
    assert not troubles(home)
    study = open_study("one", home)
    store = connect(study.tracking_uri)
    records = study.records()
    assert len(records) == trials
    for trial in records:
        wanted = study.history(trial)
        for name in trial.metrics:
            points = metric_history(store, trial.mlflow_run_id, name)
            assert sorted((point.step, point.value) for point in points) == [
                (epoch, metrics[name]) for epoch, metrics in wanted.items()
            ]
    assert store.get_run(study.mlflow_run_id).info.status == "FINISHED"


def changed(database, *statements):
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


# --------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.slow
def test_what_a_deleted_experiment_refused_is_sent_once_it_is_restored(home):
    study = open_study("one", home)
    client = mlflow.MlflowClient(study.tracking_uri)
    client.delete_experiment(study.experiment_id)
    resume("one", home=home, trials=4, executor=INLINE)
    assert sync("one", home=home) == 9, "eight trials, and the study"
    restore = f"mlflow experiments restore --experiment-id {study.experiment_id}"
    assert restore in troubles(home)["one"]
    assert restore in {one.key: one.trouble for one in mend("one", home=home)}["one"]
    client.restore_experiment(study.experiment_id)
    assert troubles(home), "the last two trials are lacking"
    assert sync("one", home=home) == 0
    assert_whole(home, trials=8)


@pytest.mark.slow
@pytest.mark.parametrize("again", [lambda home: sync("one", home=home), lambda home: mend("one", home=home)])
def test_whatever_mlflow_lacks_of_a_run_is_said_and_sent(home, again):
    lost, changing, closed, short = open_study("one", home).records()[:4]
    changed(
        home / "mlflow.db",
        f"DELETE FROM metrics WHERE run_uuid = '{lost.mlflow_run_id}' AND key = 'val/loss' AND step = 1",
        f"UPDATE tags SET value = 'x' WHERE run_uuid = '{changing.mlflow_run_id}' AND key = 'tune_sam.dataset'",
        f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid = '{closed.mlflow_run_id}'",
        f"DELETE FROM params WHERE run_uuid = '{short.mlflow_run_id}' AND key = 'lr'",
    )
    assert troubles(home) == {
        lost.key: "MLflow lacks 1 of 2 epochs",
        changing.key: "MLflow has another tag tune_sam.dataset",
        closed.key: "MLflow says RUNNING, not FINISHED",
        short.key: "MLflow lacks the parameter lr",
    }
    again(home)
    assert_whole(home)


@pytest.mark.slow
def test_another_value_than_the_ledgers_is_for_a_person_to_look_at(home):
    trial = open_study("one", home).records()[0]
    changed(
        home / "mlflow.db",
        f"UPDATE metrics SET value = 9 WHERE run_uuid = '{trial.mlflow_run_id}' AND key = 'val/loss' AND step = 1",
    )
    assert troubles(home) == {trial.key: "MLflow has another val/loss of epoch 1"}
    assert {one.key: one.trouble for one in mend("one", home=home) if one.trouble} == troubles(home)


# -------------------------------------------------------------------------------------------------- what it loses


def gone(database):
    database.unlink()


def emptied(database):
    database.write_bytes(b"")


def of_random_bytes(database):
    database.write_bytes(os.urandom(50_000))


def damaged_inside(database):
    content = bytearray(database.read_bytes())
    content[8192:40960] = os.urandom(32768)
    database.write_bytes(content)


def of_a_later_mlflow(database):
    changed(database, "UPDATE alembic_version SET version_num = 'ffffffffffff'")


def of_an_earlier_mlflow(database):
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    known = ScriptDirectory.from_config(_get_alembic_config(""))
    before = known.get_revision(known.get_current_head()).down_revision
    changed(database, f"UPDATE alembic_version SET version_num = '{before}'")


def without_the_study(database):
    changed(database, *(f"DELETE FROM {table}" for table in ("tags", "params", "metrics", "latest_metrics", "runs")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [of_an_earlier_mlflow, without_the_study, gone, emptied, of_random_bytes, damaged_inside, of_a_later_mlflow],
)
def test_mlflows_side_is_made_anew_from_the_ledger(home, fault):
    database, before = home / "mlflow.db", open_study("one", home)
    results = before.results
    fault(database)
    left = database.read_bytes() if database.exists() else b""
    assert before.best("sam").value is not None
    assert status("one", home=home)
    assert "one" in troubles(home), "it is said, and nothing raises"
    assert not [one for one in mend("one", home=home) if one.trouble]
    assert_whole(home)
    kept = [file.read_bytes() for file in home.glob("mlflow.db.aside-*") if file.suffix not in (".wal", ".shm")]
    assert not left or left in kept or fault is without_the_study, "what was there is kept"
    after = open_study("one", home)
    assert after.results == results
    assert after.best().load_model()
    assert after.settings == before.settings


@pytest.mark.slow
def test_a_study_whose_run_was_made_anew_is_resumed(home):
    without_the_study(home / "mlflow.db")
    assert not [one for one in mend("one", home=home) if one.trouble]
    resume("one", home=home, trials=4, executor=INLINE)
    assert_whole(home, trials=8)


def test_a_new_study_is_not_begun_over_a_damaged_database(home):
    of_random_bytes(home / "mlflow.db")
    with pytest.raises(Refused, match=r"mlflow.db is damaged .*tune-sam doctor STUDY --fix"):
        searched_study(home, name="two")


def test_a_run_of_a_study_that_was_deleted_is_restored(home):
    study = open_study("one", home)
    mlflow.MlflowClient(study.tracking_uri).delete_run(study.mlflow_run_id)
    assert "was deleted in MLflow" in troubles(home)["one"]
    assert not [one for one in mend("one", home=home) if one.trouble]
    assert open_study("one", home).mlflow_run_id == study.mlflow_run_id
    assert_whole(home)


@pytest.mark.slow
def test_a_server_that_lost_its_store_gets_everything_when_that_is_put_back(tmp_path, monkeypatch, tables_of_mlflow):
    store, home = tmp_path / "server.db", tmp_path / "home"
    shutil.copy(tables_of_mlflow, store)
    with mlflow_server(f"sqlite:///{store}", tmp_path) as server:
        monkeypatch.setenv("TUNE_SAM_TRACKING_URI", server.uri)
        searched_study(home, tracking_uri=server.uri, train_subset=128)
        server.stop()
        shutil.copy(store, tmp_path / "copy.db")
        shutil.copy(tables_of_mlflow, store)
        server.start()
        assert sync("one", home=home) == 7, "it has nothing of the study"
        assert "has no run" in troubles(home)["one"]
        server.stop()
        shutil.copy(tmp_path / "copy.db", store)
        changed(store, "DELETE FROM metrics WHERE step = 2")
        server.start()
        assert sync("one", home=home) == 0
        assert_whole(home)
