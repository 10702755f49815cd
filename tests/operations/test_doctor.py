from dataclasses import replace

import pytest
from mlflow import MlflowClient

from tune_sam.errors import Refused
from tune_sam.operations import doctor
from tune_sam.study.lock import study_lock
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage
from tune_sam.tuning import plan
from tune_sam.tuning.ledger import Ledger, Outcome


def troubles(found):
    return {one.key: one.trouble for one in found if one.trouble}


@pytest.fixture
def study(searched):
    """A study whose ledgers agree, before and after each test."""
    assert not troubles(doctor.diagnose("one", home=searched))
    yield open_study("one", searched)
    assert not troubles(doctor.diagnose("one", home=searched))


def test_one_line_for_each_trial_and_one_for_the_study(study):
    found = doctor.diagnose("one", home=study.home)
    assert [one.key for one in found] == [f"one/{name}/{number}" for name in ("base", "sam") for number in range(3)] + [
        "one"
    ]
    assert {(one.state, one.optuna, one.mlflow, one.checkpoint) for one in found[:-1]} == {
        ("complete", "COMPLETE", "FINISHED", "whole")
    }


def test_a_run_that_mlflow_believes_to_be_running_is_closed(study):
    client, trial = MlflowClient(study.tracking_uri), study.records("sam")[1]
    client.update_run(trial.mlflow_run_id, status="RUNNING")
    client.update_run(study.mlflow_run_id, status="RUNNING")
    assert troubles(doctor.diagnose("one", home=study.home)) == {
        trial.key: "MLflow says RUNNING, not FINISHED",
        "one": "MLflow says RUNNING, not FINISHED",
    }
    assert not troubles(doctor.mend("one", home=study.home))
    assert client.get_run(trial.mlflow_run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(trial.mlflow_run_id, "val/accuracy")) == 2, "nothing is told twice"


def test_a_run_that_is_gone_is_made_again_with_what_optuna_knows(study):
    client, trial = MlflowClient(study.tracking_uri), study.records("base")[0]
    client.delete_run(trial.mlflow_run_id)
    assert troubles(doctor.diagnose("one", home=study.home)) == {trial.key: "MLflow has no run"}
    assert not troubles(doctor.mend("one", home=study.home))
    again = client.get_run(study.records("base")[0].mlflow_run_id)
    assert again.info.run_id != trial.mlflow_run_id
    assert again.data.metrics["val/loss"] == trial.metrics["val/loss"]
    for name in trial.metrics:
        points = client.get_metric_history(again.info.run_id, name)
        history = {point.step: point.value for point in points}
        assert history == {epoch: metrics[name] for epoch, metrics in study.history(trial).items()}
        assert len(points) == 2
    assert again.data.params["lr"] == str(trial.config.lr)


def test_a_second_run_of_a_trial_is_for_a_person_to_look_at(study):
    client, trial = MlflowClient(study.tracking_uri), study.records("base")[2]
    tags = {"tune_sam.key": trial.key, "mlflow.parentRunId": study.mlflow_run_id}
    second = client.create_run(study.experiment_id, tags=tags).info.run_id
    assert "MLflow has 2 runs" in troubles(doctor.diagnose("one", home=study.home))[trial.key]
    assert "MLflow has 2 runs" in troubles(doctor.mend("one", home=study.home))[trial.key]
    client.delete_run(second)


def test_a_trial_whose_driver_died_while_it_ended_it_is_ended_everywhere(study, monkeypatch):
    """Only Optuna has its record, and not even its state."""
    grown = replace(study, settings=replace(study.settings, trials=4))
    plan.store(grown)
    book = Ledger(open_storage(study.home), "one", "base", grown.settings)
    book.end(book.suggest("x").number, Outcome("complete", "", 2, {"val/accuracy": 0.5, "val/loss": 1.0}, 1.0, "n", 1))
    asked = Ledger(open_storage(study.home), "one", "sam", grown.settings)
    with monkeypatch.context() as patch:
        patch.setattr("tune_sam.tuning.ledger._close", lambda *_: None)
        asked.end(asked.suggest("y").number, Outcome("failed", "why", 0, {}, None, None, None))
    found = troubles(doctor.diagnose("one", home=study.home))
    assert found["one/base/3"] == "MLflow has no run"
    assert "one/sam/3" in found or open_study("one", study.home).records("sam")[3].state == "waiting"
    assert not troubles(doctor.mend("one", home=study.home))
    last = {one.key: one for one in doctor.diagnose("one", home=study.home)}
    assert (last["one/sam/3"].optuna, last["one/sam/3"].mlflow) == ("FAIL", "FAILED")


def test_a_study_that_is_searched_now_is_not_mended(study):
    with study_lock(study.home, "one"), pytest.raises(Refused, match="in use by another process"):
        doctor.mend("one", home=study.home)
