""""""

from __future__ import annotations

import itertools
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.errors import masked
from tune_sam.tracking.client import (
    KEY_TAG,
    PARENT_TAG,
    StudyRun,
    connect,
    create_run,
    find_run,
    last_step,
    milliseconds,
    run_tags,
    set_status,
    strings,
)
from tune_sam.tracking.journal import Journal

if TYPE_CHECKING:
    from mlflow.store.tracking.abstract_store import AbstractStore


log = logging.getLogger("tune_sam")

OnRun = Callable[[str, str], None]

_FIRST_PAUSE, _CLOSING_PAUSE, _LONGEST_PAUSE = 0.5, 1.0, 30.0  # seconds between attempts while the server is away

_LINES = 200  # taken from the journal at once

_METRICS = 1000  # MLflow's limit for one log_batch

_AWAY = (401, 403, 408, 429, 502, 503, 504)  # answers about the server or the login, not about the event

_ATTEMPTS = 5  # for an event that the server answers with an internal error


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
        self._journal = Journal(Path(folder))
        self._delivery = _Delivery(uri, self._journal, on_run)
        self._delivery.start()

    def start(
        self,
        key: str,
        name: str,
        params: Mapping[str, object],
        tags: Mapping[str, object] | None = None,
        start_time: int | None = None,
    ) -> None:
        """A trial starts. After a crash it starts again: it keeps its run, which is RUNNING again.

        Args:
            key: the trial's, `study/optimizer/number`.
            name: of the run.
            params: its configuration, at most 100; MLflow refuses a value other than an earlier one.
            tags: at most 100.
            start_time: milliseconds since 1970. Default: now.
        """
        self._add("start", start_time, key=key, name=name, params=strings(params), tags=strings(tags))

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

    def end(self, key: str, status: str, tags: Mapping[str, object] | None = None, end_time: int | None = None) -> None:
        """A trial ends.

        Args:
            key: the trial's.
            status: FINISHED, FAILED or KILLED.
            tags: added to its run.
            end_time: milliseconds since 1970. Default: now.
        """
        self._add("end", end_time, key=key, status=status, tags=strings(tags))

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
        moment = milliseconds() if moment is None else moment
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
    if not (Path(folder) / Journal.NAME).exists():
        return 0
    delivery = _Delivery(uri, Journal(Path(folder)), on_run)
    delivery.start()
    return delivery.close(timeout)


def undelivered(folder: str | Path) -> int:
    """Events in a study's journal that MLflow does not have yet, and those that it refused."""
    files = (Path(folder) / Journal.NAME, Path(folder) / "mlflow.rejected.jsonl")
    return sum(len(file.read_bytes().splitlines()) for file in files if file.exists())


@dataclass
class _Run:
    """A trial's run in MLflow, and the last step of its metrics, as far as the delivery knows them."""

    run_id: str
    found: bool  # rather than created a moment ago: it may have metrics, which have to be asked for
    last_step: dict[str, float] = field(default_factory=dict)


class _Delivery(threading.Thread):
    """The thread that takes the journal to MLflow."""

    def __init__(self, uri: str, journal: Journal, on_run: OnRun | None) -> None:
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
            log.warning(
                "MLflow at %s takes no events (%s); they are kept in %s",
                masked(self._uri),
                masked(str(error)),
                self._journal.path,
            )
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
            self._store = connect(self._uri)
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
                store.log_batch(run_id, [], [], run_tags(event["tags"]))
                set_status(store, run_id, event["status"], event["time"])
            case "study":
                end = None if event["status"] == "RUNNING" else event["time"]
                set_status(store, event["study"][1], event["status"], end)
            case other:
                raise ValueError(f"unknown event {other!r}")

    def _start(self, store: AbstractStore, event: dict[str, Any]) -> None:
        from mlflow.entities import Param

        key, (experiment_id, parent) = event["key"], event["study"]
        try:
            run_id = self._run_of(store, event).run_id
            set_status(store, run_id, "RUNNING")
        except LookupError:
            tags = {KEY_TAG: key, PARENT_TAG: parent}
            run_id = create_run(store, experiment_id, event["name"], event["time"], tags)
            self._runs[key] = _Run(run_id, found=False)
            self._tell(key, run_id)
        params = [Param(name, value) for name, value in event["params"].items()]
        store.log_batch(run_id, [], params, run_tags(event["tags"]))

    def _log(self, store: AbstractStore, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        run = self._run_of(store, events[0])
        last = dict(run.last_step)
        metrics = []
        for event in events:
            for name, value in event["metrics"].items():
                if name not in last:
                    last[name] = last_step(store, run.run_id, name) if run.found else -math.inf
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
            run_id = find_run(store, experiment_id, {KEY_TAG: key, PARENT_TAG: parent})
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
