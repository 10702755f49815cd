"""The runs that MLflow has of a study, made once, and the results that they get."""

import math
import shutil
import time
from pathlib import Path

import mlflow
import pytest
from mlflow_places import KEYS, PATIENCE, Book, runs_of
from services import mlflow_server

from tune_sam.errors import Refused
from tune_sam.tracking.delivery import Delivery
from tune_sam.tracking.runs import open_study_run, publish, run_states


def test_a_study_is_made_once_and_brought_up_to_date(uri, study, first_contact):
    again = open_study_run(uri, experiment="gcn", name="s", tags={"mlflow.note.content": "new", "trials": "8"})
    assert again == study
    client = mlflow.MlflowClient(uri)
    tags = client.get_run(study.run_id).data.tags
    assert (tags["mlflow.note.content"], tags["dataset"], tags["trials"]) == ("new", "cora", "8")
    assert client.get_run(study.run_id).info.run_name == "s"
    assert client.get_experiment(study.experiment_id).artifact_location == str(first_contact[1])
    other = open_study_run(uri, experiment="gcn", name="it's another")
    assert other.experiment_id == study.experiment_id
    assert open_study_run(uri, experiment="gcn", name="it's another") == other != study


def test_a_deleted_experiment_is_refused(uri, study):
    mlflow.MlflowClient(uri).delete_experiment(study.experiment_id)
    with pytest.raises(Refused, match="mlflow experiments restore --experiment-id"):
        open_study_run(uri, experiment="gcn", name="s")


def with_a_run(uri, study):
    """A trial that ended after three epochs; its run."""
    delivery = Delivery(uri, study, Book().whole_trials(3, KEYS[:1]))
    delivery.start()
    assert delivery.close(PATIENCE) == 0
    return runs_of(uri, study)[KEYS[0]].info.run_id


def test_a_new_study_has_nothing_of_one_that_had_its_name(uri, study):
    run = with_a_run(uri, study)
    again = open_study_run(uri, experiment="gcn", name="s")
    assert again != study
    assert open_study_run(uri, experiment="gcn", name="s") == again, "its making was cut off"
    assert with_a_run(uri, again) != run


def test_what_mlflow_has_of_each_trial_is_read(uri, study):
    run = with_a_run(uri, study)
    own, states = run_states(uri, study)
    assert (own.run_id, own.status) == (study.run_id, "RUNNING")
    (state,) = states[KEYS[0]]
    assert (state.run_id, state.status, state.state, state.step) == (run, "FINISHED", "complete", 3)
    assert state.metrics["val/accuracy"] == 0.003


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.slow)])
def place(request, uri, tmp_path):
    if request.param == "database":
        yield uri
    else:
        with mlflow_server(uri, tmp_path) as server:
            yield server.uri


def test_a_number_is_published_once_and_the_newer_one_is_the_latest(place, tmp_path):
    root = None if place.startswith("http") else str(tmp_path / "root")
    study = open_study_run(place, experiment="published", artifact_root=root, name="s", home=place)
    run = with_a_run(place, study)
    (tmp_path / "files").mkdir()
    for text, number in (("one", 1.5), ("one", 1.5), ("two", 2.5)):
        (tmp_path / "files" / "a.csv").write_text(text)
        time.sleep(0.01)  # MLflow tells values of one step apart by their milliseconds
        publish(place, study, {run: {"flatness/trace": number, "flatness/nan": math.nan}}, 9, tmp_path / "files", "f/9")
    client = mlflow.MlflowClient(place)
    assert [point.value for point in client.get_metric_history(run, "flatness/trace")] == [1.5, 2.5]
    metrics = client.get_run(run).data.metrics
    assert metrics["flatness/trace"] == 2.5
    assert math.isnan(metrics["flatness/nan"])
    assert len(client.get_metric_history(run, "flatness/nan")) == 1
    fetched = client.download_artifacts(study.run_id, "f/9/a.csv", str(tmp_path))
    assert Path(fetched).read_text() == "two"


def test_what_a_copy_publishes_goes_to_the_copy_also_where_one_process_has_used_both(uri, tmp_path):
    original, copy = tmp_path / "a", tmp_path / "b"
    original.mkdir()
    shutil.copy(uri.removeprefix("sqlite:///"), original / "mlflow.db")
    place = f"sqlite:///{original}/mlflow.db"
    study = open_study_run(place, experiment="copied", artifact_root=str(original / "artifacts"), name="s")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "page.html").write_text("original")
    publish(place, study, {}, 1, tmp_path / "files", "report")
    shutil.copytree(original, copy)
    (tmp_path / "files" / "page.html").write_text("copy")
    publish(f"sqlite:///{copy}/mlflow.db", study, {}, 1, tmp_path / "files", "report")
    page = Path("artifacts", study.run_id, "artifacts", "report", "page.html")
    assert (original / page).read_text() == "original"
    assert (copy / page).read_text() == "copy"


def test_artifacts_in_a_bucket_stay_there_also_where_the_database_is_beside_a_folder_of_that_name(uri, tmp_path):
    (tmp_path / "artifacts").mkdir()
    for again in range(2):
        study = open_study_run(uri, experiment="in a bucket", artifact_root="s3://bucket/artifacts", name=f"s{again}")
    experiment = mlflow.MlflowClient(uri).get_experiment(study.experiment_id)
    assert experiment.artifact_location == "s3://bucket/artifacts"


def test_what_cannot_be_published_is_told_in_a_sentence(nowhere, uri, study, tmp_path):
    for place, run, said in ((nowhere, "x", "cannot be reached"), (uri, "no-such-run", "does not take the results")):
        with pytest.raises(Refused, match=said):
            publish(place, study, {run: {"flatness/trace": 1.0}}, 9, tmp_path, "f")
