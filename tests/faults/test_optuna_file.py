"""Optuna's file locked, removed, emptied, damaged or of another version: a sentence each, and nothing is lost."""

import os
import shutil
import sqlite3
import threading

import pytest
from faults.sabotage import Saboteur, assert_trained_once
from studies import INLINE, searched_study

from tune_sam.errors import Refused, Stopped
from tune_sam.home import Home
from tune_sam.study import sqlite
from tune_sam.study.lock import study_lock
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage
from tune_sam.tuning.runner import resume


@pytest.fixture
def file(searched_once, tmp_path):
    """Optuna's file of a home with a finished study."""
    home = shutil.copytree(searched_once, tmp_path / "home")
    return home / "optuna.db"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("tune_sam.study.patience.PATIENCE", 0.5)
    monkeypatch.setattr("tune_sam.study.patience.FIRST_WORD", 0.0)
    monkeypatch.setattr("tune_sam.study.sqlite.BUSY_SECONDS", 0.0)


def locked(file):
    """Hold a file as another program would in the middle of a transaction."""
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def best(file):
    return open_study("one", file.parent).best().value


@pytest.mark.usefixtures("impatient")
def test_a_locked_file_is_waited_for_aloud_and_then_refused(file, caplog):
    other = locked(file)
    with pytest.raises(Refused, match=f"{file} has been locked by another process.*fuser"):
        best(file)
    assert f"{file} is locked by another process; waiting" in caplog.text
    other.close()


def test_a_file_that_is_locked_for_a_moment_costs_nothing(file):
    wanted, other = best(file), locked(file)
    threading.Timer(0.3, other.close).start()
    assert best(file) == wanted


def _damaged(file):
    content = bytearray(file.read_bytes())
    content[100:4096] = os.urandom(3996)  # the root of the table of tables
    file.write_bytes(content)


def _of_another_schema(revision):
    def change(file):
        connection = sqlite3.connect(file)
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()
        connection.close()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.write_bytes(b""), "is empty.*put back a copy"),
        (lambda file: file.write_bytes(os.urandom(9000)), "is damaged.*put back a copy"),
        (_damaged, "is damaged.*put back a copy"),
        (_of_another_schema("v2.6.0.a"), "was made by an earlier Optuna.*optuna storage upgrade --storage sqlite:///"),
        (_of_another_schema("v99.0.0.a"), "of a later Optuna.*install that Optuna"),
        (lambda file: (file.unlink(), sqlite3.connect(file).execute("CREATE TABLE t (a)")), "lacks what Optuna keeps"),
    ],
    ids=["empty", "random", "damaged", "earlier", "later", "another program's"],
)
def test_a_file_that_cannot_be_read_is_told_in_a_sentence_and_left_alone(file, change, said):
    change(file)
    before = file.read_bytes()
    with pytest.raises(Refused, match=said) as refused:
        best(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert file.read_bytes() == before


def test_a_file_that_is_removed_while_it_is_used_is_there_again(file):
    storage = open_storage(Home(file.parent))
    wanted = best(file)
    assert storage.get_all_studies()
    file.unlink()
    with pytest.raises(Refused, match="was removed while it was in use, and is there again"):
        storage.get_all_studies()
    assert best(file) == wanted
    assert not list(file.parent.glob("*.unfinished"))


def test_each_connection_to_a_file_that_was_removed_learns_that_it_is_there_again(file):
    connections = [sqlite.connect(file), sqlite.connect(file)]
    file.unlink()
    for connection in connections:  # as of the thread that searches and the one that delivers
        with pytest.raises(sqlite3.OperationalError, match="is there again with all that it held"):
            connection.cursor().execute("SELECT 1")
    shutil.copy(file.parent / "mlflow.db", file.with_name("another")).replace(file)
    with pytest.raises(sqlite3.OperationalError, match="was removed or replaced"):
        connections[0].cursor().execute("SELECT 1")


def test_a_study_without_its_records_is_missed_and_no_other_takes_its_place(file):
    file.unlink()
    with pytest.raises(Refused, match=f"its records are not in {file}; put back a copy"):
        best(file)
    with pytest.raises(Refused, match=f"its records are not in {file}; put back a copy.*another --name"):
        searched_study(file.parent)


def test_a_file_that_another_took_the_place_of_is_not_overwritten(file, tmp_path):
    storage = open_storage(Home(file.parent))
    assert storage.get_all_studies()
    shutil.copy(file, tmp_path / "copy")
    (tmp_path / "copy").replace(file)
    before = file.read_bytes()
    with pytest.raises(Refused, match="was removed or replaced while it was in use; put it back"):
        storage.get_all_studies()
    assert file.read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_search_whose_file_is_removed_ends_in_a_sentence_and_resumes(tmp_path):
    with pytest.raises(Stopped, match="is there again with all that it held"):
        searched_study(tmp_path, listener=Saboteur((tmp_path / "optuna.db").unlink), train_subset=128)
    assert all(trial.state != "failed" for trial in open_study("one", tmp_path).records())
    resume("one", home=tmp_path, executor=INLINE)
    assert_trained_once(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_search_whose_file_stays_locked_ends_in_a_sentence_and_resumes(tmp_path):
    others = []
    lock = Saboteur(lambda: others.append(locked(tmp_path / "optuna.db")))
    with pytest.raises(Stopped, match="locked by another process"):
        searched_study(tmp_path, listener=lock, train_subset=128)
    others[0].close()
    assert all(trial.state != "failed" for trial in open_study("one", tmp_path).records())
    resume("one", home=tmp_path, executor=INLINE)
    assert_trained_once(tmp_path)


def test_a_lock_whose_file_is_removed_lets_nobody_else_in(file):
    home = Home(file.parent)
    with study_lock(home, "one"):
        (home.study("one") / "driver.lock").unlink()
        open_storage(home).get_all_studies()  # whatever it does with its records
        with pytest.raises(Refused, match="in use by another process"), study_lock(home, "one"):
            pass


def test_who_lost_its_lock_to_another_writes_nothing_more(file):
    home = Home(file.parent)
    storage = open_storage(home)
    number = storage.get_study_id_from_name("one/sam")
    with study_lock(home, "one"):
        (home.study("one") / "driver.lock").unlink()
        with study_lock(home, "two"):  # another's
            (home.study("two") / "driver.lock").replace(home.study("one") / "driver.lock")
            with pytest.raises(Refused, match="study one was taken over by another process"):
                storage.set_study_user_attr(number, "mine", 1)
        assert "mine" not in storage.get_study_user_attrs(number)
