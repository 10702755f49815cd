"""Tracking against the real MLflow: everything arrives, once, in order, whatever dies on the way."""

import http.server
import json
import logging
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tune_sam.errors import Refused
from tune_sam.tracking import client
from tune_sam.tracking.client import StudyRun, check
from tune_sam.tracking.delivery import Tracker, deliver
from tune_sam.tracking.runs import curves, open_study_run, publish

ROOT = Path(__file__).parents[2]
KEYS = ("s/sam/0", "s/sam/1", "s/base/0")
PATIENCE = 60.0
Result = TypeVar("Result")

# A driver of its own: the first contact with a database, with logging set up as loudly as a user may have it.
FIRST_CONTACT = """
import logging, sys
from tune_sam.tracking.delivery import Tracker
from tune_sam.tracking.runs import open_study_run
assert not any(name.partition(".")[0] in ("mlflow", "requests", "sqlalchemy") for name in sys.modules)
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
before = list(logging.root.handlers), logging.root.level
study = open_study_run(sys.argv[1], experiment="gcn", artifact_root=sys.argv[2], name="first")
tracker = Tracker(sys.argv[1], sys.argv[3], study, lambda key, run_id: None)
tracker.start("first/sam/0", "sam 0", {"rho": 0.05})
tracker.end("first/sam/0", "FINISHED")
assert tracker.close(60) == 0
assert (list(logging.root.handlers), logging.root.level) == before
"""


@pytest.fixture(scope="session")
def first_contact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A database that a fresh process has made, its artifact root, and all that the process printed."""
    folder = tmp_path_factory.mktemp("first")
    database, artifacts = folder / "mlflow.db", folder / "artifacts"
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CONTACT, f"sqlite:///{database}", str(artifacts), str(folder / "journal")],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return database, artifacts, done.stdout


@pytest.fixture
def uri(first_contact: tuple[Path, Path, str], tmp_path: Path) -> str:
    shutil.copy(first_contact[0], tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def study(uri: str) -> StudyRun:
    return open_study_run(uri, experiment="gcn", name="s", description="old", tags={"dataset": "cora"})


def experiment_runs(uri: str, study: StudyRun) -> dict[str, Any]:
    """All child runs of a study by key, read with MLflow's own client."""
    import mlflow

    children = mlflow.MlflowClient(uri).search_runs(
        [study.experiment_id], f"tags.`mlflow.parentRunId` = '{study.run_id}'", max_results=1000
    )
    keys = [run.data.tags[client.KEY_TAG] for run in children]
    assert len(keys) == len(set(keys)), "a trial has two runs"
    return dict(zip(keys, children, strict=True))


def history(uri: str, study: StudyRun, key: str, metric: str) -> list[tuple[int, float]]:
    import mlflow

    run = experiment_runs(uri, study)[key]
    points = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    return [(point.step, point.value) for point in points]


def values(step: int) -> dict[str, float]:
    return {"val/loss": 1 / (step + 1), "val/accuracy": step / 1000}


def assert_once(uri: str, study: StudyRun, key: str, steps: int) -> None:
    for metric in values(0):
        assert history(uri, study, key, metric) == [(step, values(step)[metric]) for step in range(steps)]


def journal_lines(folder: Path) -> int:
    return (folder / "mlflow.jsonl").read_bytes().count(b"\n")


def tell(tracker: Tracker, steps: int, keys: tuple[str, ...] = KEYS) -> int:
    """Tell the tracker whole trials, interleaved; the number of events."""
    for key in keys:
        tracker.start(key, key.rpartition("/")[0], {"rho": 0.05, "lr": 0.1}, {"tune_sam.optimizer": "sam"}, 1000)
    for step in range(steps):
        for key in keys:
            tracker.log(key, values(step), step)
    for key in keys:
        tracker.end(key, "FINISHED", {"tune_sam.state": "complete"}, 9000)
    return len(keys) * (steps + 2)


@pytest.fixture
def nowhere() -> str:
    """The address of a server that is away."""
    return f"http://127.0.0.1:{free_port()}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def answering(answer: Callable[[str, str], tuple[int, str]]) -> Iterator[str]:
    """An HTTP server; `answer` gives status and body for a method and a path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answer(self.command, self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# ------------------------------------------------------------------------------------------------- what arrives


def test_everything_arrives_once_and_in_order(uri: str, study: StudyRun, tmp_path: Path) -> None:
    import mlflow

    noted: list[tuple[str, str]] = []
    tracker = Tracker(uri, tmp_path / "journal", study, lambda key, run_id: noted.append((key, run_id)))
    tell(tracker, steps=30)
    tracker.set_study("FINISHED")
    assert tracker.close(PATIENCE) == 0

    runs = experiment_runs(uri, study)
    assert sorted(runs) == sorted(KEYS)
    for key, run in runs.items():
        assert_once(uri, study, key, 30)
        assert run.data.params == {"rho": "0.05", "lr": "0.1"}
        assert run.data.tags["tune_sam.optimizer"] == "sam"
        assert run.data.tags["tune_sam.state"] == "complete"
        assert run.data.tags["mlflow.user"]
        assert run.info.run_name == key.rpartition("/")[0]
        assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1000, 9000)
    assert sorted(noted) == sorted((key, run.info.run_id) for key, run in runs.items())
    assert mlflow.MlflowClient(uri).get_run(study.run_id).info.status == "FINISHED"
    assert list((tmp_path / "journal").iterdir()) == []


def test_open_study_run_makes_it_once(uri: str, study: StudyRun, first_contact: tuple[Path, Path, str]) -> None:
    import mlflow

    again = open_study_run(uri, experiment="gcn", name="s", description="new", tags={"trials": 8})
    assert again == study
    client = mlflow.MlflowClient(uri)
    tags = client.get_run(study.run_id).data.tags
    assert (tags["mlflow.note.content"], tags["dataset"], tags["trials"]) == ("new", "cora", "8")
    assert client.get_run(study.run_id).info.run_name == "s"
    assert client.get_experiment(study.experiment_id).artifact_location == str(first_contact[1])
    other = open_study_run(uri, experiment="gcn", name="it's another")
    assert other.experiment_id == study.experiment_id
    assert open_study_run(uri, experiment="gcn", name="it's another") == other != study


def test_a_deleted_experiment_is_refused(uri: str, study: StudyRun) -> None:
    import mlflow

    mlflow.MlflowClient(uri).delete_experiment(study.experiment_id)
    with pytest.raises(Refused, match="mlflow experiments restore --experiment-id"):
        open_study_run(uri, experiment="gcn", name="s")


def test_first_contact_prints_nothing(first_contact: tuple[Path, Path, str]) -> None:
    assert first_contact[2] == ""


def test_a_restarted_trial_keeps_its_run(uri: str, study: StudyRun, tmp_path: Path) -> None:
    noted: list[str] = []
    folder, key = tmp_path / "journal", KEYS[0]
    tracker = Tracker(uri, folder, study, lambda key, run_id: noted.append(run_id))
    tracker.start(key, "sam 0", {"rho": 0.05})
    for step in range(5):
        tracker.log(key, values(step), step)
    tracker.end(key, "FAILED")
    tracker.start(key, "sam 0", {"rho": 0.05})  # in the same search, from the checkpoint of step 2
    for step in range(3, 7):
        tracker.log(key, values(step), step)
    assert tracker.close(PATIENCE) == 0
    assert experiment_runs(uri, study)[key].info.status == "RUNNING"

    tracker = Tracker(uri, folder, study, lambda key, run_id: noted.append(run_id))
    tracker.start(key, "sam 0", {"rho": 0.05})  # in a resumed one, from the checkpoint of step 5
    for step in range(6, 10):
        tracker.log(key, values(step), step)
    assert tracker.close(PATIENCE) == 0

    assert_once(uri, study, key, 10)
    assert noted == [experiment_runs(uri, study)[key].info.run_id] * 2  # once for each Tracker


def test_values_that_are_not_finite_are_dropped(uri: str, study: StudyRun, tmp_path: Path) -> None:
    tracker = Tracker(uri, tmp_path / "journal", study)
    tracker.start("s/sam/0", "sam 0", {})
    tracker.log("s/sam/0", {"good": 1.0, "nan": float("nan")}, 0)
    tracker.log("s/sam/0", {"inf": float("inf")}, 1)
    assert tracker.close(PATIENCE) == 0
    assert experiment_runs(uri, study)["s/sam/0"].data.metrics == {"good": 1.0}


def test_more_metrics_than_mlflow_takes_at_once(uri: str, study: StudyRun, tmp_path: Path) -> None:
    tracker = Tracker(uri, tmp_path / "journal", study)
    tracker.start("s/sam/0", "sam 0", {})
    for step in range(3):
        tracker.log("s/sam/0", {f"m{i}": float(i) for i in range(700)}, step)
    assert tracker.close(PATIENCE) == 0
    assert history(uri, study, "s/sam/0", "m699") == [(step, 699.0) for step in range(3)]


# --------------------------------------------------------------------------------------- what is lost or sent twice


def test_a_server_that_never_comes_back_keeps_the_journal(
    nowhere: str, uri: str, study: StudyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "journal"
    tracker = Tracker(nowhere, folder, study)
    events = tell(tracker, steps=50)
    assert journal_lines(folder) == events  # all accepted while the server is away
    wait_for(lambda: bool(caplog.records))
    assert tracker.close(0.2) == events
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert nowhere in warnings[0].getMessage()

    noted: list[str] = []
    assert unlocked(lambda: deliver(uri, folder, PATIENCE, lambda key, run_id: noted.append(key))) == 0
    for key in KEYS:
        assert_once(uri, study, key, 50)
    assert sorted(noted) == sorted(KEYS)
    assert list(folder.iterdir()) == []
    assert deliver(uri, folder, PATIENCE) == 0


def test_lines_sent_twice_count_once(nowhere: str, uri: str, study: StudyRun, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    tracker = Tracker(nowhere, folder, study)
    tell(tracker, steps=20)
    tracker.set_study("FINISHED")
    tracker.close(0)
    journal = (folder / "mlflow.jsonl").read_bytes()
    before = None
    for _ in range(2):  # the second time as after a kill between sending and remembering
        folder.joinpath("mlflow.jsonl").write_bytes(journal)
        assert unlocked(lambda: deliver(uri, folder, PATIENCE)) == 0
        runs = {key: run.to_dictionary() for key, run in experiment_runs(uri, study).items()}
        assert before in (None, runs)
        before = runs
        for key in KEYS:
            assert_once(uri, study, key, 20)


def test_an_answer_that_is_lost_doubles_nothing(
    uri: str, study: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    monkeypatch.setattr("tune_sam.tracking.delivery._FIRST_PAUSE", 0.01)
    sent: list[tuple[str, str, int]] = []
    lost: list[str] = []

    def losing(name: str, calls: tuple[int, ...]) -> None:
        real, count = getattr(SqlAlchemyStore, name), iter(range(1000))

        def work(self: SqlAlchemyStore, *args: Any) -> Any:
            result = real(self, *args)
            if name == "log_batch":
                sent.extend((args[0], metric.key, metric.step) for metric in args[1])
            if next(count) in calls:
                lost.append(name)
                raise ConnectionError(f"the answer to {name} is lost")
            return result

        monkeypatch.setattr(SqlAlchemyStore, name, work)

    losing("create_run", (0, 2))
    losing("log_batch", (1, 4, 6, 8))
    losing("update_run_info", (0, 3))
    noted: list[str] = []
    tracker = Tracker(uri, tmp_path / "journal", study, lambda key, run_id: noted.append(key))
    tell(tracker, steps=300)
    assert tracker.close(PATIENCE) == 0
    assert len(lost) == 8
    assert len(sent) == len(set(sent)) == len(KEYS) * 300 * len(values(0))
    assert sorted(noted) == sorted(KEYS)
    for key in KEYS:
        assert_once(uri, study, key, 300)


def test_a_search_goes_on_where_the_last_one_left_its_journal(
    nowhere: str, uri: str, study: StudyRun, tmp_path: Path
) -> None:
    folder, key = tmp_path / "journal", KEYS[0]
    tracker = Tracker(nowhere, folder, study)
    tracker.start(key, "sam 0", {"rho": 0.05})
    tracker.log(key, values(0), 0)
    tracker.close(0.1)
    with (folder / "mlflow.jsonl").open("ab") as file:
        file.write(b'{"event":"log","study":["1","')  # killed in the middle of a line
    tracker = unlocked(lambda: Tracker(uri, folder, study))
    tracker.log(key, values(1), 1)
    assert tracker.close(PATIENCE) == 0
    assert_once(uri, study, key, 2)
    assert list(folder.iterdir()) == []


def test_a_full_disk_costs_events_but_not_the_search(
    nowhere: str, uri: str, study: StudyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, key = tmp_path / "journal", KEYS[0]
    tracker = Tracker(nowhere, folder, study)
    tracker.start(key, "sam 0", {})
    full = (folder / "mlflow.jsonl").stat().st_size + 20
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
    try:
        for step in range(3):
            tracker.log(key, values(step), step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for step in range(3, 6):
        tracker.log(key, values(step), step)
    tracker.close(0.1)
    assert [r.getMessage() for r in caplog.records if "cannot be written" in r.getMessage()] != []
    assert unlocked(lambda: deliver(uri, folder, PATIENCE)) == 0
    assert [step for step, _ in history(uri, study, key, "val/loss")] == [3, 4, 5]


def test_rejected_events_do_not_hold_up_the_others(
    uri: str, study: StudyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow

    folder = tmp_path / "journal"
    deleted, changed, lost = KEYS
    tracker = Tracker(uri, folder, study)
    tracker.start(deleted, "sam 0", {"rho": 0.05})
    tracker.start(changed, "sam 1", {"rho": 0.05})
    wait_for(lambda: set(experiment_runs(uri, study)) == {deleted, changed})
    mlflow.MlflowClient(uri).delete_run(experiment_runs(uri, study)[deleted].info.run_id)
    tracker.log(deleted, values(0), 0)
    tracker.log(deleted, values(1), 1)
    tracker.start(changed, "sam 1", {"rho": 0.5})  # another value of a parameter
    tracker.log(changed, values(0), 0)
    tracker.log(changed, {"not a name?": 1.0}, 1)
    tracker.log(changed, values(2), 2)
    tracker.end(changed, "WRONG")
    tracker.log(lost, values(0), 0)  # never started
    tracker.end(changed, "KILLED")
    assert tracker.close(PATIENCE) == 0

    run = experiment_runs(uri, study)[changed]
    assert (run.info.status, run.data.params) == ("KILLED", {"rho": "0.05"})
    assert [step for step, _ in history(uri, study, changed, "val/loss")] == [0, 2]
    rejected = [json.loads(line) for line in (folder / "mlflow.rejected.jsonl").read_text().splitlines()]
    assert [(line["event"]["event"], line["event"]["key"]) for line in rejected] == [
        ("log", deleted), ("log", deleted), ("start", changed), ("log", changed), ("end", changed), ("log", lost)
    ]  # fmt: skip
    assert all(line["error"] for line in rejected)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 3, "one for a trial"
    assert [path.name for path in folder.iterdir()] == ["mlflow.rejected.jsonl"]


def test_two_processes_do_not_share_a_journal(nowhere: str, study: StudyRun, tmp_path: Path) -> None:
    tracker = Tracker(nowhere, tmp_path / "journal", study)
    tracker.set_study("RUNNING")
    with pytest.raises(Refused, match="in use by a search that still runs"):
        Tracker(nowhere, tmp_path / "journal", study)
    with pytest.raises(Refused, match="in use by a search that still runs"):
        deliver(nowhere, tmp_path / "journal", 1.0)
    tracker.close(0)


def test_a_callback_that_fails_costs_nothing(uri: str, study: StudyRun, tmp_path: Path) -> None:
    def broken(key: str, run_id: str) -> None:
        raise RuntimeError("the ledger is closed")

    tracker = Tracker(uri, tmp_path / "journal", study, broken)
    tell(tracker, steps=2)
    assert tracker.close(PATIENCE) == 0
    assert_once(uri, study, KEYS[0], 2)


def drive(uri: str, folder: Path, study: StudyRun, accepted: Path) -> None:
    """A driver to be killed: it notes on disk which step of each trial has been accepted."""
    tracker = Tracker(uri, folder, study)
    with accepted.open("ab", buffering=0) as notes:
        for key in KEYS:
            tracker.start(key, key, {"rho": 0.05})
        for step in range(100_000):
            for key in KEYS:
                tracker.log(key, values(step), step)
                notes.write(f"{key} {step}\n".encode())
            time.sleep(0.0005)


def die(target: Callable[..., object], args: tuple[object, ...], started: Path, after: float) -> None:
    """Run a function in a process of its own and kill it some seconds after a file appeared."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mlflow.store.tracking.sqlalchemy_store", "pytest", "tune_sam.tracking.delivery", "tune_sam.tracking.runs"]
    )
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    wait_for(started.exists)
    time.sleep(after)
    process.kill()
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)  # it may have been through


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_loses_and_doubles_nothing(seed: int, uri: str, study: StudyRun, tmp_path: Path) -> None:
    chance = random.Random(seed)
    folder, accepted = tmp_path / "journal", tmp_path / "accepted"
    die(drive, (uri, folder, study, accepted), folder / "mlflow.offset", chance.uniform(0, 0.6))
    last = dict(line.rsplit(" ", 1) for line in accepted.read_text().splitlines())
    die(deliver, (uri, folder, PATIENCE), folder / "mlflow.offset", chance.uniform(0, 0.3))
    tracker = Tracker(uri, folder, study)
    tracker.set_study("FAILED")
    assert tracker.close(PATIENCE) == 0
    for key in KEYS:
        steps = len(history(uri, study, key, "val/loss"))
        assert steps - 1 - int(last[key]) in (0, 1)  # the last call may have been killed before it was noted
        assert_once(uri, study, key, steps)
    assert list(folder.iterdir()) == []


# ----------------------------------------------------------------------------------------------------- real servers


class Server:
    """`mlflow server` on a port of its own."""

    def __init__(self, folder: Path, database: str) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "1",
            "--artifacts-destination", str(folder / "served"), "--host", "127.0.0.1", "--port", str(self.port),
            "--allowed-hosts", f"127.0.0.1:{self.port}",
        ]  # fmt: skip
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=env, stdout=output, stderr=output, start_new_session=True
            )
        wait_for(self.answers)

    def answers(self) -> bool:
        try:
            check(self.uri)
        except Refused:
            return False
        return True

    def kill(self) -> None:
        """The server and its workers, which are a session of their own."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(uri: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, uri)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_goes_and_comes_back(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused, match=f"answered 403.*'localhost:{server.port}'.*--allowed-hosts"):
        check(f"http://localhost:{server.port}")
    environment = dict(os.environ)
    folder = tmp_path / "journal"
    study = open_study_run(server.uri, experiment="from a server", name="s")
    tracker = Tracker(server.uri, folder, study)
    for key in KEYS:
        tracker.start(key, key, {"rho": 0.05})
    for step in range(30):
        for key in KEYS:
            tracker.log(key, values(step), step)
    wait_for((folder / "mlflow.offset").exists)
    server.kill()  # with events on their way
    before = journal_lines(folder)
    for step in range(30, 100):
        for key in KEYS:
            tracker.log(key, values(step), step)
    assert journal_lines(folder) == before + 70 * len(KEYS)  # all accepted while the server is away
    assert tracker.close(0.1) > 70 * len(KEYS)

    server.start()
    tracker = unlocked(lambda: Tracker(server.uri, folder, study))
    for key in KEYS:
        tracker.end(key, "FINISHED")
    tracker.set_study("FINISHED")
    assert tracker.close(PATIENCE) == 0
    for key, run in experiment_runs(server.uri, study).items():
        assert run.info.status == "FINISHED"
        assert_once(server.uri, study, key, 100)
    assert list(folder.iterdir()) == []
    assert dict(os.environ) == environment
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_one_search_sees_its_server_go_and_come_back(server: Server, tmp_path: Path) -> None:
    study = open_study_run(server.uri, experiment="gcn", name="outage")
    folder = tmp_path / "journal"
    tracker = Tracker(server.uri, folder, study)
    stop = threading.Event()
    told = [0]

    def search() -> None:
        tracker.start(KEYS[0], "sam 0", {"rho": 0.05})
        while not stop.wait(0.02):
            tracker.log(KEYS[0], values(told[0]), told[0])
            told[0] += 1

    thread = threading.Thread(target=search)
    thread.start()
    for _ in range(2):
        time.sleep(0.5)
        server.kill()
        before = told[0]
        time.sleep(1.0)
        assert told[0] > before + 10
        server.start()
    stop.set()
    thread.join()
    assert tracker.close(PATIENCE) == 0
    assert_once(server.uri, study, KEYS[0], told[0])


def test_a_server_in_trouble_is_asked_once_at_a_time(study: StudyRun, tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(method: str, path: str) -> tuple[int, str]:
        if method == "GET":
            return 200, "{}"
        asked.append(path)
        return 503, "{}" if len(asked) % 2 else "<html>try later</html>"

    environment = dict(os.environ)
    with answering(answer) as uri:
        tracker = Tracker(uri, tmp_path / "journal", study)
        tracker.set_study("RUNNING")
        wait_for(lambda: len(asked) >= 2)
        assert tracker.close(0.1) == 1
        # Left to itself MLflow would be busy with its seven retries for minutes.
        wait_for(lambda: not tracker._delivery.is_alive())
    assert len(asked) <= 4
    assert dict(os.environ) == environment


def test_an_event_that_a_server_chokes_on_is_put_aside(
    study: StudyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune_sam.tracking.delivery._FIRST_PAUSE", 0.01)
    seen: list[str] = []

    def answer(method: str, path: str) -> tuple[int, str]:
        if method == "GET":
            return 200, "{}"
        seen.append(path.rpartition("/")[2])
        return (500, '{"error_code": "INTERNAL_ERROR", "message": "no"}') if seen[-1] == "create" else (200, "{}")

    with answering(answer) as uri:
        tracker = Tracker(uri, tmp_path / "journal", study)
        tracker.start(KEYS[0], "sam 0", {})
        tracker.set_study("FINISHED")
        assert tracker.close(PATIENCE) == 0
    assert seen.count("create") == 5
    rejected = json.loads((tmp_path / "journal" / "mlflow.rejected.jsonl").read_text())
    assert (rejected["event"]["key"], rejected["error"]) == (KEYS[0], "RestException: INTERNAL_ERROR: no")


# ------------------------------------------------------------------------------------------------------ at the door


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("sqlite:///mlflow.db", "four slashes"),
        ("sqlite://", "four slashes"),
        ("sqlite:////proc/version/x/mlflow.db", "choose a folder"),
        ("mlruns", "neither a server nor a database"),
        ("/tmp/mlruns", "neither a server nor a database"),
        ("file:///tmp/mlruns", "neither a server nor a database"),
        ("http://127.0.0.1:PORT", "cannot be reached .*Connection refused.*mlflow server"),
        ("http://ada:secret@127.0.0.1:PORT/mlflow", "http://\\*\\*\\*@127.0.0.1:PORT/mlflow cannot be reached"),
        ("postgresql://ada:secret@127.0.0.1:PORT/mlflow", "Connection refused.*start the database"),
        ("http://[oops", "cannot be reached"),
    ],
)
def test_check_refuses(bad: str, says: str) -> None:
    port = str(free_port())
    begin = time.monotonic()
    with pytest.raises(Refused, match=says.replace("PORT", port)) as refused:
        check(bad.replace("PORT", port))
    assert time.monotonic() - begin < 4  # milliseconds, but for the import of requests on a busy machine
    assert "secret" not in str(refused.value)
    assert "ada" not in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, "Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts 127.0.0.1:"),
        (404, "nothing here", "answered 404 .*address of an MLflow tracking server"),
        (200, "<html>log in</html>", "address of an MLflow tracking server"),
        (502, "{}", "answered 502"),
        (200, '{"experiments": []}', None),
        (401, "log in", None),
    ],
)
def test_check_asks_the_server(status: int, body: str, says: str | None) -> None:
    with answering(lambda method, path: (status, body)) as uri:
        if says is None:
            check(uri)
            return
        with pytest.raises(Refused, match=says) as refused:
            check(uri.replace("://", "://ada:secret@"))
        assert "secret" not in str(refused.value)


def test_check_accepts_a_database_to_be(tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path / 'to be made' / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_says_nothing_does_not_hold_up_the_search(study: StudyRun, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path / "journal", study)
        events = tell(tracker, steps=50)
        assert tracker.close(0.2) == events
    assert journal_lines(tmp_path / "journal") == events


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def unlocked(use: Callable[[], Result]) -> Result:
    """What `use` gives once the thread of an earlier tracker has let go of the folder."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return use()
        except Refused:
            assert time.monotonic() < end
            time.sleep(0.02)


# ------------------------------------------------------------------------------------------------- what is published


def with_a_run(uri: str, study: StudyRun, folder: Path) -> str:
    """A trial that ended; its run."""
    tracker = Tracker(uri, folder / "journal", study)
    tell(tracker, 3, (KEYS[0],))
    assert tracker.close(PATIENCE) == 0
    return str(experiment_runs(uri, study)[KEYS[0]].info.run_id)


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("uri") if request.param == "database" else request.getfixturevalue("server").uri)


def opened(place: str, experiment: str, folder: Path) -> StudyRun:
    root = None if place.startswith("http") else str(folder / "root")
    return open_study_run(place, experiment=experiment, artifact_root=root, name="s", home=place)


def test_a_number_is_published_once_and_the_newer_one_is_the_latest(place: str, tmp_path: Path) -> None:
    import mlflow

    study = opened(place, "published", tmp_path)
    run = with_a_run(place, study, tmp_path)
    (tmp_path / "files").mkdir()
    for text, number in (("one", 1.5), ("one", 1.5), ("two", 2.5)):
        (tmp_path / "files" / "a.csv").write_text(text)
        time.sleep(0.01)  # MLflow tells values of one step apart by their milliseconds
        publish(place, study, {run: {"flatness/trace": number, "flatness/nan": math.nan}}, 9, tmp_path / "files", "f/9")
    client = mlflow.MlflowClient(place)
    assert [point.value for point in client.get_metric_history(run, "flatness/trace")] == [1.5, 2.5]
    metrics = client.get_run(run).data.metrics
    assert metrics["flatness/trace"] == 2.5
    assert math.isnan(metrics["flatness/nan"])
    assert len(client.get_metric_history(run, "flatness/nan")) == 1
    fetched = client.download_artifacts(study.run_id, "f/9/a.csv", str(tmp_path))
    assert Path(fetched).read_text() == "two"


def test_a_curve_has_a_value_for_each_step(place: str, tmp_path: Path) -> None:
    study = opened(place, "curves", tmp_path)
    run = with_a_run(place, study, tmp_path)
    metric = next(iter(values(0)))
    expected = {step: values(step)[metric] for step in range(3)}
    assert curves(place, run, (metric, "none")) == {metric: expected, "none": {}}


def test_what_cannot_be_published_is_told_in_a_sentence(
    nowhere: str, uri: str, study: StudyRun, tmp_path: Path
) -> None:
    for place, run, said in ((nowhere, "x", "cannot be reached"), (uri, "no-such-run", "does not take the results")):
        with pytest.raises(Refused, match=said):
            publish(place, study, {run: {"flatness/trace": 1.0}}, 9, tmp_path, "f")
    with pytest.raises(Refused, match="cannot be reached"):
        curves(nowhere, "x", ("val/loss",))
