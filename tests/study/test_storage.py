import _thread
import multiprocessing
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Timer

import psycopg
import pytest
from optuna.study import StudyDirection
from services import postgres, wait_for
from sqlalchemy import make_url

from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.logins import with_driver
from tune_sam.study.lock import PATIENCE, is_going, study_lock
from tune_sam.study.records import every_study
from tune_sam.study.storage import exists, open_storage, try_out

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["file", "postgres"])
def home(request, tmp_path):
    if request.param == "file":
        return Home.at(tmp_path)
    server = request.getfixturevalue("database")
    return Home.at(tmp_path, server.create(f"d{abs(hash(str(tmp_path))) % 10**9}"))


def test_a_storage_is_tried_and_left_as_it_was(home):
    try_out(home)
    assert exists(home)
    assert open_storage(home).get_all_studies() == []
    assert every_study(home) == []


def _hold(home, held, leave):
    with study_lock(home, "one"):
        held.set()
        leave.wait(60)


@pytest.mark.slow
def test_one_process_drives_a_study_and_a_killed_one_frees_it(home, monkeypatch):
    monkeypatch.setattr("tune_sam.study.patience.PATIENCE", 0.5)
    held, leave = SPAWN.Event(), SPAWN.Event()
    driver = SPAWN.Process(target=_hold, args=(home, held, leave))
    driver.start()
    assert held.wait(60)
    assert is_going(home, "one")
    assert not is_going(home, "two")
    with pytest.raises(Refused, match="study one is in use by another process"), study_lock(home, "one"):
        pass
    with study_lock(home, "two"):
        pass
    driver.kill()
    driver.join()
    with study_lock(home, "one"):
        assert is_going(home, "one")
    # Postgres frees it once it notices that the connection is closed; so long the next driver waits.
    wait_for(lambda: not is_going(home, "one"), "the end of the lock", limit=PATIENCE)


def _open(home, opened):
    open_storage(home)
    opened.put(1)


def test_an_interrupt_while_a_statement_waits_is_an_interrupt(tmp_path):
    storage = open_storage(Home(tmp_path))
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "one")
    with closing(sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
        try:
            Timer(0.2, _thread.interrupt_main).start()
            with pytest.raises(KeyboardInterrupt):
                storage.set_study_user_attr(study, "key", "value")
        finally:
            signal.signal(signal.SIGINT, before)
        other.execute("ROLLBACK")
    storage.set_study_user_attr(study, "key", "value")
    assert storage.get_study_user_attrs(study) == {"key": "value"}


@pytest.mark.slow
def test_processes_that_open_a_new_storage_at_once_all_do(home):
    opened = SPAWN.Queue()
    processes = [SPAWN.Process(target=_open, args=(home, opened)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [opened.get(timeout=5) for _ in processes] == [1, 1, 1]


def test_a_database_that_cannot_be_used_is_told_without_its_password(database, tmp_path):
    url = database.create("told")
    wrong = url.replace(database.password, "secret-and-wrong")
    for bad, says in (
        (wrong, "password authentication failed"),
        (url.replace("/told", "/absent"), "does not exist"),
        (url.replace(f":{database.port}", ":1"), "refused"),
    ):
        with pytest.raises(Refused, match=f"--study-storage postgresql://.*{says}") as refused:
            try_out(Home.at(tmp_path, bad))
        assert "secret" not in str(refused.value)
        assert database.password not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_database_of_another_program_or_without_rights_is_told_in_a_sentence(database, tmp_path):
    other, closed = database.create("other"), database.create("closed")
    with psycopg.connect(database.url("other"), autocommit=True) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('of-mlflow')")
    with psycopg.connect(database.url("closed"), autocommit=True) as connection:
        connection.execute("ALTER ROLE CURRENT_USER IN DATABASE closed SET default_transaction_read_only = on")
    for url, says in (
        (other, "has the tables of another program.*database of its own"),
        (closed, "cannot be used for Optuna's tables.*CREATE"),
    ):
        with pytest.raises(Refused, match=says) as refused:
            open_storage(Home.at(tmp_path, url))
        assert database.password not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_database_that_was_away_is_used_again(database, tmp_path, monkeypatch):
    monkeypatch.setattr("tune_sam.study.patience.PATIENCE", 0.5)
    home = Home.at(tmp_path, database.create("away"))
    storage = open_storage(home)
    database.stop()
    with pytest.raises(Refused, match="refused"):
        try_out(home)
    database.start()
    assert storage.get_all_studies() == [], "a connection that was lost is made again"


def test_a_process_that_looks_often_holds_few_connections(database, tmp_path):
    home = Home.at(tmp_path, database.create("few"))
    for _ in range(120):  # more than the server lets in
        assert every_study(home) == []
    with psycopg.connect(database.url("few")) as connection:
        held = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'few'").fetchone()[0]
    assert held <= 3, "one of the storage, one of this test, and at most one that is about to close"


@pytest.mark.parametrize(("scheme", "driver"), [("postgresql", "psycopg"), ("postgresql+asyncpg", "asyncpg")])
def test_the_driver_is_the_one_that_cluster_brings_unless_another_is_named(scheme, driver):
    assert make_url(with_driver(f"{scheme}://me:postgresql:@h/d")).get_driver_name() == driver


@pytest.mark.parametrize("storage", ["sqlite:////tmp/x.db", "mysql://u:p@h/d", "/a/file"])
def test_a_storage_that_is_no_postgres_is_refused(storage):
    with pytest.raises(Refused, match="give postgresql://") as refused:
        Home.at("/tmp", storage)
    assert "u:p" not in str(refused.value)


def test_a_home_is_named_by_its_variable_and_never_shows_the_password(monkeypatch):
    monkeypatch.setenv("TUNE_SAM_STUDY_STORAGE", "postgresql://me:secret@host/db")
    home = Home.at("/tmp")
    assert home == Home(Path("/tmp"), "postgresql://me:secret@host/db")
    assert "secret" not in repr(home) + home.identity
    assert Home.at(home) is home
