import os
import sqlite3
from contextlib import closing

import pytest
import warm

from tune_sam.tracking.relocation import has_run


@pytest.fixture
def database(tmp_path):
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
        connection.execute("INSERT INTO runs VALUES ('1234')")
    return file


def end_in_a_commit(file):
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA cache_size = 1")
    connection.executemany("INSERT INTO runs VALUES (?)", [("x" * 1000,)] * 1000)
    os._exit(0)


def test_a_run_is_found_where_it_is(database, tmp_path):
    assert has_run(database, "1234")
    assert not has_run(database, "5678")
    assert not has_run(tmp_path / "absent.db", "1234")


@pytest.mark.slow
def test_a_run_is_found_where_a_process_was_killed_in_a_commit(database):
    assert warm.Command(end_in_a_commit, database).wait() == 0
    assert database.with_name("mlflow.db-journal").stat().st_size
    assert has_run(database, "1234")
    assert not has_run(database, "x" * 1000)


def test_what_is_no_database_has_none(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    assert not has_run(tmp_path / "mlflow.db", "1234")
