"""No login is stored, printed or shown: every file, table, object, page and command line is searched for it."""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
import warm
from services import S3, Postgres, mlflow_server, postgres, s3
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage
from tune_sam.tuning.delivery import sync

MARK = "NobodyMayReadThis"
FORMS = [MARK.encode(), MARK.encode().hex().encode()]
"""As it is, and as Tune writes its pickles into JSON."""


def many():
    """Type several commands that go on with the study and read it."""
    tune_sam.resume("s", trials=2, executor=INLINE)
    for words in ["trials s --json", "best s", "studies", "status s", "doctor s", "report s", "best s --yaml"]:
        with pytest.raises(SystemExit) as left:
            warm.type_in(*words.split())
        assert not left.value.code, words


SMALL = {"dataset": "digits", "optimizers": ["base"], "trials": 1, "epochs": 1, "train_subset": 128}


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


PASSWORD = f"{MARK}@p/w#d% ü:?"
"""Of Postgres, hard to read in an address."""
WEB = f"{MARK}@p/w%:?x"
"""Of MLflow; `~/.netrc` has no way to write a space."""


@dataclass(frozen=True)
class Site:
    """Services with logins: their addresses without, and the folder of Ray's sessions."""

    database: Postgres
    objects: S3
    studies: str
    tracking: str
    results: str
    sessions: Path
    logged: Path

    def given(self) -> dict[str, str]:
        """The addresses with the logins in them."""
        return {
            "TUNE_SAM_STUDY_STORAGE": self.studies.replace("://odd@", f"://odd:{PASSWORD}@"),
            "TUNE_SAM_TRACKING_URI": self.tracking.replace("://", f"://admin:{quote(WEB, safe='')}@"),
            "TUNE_SAM_STORAGE": self.results.replace("://", f"://KEY{MARK}:{quote(MARK + '/x', safe='')}@"),
        }

    def in_files(self, home: Path) -> dict[str, str]:
        """The addresses alone, for a person whose own folder has the logins in the services' own files."""
        host = f"127.0.0.1:{self.database.port}:*:odd"
        web = self.tracking.removeprefix("http://").partition(":")[0]
        for name, content in {
            ".pgpass": f"{host}:{PASSWORD.replace(':', chr(92) + ':')}\n",
            ".netrc": f"machine {web}\nlogin admin\npassword {WEB}\n",
            ".aws/credentials": f"[default]\naws_access_key_id = KEY{MARK}\naws_secret_access_key = {MARK}/x\n",
        }.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(content)
            (home / name).chmod(0o600)
        return {
            "HOME": str(home),
            "TUNE_SAM_STUDY_STORAGE": self.studies,
            "TUNE_SAM_TRACKING_URI": self.tracking,
            "TUNE_SAM_STORAGE": self.results,
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory, searched_once):
    """Postgres, S3 and MLflow, which take nobody without a login."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(searched_once / "mlflow.db", folder)  # which has the tables that take long to make
    with (
        postgres(folder) as database,
        s3(folder) as objects,
        mlflow_server(f"sqlite:///{folder}/mlflow.db", folder, password=WEB) as mlflow,
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as sessions,
    ):
        database.run(f"CREATE ROLE odd LOGIN PASSWORD '{PASSWORD}'")
        database.run("CREATE DATABASE studies OWNER odd")
        objects.create("results")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "TUNE_SAM_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("RAY_TMPDIR", sessions)
        studies = f"postgresql://odd@127.0.0.1:{database.port}/studies"
        results = objects.uri("results", "ray")
        yield Site(database, objects, studies, mlflow.uri, results, Path(sessions), folder / "mlflow.db")


def command_lines(process):
    """Of a process' children, as everybody on the machine can read them; of one that has just ended, none."""
    found = set()
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return found
    for child in children:
        try:
            found.add(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return found


def run(folder, function, *words, **variables):
    """A function in a process of its own: its status, what it prints, and its children's command lines."""
    variables = {**os.environ, "TUNE_SAM_HOME": str(folder / "home"), **variables}
    process = warm.Command(function, *words, env=variables, cwd=folder)
    lines = set()
    try:
        while process.poll() is None:
            lines |= command_lines(process)
            time.sleep(0.2)
        return process.wait(), "".join(process.communicate()), lines
    finally:
        process.kill()


def rows(database, name):
    """Every row of every table of a database, as texts."""
    with psycopg.connect(database.url(name, "postgres")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for (row,) in connection.execute(f'SELECT t::text FROM "{table}" t'):
                yield table, row


@pytest.fixture(scope="module")
def made(site, tmp_path_factory):
    """A search that is given the addresses with their logins, and what it printed and showed."""
    folder = tmp_path_factory.mktemp("made")
    asked = ["gcn", "--dataset", "digits", "--optimizer", "base", "--epochs", "1", "--scheduler", "none", "--name", "s"]
    status, said, lines = run(folder, warm.type_in, "search", *asked, "--trials", "1", **site.given())
    assert status == 0, said
    assert any("ray" in line for line in lines), "workers were looked at"
    return folder, said, lines


@pytest.mark.slow
def test_logins_in_the_services_own_files_are_found_and_none_is_kept_or_shown(site, made, tmp_path):
    folder, *said = made
    person = tmp_path / "person"
    status, output, lines = run(folder, many, **site.in_files(person))
    assert status == 0, output
    assert output.count('"state": "complete"') == 2, "what the first process left is resumed"
    assert "lacks" not in output, "MLflow takes everything"

    said = [said[0], output, *said[1], *lines]
    assert not [text for text in said if with_mark(text.encode())], "printed, or in a command line"
    assert files_with_mark(folder) == [], "of the home: records, results, logs and pages"
    assert files_with_mark(site.sessions) == [], "of Ray's sessions: its logs and what its driver wrote"
    assert not with_mark(site.logged.read_bytes()), "of MLflow"
    assert [row for row in rows(site.database, "studies") if with_mark(row[1].encode())] == []
    listed = site.objects.client().list_objects_v2(Bucket="results")["Contents"]
    assert any("checkpoint" in one["Key"] for one in listed)
    for one in listed:
        assert not with_mark(one["Key"].encode())
        assert not with_mark(site.objects.client().get_object(Bucket="results", Key=one["Key"])["Body"].read())


@pytest.mark.slow
def test_a_password_file_of_postgres_may_be_elsewhere(site, made, tmp_path, monkeypatch):
    site.in_files(tmp_path)
    monkeypatch.setenv("PGPASSFILE", str((tmp_path / ".pgpass").rename(tmp_path / "passwords")))
    assert open_study("s", Home.at(made[0] / "home", site.studies)).name == "s"


@pytest.mark.slow
def test_without_a_login_a_service_refuses_and_the_sentence_has_none(site, made, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = made[0] / "home"
    studies = site.studies.replace("127.0.0.1", "localhost")  # which no earlier test has opened
    for address in (studies, studies.replace("odd@", f"odd:{MARK}@")):
        with pytest.raises(Refused, match="--study-storage .* cannot be used") as refused:
            open_study("s", Home.at(home, address))
        assert MARK not in str(refused.value)
    whole = Home.at(home, site.given()["TUNE_SAM_STUDY_STORAGE"], tracking_uri=site.tracking)
    assert sync("s", home=whole, patience=0) > 0
    assert "401" in caplog.text
    assert MARK not in caplog.text


@pytest.mark.slow
def test_files_of_a_home_are_as_open_as_the_person_says_and_logs_are_the_owners(tmp_path):
    before = os.umask(0o027)  # the group may read
    try:
        tune_sam.search("gcn", home=tmp_path / "home", executor=INLINE, **SMALL)
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "home").rglob("*")}
    assert [mode & 0o027 for mode in modes.values()] == [0] * len(modes)
    assert [oct(mode) for path, mode in modes.items() if path.suffix == ".log"] == ["0o600"]
    assert modes[tmp_path / "home" / "optuna.db"] == 0o640
