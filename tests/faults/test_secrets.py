"""No login is stored, printed or shown: every file, table, object, page and command line is searched for it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
from services import postgres, s3
from studies import INLINE

import tune_sam
from tune_sam.home import Home
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage

MARK = "NobodyMayReadThis"
FORMS = [MARK.encode(), MARK.encode().hex().encode()]
"""As it is, and as Tune writes its pickles into JSON."""
MAIN = "from tune_sam.cli.main import main; main()"
MANY = """
import sys
import tune_sam
from tune_sam.cli.main import main
from tune_sam.cluster.executor import InlineExecutor

tune_sam.resume("s", trials=2, executor=InlineExecutor())
for words in ["trials s --json", "best s", "studies", "status s", "doctor s", "report s", "best s --yaml"]:
    sys.argv = ["tune-sam", *words.split()]
    try:
        main()
    except SystemExit as left:
        print(left.code, file=sys.stderr)
        if left.code:
            raise
"""


def with_mark(content):
    return any(form in content for form in FORMS)


def files_with_mark(folder):
    return [file for file in Path(folder).rglob("*") if file.is_file() and with_mark(file.read_bytes())]


@pytest.fixture
def old_home(searched):
    """A home in which an earlier release left logins: in records that are there, and in some that were overwritten."""
    study = open_study("one", searched)
    storage = open_storage(study.home)
    places = {
        "tracking_uri": f"http://me:{MARK}@127.0.0.1:9/mlflow",
        "storage": f"s3://{MARK}:{MARK}@bucket/p?region=a",
    }
    for optimizer in study.settings.optimizers:
        number = storage.get_study_id_from_name(f"one/{optimizer}")
        record = storage.get_study_user_attrs(number)["record"]
        storage.set_study_user_attr(number, "record", {**record, **places, "more": [f"{MARK}://u:{MARK}@h"] * 30})
        storage.set_study_user_attr(number, "record", {**record, "tracking_uri": places["tracking_uri"]})
        storage.set_study_user_attr(number, "checkpoints", [places["storage"]])
    assert files_with_mark(searched)
    return searched


def test_the_next_write_removes_what_an_earlier_release_stored(old_home, monkeypatch, caplog):
    monkeypatch.setattr("tune_sam.tuning.delivery.PATIENCE", 0.0)  # nobody answers at that address
    before = open_study("one", old_home).counts()
    tune_sam.resume("one", home=Home.at(old_home, tracking_uri="http://127.0.0.1:9/mlflow"), executor=INLINE)
    assert files_with_mark(old_home) == []
    assert open_study("one", old_home).tracking_uri == "http://127.0.0.1:9/mlflow"
    assert open_study("one", old_home).counts() == before
    assert "the login that an earlier release stored" in caplog.text
    assert MARK not in caplog.text


def test_a_reason_that_has_a_login_in_it_is_kept_without(tmp_path, searched):
    from tune_sam.tuning.ledger import Ledger, Outcome

    study = open_study("one", searched)
    settings = replace(study.settings, trials=4)
    ledger = Ledger(open_storage(study.home), "one", "base", settings)
    number = ledger.suggest("x").number
    ledger.end(number, Outcome("failed", f"no answer from http://u:{MARK}@h", 0, {}, None, None, None))
    assert study.records("base")[-1].reason == "no answer from http://***@h"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Postgres and S3 with logins that are hard to read, in the variables that name them."""
    folder = tmp_path_factory.mktemp("site")
    password = f"{MARK}@p/w#d% ü:?"
    with (
        postgres(folder) as database,
        s3(folder) as objects,
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as sessions,
    ):
        database.run(f"CREATE ROLE odd LOGIN PASSWORD '{password}'")
        urls = {}
        for name in ("studies", "mlflow"):
            database.run(f"CREATE DATABASE {name} OWNER odd")
            urls[name] = f"postgresql://odd:{password}@127.0.0.1:{database.port}/{name}"
        objects.create("results")
        place = objects.uri("results", "ray").replace("s3://", f"s3://KEY{MARK}:{quote(MARK + '/x', safe='')}@")
        for name, value in {
            "TUNE_SAM_STUDY_STORAGE": urls["studies"],
            "TUNE_SAM_TRACKING_URI": urls["mlflow"],
            "TUNE_SAM_STORAGE": place,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_TMPDIR": sessions,
        }.items():
            patch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "TUNE_SAM_ADDRESS"):
            patch.delenv(name, raising=False)
        yield database, objects, password, Path(sessions)


def command_lines(process):
    """Of a process' children, as everybody on the machine can read them."""
    found = set()
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found.add(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return found


def run(folder, program, *words, **variables):
    """A program in a process of its own: its status, what it prints, and its children's command lines."""
    output = folder / "output"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env={**os.environ, "TUNE_SAM_HOME": str(folder / "home"), **variables},
        stdout=output.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    lines = set()
    try:
        while process.poll() is None:
            lines |= command_lines(process)
            time.sleep(0.2)
        return process.wait(), output.read_text(), lines
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def rows(database, name):
    """Every row of every table of a database, as texts."""
    with psycopg.connect(database.url(name, "postgres")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for (row,) in connection.execute(f'SELECT t::text FROM "{table}" t'):
                yield table, row


@pytest.mark.slow
def test_no_login_is_in_any_file_table_object_output_or_command_line(site, tmp_path):
    database, objects, password, sessions = site
    asked = ["gcn", "--dataset", "digits", "--optimizer", "base", "--epochs", "1", "--scheduler", "none", "--name", "s"]
    status, said_first, lines = run(tmp_path, MAIN, "search", *asked, "--trials", "1")
    assert status == 0, said_first
    assert any("ray" in line for line in lines), "workers were looked at"

    # Later processes have the addresses without logins, which are in the services' variables.
    others = {
        "TUNE_SAM_STORAGE": objects.uri("results", "ray"),
        "TUNE_SAM_TRACKING_URI": f"postgresql://127.0.0.1:{database.port}/mlflow",
        "PGUSER": "odd",
        "PGPASSWORD": password,
        "AWS_ACCESS_KEY_ID": f"KEY{MARK}",
        "AWS_SECRET_ACCESS_KEY": f"{MARK}/x",
    }
    status, output, more = run(tmp_path, MANY, **others)
    lines |= more
    assert status == 0, output
    said = [said_first, output]
    assert output.count('"state": "complete"') == 2
    status, output, _ = run(
        tmp_path, MAIN, "trials", "s", TUNE_SAM_STUDY_STORAGE=f"postgresql://odd:{MARK}@127.0.0.1:1/x"
    )
    assert status == 2
    said.append(output)

    assert not [text for text in said if with_mark(text.encode())]
    assert not [line for line in lines if with_mark(line.encode())]
    assert files_with_mark(tmp_path) == [], "of the home: records, results, logs and pages"
    assert files_with_mark(sessions) == [], "of Ray's sessions: its logs and what its driver wrote"
    for name in ("studies", "mlflow"):
        assert [row for row in rows(database, name) if with_mark(row[1].encode())] == []
    listed = objects.client().list_objects_v2(Bucket="results")["Contents"]
    assert any("checkpoint" in one["Key"] for one in listed)
    for one in listed:
        assert not with_mark(one["Key"].encode())
        assert not with_mark(objects.client().get_object(Bucket="results", Key=one["Key"])["Body"].read()), one["Key"]
