"""deploy/mlflow-server, started on loopback: who gets in, by which name, and where it keeps what it is given."""

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import psycopg
import pytest
import requests
from mlflow import MlflowClient
from services import Program, answers, free_port, postgres, s3

FILE = Path(__file__).parents[2] / "deploy" / "mlflow-server"
PASSWORD = "longer than 12%"


def environment(folder, port):
    """What a server needs to know, with a SQLite file in place of Postgres."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/records.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},mlflow.example.org",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "any", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD, "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip


def check(text, folder, services=None, use=lambda url: None):
    """Raise unless the script starts a server that wants a login, knows its names and keeps its files to itself.

    `services` are other places than files for what it keeps; `use` is called with its address.
    """
    script = folder / "mlflow-server"
    script.write_text(text)
    port = free_port()
    server = Program("server", ["bash", script], folder, environment(folder, port) | (services or {}))
    server.start(lambda: answers(f"http://127.0.0.1:{port}/health"), limit=120)
    try:
        for login, host, status in (
            (None, None, 401),
            (PASSWORD, None, 200),
            ("another password", None, 401),
            (PASSWORD, "mlflow.example.org", 200),
            (PASSWORD, "elsewhere.example.org", 403),
        ):
            found = requests.get(
                f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1",
                timeout=30,
                auth=login and ("admin", login),
                headers={"Host": host} if host else {},
            ).status_code
            if found != status:
                raise ValueError(f"{found} for {login} at {host}, not {status}")
        if readable := [
            path.name for path in folder.glob("**/*") if path.suffix in (".db", ".ini") and path.stat().st_mode & 0o077
        ]:
            raise ValueError(f"others can read {readable}")
        use(f"http://127.0.0.1:{port}")
    finally:
        server.stop()


@pytest.mark.slow
def test_it_wants_a_login_and_keeps_runs_in_postgres_and_artifacts_in_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)

    def log(url):
        client = MlflowClient(url)
        run = client.create_run(client.create_experiment("ours")).info.run_id
        client.log_text(run, "flat", "said.txt")
        assert [file.path for file in client.list_artifacts(run)] == ["said.txt"]

    with postgres(tmp_path) as database, s3(tmp_path) as objects:
        objects.create("artifacts")
        records = database.create("mlflow")
        check(
            FILE.read_text(),
            tmp_path,
            objects.environment
            | {"MLFLOW_BACKEND_STORE_URI": records, "MLFLOW_ARTIFACTS_DESTINATION": "s3://artifacts/runs"},
            log,
        )
        with psycopg.connect(records) as connection:
            assert connection.execute("SELECT name FROM experiments WHERE name = 'ours'").fetchone()
            assert connection.execute("SELECT username FROM users").fetchall() == [("admin",)]
        kept = objects.client().list_objects_v2(Bucket="artifacts", Prefix="runs/")["Contents"]
        assert [one["Key"].rpartition("/")[2] for one in kept] == ["said.txt"]
        assert not list(tmp_path.glob("**/*.db"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("good", "broken", "why"),
    [
        (" --app-name basic-auth", "", "200 for None"),
        ("exec mlflow", "unset MLFLOW_SERVER_ALLOWED_HOSTS\nexec mlflow", "403 for .* at mlflow.example.org"),
        ("basic-auth", "basic_auth", "ended with"),
    ],
)
def test_a_broken_copy_is_rejected(good, broken, why, tmp_path, searched_once):
    shutil.copy(searched_once / "mlflow.db", tmp_path / "records.db")  # which has the tables that take long to make
    text = FILE.read_text()
    assert good in text
    with pytest.raises((AssertionError, ValueError), match=why):
        check(text.replace(good, broken), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_ARTIFACTS_DESTINATION",
        "MLFLOW_SERVER_ALLOWED_HOSTS",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "MLFLOW_AUTH_ADMIN_PASSWORD",
    ],
)
def test_what_is_missing_is_named(name, tmp_path):
    known = environment(tmp_path, 5000)
    del known[name]
    ended = subprocess.run([FILE], env=known, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"mlflow-server: {name} is not set; the head of {FILE} says what it is.\n"


def test_passwords_are_in_no_command_line_and_reach_the_settings(tmp_path):
    (tmp_path / "mlflow").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "mlflow").chmod(0o755)
    records = "postgresql://mlflow:100%25@127.0.0.1/mlflow"
    known = {
        **environment(tmp_path, 5000),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "MLFLOW_BACKEND_STORE_URI": records,
    }
    assert subprocess.check_output([FILE], env=known, text=True) == "server --app-name basic-auth\n"
    settings = ConfigParser()
    settings.read(tmp_path / ".mlflow-auth.ini")
    assert settings["mlflow"]["database_uri"] == records
