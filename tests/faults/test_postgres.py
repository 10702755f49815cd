"""Postgres restarted, away, or without the lock of a study: a search survives it or resumes, and stays alone."""

import os
import socket
import threading

import psutil
import psycopg
import pytest
from faults.sabotage import Saboteur, assert_trained_once
from services import postgres
from sqlalchemy import text
from studies import INLINE, searched_study

import tune_sam
from tune_sam.errors import Refused, Stopped
from tune_sam.home import Home
from tune_sam.study.lock import study_lock
from tune_sam.study.patience import PATIENCE
from tune_sam.study.postgres import KEEPALIVES, AdvisoryLock
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage
from tune_sam.tuning.runner import resume

pytestmark = pytest.mark.slow

HOLDERS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def home(database, tmp_path):
    return Home.at(tmp_path, database.create(f"d{abs(hash(str(tmp_path))) % 10**9}"))


def searched_in(home, listener=None):
    return searched_study(home.path, listener=listener, study_storage=home.study_storage, train_subset=128)


def test_a_search_survives_a_restart_of_its_database(database, home):
    def restart():
        database.stop()
        threading.Timer(1.0, database.start).start()

    searched_in(home, Saboteur(restart))
    assert_trained_once(home)


def test_a_persons_point_is_tried_next_by_a_search_that_is_going_on_and_by_one_that_is_resumed(home):
    tried = []

    def enqueue(rho):
        tried.append(tune_sam.enqueue("one", optimizer="sam", rho=rho, lr=0.02, batch_size=64, home=home))

    searched_in(home, Saboteur(lambda: enqueue(0.1)))
    enqueue(0.2)
    study = resume("one", home=home, executor=INLINE, trials=4)
    assert [study.trial(trial.key).state for trial in tried] == ["complete", "complete"]
    assert [study.trial(trial.key).config.rho for trial in tried] == [0.1, 0.2]
    assert [trial.state for trial in study.records("sam")].count("complete") == 4
    assert len(study.records("base")) == 4


def test_a_search_whose_database_stays_away_ends_in_a_sentence_and_resumes(database, home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("tune_sam.study.patience.PATIENCE", 0.5)
        with pytest.raises(Stopped, match="--study-storage postgresql://.* cannot be used.*mend the database"):
            searched_in(home, Saboteur(database.stop))
    database.start()
    assert all(trial.state != "failed" for trial in open_study("one", home).records())
    resume("one", home=home, executor=INLINE)
    assert_trained_once(home)


def _ended_by_the_server(database, home):
    with psycopg.connect(home.study_storage, autocommit=True) as connection:
        for (pid,) in connection.execute(HOLDERS).fetchall():
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))


def _cut_on_the_way(database, home):
    """The server does not know that its client is gone."""
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.port == database.port:
            dead, other = socket.socketpair()
            other.close()
            os.dup(connection.fd)  # by which the server's side stays open
            os.dup2(dead.fileno(), connection.fd)


@pytest.mark.parametrize("lose", [_ended_by_the_server, _cut_on_the_way])
def test_a_lock_that_was_lost_is_taken_again_before_anybody_else_gets_in(database, home, lose, monkeypatch):
    monkeypatch.setattr("tune_sam.study.patience.PATIENCE", 0.5)
    storage = open_storage(home)
    with study_lock(home, "one"):
        lose(database, home)
        storage.get_all_studies()  # whatever it does with its records
        with pytest.raises(Refused, match="in use by another process"), study_lock(home, "one"):
            pass


def test_the_lock_of_a_machine_that_is_gone_is_freed_within_a_minute_which_the_next_driver_waits_for(
    home, monkeypatch, caplog
):
    monkeypatch.setattr("tune_sam.study.patience.FIRST_WORD", 0.5)
    gone = AdvisoryLock(home.study_storage, "one")
    gone.acquire(0)
    assert gone._connection is not None
    values = [gone._connection.scalar(text(f"SHOW tcp_{name}")) for name in KEEPALIVES]
    idle, interval, count = map(int, values)
    assert 0 < idle + interval * count < PATIENCE
    threading.Timer(4.0, gone.release).start()  # as the server does then
    with study_lock(home, "one"):
        assert "study one is in use by another process, or by one whose machine is gone; waiting" in caplog.text


def test_who_lost_its_lock_to_another_writes_nothing_more(database, home):
    searched_in(home)
    storage = open_storage(home)
    number = storage.get_study_id_from_name("one/sam")
    with study_lock(home, "one"), psycopg.connect(home.study_storage, autocommit=True) as other:
        (key,) = other.execute("SELECT classid, objid FROM pg_locks WHERE locktype = 'advisory'").fetchall()
        _ended_by_the_server(database, home)
        other.execute("SELECT pg_advisory_lock(%s, %s)", key)
        with pytest.raises(Refused, match="study one was taken over by another process"):
            storage.set_study_user_attr(number, "mine", 1)
        assert "mine" not in storage.get_study_user_attrs(number)
