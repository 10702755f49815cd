"""Homes that are moved or copied, and the home of the release before this one."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tune_sam.cli.services import ui
from tune_sam.cluster.executor import InlineExecutor
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.operations.analyze import analyze
from tune_sam.operations.doctor import diagnose, mend
from tune_sam.operations.status import status
from tune_sam.reporting.page import report
from tune_sam.study.lock import page_lock, study_lock
from tune_sam.study.records import open_study, refits_of, studies
from tune_sam.study.storage import open_storage
from tune_sam.tracking.relocation import relocate_artifacts
from tune_sam.tuning.delivery import adopt_epochs, sync
from tune_sam.tuning.runner import resume

pytestmark = pytest.mark.usefixtures("blank_figures", "coarse_measures")

FIXTURE = Path(__file__).with_name("fixtures") / "home-0.1.tar.xz"
"""Made by tune_sam 0.1 at /srv/tune-sam/home.

Study `one` of gcn on digits, base and sam, two trials of two epochs each; its refit with two seeds, tested and
measured; study `two`, whose only trial of 60 epochs was killed after four. For the file's size the pictures are small
and the moments of complete trainings are 0.
"""

MADE_AT = "/srv/tune-sam/home"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, tables_of_mlflow):
    """The earlier release's home, where nothing has opened it yet."""
    home = tmp_path_factory.mktemp("earlier") / "home"
    shutil.unpack_archive(FIXTURE, home)
    if _version(home / "mlflow.db") != _version(tables_of_mlflow):
        theirs = (home / "mlflow.db").rename(home.with_name("theirs.db"))
        _fill(shutil.copy(tables_of_mlflow, home / "mlflow.db"), theirs)
    return home


def _version(database):
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchall()


def _fill(database, theirs):
    """Fill the tables of the MLflow that is installed, which refuses those of another, with what theirs hold."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("ATTACH ? AS theirs", [str(theirs)])

        def columns(schema, table):
            return {name for _, name, *_ in connection.execute(f"PRAGMA {schema}.table_info({table})")}

        for (table,) in connection.execute("SELECT name FROM theirs.sqlite_master WHERE type = 'table'").fetchall():
            if table != "alembic_version" and connection.execute(f"SELECT 1 FROM theirs.{table}").fetchone():
                shared = ", ".join(f'"{name}"' for name in columns("main", table) & columns("theirs", table))
                connection.execute(f"INSERT OR REPLACE INTO {table} ({shared}) SELECT {shared} FROM theirs.{table}")


@pytest.fixture
def home(earlier, tmp_path):
    return Path(shutil.copytree(earlier, tmp_path / "home"))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def places(home):
    """Every place of artifacts in MLflow's database."""
    with sqlite3.connect(home / "mlflow.db") as connection:
        found = connection.execute("SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM experiments")
        return [place for (place,) in found]


def test_an_earlier_releases_home_opens_where_it_is_now(home):
    assert [study.name for study in studies(home)] == ["one", "two"]
    one = open_study("one", home)
    assert one.counts() == {"complete": 4}
    assert one.settings.kind == "search"
    assert [child.settings.kind for child in refits_of(one)] == ["refit", "equal-compute"]
    assert (one.storage, one.tracking_uri) == (str(home / "studies"), f"sqlite:///{home}/mlflow.db")
    assert one.best("sam").metrics["val/accuracy"] == one.best("sam").value
    assert open_study("two", home).counts() == {"waiting": 1}


def test_an_earlier_releases_networks_are_those_that_were_trained(home):
    from tune_sam.training import Trainer
    from tune_sam.workload import find_workload

    trial = open_study("one", home).best("sam")
    assert Path(trial.checkpoint).is_relative_to(home)
    workload = find_workload("gcn")
    splits = workload.splits("digits", home)
    trainer = Trainer(workload, workload.setting("digits"), trial.config, splits, epochs=2, precision="fp32")
    trainer.model.load_state_dict(trial.load_model().state_dict())
    assert trainer.evaluate(splits.validation).scores["accuracy"] == pytest.approx(trial.value)


def test_an_earlier_releases_curves_are_taken_from_mlflow_once(home):
    study = open_study("one", home)
    trial = study.best("sam")
    assert study.history(trial) == {}
    adopt_epochs(study)
    history = study.history(trial)
    assert list(history) == [1, 2]
    assert history[2]["val/accuracy"] == trial.value
    assert {"train/loss", "train/lr", "val/loss"} <= set(history[1])
    (home / "mlflow.db").rename(home / "away.db")
    assert study.history(trial) == history, "MLflow is not asked again"


@pytest.mark.slow
def test_an_earlier_releases_page_and_diagnosis_are_made_anew(home):
    page = report("one", home=home)
    assert not page.undelivered
    assert page.page.is_relative_to(home)
    assert "sam" in page.page.read_text()
    assert (page.page.parent / "figures" / "learning-curves.png").exists()
    assert [stage.name for stage in status("one", home=home)][:2] == ["search", "one.refit"]
    assert not {one.key: one.trouble for one in mend("one", home=home) if one.trouble}
    assert all(place.startswith(str(home)) for place in places(home))
    run = open_study("one", home).mlflow_run_id
    assert (home / "artifacts" / run / "artifacts" / "report" / "index.html").exists()


def test_an_earlier_releases_study_whose_results_were_elsewhere_has_its_runs_where_its_home_is_now(home):
    storage = open_storage(Home(home))
    for study in storage.get_all_studies():
        record = study.user_attrs["record"] | {"storage": "/scratch/studies"}
        shutil.rmtree(home / "studies" / study.study_name.partition("/")[0], ignore_errors=True)
        storage.set_study_user_attr(storage.get_study_id_from_name(study.study_name), "record", record)
    one = open_study("one", home)
    assert (one.storage, one.tracking_uri) == ("/scratch/studies", f"sqlite:///{home}/mlflow.db")


def test_an_earlier_releases_study_that_had_not_begun_is_searched_where_its_home_is_now(home):
    shutil.rmtree(home / "studies" / "two")
    two = open_study("two", home)
    assert (two.storage, two.tracking_uri) == (str(home / "studies"), f"sqlite:///{home}/mlflow.db")


def test_a_copied_home_is_read_where_it_is_and_leaves_the_original_alone(home, tmp_path):
    before = contents(home)
    there = Path(shutil.copytree(home, tmp_path / "there"))
    study = open_study("one", there)
    for place in (study.storage, study.tracking_uri.removeprefix("sqlite:///"), study.best().checkpoint):
        assert Path(place).is_relative_to(there)
    assert isinstance(study.best().load_model(), torch.nn.Module)
    relocate_artifacts(there / "mlflow.db")
    assert all(place.startswith(str(there)) for place in places(there))
    assert contents(home) == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_home_works_where_it_was_moved_or_copied_to(home, tmp_path, how):
    sync("one", home=home)  # the first use by this release
    before = contents(home)
    there = tmp_path / "there"
    shutil.move(home, there) if how == "moved" else shutil.copytree(home, there)
    study = open_study("one", there)
    for place in (study.storage, study.tracking_uri.removeprefix("sqlite:///"), study.best().checkpoint):
        assert Path(place).is_relative_to(there)
    assert isinstance(study.best().load_model(), torch.nn.Module)
    page = report("one", home=there)
    assert not page.undelivered
    assert page.page.is_relative_to(there)
    assert not [one.trouble for one in diagnose("one", home=there) if one.trouble]
    assert all(place.startswith(str(there)) for place in places(there))
    if how == "copied":
        assert contents(home) == before
    else:
        assert not home.exists(), "nothing is made where the home was"
    assert not Path(MADE_AT).exists() or MADE_AT not in page.page.read_text()


def test_the_pages_of_mlflow_show_the_artifacts_of_the_home_that_they_are_asked_for(home, monkeypatch):
    monkeypatch.setattr("tune_sam.operations.ui.serve", lambda *_, **__: None)
    ui(home=home)
    assert all(place.startswith(str(home)) for place in places(home))


def test_a_record_keeps_places_in_the_home_relative_to_it_and_others_as_they_are(tmp_path):
    home = Home(tmp_path / "a")
    for place in (f"{tmp_path}/a/studies", f"sqlite:///{tmp_path}/a/mlflow.db"):
        assert str(tmp_path) not in home.kept(place)
        assert Home(tmp_path / "b").found(home.kept(place)) == place.replace("/a/", "/b/")
    for place in (f"{tmp_path}/ab/studies", "s3://bucket/a", "http://host:5000", "/data"):
        assert home.found(home.kept(place)) == home.kept(place) == place
    shared = Home(tmp_path / "a", "postgresql://host/studies")
    assert shared.kept(f"{tmp_path}/a/studies") == f"{tmp_path}/a/studies", "other homes read such a record, too"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["moved", "copied", "of the release before"])
def test_a_study_is_resumed_and_measured_where_its_home_is_now(home, tmp_path, how):
    there = tmp_path / "there"
    if how == "copied":
        report("one", home=home)
        before = contents(home)
        shutil.copytree(home, there)
    else:
        if how == "moved":
            report("one", home=home)
        shutil.move(home, there)
    grown = resume("one", home=there, trials=3, executor=InlineExecutor())
    assert grown.counts() == {"complete": 6}
    assert all(Path(trial.checkpoint).is_relative_to(there) for trial in grown.records())
    measured = analyze("one", home=there, sample=32, optimizers=["sam"], top=2, grid=2, executor=InlineExecutor())
    assert len(measured.flatness) == 2
    assert not measured.undelivered
    assert not [one.trouble for one in mend("one", home=there) if one.trouble]
    if how == "copied":
        assert contents(home) == before, "the copy leaves the original as it was"
        assert resume("one", home=home, trials=3, executor=InlineExecutor()).counts() == {"complete": 6}
    else:
        assert not home.exists()


@pytest.mark.slow
def test_a_trial_that_the_release_before_left_unfinished_is_resumed_from_its_checkpoint(home):
    waiting = open_study("two", home).records()[0]
    assert waiting.epochs >= 4
    (resumed,) = resume("two", home=home, executor=InlineExecutor()).records()
    assert (resumed.key, resumed.state, resumed.epochs) == (waiting.key, "complete", 60)
    assert resumed.mlflow_run_id == waiting.mlflow_run_id


@pytest.mark.parametrize(
    "enter", [lambda home: home.made(), lambda home: study_lock(home, "one"), lambda home: page_lock(home, "one")]
)
def test_a_home_whose_locks_are_another_persons_is_refused_in_a_sentence(tmp_path, enter, monkeypatch):
    def of_another(*_):
        raise PermissionError("as the system says where a file has mode 0644")

    (tmp_path / "studies" / "one").mkdir(parents=True)
    monkeypatch.setattr(FileLock, "acquire", of_another)
    with (
        pytest.raises(Refused, match=f"{tmp_path}.* belongs to {tmp_path.owner()}, .* give --home a folder"),
        enter(Home.at(tmp_path)),
    ):
        pass
