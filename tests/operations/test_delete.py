import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from studies import INLINE

import tune_sam
from tune_sam.cli.main import main
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.operations.delete import belongings
from tune_sam.study.lock import study_lock
from tune_sam.study.records import every_study, open_study


def active_runs(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return client.search_runs(experiments, run_view_type=ViewType.ACTIVE_ONLY, max_results=1000)


@pytest.mark.slow
def test_a_study_goes_with_its_refits_and_leaves_others_as_they_were(refitted):
    tune_sam.search(
        "gcn", dataset="digits", optimizers=["base"], trials=1, epochs=2, name="two", home=refitted, executor=INLINE
    )
    (other,) = open_study("two", refitted).records()
    found = tune_sam.delete("one", home=refitted)
    assert found.studies[0] == "one"
    assert "one.refit" in found.studies
    assert [study.name for study in every_study(refitted)] == ["two"]
    assert [folder.name for folder in (refitted / "studies").iterdir()] == ["two"]
    assert {run.info.run_id for run in active_runs(refitted)} == {
        other.mlflow_run_id,
        open_study("two", refitted).mlflow_run_id,
    }
    assert open_study("two", refitted).best().load_model()
    with pytest.raises(Refused, match="there is no study 'one'"):
        tune_sam.delete("one", home=refitted)


def test_a_study_that_is_driven_is_not_deleted(searched):
    with study_lock(open_study("one", searched).home, "one"), pytest.raises(Refused, match="in use by another process"):
        tune_sam.delete("one", home=searched)
    assert len(open_study("one", searched).records()) == 6


def test_nothing_outside_of_the_home_is_deleted_through_a_link(searched, tmp_path):
    (tmp_path / "mine").write_text("kept")
    link = searched / "studies" / "one" / "report"
    link.symlink_to(tmp_path)
    with pytest.raises(Refused, match="is a link to"):
        tune_sam.delete("one", home=searched)
    link.unlink()
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize("name", ["..", "../one", "", "/", "one/.."])
def test_a_name_that_no_study_can_have_deletes_nothing(searched, name):
    with pytest.raises(Refused, match="there is no study"):
        tune_sam.delete(name, home=searched)
    assert len(open_study("one", searched).records()) == 6


def test_a_person_is_asked_who_can_answer(searched, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tune-sam", "delete", "one", "--home", str(searched)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "6 trials, 7 runs in MLflow" in said
    assert "give --yes" in said
    assert open_study("one", searched)


@pytest.mark.parametrize(
    "record", ["no JSON", json.dumps({"format": 2}), None], ids=["damaged", "lacking", "unfinished"]
)
def test_a_study_whose_record_cannot_be_read_can_be_deleted(searched_once, tmp_path, record):
    home = shutil.copytree(searched_once, tmp_path / "home")
    with closing(sqlite3.connect(home / "optuna.db")) as file, file:
        if record is None:
            file.execute("DELETE FROM study_user_attributes WHERE key = 'record'")
        else:
            file.execute("UPDATE study_user_attributes SET value_json = ? WHERE key = 'record'", (record,))
    tune_sam.delete("one", home=home)
    assert not (home / "studies" / "one").exists()
    assert not active_runs(home)
    assert tune_sam.studies(home) == []
    with closing(sqlite3.connect(home / "optuna.db")) as file:
        assert file.execute("SELECT count(*) FROM studies").fetchone() == (0,)
        assert file.execute("SELECT count(*) FROM trials").fetchone() == (0,)


def test_what_lost_its_records_can_be_deleted(searched_once, tmp_path):
    home = shutil.copytree(searched_once, tmp_path / "home")
    (home / "optuna.db").unlink()
    (home / "mlflow.db").unlink()
    tune_sam.delete("one", home=home)
    assert not (home / "studies" / "one").exists()


def test_what_a_server_has_under_another_name_of_the_home_is_said_to_stay(searched, tmp_path, monkeypatch):
    server = f"sqlite:///{tmp_path}/mlflow.db"
    shutil.copy(searched / "mlflow.db", tmp_path / "mlflow.db")
    home = replace(Home.at(searched), named_tracking_uri=server)
    monkeypatch.setattr("tune_sam.operations.delete._named_in", lambda *_: [server])
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    said = belongings("one", home=home).stays
    assert [one for one in said if f"has no run of it by the name of this home, another:{searched}" in one]
