"""MLflow is given what it lacks of a study's ledger: without ever blocking or ending a search, and each thing once.

A thread reads the ledger again and again, compares it with what MLflow has and sends the difference. Nothing is kept
for MLflow alone: whatever is killed, and however long the server is away, the ledger has it, and the next delivery
finds what is missing. A trial's run is found by its tag `tune_sam.key` before one is made. The tag `tune_sam.epoch`
says up to which epoch a run is whole; a metric that is sent a second time has the time and the value of the first,
which MLflow takes for one.

MLflow is imported inside functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from tune_sam.errors import masked
from tune_sam.tracking.client import (
    PARENT_TAG,
    StudyRun,
    connect,
    create_run,
    expect_there,
    is_away,
    is_internal,
    log_batch,
    metric_history,
    milliseconds,
    run_state,
    set_status,
    states_in,
)
from tune_sam.tracking.content import KEY_TAG, STEP_TAG, Point, RunState, StudyContent, TrialRun

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

_METRICS = 800  # in one request; MLflow's limit is 1000, tags and params included

_deliveries: dict[str, Delivery] = {}  # the last of each study's run, in this process


@dataclass
class _Run:
    """What MLflow has of a trial, as far as the delivery knows.

    Attributes:
        step: the last whose metrics were sent.
        refused: MLflow did not take some of what was sent.
    """

    run_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    step: int
    refused: bool = False


class Delivery(threading.Thread):
    """The thread that gives MLflow what it lacks of a study.

    Args:
        uri: see :func:`tune_sam.tracking.client.check`; it need not answer now.
        study_run: from :func:`tune_sam.tracking.runs.open_study_run`.
        read: what MLflow should have now; called from this thread again and again, and by `close`.
        on_run: called as `on_run(key, run_id)` from this thread, once for each trial whose run is not the one known.
        restore: make the run of a trial anew that had one and has none; a person may have deleted it on purpose.
    """

    def __init__(
        self, uri: str, study_run: StudyRun, read: Read, on_run: OnRun | None = None, *, restore: bool = False
    ) -> None:
        super().__init__(name="tune_sam.delivery", daemon=True)
        self._uri, self._study_run, self._read, self._on_run, self._restore = uri, study_run, read, on_run, restore
        self._closing, self._stop_now = threading.Event(), threading.Event()
        # A request of an earlier delivery may still be on its way, and make a run that is not found yet.
        self._earlier = _deliveries.get(study_run.run_id)
        _deliveries[study_run.run_id] = self
        self._store: Store | None = None
        self._status: str | None = None  # of the study's run
        self._states: dict[str, list[RunState]] = {}  # as they were when the store was opened
        self._runs: dict[str, _Run] = {}
        self._whole: dict[str, TrialRun] = {}
        self._refused: dict[str, str] = {}  # why, by key
        self._failures = self._internal_errors = 0

    def close(self, timeout: float) -> int:
        """Wait until everything is delivered, at most `timeout` seconds, and end.

        Returns:
            How many trials MLflow lacks something of, the study itself counted as one; without those that it refuses.
        """
        self._closing.set()
        self.join(timeout)
        self._stop_now.set()
        self.join(CLOSING_PAUSE)
        content = self._read()
        waiting = [trial for trial in content.trials if trial.key not in self._refused and not self._has(trial)]
        return len(waiting) + (self._status != content.status)

    @property
    def whole(self) -> bool:
        """Say whether nothing is missing and nothing was refused."""
        return not self._refused and all(map(self._has, self._read().trials))

    def _has(self, trial: TrialRun) -> bool:
        return self._whole.get(trial.key) == trial

    def run(self) -> None:
        """Deliver until :meth:`close` says that this is the end."""
        if self._earlier:
            self._earlier.join()
            self._earlier = None
        while not self._stop_now.is_set():
            closing = self._closing.is_set()
            try:
                begin = time.monotonic()
                content = self._read()
                took = time.monotonic() - begin
                self._deliver(content)
            except Exception as error:  # whatever it is, the ledger has everything, and the thread must be there
                self._wait(error)
                continue
            if self._failures:
                log.info("MLflow at %s takes results again", masked(self._uri))
            self._failures = self._internal_errors = 0
            if closing:
                return
            self._closing.wait(max(PERIOD, took / READING))

    def _wait(self, error: Exception) -> None:
        if not self._failures:
            log.warning(
                "MLflow at %s takes no results (%s); the study's ledger keeps them",
                masked(self._uri),
                masked(str(error)),
            )
        longest = CLOSING_PAUSE if self._closing.is_set() else LONGEST_PAUSE
        pause = min(FIRST_PAUSE * 2 ** min(self._failures, 10), longest)
        self._failures += 1
        self._store = self._status = None
        self._runs.clear()  # a request without an answer may have done its work, so look before sending again
        (self._stop_now if self._closing.is_set() else self._closing).wait(pause)

    def _deliver(self, content: StudyContent) -> None:
        if self._store is None:
            expect_there(self._uri)
            store = connect(self._uri)
            self._states = states_in(store, self._study_run)
            self._status = self._status_in(store)
            self._store = store
        for trial in content.trials:
            if self._stop_now.is_set():
                return
            if not self._has(trial):
                self._send(self._store, trial)
        if self._status != content.status:
            end = None if content.status == "RUNNING" else milliseconds()
            self._accepted("the study", set_status, self._store, self._study_run.run_id, content.status, end)
            self._status = content.status

    def _status_in(self, store: Store) -> str | None:
        try:
            return run_state(store, self._study_run.run_id).status
        except Exception as error:  # somebody has removed it for good
            if self._is_away(error):
                raise
            return None

    def _send(self, store: Store, trial: TrialRun) -> None:
        """Send what a trial's run lacks, in one request if MLflow takes it."""
        run = self._runs.get(trial.key) or self._found_or_made(store, trial)
        if run is None:
            return
        self._runs[trial.key] = run
        self._send_content(store, trial, run)
        if run.status != trial.status:
            run.refused |= not self._accepted(trial.key, set_status, store, run.run_id, trial.status, trial.end)
            run.status = trial.status
        if not run.refused:
            self._whole[trial.key] = trial
            self._refused.pop(trial.key, None)

    def _send_content(self, store: Store, trial: TrialRun, run: _Run) -> None:
        points = [point for point in trial.points if point.step > run.step and math.isfinite(point.value)]
        params = {name: value for name, value in trial.params.items() if name not in run.params}
        tags = {name: value for name, value in trial.tags.items() if run.tags.get(name) != value}
        last = points[-1].step if points else run.step
        if not (points or params or tags):
            return
        begins = range(0, max(len(points) - 1, 0) // _METRICS * _METRICS + 1, _METRICS)
        try:
            for begin in begins:
                mark = {STEP_TAG: str(last)} if points and begin == begins[-1] and not run.refused else {}
                given = (params, tags | mark) if begin == begins[-1] else ({}, {})
                log_batch(store, run.run_id, points[begin : begin + _METRICS], *given)
        except Exception as error:
            if self._is_away(error):
                raise
            self._send_apart(store, trial.key, run, points, (params, tags))
        run.step, run.params, run.tags = last, run.params | params, run.tags | tags

    def _send_apart(
        self,
        store: Store,
        key: str,
        run: _Run,
        points: Sequence[Point],
        given: tuple[Mapping[str, str], Mapping[str, str]],
    ) -> None:
        """Send each epoch by itself, for MLflow refuses a request as a whole."""
        for params, tags in ((given[0], {}), ({}, given[1])):
            if params or tags:
                run.refused |= not self._accepted(key, log_batch, store, run.run_id, [], params, tags)
        for step, group in groupby(points, lambda point: point.step):
            one = list(group)
            mark = {} if run.refused else {STEP_TAG: str(step)}
            run.refused |= not self._accepted(key, log_batch, store, run.run_id, one, {}, mark)

    def _found_or_made(self, store: Store, trial: TrialRun) -> _Run | None:
        """Find or make the run of a trial; None if there cannot be one."""
        states = self._states.get(trial.key, [])
        state = next((one for one in states if one.run_id == trial.run_id), states[0] if states else None)
        if state:
            self._tell(trial, state.run_id)
            return _Run(state.run_id, state.status, state.params, state.tags, self._step(store, trial, state))
        if trial.key in self._refused:
            return None
        if trial.run_id and not self._restore:
            self._refuse(trial.key, "its run was deleted; `tune-sam doctor --fix` makes it anew")
            return None
        # The epochs' tag from the start: a run without one is of release 0.1, where metrics tell how far it came.
        tags = {KEY_TAG: trial.key, PARENT_TAG: self._study_run.run_id, STEP_TAG: "0"}
        try:
            run_id = create_run(store, self._study_run.experiment_id, trial.name, trial.start, tags)
        except Exception as error:
            if self._is_away(error):
                raise
            self._refuse(trial.key, f"{type(error).__name__}: {error}")
            return None
        self._tell(trial, run_id)
        return _Run(run_id, "RUNNING", {}, {}, 0)

    def _step(self, store: Store, trial: TrialRun, state: RunState) -> int:
        """Find the last step that a run has; of one that release 0.1 made, which has no tag, by one of its metrics."""
        if state.step is not None:
            return state.step
        name = next((point.name for point in trial.points if point.name in state.metrics), None)
        return max((point.step for point in metric_history(store, state.run_id, name)), default=0) if name else 0

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
        if key not in self._refused:  # once for a trial: what follows is refused for the same reason, mostly
            log.warning("MLflow refuses results of %s (%s); the study's ledger keeps them", key, masked(why))
        self._refused[key] = why

    def _tell(self, trial: TrialRun, run_id: str) -> None:
        if self._on_run is None or run_id == trial.run_id:
            return
        try:
            self._on_run(trial.key, run_id)
        except Exception:
            log.warning("run %s of %s could not be noted", run_id, trial.key, exc_info=True)
