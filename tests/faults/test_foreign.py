"""What somebody sends is data: whatever its records say, nothing outside of its home is run, written or removed."""

import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import torch
from studies import INLINE

from tune_sam.cli.main import main
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.operations.analyze import analyze
from tune_sam.operations.doctor import doctor
from tune_sam.operations.refit import refit
from tune_sam.reporting.page import report
from tune_sam.study.lock import study_lock
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage
from tune_sam.tracking.client import artifacts_of, connect
from tune_sam.tuning.delivery import sync
from tune_sam.tuning.runner import resume
from tune_sam.workload import known_workload, made_workload

WRITERS = {
    "resume": lambda home: resume("one", home=home, trials=4, executor=INLINE),
    "refit": lambda home: refit("one", home=home, seeds=1, executor=INLINE),
    "analyze": lambda home: analyze("one", home=home, sample=24, executor=INLINE),
}
"""What uses all that a record can name: code, a place of results, MLflow."""


@pytest.fixture
def home(searched, tmp_path):
    """A home that somebody sent, with the study `one`."""
    return Path(shutil.copytree(searched, tmp_path / "home"))


@pytest.fixture
def mine(tmp_path):
    """A folder of the reader's, which must stay as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    yield tmp_path / "mine"
    assert [(file.name, file.read_text()) for file in (tmp_path / "mine").iterdir()] == [("thesis.txt", "years")]


def change(home, settings=(), **changes):
    """Change what the study's records say."""
    storage = open_storage(Home(home))
    for study in storage.get_all_studies():
        record = study.user_attrs["record"]
        record = record | changes | {"settings": record["settings"] | dict(settings)}
        storage.set_study_user_attr(study._study_id, "record", record)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["tune-sam", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr().err


@pytest.fixture
def code(home, tmp_path, monkeypatch):
    """A module beside the reader that says when it is run; the study's records name a class of it as the workload."""
    change(home, {"workload": "sent_by_somebody:Evil"})
    (tmp_path / "sent_by_somebody.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from tune_sam.trainables.gcn import GCN\nclass Evil(GCN):\n    name = 'evil'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "ran"
    sys.modules.pop("sent_by_somebody", None)
    made_workload.cache_clear()


def test_code_that_a_record_names_is_not_run(home, code, monkeypatch, capsys):
    for words in (["studies"], ["best", "one"], ["trials", "one"], ["status", "one"]):
        status, said = run(monkeypatch, capsys, *words, "--home", home)
        assert status == 0, said
    for command in (report, *WRITERS.values()):
        with pytest.raises(Refused, match="'sent_by_somebody:Evil' is code .* give --workload sent_by_somebody:Evil"):
            command("one", home=home) if command is report else command(home)
    with pytest.raises(Refused, match="--workload"):
        open_study("one", home).best().load_model()
    assert not code.exists()


def test_code_that_a_record_names_is_run_where_the_person_names_it_too(home, code, monkeypatch, capsys):
    status, said = run(monkeypatch, capsys, "best", "one", "--workload", "sent_by_somebody:Evil", "--home", home)
    assert status == 0, said
    assert code.exists()
    assert open_study("one", home).workload.name == "evil"


@pytest.mark.parametrize(
    "name", ["sent_by_somebody:", "os:system", "json:decoder", "tune_sam.study.records:Study", ":"]
)
def test_what_is_no_workload_is_none_though_a_record_names_it(name):
    with pytest.raises(Refused):
        known_workload(name)


def test_a_module_of_the_working_directory_is_found_for_nothing_but_a_workload(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", os.getcwd())])
    run(monkeypatch, capsys, "studies", "--home", home)
    assert os.getcwd() not in sys.path


@pytest.mark.parametrize("command", WRITERS)
def test_results_are_written_nowhere_that_nothing_but_a_record_names(home, mine, command):
    change(home, storage=str(mine))
    with pytest.raises(Refused, match=f"outside its home, which only its record names; give --storage {mine} "):
        WRITERS[command](home)
    study = open_study("one", Home.at(home, storage=str(mine)))
    assert study.own_storage == str(mine), "the person names it"


def test_mlflow_is_left_alone_where_nothing_but_a_record_names_it(home, mine):
    uri = f"sqlite:///{mine}/thesis.txt"
    change(home, tracking_uri=uri)
    says = f"outside its home, which only its record names; give --tracking-uri {uri} "
    for command in WRITERS.values():
        with pytest.raises(Refused, match=says):
            command(home)
    with pytest.raises(Refused, match=says):
        sync("one", home=home)
    assert open_study("one", Home.at(home, tracking_uri=uri)).mlflow == uri


@pytest.mark.parametrize("fix", [False, True])
def test_a_diagnosis_asks_no_mlflow_that_nothing_but_a_record_names(home, mine, fix):
    change(home, tracking_uri=f"sqlite:///{mine}/thesis.txt")
    try:
        said = "; ".join(one.trouble for one in doctor("one", home=home, fix=fix))
    except Refused as error:
        said = str(error)
    assert "which only its record names" in said


@pytest.mark.parametrize(
    "link", ["studies/one/report", "studies/one/ray-x/sam", "studies/one", "optuna.db", "mlflow.db"]
)
def test_a_link_in_a_home_leads_nothing_out_of_it(home, mine, link):
    link = home / link
    if link.name != "optuna.db":  # which the records are read from
        shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(mine / "thesis.txt" if link.suffix else mine)
    else:
        link.rename(home / "other.db")
        link.symlink_to(home / "other.db")
    for command in (lambda: report("one", home=home), lambda: resume("one", home=home, trials=4, executor=INLINE)):
        with pytest.raises(Refused, match=f"{link} is a link to "):
            command()
    with pytest.raises(Refused, match="is a link"), study_lock(Home(home), "one"):
        pass


def test_artifacts_are_written_nowhere_that_nothing_but_mlflows_database_names(home, mine):
    with sqlite3.connect(home / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (str(mine),))
    study = open_study("one", home)
    store = connect(study.mlflow)
    with pytest.raises(Refused, match=f"has the artifacts of run .* in {mine}, outside {home}/artifacts"):
        artifacts_of(store, study.mlflow, study.mlflow_run_id, study.mlflow_run.artifacts)
    within = home / "artifacts" / "x"
    within.mkdir(parents=True)
    (within / "report").symlink_to(mine)
    with sqlite3.connect(home / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (str(within),))
    with pytest.raises(Refused, match="outside"):
        artifacts_of(store, study.mlflow, study.mlflow_run_id, study.mlflow_run.artifacts)


class Boom:
    """A pickle that runs code where it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def test_a_checkpoint_runs_nothing(home, tmp_path):
    trial = open_study("one", home).best()
    torch.save(Boom(str(tmp_path / "ran")), Path(trial.checkpoint) / "training.pt")
    with pytest.raises(Refused, match="is damaged"):
        trial.load_model()
    assert not (tmp_path / "ran").exists()


def test_data_are_not_downloaded_through_a_link(home, mine, monkeypatch):
    from tune_sam.cluster.data import ensure_data
    from tune_sam.trainables.gcn import GCN

    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "Mutagenicity").symlink_to(mine)
    monkeypatch.setattr(GCN, "fetch", lambda *_: pytest.fail("it is fetched"))
    ensure_data(open_study("one", home))
