"""What the driver does at each event of a trial: the ledger and the screen get it. MLflow is given it by the ledger."""

import errno
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune_sam.cluster.ray_internals import could_not_start, death_of, error_of, failure_of, gpus_of, processes
from tune_sam.cluster.results import delete, state_of
from tune_sam.cluster.watch import Looks, Watch
from tune_sam.config import TrialConfig
from tune_sam.errors import Refused, Stopped
from tune_sam.shortages import gpu_ran_out
from tune_sam.study.epochs import GRADIENTS, SECONDS
from tune_sam.study.logs import last_attempt, read_log
from tune_sam.study.records import Study
from tune_sam.study.settings import OUT_OF_MEMORY
from tune_sam.tuning.ledger import Ledger, Outcome, Suggestion
from tune_sam.tuning.listener import SearchListener
from tune_sam.tuning.meter import Meter

log = logging.getLogger(__name__)

METRICS = ("train/", "val/", "gap/", SECONDS, GRADIENTS)
"""How the names of the numbers begin that the ledger and MLflow get of a result; the rest is Tune's."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What is wrong with a disk and not with a training, and would be wrong for the next one, too."""

DEATHS = 3
"""After so many deaths of its process in one and the same epoch, it is the trial that kills it."""


class Driver(tune.Callback):
    """Follows the trials of a study.

    Args:
        ledgers: the trials of each optimizer in Optuna.
        study: that they are of.
        listener: who is told how the search goes.
        watch: says which trials were ended for the time that they took.
        meter: counts their epochs.
    """

    def __init__(
        self,
        ledgers: Mapping[str, Ledger],
        study: Study,
        listener: SearchListener,
        watch: Watch[tuple[str, int]],
        meter: Meter,
    ) -> None:
        self.ledgers, self.study, self.listener, self.watch, self.meter = ledgers, study, listener, watch, meter
        self._started: set[tuple[str, int]] = set()
        self._lost: dict[tuple[str, int], str] = {}
        self._deaths: Counter[tuple[str, int, int]] = Counter()
        self._workload = study.workload

    def _given(self, trial: Any) -> TrialConfig:
        return TrialConfig.from_tune(trial.config, self._workload)

    def _ledger(self, trial: Any) -> tuple[Ledger, int]:
        """Find the ledger of one of Tune's trials, and its number there."""
        optimizer, number = TrialConfig.identity(trial.config)
        return self.ledgers[optimizer], number

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report to the listener that a trial starts."""
        self._start(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep an epoch's metrics and report it to the listener."""
        (ledger, number), epoch = self._ledger(trial), result["epoch"]
        self.watch.heard((ledger.optimizer, number))
        self.meter.epoch((ledger.optimizer, number), epoch)
        if result["diverged"]:
            return
        if result["done"]:  # the scheduler reported every other epoch; Tune does not show it the last one
            ledger.report(number, epoch, metrics_of(result))
        self.listener.epoch(ledger.optimizer, number, epoch)

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        """Record a trial's checkpoint, and remove those before the last two."""
        ledger, number = self._ledger(trial)
        path = self.study.below_results(f"/{checkpoint.path}")
        try:
            if path is None:
                raise ValueError(f"{checkpoint.path} is not in the study's results")
            before = ledger.note_checkpoint(number, path)
        except Exception as error:
            # Tune ignores an exception here; the trial must not end with a value that its checkpoint lacks.
            self._lost[ledger.optimizer, number] = f"its checkpoint could not be noted ({error})"
            raise
        self._lost.pop((ledger.optimizer, number), None)
        # Tune's own `num_to_keep` would make it write the experiment's state each time.
        self._forget(before, needed=(path, *self._given(trial).resume_from))

    def _forget(self, kept: Iterable[str], needed: Iterable[str]) -> None:
        """Remove checkpoints, by what a record or a trial says of their places, unless one of those needed is the same.

        What a trial was resumed from stays until it ends: a new process of the trial would begin there again.
        """
        stay = {self.study.below_results(place) for place in needed}
        for path in dict.fromkeys(map(self.study.below_results, kept)):
            if path and path not in stay:
                delete(self.study, path)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """End a trial that did not fail, or put it back where a budget of the study interrupts it."""
        self.watch.forget(TrialConfig.identity(trial.config))
        (ledger, number), result = self._ledger(trial), trial.last_result or {}
        how = ending_of(result, self.study.settings.epochs)
        if how[0] == "pruned" and not ledger.pruned(number, result.get("epoch", 0)):
            self._put_back(trial)
        else:
            self._end(trial, how)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """End a trial that failed, or put it back where nothing is wrong with its training."""
        self._start(trial)  # a process that cannot even start gives no other sign
        (ledger, number), error = self._ledger(trial), error_of(trial)
        who = ledger.optimizer, number
        if isinstance(error, OSError) and error.errno in DISK:
            raise Stopped(
                f"trial {ledger.key(number)} stopped, for the disk takes no more ({error}); make room or mend it"
            )
        if overdue := self.watch.forget(who):
            self._end(trial, ("failed", overdue))
        elif who not in self._lost and self._died_of_no_fault(trial, error):
            self._resume(trial, self._death(trial, error))
        elif who not in self._lost and gpu_ran_out(error or failure_of(trial)):
            # Tune's own second try would have the same fraction again.
            gpus = gpus_of(trial)
            if 0 < gpus < 1 and not ledger.enlarged(number):
                self._resume(trial, f"{gpus:g} of a GPU has too little memory for it", gpus=min(1.0, 2 * gpus))
            else:
                self._end(trial, ("failed", OUT_OF_MEMORY))
        elif isinstance(error, RayActorError) and not could_not_start(error):
            tries = f"epoch {ledger.reported(number) + 1} was tried {DEATHS} times"
            self._end(trial, ("failed", f"{self._death(trial, error)}; {tries}"))
        else:
            self._end(trial, ("failed", failure_of(trial)))

    def _death(self, trial: Any, error: BaseException | None) -> str:
        """Say what ended a trial's process, as far as Ray and the process's last words tell."""
        log = read_log(self.study.log_place(*TrialConfig.identity(trial.config)))
        return death_of(error, last_attempt(log or ""))

    def _died_of_no_fault(self, trial: Any, error: BaseException | None) -> bool:
        """Whether a trial's process ended without an exception, as with its node, and not always at the same place."""
        if not isinstance(error, RayActorError) or could_not_start(error):
            return False
        ledger, number = self._ledger(trial)
        place = ledger.optimizer, number, ledger.reported(number)
        self._deaths[place] += 1
        return error.preempted or self._deaths[place] < DEATHS

    def _resume(self, trial: Any, why: str, gpus: float | None = None) -> None:
        """Let the search start a trial again, for nothing is wrong with its training."""
        ledger, number = self._ledger(trial)
        log.warning("trial %s is resumed%s: %s.", ledger.key(number), f" with {gpus:g}" if gpus else " elsewhere", why)
        self._put_back(trial, gpus)

    def _put_back(self, trial: Any, gpus: float | None = None) -> None:
        """Interrupt a trial, which is suggested again and resumed from its last checkpoint."""
        ledger, number = self._ledger(trial)
        self._forget(self._given(trial).resume_from, needed=ledger.checkpoints(number))
        ledger.suspend(number, gpus)
        self._started.discard((ledger.optimizer, number))
        self.listener.put_back(ledger.optimizer, number)

    def _start(self, trial: Any) -> None:
        who = TrialConfig.identity(trial.config)
        if who in self._started:
            return
        self._started.add(who)
        self.listener.started(*who)

    def _end(self, trial: Any, how: tuple[str, str]) -> None:
        (ledger, number), result = self._ledger(trial), trial.last_result or {}
        who = ledger.optimizer, number
        state, reason = ("failed", self._lost[who]) if who in self._lost else how
        outcome = Outcome(
            state=state,
            reason=reason,
            epochs=result.get("epoch") or ledger.reported(number),
            # An attempt that failed before its first epoch has no result, but the attempts before it may have had some.
            metrics=metrics_of(result) if "epoch" in result else ledger.reached(number),
            seconds=result.get("seconds") or ledger.trained(number) or None,
            node=result.get("node"),
            pid=result.get("pid"),
            precision=result.get("precision"),
            device=result.get("device"),
        )
        kept = ledger.checkpoints(number)
        ledger.end(number, outcome)
        if result.get("unperturbed"):
            log.warning(
                "trial %s: in %d first passes the gradient was zero or not finite and gave no direction to climb in; "
                "what followed is as with the base optimizer.",
                ledger.key(number),
                result["unperturbed"],
            )
        value = outcome.metrics.get(self.study.settings.judged_by) if state == "complete" else None
        self.meter.end(ledger.optimizer, state, value)
        self.listener.ended(ledger.optimizer, number, outcome)
        if kept and self._is_whole(kept[0]):
            self._forget((*kept[1:], *self._given(trial).resume_from), needed=kept[:1])

    def _is_whole(self, kept: str) -> bool:
        """Whether an ended trial's last checkpoint can be read, so that the one before is not needed any more."""
        place = self.study.checkpoint(kept)
        try:
            return place is not None and state_of(place) == "whole"
        except Refused as error:
            log.warning("%s", error)
            return False


def ending_of(result: dict[str, Any], epochs: int) -> tuple[str, str]:
    """Give our word for how a trial that did not fail ended, and why.

    Complete is what reached its epochs, whoever stopped it.
    """
    epoch = result.get("epoch", 0)
    if result.get("diverged"):
        return "diverged", f"a loss or a weight was not finite in epoch {epoch}"
    if epoch >= epochs:
        return "complete", ""
    return "pruned", f"not in the better half after epoch {epoch}"


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Choose the numbers of a result that the ledger gets."""
    return {name: value for name, value in result.items() if name.startswith(METRICS)}


def _turn(ledger: Ledger) -> tuple[bool, float]:
    """Sort an optimizer's ledger by whose turn it is: what was interrupted, then who has begun least of its budget."""
    return not ledger.waits, ledger.started / ledger.budget


class TuneSearcher(Searcher):
    """Gives the trials of a study to Tune. Its optimizers take turns, so that each has had as much whenever it ends.

    Endings are told by the driver's callback, which knows why a trial ended.

    Args:
        ledgers: of each optimizer, in the order in which they take turns.
        study: that they are of.
        meter: says when a budget of the study is spent.
        fractions: of a GPU for each optimizer and batch size; what the study says by default.
    """

    def __init__(
        self,
        ledgers: Mapping[str, Ledger],
        study: Study,
        meter: Meter,
        fractions: Mapping[str, Mapping[int, float]] | None = None,
    ) -> None:
        super().__init__()
        self.ledgers, self.study, self.meter = ledgers, study, meter
        self.fractions = fractions or {}

    def suggest(self, trial_id: str) -> Any:
        """Give the next trial's config; None to wait for those that run, `FINISHED` when there are no more."""
        for ledger in () if self.meter.ends() else sorted(self.ledgers.values(), key=_turn):
            if suggested := ledger.suggest(trial_id):
                return self._config(ledger, suggested)
        # What runs may be put back, and then it is suggested again.
        return None if any(ledger.running for ledger in self.ledgers.values()) else Searcher.FINISHED

    def _config(self, ledger: Ledger, suggested: Suggestion) -> dict[str, Any]:
        """Give what Tune carries of a suggested trial."""
        measured = self.fractions.get(ledger.optimizer, {})
        gpus = suggested.gpus or measured.get(suggested.configuration.batch_size)
        own = {} if gpus is None else {"gpus_per_trial": gpus}
        found = {kept: self.study.checkpoint(kept) for kept in suggested.resume_from}
        for kept in (kept for kept, place in found.items() if not place):
            log.warning(
                "trial %s is not resumed from a checkpoint outside its study's results, which its record names: %s.",
                ledger.key(suggested.number),
                kept,
            )
        return ledger.settings.trial(
            suggested.configuration,
            number=suggested.number,
            attempt=suggested.attempt,
            resume_from=tuple(place for place in found.values() if place),
            stop_after=suggested.stop_after,
            log=self.study.log_place(ledger.optimizer, suggested.number),
            **own,
        ).to_tune()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback ends trials, for it knows why they ended."""


class TuneScheduler(FIFOScheduler):
    """Stops a trial where its ledger or a budget says so, and ends the process of one that takes too long.

    The rungs are in Optuna's storage, so a resumed search knows them. A process may hang in native code, where nothing
    interrupts it, so it is killed; Tune takes that for a failure of the trial, and starts another process for the next.
    """

    def __init__(self, ledgers: Mapping[str, Ledger], watch: Watch[tuple[str, int]], meter: Meter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledgers, self.watch, self.meter = ledgers, watch, meter
        self._looks = Looks()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Record an epoch's value and stop the trial where the ledger says so, or a budget of the study is spent."""
        optimizer, number = TrialConfig.identity(trial.config)
        stop = self.ledgers[optimizer].report(number, result["epoch"], metrics_of(result))
        self.meter.epoch((optimizer, number), result["epoch"])
        return TrialScheduler.STOP if stop or self.meter.ends() else TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Kill the processes of trials that take too long; Tune asks here at least ten times a second."""
        self.watch.passes(self._looks.passed())
        for trial, process in processes(tune_controller).items():
            who = TrialConfig.identity(trial.config)
            self.watch.waits_for(who)
            if self.watch.overdue(who):
                ray.kill(process)
        return super().choose_trial_to_run(tune_controller)
