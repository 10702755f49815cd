"""MLflow tracking that never blocks, slows or kills a search, and loses nothing.

Every event of a search (a trial starts, reports, ends) is one JSON line, appended to `FOLDER/mlflow.jsonl` before
the call returns, so it survives `kill -9` of the driver. One daemon thread delivers the lines in order to MLflow,
with explicit run ids, and remembers in `FOLDER/mlflow.offset` how far it came. While the server is away it waits
and tries again; what is left at the end is delivered by the next :class:`Tracker` on the same folder or by
:func:`deliver`. Both files are removed once everything has arrived. Events that MLflow refuses for their content go
to `FOLDER/mlflow.rejected.jsonl` with the reason.

A line may be sent twice (killed between sending it and remembering that), yet it counts once: a trial's run is
found by its tag `tune_sam.key` before one is created, and a metric is sent only for steps after the last one that
its run has in MLflow.

MLflow is imported inside functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import fcntl
import getpass
import itertools
import json
import logging
import math
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tune_sam.settings import Refused, masked

if TYPE_CHECKING:
    from io import FileIO

    from mlflow.store.tracking.abstract_store import AbstractStore

__all__ = ["KEY_TAG", "STUDY_TAG", "StudyRun", "Tracker", "check", "deliver", "open_study_run"]

KEY_TAG = "tune_sam.key"
STUDY_TAG = "tune_sam.study"
HOME_TAG = "tune_sam.home"
PARENT_TAG = "mlflow.parentRunId"

OnRun = Callable[[str, str], None]

_SERVER = ("http", "https")
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 5
# Longer than the 20 s that MLflow waits for a locked SQLite file: giving up on a request that still succeeds later
# is what could make a second run for one trial.
_ANSWER_SECONDS = 30
_FIRST_PAUSE, _CLOSING_PAUSE, _LONGEST_PAUSE = 0.5, 1.0, 30.0  # seconds between attempts while the server is away
_LINES = 200  # taken from the journal at once
_METRICS = 1000  # MLflow's limit for one log_batch
_AWAY = (401, 403, 408, 429, 502, 503, 504)  # answers about the server or the login, not about the event
_ATTEMPTS = 5  # for an event that the server answers with an internal error

log = logging.getLogger("tune_sam")


@dataclass(frozen=True)
class StudyRun:
    """The parent run of a study: where the runs of its trials belong."""

    experiment_id: str
    run_id: str


# ------------------------------------------------------------------------------------------------------ at the door


def check(uri: str) -> None:
    """Refuse a tracking URI that cannot work, before a search starts and without importing MLflow.

    It takes milliseconds where something answers or refuses, 5 s where nothing does. A server is asked one cheap
    question of MLflow's API: `/health` is exempt from the server's check of the Host header.

    Args:
        uri: `http(s)://…` of an MLflow server, `sqlite:////absolute/path.db`, or a URI of a `postgresql`, `mysql`
            or `mssql` database.

    Raises:
        Refused: one sentence with the URI (user and password masked) and the way out.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in _SERVER:
        _check_server(uri)
    elif scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in _PORTS:
        _check_database(uri, _PORTS[scheme])
    else:
        raise Refused(f"tracking URI {masked(uri)!r} is neither a server nor a database (MLflow's file store is "
                      "retired); give http://HOST:PORT of an MLflow server or sqlite:////ABSOLUTE/PATH.db.")


def _check_server(uri: str) -> None:
    import requests

    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    certificate = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    try:
        answer = requests.get(uri.rstrip("/") + "/api/2.0/mlflow/experiments/search", params={"max_results": 1},
                              timeout=_CONNECT_SECONDS, verify=not insecure and (certificate or True))
    except (requests.RequestException, OSError, ValueError) as error:
        slow = isinstance(error, requests.Timeout)
        reason = f"no answer within {_CONNECT_SECONDS} s" if slow else str(_root(error))
        raise Refused(_unreachable(uri, reason, "start `mlflow server` there")) from error
    if answer.status_code == 401:  # alive; MLflow's own client brings the login that this question did not
        return
    if answer.status_code == 403:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        raise Refused(f"MLflow at {masked(uri)} answered 403, which is how its host check refuses the Host header "
                      f"{host!r}; start it with `mlflow server --allowed-hosts {host}`.")
    if answer.status_code != 200 or not answer.text.lstrip().startswith("{"):
        raise Refused(f"{masked(uri)} answered {answer.status_code} to a question of MLflow's API; "
                      "give the address of an MLflow tracking server.")


def _check_sqlite(uri: str) -> None:
    path = uri.partition(":///")[2].partition("?")[0]
    if not path.startswith("/"):
        raise Refused(f"tracking URI {uri!r} means another file in each process's working directory; "
                      "give the absolute path with four slashes, sqlite:////ABSOLUTE/PATH.db.")
    folder = next(parent for parent in Path(path).parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise Refused(f"tracking URI {uri!r} cannot be written because of {folder}; choose a folder of your own.")


def _check_database(uri: str, port: int) -> None:
    try:
        parts = urlsplit(uri)
        if parts.hostname:  # otherwise a local socket
            socket.create_connection((parts.hostname, parts.port or port), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise Refused(_unreachable(uri, str(error), "start the database")) from error


def _unreachable(uri: str, reason: str, way_out: str) -> str:
    return f"MLflow at {masked(uri)} cannot be reached ({masked(reason)}); {way_out} or give another tracking URI."


def _root(error: BaseException) -> BaseException:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


# ------------------------------------------------------------------------------------------------ talking to MLflow


def _connect(uri: str, artifact_root: str | None = None) -> AbstractStore:
    """The store below MLflow's client. The client prints, reads the active model of the fluent API and asks for
    whole runs to change their status; the store does what it is told.

    Raises:
        Refused: see :func:`check`. That comes first because MLflow takes minutes to give up on a database.
    """
    check(uri)
    import mlflow  # noqa: F401  it sets its loggers up while it is imported, so they can be quietened only now

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It writes a traceback at every attempt on a locked or absent database; we say that once.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if uri.partition(":")[0] in _SERVER:
        return _server_store(uri)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, artifact_root or "./mlruns")


def _server_store(uri: str) -> AbstractStore:
    from functools import partial

    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.proto_json_utils import parse_dict
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    class ImpatientStore(RestStore):
        """One attempt for each request, and short timeouts. MLflow knows these as arguments of `http_request`, but
        its store can only be given them through the environment, which is the user's."""

        def _call_endpoint(self, api: Any, json_body: str | None = None, *_: Any, **__: Any) -> Any:
            path, method = self._METHOD_TO_INFO[api]
            body = {"params" if method == "GET" else "json": json.loads(json_body or "{}")}
            try:
                answer = http_request(self.get_host_creds(), path, method, max_retries=0, raise_on_status=False,
                                      timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS), **body)
            except MlflowException as error:
                raise ConnectionError(str(error)) from error
            try:
                content = answer.json()
            except ValueError as error:  # a proxy's page or a refused login: it says nothing about the event
                said = answer.text.strip().partition("\n")[0][:100]
                raise ConnectionError(f"{answer.status_code} {answer.reason}: {said}") from error
            verify_rest_response(answer, path)
            message = api.Response()
            parse_dict(content, message)
            return message

    return ImpatientStore(partial(get_default_host_creds, uri))


def _find_run(store: AbstractStore, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    from mlflow.entities import ViewType

    quoted = {tag: f'"{value}"' if "'" in value else f"'{value}'" for tag, value in tags.items()}
    condition = " AND ".join(f"tags.`{tag}` = {value}" for tag, value in quoted.items())
    runs = store.search_runs([experiment_id], condition, ViewType.ACTIVE_ONLY, max_results=1)
    return runs[0].info.run_id if runs else None


def _create_run(store: AbstractStore, experiment_id: str, name: str, start: int, tags: dict[str, str]) -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        user = "unknown"
    tags = {"mlflow.user": user, "mlflow.runName": name, **tags}
    run_id: str = store.create_run(experiment_id, user, start, _tags(tags), name).info.run_id
    return run_id


def _tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]


def _set_status(store: AbstractStore, run_id: str, status: str, end: int | None = None) -> None:
    from mlflow.entities import RunStatus

    store.update_run_info(run_id, RunStatus.from_string(status), end, None)


def _last_step(store: AbstractStore, run_id: str, metric: str) -> float:
    return max((point.step for point in store.get_metric_history(run_id, metric)), default=-math.inf)


def try_out(uri: str) -> None:
    """Write a run and an artifact, read both back, and take them away again. The experiment that they were in stays.

    Args:
        uri: see :func:`check`.

    Raises:
        Refused: one of these fails.
    """
    check(uri)
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        store = _connect(uri)
        experiment_id = _experiment(store, "tune_sam.check", None)
        content = secrets.token_hex(8)
        run_id = _create_run(store, experiment_id, "check", _now(), {"tune_sam.content": content})
        try:
            place = store.get_run(run_id).info.artifact_uri
            repository = get_artifact_repository(place, tracking_uri=uri)
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "check.txt").write_text(content)
                repository.log_artifact(str(Path(folder) / "check.txt"))
                (Path(folder) / "check.txt").unlink()
                there = Path(repository.download_artifacts("check.txt", folder)).read_text()
            if not there == content == store.get_run(run_id).data.tags["tune_sam.content"]:
                raise OSError("what is read is not what was written")
        finally:
            store.delete_run(run_id)
    except Refused:
        raise
    except Exception as error:  # whatever the client of an artifact store raises
        raise Refused(f"MLflow at {masked(uri)} cannot be written to and read back; it says {masked(str(error))}"
                      ) from error


def open_study_run(uri: str, *, experiment: str, artifact_root: str | None = None, name: str, home: str = "",
                   description: str = "", tags: Mapping[str, object] | None = None) -> StudyRun:
    """Get or create the experiment and the parent run of a study. The driver does it before any trial starts.

    A fresh SQLite database takes about 3 s to create.

    Args:
        uri: see :func:`check`.
        experiment: its name; the workload's.
        artifact_root: folder or URI for the artifacts of a new experiment. Default: the server's own; for a database
            without a server, `./mlruns` in the working directory.
        name: the study's; its run is found again by the tag `tune_sam.study`.
        home: where the study lives, if several homes share a server: a study of the same name in another is another.
        description: shown on the run's page.
        tags: of the run. Where the run exists, they and the description are brought up to date.

    Raises:
        Refused: the server cannot be reached, or it does not take the study.
    """
    check(uri)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        store = _connect(uri, artifact_root)
        experiment_id = _experiment(store, experiment, artifact_root)
        identity = {STUDY_TAG: name, **({HOME_TAG: home} if home else {})}
        run_id = (_find_run(store, experiment_id, identity)
                  or _create_run(store, experiment_id, name, _now(), identity))
        note = {"mlflow.note.content": description} if description else {}
        store.log_batch(run_id, [], [], _tags({**note, **_strings(tags)}))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} does not take study {name!r}; it says {masked(str(error))}"
                      ) from error
    return StudyRun(experiment_id, run_id)


def _experiment(store: AbstractStore, name: str, artifact_root: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = store.get_experiment_by_name(name)
    if found is None:
        try:
            return str(store.create_experiment(name, artifact_root, []))
        except MlflowException:
            found = store.get_experiment_by_name(name)  # another study of this workload was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise Refused(f"experiment {name!r} was deleted in MLflow; restore it with "
                      f"`mlflow experiments restore --experiment-id {found.experiment_id}`.")
    return str(found.experiment_id)


# ------------------------------------------------------------------------------------------------ the search's side


class Tracker:
    """What a search tells MLflow. Each call is one line in the journal: far below a millisecond, from any thread, and
    it never raises because of MLflow.

    Args:
        uri: see :func:`check`; it need not answer now.
        folder: where the journal is; made if missing. What an earlier search left there is delivered first. A local
            folder, for its lock is what keeps a second process from delivering the same lines.
        study_run: from :func:`open_study_run`.
        on_run: called as `on_run(key, run_id)` from the delivery thread, once for each trial, when its run is known.

    Raises:
        Refused: another process is using the folder.
    """

    def __init__(self, uri: str, folder: str | Path, study_run: StudyRun, on_run: OnRun | None = None) -> None:
        self._study = [study_run.experiment_id, study_run.run_id]
        self._journal = _Journal(Path(folder))
        self._delivery = _Delivery(uri, self._journal, on_run)
        self._delivery.start()

    def start(self, key: str, name: str, params: Mapping[str, object], tags: Mapping[str, object] | None = None,
              start_time: int | None = None) -> None:
        """A trial starts. After a crash it starts again: it keeps its run, which is RUNNING again.

        Args:
            key: the trial's, `study/optimizer/number`.
            name: of the run.
            params: its configuration, at most 100; MLflow refuses a value other than an earlier one.
            tags: at most 100.
            start_time: milliseconds since 1970. Default: now.
        """
        self._add("start", start_time, key=key, name=name, params=_strings(params), tags=_strings(tags))

    def log(self, key: str, metrics: Mapping[str, float], step: int, timestamp: int | None = None) -> None:
        """A trial's metrics at a step, which grows from call to call.

        A metric is dropped where its run has that step or a later one, for a trial that goes on from a checkpoint
        repeats some. NaN and infinite values are dropped too.

        Args:
            key: the trial's.
            metrics: numbers by name.
            step: the epoch.
            timestamp: milliseconds since 1970. Default: now.
        """
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        if finite:
            self._add("log", timestamp, key=key, metrics=finite, step=int(step))

    def end(self, key: str, status: str, tags: Mapping[str, object] | None = None,
            end_time: int | None = None) -> None:
        """A trial ends.

        Args:
            key: the trial's.
            status: FINISHED, FAILED or KILLED.
            tags: added to its run.
            end_time: milliseconds since 1970. Default: now.
        """
        self._add("end", end_time, key=key, status=status, tags=_strings(tags))

    def set_study(self, status: str) -> None:
        """The parent run is RUNNING again, or ends: FINISHED, FAILED or KILLED."""
        self._add("study", status=status)

    def close(self, timeout: float) -> int:
        """Wait until everything is delivered, at most `timeout` seconds.

        Returns:
            How many events are not delivered; they stay in the journal.
        """
        return self._delivery.close(timeout)

    def _add(self, event: str, moment: int | None = None, **content: Any) -> None:
        moment = _now() if moment is None else moment
        self._journal.append({"event": event, "study": self._study, "time": moment, **content})
        self._delivery.wake.set()


def deliver(uri: str, folder: str | Path, timeout: float, on_run: OnRun | None = None) -> int:
    """Deliver what a search left in its journal.

    Args:
        uri: see :func:`check`.
        folder: the :class:`Tracker`'s.
        timeout: in seconds.
        on_run: as for :class:`Tracker`.

    Returns:
        How many events are still not delivered; 0 where there is no journal.

    Raises:
        Refused: a search is using the folder.
    """
    if not (Path(folder) / _Journal.NAME).exists():
        return 0
    delivery = _Delivery(uri, _Journal(Path(folder)), on_run)
    delivery.start()
    return delivery.close(timeout)


@dataclass(frozen=True)
class RunState:
    """What MLflow says about a trial.

    Attributes:
        run_id: of its run.
        status: RUNNING, FINISHED, FAILED or KILLED.
        state: our word for it, from the run's tags; None before its end.
        metrics: the latest value of each.
    """

    run_id: str
    status: str
    state: str | None
    metrics: dict[str, float]


def run_states(uri: str, study_run: StudyRun) -> tuple[str, dict[str, list[RunState]]]:
    """What MLflow says about a study and its trials.

    Args:
        uri: see :func:`check`.
        study_run: the study's.

    Returns:
        The status of the study's run, and the runs of each trial by its key; more than one is one too many.

    Raises:
        Refused: the server cannot be reached, or the study's run is gone.
    """
    _expect_there(uri)
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    found: dict[str, list[RunState]] = {}
    try:
        store = _connect(uri)
        status = store.get_run(study_run.run_id).info.status
        condition, token = f"tags.`{PARENT_TAG}` = '{study_run.run_id}'", None
        while True:
            page = store.search_runs([study_run.experiment_id], condition, ViewType.ACTIVE_ONLY, page_token=token)
            for run in page:
                tags = run.data.tags
                found.setdefault(tags.get(KEY_TAG, ""), []).append(
                    RunState(run.info.run_id, run.info.status, tags.get("tune_sam.state"), dict(run.data.metrics)))
            if not (token := page.token):
                return status, found
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} cannot be asked; it says {masked(str(error))}") from error


def undelivered(folder: str | Path) -> int:
    """Events in a study's journal that MLflow does not have yet, and those that it refused."""
    files = (Path(folder) / _Journal.NAME, Path(folder) / "mlflow.rejected.jsonl")
    return sum(len(file.read_bytes().splitlines()) for file in files if file.exists())


def curves(uri: str, run_id: str, metrics: Sequence[str]) -> dict[str, dict[int, float]]:
    """Each metric of a run, by its step; the last value where a step has several.

    Args:
        uri: see :func:`check`.
        run_id: of the run.
        metrics: their names.

    Raises:
        Refused: MLflow cannot be reached, or does not answer.
    """
    with _reading(uri, f"curves of run {run_id}") as store:
        return {name: {point.step: point.value for point in store.get_metric_history(run_id, name)}
                for name in metrics}


def tags(uri: str, run_id: str) -> dict[str, str]:
    """The tags of a run.

    Args:
        uri: see :func:`check`.
        run_id: of the run.

    Raises:
        Refused: MLflow cannot be reached, or does not answer.
    """
    with _reading(uri, f"tags of run {run_id}") as store:
        return dict(store.get_run(run_id).data.tags)


@contextmanager
def _reading(uri: str, what: str) -> Iterator[AbstractStore]:
    """The store at `uri`; its errors become a sentence that names what was to be read."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    store = _connect(uri)
    try:
        yield store
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} gives no {what}; it says {masked(str(error))}") from error


def publish(uri: str, study_run: StudyRun, metrics: Mapping[str, Mapping[str, float]], step: int, files: Path,
            path: str) -> None:
    """Add files to the study's run and numbers to the runs of trials that have ended, now.

    A number that its run has already is not added again; where the two differ the new one is the latest. Files take the
    place of earlier ones. Numbers come last, so that none is there without its files.

    Args:
        uri: see :func:`check`.
        study_run: the study's.
        metrics: numbers by name, by run id; nan is kept, as what has no value.
        step: of the numbers.
        files: the folder that holds them.
        path: folder among the run's artifacts.

    Raises:
        Refused: MLflow cannot be reached or does not take them.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    _expect_there(uri)
    store = _connect(uri)
    try:
        runs = {run_id: store.get_run(run_id) for run_id in metrics}  # all of them, before anything is written
        try:
            MlflowClient(uri).log_artifacts(study_run.run_id, str(files), path)
        except Exception as error:  # whatever the client of an artifact store raises
            raise OSError(str(error)) from error
        for run_id, values in metrics.items():
            latest = runs[run_id].data.metrics
            new = [Metric(name, value, _now(), step) for name, value in values.items()
                   if not _same(latest.get(name), value)
                   and not _same(_value_at(store, run_id, name, step), value)]
            store.log_batch(run_id, new, [], [])
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} does not take the results; it says {masked(str(error))}") from error


def _same(one: float | None, other: float) -> bool:
    return one == other or (one is not None and math.isnan(one) and math.isnan(other))


def _expect_there(uri: str) -> None:
    """MLflow makes a database of SQLite that is not there; what has runs cannot be a new one."""
    path = uri.partition(":///")[2].partition("?")[0]
    if uri.startswith("sqlite") and not Path(path).exists():
        raise Refused(f"MLflow's database {path} is gone; put it back.")


def _value_at(store: AbstractStore, run_id: str, name: str, step: int) -> float | None:
    """The latest value of a metric at a step."""
    points = [point for point in store.get_metric_history(run_id, name) if point.step == step]
    return max(points, key=lambda point: point.timestamp).value if points else None


def _now() -> int:
    return time.time_ns() // 1_000_000


def _strings(values: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (values or {}).items()}


# ------------------------------------------------------------------------------------------------------ the journal


class _Journal:
    """Events on disk, a JSON line each, and how many bytes of them are delivered."""

    NAME = "mlflow.jsonl"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / self.NAME
        self.rejected = folder / "mlflow.rejected.jsonl"
        self._offset_path = folder / "mlflow.offset"
        self._lock = _lock_folder(folder)
        self._guard = threading.Lock()
        self._file: FileIO | None = None
        self._torn = False
        self._offset = self._mend()

    def _mend(self) -> int:
        """Cut off the line that a crash left half written; begin anew if everything before it was delivered."""
        data = self.path.read_bytes() if self.path.exists() else b""
        end = data.rfind(b"\n") + 1
        try:
            offset = int(self._offset_path.read_text())
        except (FileNotFoundError, ValueError):  # nothing was delivered, or the machine lost power: send all again
            offset = 0
        if offset >= end:
            offset = end = 0
        if end < len(data):
            os.truncate(self.path, end)
        if offset == 0:
            self._offset_path.unlink(missing_ok=True)
        return offset

    def append(self, event: Mapping[str, Any]) -> None:
        """Add a line; the kernel has it before this returns. A full disk costs the event, not the search."""
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._guard:
            try:
                if self._file is None:
                    self._file = self.path.open("ab", buffering=0)
                data = b"\n" + line if self._torn else line
                if self._file.write(data) < len(data):
                    raise OSError("no space for a line")
                self._torn = False
            except OSError as error:
                if not self._torn:
                    log.warning("MLflow's events are lost while %s cannot be written (%s)", self.path, error)
                self._torn = True

    def waiting(self, limit: int | None = None) -> list[bytes]:
        """The next complete lines that are not delivered, at most `limit`."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                complete = itertools.takewhile(lambda line: line.endswith(b"\n"), file)
                return list(itertools.islice(complete, limit))
        except FileNotFoundError:
            return []

    def advance(self, size: int) -> None:
        """Remember that `size` more bytes are delivered. A kill leaves the old number or the new one."""
        temporary = self._offset_path.with_suffix(".tmp")
        temporary.write_text(str(self._offset + size))
        temporary.replace(self._offset_path)
        self._offset += size

    def reject(self, event: Any, error: str) -> None:
        """Put an event aside, with the reason."""
        with self.rejected.open("a") as file:
            file.write(json.dumps({"error": error, "event": event}) + "\n")

    def remove_if_delivered(self) -> bool:
        with self._guard:
            if self.waiting(1):
                return False
            if self._file is not None:
                self._file.close()
                self._file = None
            self.path.unlink(missing_ok=True)  # first, because an offset alone still means that all was delivered
            self._offset_path.unlink(missing_ok=True)
            self._offset = 0
            return True

    def unlock(self) -> None:
        os.close(self._lock)


def _lock_folder(folder: Path) -> int:
    """Lock the folder for as long as the returned descriptor is open; after a kill the kernel closes it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(f"the journal in {folder} is in use by a search that still runs; wait for it, or stop it."
                      ) from None
    except OSError:
        log.debug("%s is on a file system without locks", folder)
    return descriptor


# ----------------------------------------------------------------------------------------------------- the delivery


@dataclass
class _Run:
    """A trial's run in MLflow, and the last step of its metrics, as far as the delivery knows them."""

    run_id: str
    found: bool  # rather than created a moment ago: it may have metrics, which have to be asked for
    last_step: dict[str, float] = field(default_factory=dict)


class _Delivery(threading.Thread):
    """The thread that takes the journal to MLflow."""

    def __init__(self, uri: str, journal: _Journal, on_run: OnRun | None) -> None:
        super().__init__(name="tune_sam.tracking", daemon=True)
        self.wake = threading.Event()
        self._closing, self._stop_now = threading.Event(), threading.Event()
        self._uri, self._journal, self._on_run = uri, journal, on_run
        self._store: AbstractStore | None = None
        self._runs: dict[str, _Run] = {}
        self._told: set[str] = set()
        self._rejected: set[str] = set()
        self._failures = self._internal_errors = 0

    def close(self, timeout: float) -> int:
        self._closing.set()
        self.wake.set()
        self.join(timeout)
        self._stop_now.set()
        self.join(_CLOSING_PAUSE)  # so that the folder is free, unless a request is stuck
        return sum(1 for line in self._journal.waiting() if line.strip())

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                if lines := self._journal.waiting(_LINES):
                    self._deliver(lines)
                elif not self._closing.is_set():
                    self.wake.wait()
                    self.wake.clear()
                elif self._journal.remove_if_delivered():
                    return
        finally:
            self._journal.unlock()

    def _deliver(self, lines: list[bytes]) -> None:
        """Deliver lines, as far as the first that does not get through."""
        for size, batch in _batches(lines):
            if self._stop_now.is_set():
                return
            try:
                for events in batch:
                    self._send(events)
                self._journal.advance(size)
            except Exception as error:  # whatever it is, the lines are still there, and the thread must be too
                self._wait(error)
                return
            if self._failures:
                log.info("MLflow at %s takes events again", masked(self._uri))
            self._failures = self._internal_errors = 0

    def _wait(self, error: Exception) -> None:
        if not self._failures:
            log.warning("MLflow at %s takes no events (%s); they are kept in %s", masked(self._uri),
                        masked(str(error)), self._journal.path)
        longest = _CLOSING_PAUSE if self._closing.is_set() else _LONGEST_PAUSE
        pause = min(_FIRST_PAUSE * 2 ** min(self._failures, 10), longest)
        self._failures += 1
        self._store = None
        self._runs.clear()  # a request without an answer may have done its work, so ask before sending again
        (self._stop_now if self._closing.is_set() else self._closing).wait(pause)

    def _send(self, events: list[Any]) -> None:
        """Send one event, or several `log` events of one trial. What MLflow refuses is put aside; what is raised
        means that the server is away."""
        if self._store is None:
            self._store = _connect(self._uri)
        try:
            self._apply(self._store, events)
        except Exception as error:
            if self._is_away(error):
                raise
            if len(events) == 1:
                self._reject(events[0], error)
                return
            self._runs.clear()  # part of them may have got through
            for event in events:
                self._send([event])

    def _is_away(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException):
            return isinstance(error, OSError)
        status = error.get_http_status_code()
        if status < 500 or status in _AWAY:
            return status in _AWAY
        self._internal_errors += 1  # a passing trouble of the server, or its way to choke on this event
        return self._internal_errors < _ATTEMPTS

    def _reject(self, event: Any, error: Exception) -> None:
        reason = masked(f"{type(error).__name__}: {error}")
        self._journal.reject(event, reason)
        key = event.get("key", "the study") if isinstance(event, dict) else "a broken line"
        if key not in self._rejected:  # once for a trial: what follows is refused for the same reason, mostly
            self._rejected.add(key)
            log.warning("MLflow refuses an event of %s (%s); it is in %s", key, reason, self._journal.rejected)

    def _apply(self, store: AbstractStore, events: list[Any]) -> None:
        event = events[0]
        match event["event"]:
            case "start":
                self._start(store, event)
            case "log":
                self._log(store, events)
            case "end":
                run_id = self._run_of(store, event).run_id
                store.log_batch(run_id, [], [], _tags(event["tags"]))
                _set_status(store, run_id, event["status"], event["time"])
            case "study":
                end = None if event["status"] == "RUNNING" else event["time"]
                _set_status(store, event["study"][1], event["status"], end)
            case other:
                raise ValueError(f"unknown event {other!r}")

    def _start(self, store: AbstractStore, event: dict[str, Any]) -> None:
        from mlflow.entities import Param

        key, (experiment_id, parent) = event["key"], event["study"]
        try:
            run_id = self._run_of(store, event).run_id
            _set_status(store, run_id, "RUNNING")
        except LookupError:
            tags = {KEY_TAG: key, PARENT_TAG: parent}
            run_id = _create_run(store, experiment_id, event["name"], event["time"], tags)
            self._runs[key] = _Run(run_id, found=False)
            self._tell(key, run_id)
        params = [Param(name, value) for name, value in event["params"].items()]
        store.log_batch(run_id, [], params, _tags(event["tags"]))

    def _log(self, store: AbstractStore, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        run = self._run_of(store, events[0])
        last = dict(run.last_step)
        metrics = []
        for event in events:
            for name, value in event["metrics"].items():
                if name not in last:
                    last[name] = _last_step(store, run.run_id, name) if run.found else -math.inf
                if event["step"] > last[name]:
                    last[name] = event["step"]
                    metrics.append(Metric(name, value, event["time"], event["step"]))
        for begin in range(0, len(metrics), _METRICS):
            store.log_batch(run.run_id, metrics[begin : begin + _METRICS], [], [])
        run.last_step = last

    def _run_of(self, store: AbstractStore, event: dict[str, Any]) -> _Run:
        key = event["key"]
        if key not in self._runs:
            experiment_id, parent = event["study"]
            # Another home's study may have the same name, and so the same keys.
            run_id = _find_run(store, experiment_id, {KEY_TAG: key, PARENT_TAG: parent})
            if run_id is None:
                raise LookupError(f"no run has the tag {KEY_TAG} = {key}: never started, or deleted")
            self._runs[key] = _Run(run_id, found=True)
            self._tell(key, run_id)
        return self._runs[key]

    def _tell(self, key: str, run_id: str) -> None:
        if self._on_run is None or key in self._told:
            return
        self._told.add(key)
        try:
            self._on_run(key, run_id)
        except Exception:
            log.warning("run %s of %s could not be noted", run_id, key, exc_info=True)


def _batches(lines: list[bytes]) -> Iterator[tuple[int, list[list[Any]]]]:
    """What to send together, and its size in bytes. Neighbouring `log` lines are gathered by trial, for the order
    between trials means nothing; every other line stands alone."""
    parsed = [(len(line), _parsed(line)) for line in lines]
    for logs, group in itertools.groupby(parsed, lambda item: _is_log(item[1])):
        if not logs:
            for size, event in group:
                yield size, [[event]] if event else []
            continue
        sizes, events = zip(*group, strict=True)
        trials: dict[str, list[Any]] = {}
        for event in events:
            trials.setdefault(event["key"], []).append(event)
        yield sum(sizes), list(trials.values())


def _parsed(line: bytes) -> Any:
    """The event; of a line that a full disk has broken, its text."""
    try:
        return json.loads(line)
    except ValueError:
        return line.decode(errors="replace").strip()


def _is_log(event: Any) -> bool:
    return isinstance(event, dict) and event.get("event") == "log"
