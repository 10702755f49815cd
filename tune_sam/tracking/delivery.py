"""MLflow is given what it lacks of a study's ledger: without ever blocking or ending a search, and each thing once.

A thread reads the ledger again and again, compares it with what MLflow has and sends the difference. Nothing is kept
for MLflow alone: whatever is killed, and however long the server is away, the ledger has it, and the next delivery
finds what is missing. A trial's run is found by its tag `tune_sam.key` before one is made. The tag `tune_sam.epoch`
says up to which epoch a run is whole; a metric that is sent a second time has the time and the value of the first,
which MLflow takes for one. What MLflow refuses is sent again every minute, and by each later delivery.

MLflow is imported inside functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from tune_sam.errors import Refused, masked
from tune_sam.tracking.client import (
    PARENT_TAG,
    StudyRun,
    connect,
    create_run,
    expect_run,
    expect_there,
    is_away,
    is_internal,
    log_batch,
    log_dataset,
    milliseconds,
    run_state,
    set_info,
    states_in,
    with_values,
)
from tune_sam.tracking.content import KEY_TAG, STEP_TAG, Point, RunContent, RunState, StudyContent, lacked

if TYPE_CHECKING:
    from tune_sam.tracking.client import Store

log = logging.getLogger("tune_sam")

Read = Callable[[], StudyContent]
OnRun = Callable[[str, str], None]

PERIOD = 1.0
"""Seconds between two looks at the ledger, at least."""

READING = 0.05
"""The share of its time that the thread spends reading the ledger, at most, for the search needs the processor."""

FIRST_PAUSE, CLOSING_PAUSE, LONGEST_PAUSE = 0.5, 1.0, 30.0
"""Seconds between attempts while the server is away: the first, and the longest at the end of a search and before."""

ATTEMPTS = 5
"""How often what the server answers with an internal error is sent, before it counts as refused."""

RETRY = 60.0
"""Seconds until what MLflow refused is sent again, for the cause may be gone."""

STUDY = "the study"
"""Stands among the keys of runs for all of the study."""

_METRICS = 800  # in one request; MLflow's limit is 1000, tags and params included

_deliveries: dict[str, Delivery] = {}  # the last of each study's run, in this process


@dataclass
class _Run:
    """What MLflow has of a trial or of the study, as far as the delivery knows.

    Attributes:
        metrics: the latest value of each.
        datasets: names and digests of its inputs.
        whole: the step up to which all metrics are there, or were sent and refused.
        values: name and step of what else is there.
        refused: MLflow did not take some of what was sent.
        refused_from: the first step of which it did not take all.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    datasets: Container[tuple[str, str]] = ()
    whole: int = 0
    values: Container[tuple[str, int]] = ()
    refused: bool = False
    refused_from: int | None = None

    def lacks(self, point: Point) -> bool:
        """Say whether a metric is to be sent."""
        return point.step > self.whole and (point.name, point.step) not in self.values

    def mark(self, last: int) -> dict[str, str]:
        """Give the tag that says up to which step the run is whole, once metrics up to `last` were sent."""
        step = str(last if self.refused_from is None else min(last, self.refused_from - 1))
        return {} if self.tags.get(STEP_TAG) == step else {STEP_TAG: step}


class Delivery(threading.Thread):
    """The thread that gives MLflow what it lacks of a study.

    Args:
        uri: see :func:`tune_sam.tracking.client.check`; it need not answer now.
        study_run: from :func:`tune_sam.tracking.runs.open_study_run`.
        read: what MLflow should have now; called from this thread again and again, and by `close`.
        on_run: called as `on_run(key, run_id)` from this thread, once for each trial whose run is not the one known.
        restore: make the run of a trial anew that had one and has none; a person may have deleted it on purpose.
        thorough: read every value of a run that is there, whatever its tag says; a request for each metric.
    """

    def __init__(
        self,
        uri: str,
        study_run: StudyRun,
        read: Read,
        on_run: OnRun | None = None,
        *,
        restore: bool = False,
        thorough: bool = False,
    ) -> None:
        super().__init__(name="tune_sam.delivery", daemon=True)
        self._uri, self._study_run, self._read, self._on_run = uri, study_run, read, on_run
        self._restore, self._thorough = restore, thorough
        self._closing, self._stop_now = threading.Event(), threading.Event()
        # A request of an earlier delivery may still be on its way, and make a run that is not found yet.
        self._earlier = _deliveries.get(study_run.run_id)
        _deliveries[study_run.run_id] = self
        self._store: Store | None = None
        self._states: dict[str, list[RunState]] = {}  # of trials, as they were when the store was opened
        self._runs: dict[str, _Run] = {}
        self._whole: dict[str, RunContent] = {}
        self._refused: set[str] = set()  # keys, since the store was opened
        self._told: set[str] = set()  # keys of which a person knows that they are refused
        self._opened = 0.0  # when
        self._failures = self._internal_errors = 0

    def close(self, timeout: float) -> int:
        """Wait until everything is delivered that MLflow takes, at most `timeout` seconds, and end.

        Returns:
            How many trials MLflow lacks something of, the study itself counted as one.
        """
        self._closing.set()
        self.join(timeout)
        self._stop_now.set()
        self.join(CLOSING_PAUSE)
        content = self._read()
        return sum(not self._has(wanted) for wanted in (*content.trials, content.study))

    def _has(self, wanted: RunContent) -> bool:
        return self._whole.get(wanted.key) == wanted

    def run(self) -> None:
        """Deliver until :meth:`close` says that this is the end."""
        if self._earlier:
            self._earlier.join()
            self._earlier = None
        while not self._stop_now.is_set():
            closing = self._closing.is_set()
            trouble = "the study's ledger cannot be read, and MLflow gets its results later (%s)"
            try:
                begin = time.monotonic()
                content = self._read()
                took = time.monotonic() - begin
                trouble = f"MLflow at {masked(self._uri)} takes no results (%s); the study's ledger keeps them"
                self._deliver(content)
            except Exception as error:  # whatever it is, the ledger has everything, and the thread must be there
                self._wait(trouble, error)
                continue
            if self._failures:
                log.info("MLflow at %s takes results again", masked(self._uri))
            self._failures = self._internal_errors = 0
            if closing:
                return
            self._closing.wait(max(PERIOD, took / READING))

    def _wait(self, trouble: str, error: Exception) -> None:
        if not self._failures:
            log.warning(trouble, masked(str(error)) or type(error).__name__)
        longest = CLOSING_PAUSE if self._closing.is_set() else LONGEST_PAUSE
        pause = min(FIRST_PAUSE * 2 ** min(self._failures, 10), longest)
        self._failures += 1
        self._store = None  # a request without an answer may have done its work, so look before sending again
        (self._stop_now if self._closing.is_set() else self._closing).wait(pause)

    def _deliver(self, content: StudyContent) -> None:
        if self._refused and time.monotonic() - self._opened >= RETRY:
            self._store = None
            self._refused.clear()
        if STUDY in self._refused:
            return
        store = self._store or self._opened_store(content.study)
        if store is None:
            return
        for wanted in (*content.trials, content.study):
            if self._stop_now.is_set():
                return
            if not self._has(wanted):
                self._send(store, wanted)

    def _opened_store(self, study: RunContent) -> Store | None:
        """Open the store, and look what it has; None where a person has to do something first."""
        self._opened = time.monotonic()
        self._runs.clear()
        self._refused.clear()
        self._whole.pop(study.key, None)
        if self._prevented(expect_there, self._uri):
            return None
        store = connect(self._uri)
        if self._prevented(expect_run, store, self._study_run):
            return None
        self._states = states_in(store, self._study_run)
        self._runs[study.key] = self._found(store, study, run_state(store, self._study_run.run_id))
        self._store = store
        return store

    def _prevented(self, expect: Callable[..., None], *of: object) -> bool:
        try:
            expect(*of)
        except Refused as error:
            self._refuse(STUDY, str(error))
            return True
        return False

    def _send(self, store: Store, wanted: RunContent) -> None:
        """Send what a run lacks, in one request if MLflow takes it."""
        run = self._runs.get(wanted.key) or self._found_or_made(store, wanted)
        if run is None:
            return
        self._runs[wanted.key] = run
        if wanted.dataset and (given := (wanted.dataset.name, wanted.dataset.digest)) not in run.datasets:
            run.refused |= not self._accepted(wanted.key, log_dataset, store, run.run_id, wanted.dataset)
            run.datasets = {given}
        self._send_content(store, wanted, run)
        if (run.name, run.status) != (wanted.name, wanted.status):
            info = (store, run.run_id, wanted.name, wanted.status, wanted.end)
            run.refused |= not self._accepted(wanted.key, set_info, *info)
            run.name, run.status = wanted.name, wanted.status
        if not run.refused:
            self._whole[wanted.key] = wanted

    def _send_content(self, store: Store, wanted: RunContent, run: _Run) -> None:
        points = [point for point in wanted.points if run.lacks(point)]
        results = lacked(wanted.results, run.metrics)
        params = {name: value for name, value in wanted.params.items() if name not in run.params}
        tags = {name: value for name, value in wanted.tags.items() if run.tags.get(name) != value}
        last = max((point.step for point in wanted.points), default=0)
        mark = run.mark(last) if wanted.points else {}
        if not (points or results or params or tags or mark):
            return
        # The latest of one step is what counts.
        sent = [*points, *(Point(name, value, milliseconds(), 0) for name, value in results.items())]
        begins = range(0, max(len(sent) - 1, 0) // _METRICS * _METRICS + 1, _METRICS)
        try:
            for begin in begins:
                given = (params, tags | mark) if begin == begins[-1] else ({}, {})
                log_batch(store, run.run_id, sent[begin : begin + _METRICS], *given)
        except Exception as error:
            if self._is_away(error):
                raise
            self._send_apart(store, wanted.key, run, sent, (params, tags), last)
        run.whole, run.params, run.tags = last, run.params | params, run.tags | tags | mark
        run.metrics |= results

    def _send_apart(
        self,
        store: Store,
        key: str,
        run: _Run,
        points: Sequence[Point],
        given: tuple[Mapping[str, str], Mapping[str, str]],
        last: int,
    ) -> None:
        """Send each epoch by itself, for MLflow refuses a request as a whole."""

        def send(*what: object) -> bool:
            accepted = self._accepted(key, log_batch, store, run.run_id, *what)
            run.refused |= not accepted
            return accepted

        for params, tags in ((given[0], {}), ({}, given[1])):
            if params or tags:
                send([], params, tags)
        for step, group in groupby(points, lambda point: point.step):
            if not send(list(group), {}, {}) and run.refused_from is None:
                run.refused_from = step
        if mark := last and run.mark(last):
            send([], {}, mark)

    def _found_or_made(self, store: Store, trial: RunContent) -> _Run | None:
        """Find or make the run of a trial; None if there cannot be one."""
        states = self._states.get(trial.key, [])
        state = next((one for one in states if one.run_id == trial.run_id), states[0] if states else None)
        if state:
            self._tell(trial, state.run_id)
            return self._found(store, trial, state)
        if trial.key in self._refused:
            return None
        if trial.run_id and not self._restore:
            self._refuse(trial.key, "its run was deleted; `tune-sam doctor --fix` makes it anew")
            return None
        # The epochs' tag from the start: a run without one is of release 0.1, whose metrics are read.
        needed = {KEY_TAG: trial.key, PARENT_TAG: self._study_run.run_id, STEP_TAG: "0"}
        made = self._made(store, trial, {**trial.tags, **needed})
        # Where MLflow refuses one of all its tags, the run must be there without; who is in trouble is not asked twice.
        return made if made or self._internal_errors else self._made(store, trial, needed)

    def _made(self, store: Store, trial: RunContent, tags: dict[str, str]) -> _Run | None:
        """Make the run of a trial; None if MLflow refuses it."""
        try:
            run_id = create_run(store, self._study_run.experiment_id, trial.name, trial.start, tags)
        except Exception as error:
            if self._is_away(error):
                raise
            self._refuse(trial.key, f"{type(error).__name__}: {error}")
            return None
        self._tell(trial, run_id)
        return _Run(run_id, trial.name, "RUNNING", tags=tags)

    def _found(self, store: Store, wanted: RunContent, state: RunState) -> _Run:
        whole, values = state.step, state.values
        if wanted.points and (whole is None or self._thorough):
            whole, values = 0, with_values(store, state).values
        found = (state.params, state.tags, state.metrics, state.datasets)
        return _Run(state.run_id, state.name, state.status, *found, whole or 0, values)

    def _accepted(self, key: str, request: Callable[..., None], *args: object) -> bool:
        """Make a request and say whether MLflow took it. What is raised means that the server is away."""
        try:
            request(*args)
        except Exception as error:
            if self._is_away(error):
                raise
            self._refuse(key, f"{type(error).__name__}: {error}")
            return False
        return True

    def _is_away(self, error: Exception) -> bool:
        if not is_internal(error):
            return is_away(error)
        self._internal_errors += 1  # a passing trouble of the server, or its way to choke on this request
        return self._internal_errors < ATTEMPTS

    def _refuse(self, key: str, why: str) -> None:
        if key not in self._told:  # once for a trial: what follows is refused for the same reason, mostly
            log.warning("MLflow refuses results of %s (%s); the study's ledger keeps them", key, masked(why))
        self._told.add(key)
        self._refused.add(key)

    def _tell(self, trial: RunContent, run_id: str) -> None:
        if self._on_run is None or run_id == trial.run_id:
            return
        try:
            self._on_run(trial.key, run_id)
        except Exception:
            log.warning("run %s of %s could not be noted", run_id, trial.key, exc_info=True)
