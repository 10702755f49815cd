"""A study's own run in MLflow has the numbers by which studies are compared."""

import math

import mlflow
import pytest

from tune_sam.errors import Refused
from tune_sam.evaluation.refit import tested_refit
from tune_sam.evaluation.summary import log_summary, summarize
from tune_sam.operations.doctor import diagnose, mend
from tune_sam.reporting.page import report
from tune_sam.study.records import open_study
from tune_sam.study.summary import note_summary, noted_summary
from tune_sam.tuning.delivery import deliver


@pytest.fixture
def study(refitted):
    return open_study("one", refitted)


def own_run(study):
    return mlflow.MlflowClient(study.tracking_uri).get_run(study.mlflow_run_id)


def troubles(study):
    return {one.key: one.trouble for one in diagnose(study.name, home=study.home) if one.trouble}


def test_the_run_of_a_study_has_its_best_trials_and_its_refit(study):
    run, best = own_run(study), study.best("sam")
    assert run.data.params["workload"] == "gcn"
    assert run.data.metrics["best/sam/val_accuracy"] == best.value
    assert run.data.metrics["best/sam/rho"] == best.config.rho
    assert run.data.metrics["val/accuracy"] == study.best().value
    assert run.data.tags["tune_sam.state"] == "complete"
    table = tested_refit(study).table()
    of_sam = table[(table["kind"] == "refit") & (table["optimizer"] == "sam")]["test/accuracy"]
    of_base = table[(table["kind"] == "refit") & (table["optimizer"] == "base")]["test/accuracy"]
    assert run.data.metrics["refit/sam/test_accuracy"] == pytest.approx(of_sam.mean())
    assert run.data.metrics["refit/sam/difference"] == pytest.approx(of_sam.mean() - of_base.mean())
    assert "refit/sam/difference_p" not in run.data.metrics, "two seeds give no verdict"
    assert not troubles(study)


def test_the_runs_of_refits_are_below_their_search_and_called_by_configuration_and_seed(study):
    client = mlflow.MlflowClient(study.tracking_uri)
    below = client.search_runs([study.experiment_id], f"tags.`mlflow.parentRunId` = '{study.mlflow_run_id}'")
    assert {"one.refit", "one.twice"} <= {run.info.run_name for run in below}
    for refit in tested_refit(study).studies:
        for trial in refit.records():
            run = client.get_run(trial.mlflow_run_id)
            assert run.data.tags["mlflow.parentRunId"] == refit.mlflow_run_id
            assert run.info.run_name.endswith(f"b={trial.config.batch_size} seed={trial.config.seed}")


def test_runs_name_their_data_set_as_an_input(study):
    for run_id, splits in (
        (study.mlflow_run_id, {"train", "validation", "classes"}),
        (study.best().mlflow_run_id, {"train", "validation", "classes"}),
        (tested_refit(study).studies[0].records()[0].mlflow_run_id, {"train", "test", "classes"}),
    ):
        (given,) = mlflow.MlflowClient(study.tracking_uri).get_run(run_id).inputs.dataset_inputs
        assert given.dataset.name == "digits"
        assert all(f'"{split}"' in given.dataset.profile for split in splits)


def test_the_numbers_of_a_study_that_was_refitted_before_are_given_by_the_doctor(study):
    note_summary(study, {})
    mlflow.MlflowClient(study.tracking_uri).log_metric(study.mlflow_run_id, "refit/sam/test_accuracy", 0.5)
    assert not [one for one in mend("one", home=study.home) if one.trouble]
    assert own_run(study).data.metrics["refit/sam/test_accuracy"] == summarize(study)["refit/sam/test_accuracy"]


def test_numbers_that_change_are_the_latest_ones(study):
    note_summary(study, {"refit/sam/test_accuracy": 0.5})
    trouble = troubles(study)["one"]
    assert trouble.startswith("MLflow has another result ")
    assert "refit/sam/test_accuracy" in trouble.split(", ")
    assert not log_summary(study)
    assert own_run(study).data.metrics["refit/sam/test_accuracy"] == summarize(study)["refit/sam/test_accuracy"]
    assert not troubles(study)


def test_a_number_that_is_no_more_does_not_stand_beside_new_ones(study):
    """As the p-value of five seeds beside the difference of a new best's two."""
    note_summary(study, {"refit/sam/difference": 0.02, "refit/sam/difference_p": 0.01})
    assert deliver(study, 5) == 0
    assert own_run(study).data.metrics["refit/sam/difference_p"] == 0.01
    assert not log_summary(study)
    metrics = own_run(study).data.metrics
    assert math.isnan(metrics["refit/sam/difference_p"])
    assert metrics["refit/sam/difference"] == summarize(study)["refit/sam/difference"]
    assert not troubles(study)
    history = mlflow.MlflowClient(study.tracking_uri).get_metric_history(study.mlflow_run_id, "refit/sam/difference_p")
    assert not log_summary(study), "and it is sent once"
    again = mlflow.MlflowClient(study.tracking_uri).get_metric_history(study.mlflow_run_id, "refit/sam/difference_p")
    assert len(again) == len(history) == 2


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.slow
def test_the_ledger_has_the_numbers_although_mlflow_does_not_take_the_page(study, monkeypatch):
    def refuse(*_):
        raise Refused("MLflow is away.")

    note_summary(study, {})
    monkeypatch.setattr("tune_sam.tracking.runs.publish", refuse)
    assert report("one", home=study.home).undelivered == "MLflow is away."
    assert {name: number for name, number in noted_summary(study).items() if math.isfinite(number)} == summarize(study)
    assert summarize(study)
