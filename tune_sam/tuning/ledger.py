"""The trials of a search in Optuna's storage: what is suggested, and what came of it, honestly.

Ray's own adapter tells Optuna less than the truth: a trial stopped early becomes COMPLETE with its early value, a NaN
leaves it RUNNING for ever, and nothing links it to the Tune trial. Here a :class:`Ledger` asks and tells Optuna
directly; the adapters between it and Tune stand in :mod:`tune_sam.tuning.callback`.
"""

import zlib
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from tune_sam.config import TrialConfig
from tune_sam.errors import Refused, Stopped, masked
from tune_sam.provenance import versions
from tune_sam.schedules import milestones
from tune_sam.space import MAX_SEED, Choice, Configuration, Domain, LogRange, Space, Value
from tune_sam.study.checkpoints import BEFORE, LAST, checkpoints_in
from tune_sam.study.epochs import SECONDS, epoch_attribute, epochs_in
from tune_sam.study.optuna_internals import begun, enqueued_point, reopened
from tune_sam.study.optuna_storage import Transactions
from tune_sam.study.settings import OUT_OF_MEMORY, StudySettings, ending, now, trial_key
from tune_sam.tuning.history import InMemory, trials_before
from tune_sam.tuning.seeding import seeds_in
from tune_sam.tuning.strategies import BRACKETS, TELLING, pruner, sampler

OWN = "own"
"""The attribute of a trial that a person enqueued, which comes before grid points that wait."""


@dataclass(frozen=True)
class Suggestion:
    """A trial to run.

    Attributes:
        number: the trial's.
        configuration: what it is given.
        attempt: 1, and one more for each time it was interrupted.
        resume_from: its checkpoints, the last first, if it was interrupted and had some.
        gpus: its fraction of a GPU, if an earlier attempt found that it needs more than the study's.
        stop_after: epoch after which it was to stop before it was interrupted, if it was.
    """

    number: int
    configuration: Configuration
    attempt: int
    resume_from: tuple[str, ...] = ()
    gpus: float | None = None
    stop_after: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, as it is told.

    Attributes:
        state: one of :data:`tune_sam.study.settings.ENDINGS`.
        reason: why it did not end complete; empty otherwise.
        epochs: trained.
        metrics: of the last epoch; empty if the training diverged or failed in its first.
        seconds: spent in its epochs, over all attempts; None if none ended.
        node, pid: Ray's node id and the process.
        precision: of the network's passes, `bf16` or `fp32`; None if no epoch ended.
        device: the name of the GPU, or `CPU`; None if no epoch ended.
    """

    state: str
    reason: str
    epochs: int
    metrics: dict[str, float]
    seconds: float | None
    node: str | None
    pid: int | None
    precision: str | None = None
    device: str | None = None


@dataclass
class _Running:
    """A trial that was suggested and has not ended. What the storage has of it is kept here, not read again.

    Attributes:
        trial: Optuna's.
        epochs: whose metrics the storage has.
        reported: the last epoch whose objective the storage has.
        checkpoints: that are kept of it, the last first.
        stop_after: the epoch after which it is to stop; None while that is open.
        enlarged: whether it has a larger fraction of a GPU than the study's.
        seconds: that its epochs took.
    """

    trial: optuna.Trial
    epochs: set[int]
    reported: int
    checkpoints: tuple[str, ...]
    stop_after: int | None
    enlarged: bool
    seconds: float


Words = ParamSpec("Words")
Result = TypeVar("Result")


def _stopping(
    method: Callable[Concatenate["Ledger", Words], Result],
) -> Callable[Concatenate["Ledger", Words], Result]:
    """Have a method of a ledger stop the search where the storage refuses.

    Tune takes an exception in a callback for a trial's, or for nothing: a trial would be failed because the storage was
    away for a moment.
    """

    @wraps(method)
    def stopping(ledger: "Ledger", /, *words: Words.args, **options: Words.kwargs) -> Result:
        try:
            return method(ledger, *words, **options)
        except Refused as error:
            raise Stopped(str(error).rstrip(".")) from error

    return stopping


class Ledger:
    """The trials of one optimizer of a study, in Optuna's storage.

    A trial is in the storage before it runs, each of its epochs is there before the next, and it ends there once, each
    in one transaction. So whatever kills the driver, the next one finds what was interrupted and gives it out first.

    Args:
        storage: Optuna's.
        study: name of the study.
        optimizer: one of the study's.
        settings: the study's.
    """

    def __init__(self, storage: RDBStorage, study: str, optimizer: str, settings: StudySettings) -> None:
        self.study, self.optimizer, self.settings = study, optimizer, settings
        self.space: Space = settings.spaces[optimizer]
        self.budget = settings.trials_of(optimizer)
        self._storage = Transactions(storage, f"{study}/{optimizer}")
        self._optuna = optuna.load_study(study_name=f"{study}/{optimizer}", storage=self._storage)
        self._optuna.pruner = self._pruner()
        self._seeds = seeds_in(self._optuna.user_attrs, study)
        self._running: dict[int, _Running] = {}
        settle(self._optuna, settings)
        # Taken once: later on, RUNNING trials are this launch's own.
        self._interrupted = list(reversed(self._in_state(TrialState.RUNNING)))
        # Counted from here on: Tune asks for a trial ten times a second, and nobody else starts one of a locked study.
        self._started = len(self._optuna.get_trials(deepcopy=False)) - len(self._in_state(TrialState.WAITING))
        self._storage.retried(self._enqueue_grid)

    def _enqueue_grid(self) -> None:
        for point in self.space.grid[: self.budget]:
            # Where points of a person's own take the places of the grid's, these would wait for ever.
            if len(self._optuna.get_trials(deepcopy=False)) < self.budget:
                self._optuna.enqueue_trial(point, skip_if_exists=True)

    def try_again(self, seeds: Container[int]) -> None:
        """Put back the trials that failed: with their node, memory or disk, mostly, which may be mended.

        In a search another configuration is as good; of a refit each point was given, with its seed. The record of how
        a trial failed stays until it ends again.

        Args:
            seeds: of the trials.
        """
        with self._storage.transaction():
            for one in self._optuna.get_trials(deepcopy=False):
                if one.user_attrs.get("state") == "failed" and one.params.get("seed") in seeds:
                    self._storage.run_again(one.number, {"state": None, "retried": True})
        self._interrupted = list(reversed(self._in_state(TrialState.RUNNING)))

    @property
    def needed(self) -> int:
        """The budget with which all points of a person's own are tried."""
        return trials_needed(self._optuna)

    @property
    def open(self) -> int:
        """Trials that are still to be started or to be finished."""
        finished = len(self._optuna.get_trials(deepcopy=False)) - len(
            self._in_state(TrialState.WAITING) + self._in_state(TrialState.RUNNING)
        )
        return max(self.budget - finished, 0)

    def key(self, number: int) -> str:
        """Give the key of a trial."""
        return trial_key(self.study, self.optimizer, number)

    @_stopping
    def suggest(self, tune_trial_id: str) -> Suggestion | None:
        """Suggest the next trial: one that was interrupted, else a new one; None when the budget is spent."""
        if self._interrupted:
            frozen = self._interrupted.pop()
            self._reseed(frozen.number)
            with self._storage.transaction():
                return self._launch(reopened(self._optuna, frozen), tune_trial_id)
        if self._started >= self.budget:
            return None
        self._storage.refresh()
        suggestion = self._storage.retried(lambda: self._launch(self._begun(), tune_trial_id))
        self._started += 1
        return suggestion

    def _begun(self) -> optuna.Trial:
        """Begin a new trial: the first that a person enqueued, or that of the grid or the sampler."""
        self._reseed(self._started)
        own = own_points(self._optuna)
        return begun(self._optuna, own[0]) if own else self._optuna.ask()

    def _launch(self, trial: optuna.Trial, tune_trial_id: str) -> Suggestion:
        """Give a trial what it lacks before it runs."""
        configuration = self._suggest(trial)
        known = trial.user_attrs
        steps = self._storage.get_trial(trial.number).intermediate_values
        self._running[trial.number] = _Running(
            trial,
            epochs=set(epochs_in(known)),
            # Release 0.1 kept no epochs here, but the objective's values, or with two objectives the last epoch.
            reported=max(steps, default=known.get("epoch", 0)),
            checkpoints=checkpoints_in(known),
            stop_after=known.get("stop_after"),
            enlarged="gpus" in known,
            seconds=sum(epoch.metrics.get(SECONDS, 0) for epoch in epochs_in(known).values()),
        )
        attempt = known.get("attempt", 0) + 1
        if attempt == 1:
            trial.set_user_attr("key", self.key(trial.number))
            trial.set_user_attr("started", now())
        trial.set_user_attr("tune_trial_id", tune_trial_id)
        trial.set_user_attr("launched", now())
        trial.set_user_attr("versions", versions())
        trial.set_user_attr("attempt", attempt)
        places, gpus, stop_after = checkpoints_in(known), known.get("gpus"), known.get("stop_after")
        return Suggestion(trial.number, configuration, attempt, places, gpus, stop_after)

    def began(self, number: int) -> str:
        """Give when a running trial began, ISO 8601, UTC."""
        when: str = self._running[number].trial.user_attrs["started"]
        return when

    def note_elsewhere(self, number: int, made: dict[str, str], machine: dict[str, Any]) -> None:
        """Keep that a running trial is trained elsewhere: with which versions, and on which machine."""
        trial = self._running[number].trial
        trial.set_user_attr("versions", made)
        trial.set_user_attr("machine", machine)

    def sample(self) -> TrialConfig:
        """Give a trial that stands for all in what a step takes of a device."""
        point = {name: domain.start for name, domain in self.space.domains.items()}
        return self.settings.trial(Configuration.at(self.optimizer, point))

    @_stopping
    def suspend(self, number: int, gpus: float | None = None) -> None:
        """Put a trial back that its node or its GPU fraction has failed, not its training: it is suggested next.

        Args:
            number: the trial's.
            gpus: the fraction that it has from now on; as before by default.
        """
        trial = self._running.pop(number).trial
        if gpus is not None:
            trial.set_user_attr("gpus", gpus)
        self._interrupted.append(next(one for one in self._in_state(TrialState.RUNNING) if one.number == number))

    def enlarged(self, number: int) -> bool:
        """Say whether a trial has a larger fraction of a GPU than the study's already."""
        return self._running[number].enlarged

    @property
    def started(self) -> int:
        """Trials that were suggested, by all launches."""
        return self._started

    @property
    def waits(self) -> bool:
        """Whether a trial that was interrupted waits to be suggested again."""
        return bool(self._interrupted)

    @property
    def running(self) -> int:
        """Trials that were suggested here and have not ended."""
        return len(self._running)

    def checkpoints(self, number: int) -> tuple[str, ...]:
        """Say where the checkpoints are that are kept of a running trial, the last first."""
        return self._running[number].checkpoints

    @_stopping
    def note_checkpoint(self, number: int, place: str) -> tuple[str, ...]:
        """Keep where a trial's last checkpoint is, beside the one before, and give the places of those before both.

        Nobody knows yet that the last one can be read: what is written is not always on the disk.
        """
        running = self._running[number]
        kept = (place, *(before for before in running.checkpoints if before != place))
        with self._storage.transaction():
            if len(kept) > 1:
                running.trial.set_user_attr(BEFORE, kept[1])
            running.trial.set_user_attr(LAST, place)
        running.checkpoints = kept[:2]
        return kept[2:]

    def pruned(self, number: int, epoch: int) -> bool:
        """Say whether a running trial was to stop after this epoch, or before."""
        stop_after = self._running[number].stop_after
        return stop_after is not None and epoch >= stop_after

    @_stopping
    def report(self, number: int, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Keep the metrics of an epoch, and say whether the trial should stop here.

        Of an epoch that is trained again after an interrupt, the first metrics stay.
        """
        with self._storage.transaction():
            return self._report(self._running[number], epoch, metrics)

    def _report(self, running: _Running, epoch: int, metrics: Mapping[str, float]) -> bool:
        if epoch not in running.epochs:
            running.trial.set_user_attr(*epoch_attribute(epoch, metrics))
            running.epochs.add(epoch)
            running.seconds += metrics.get(SECONDS, 0)
        new = epoch > running.reported
        running.reported = max(running.reported, epoch)
        if len(self.settings.directions) > 1:  # Optuna takes no steps of such trials, and prunes none
            return False
        if new:
            running.trial.report(metrics[self.settings.judged_by], epoch)
        if running.stop_after is not None:  # decided before an interrupt; the pruner would judge the next rung
            return epoch >= running.stop_after
        stop = epoch < self.settings.epochs and running.trial.should_prune()
        if stop:
            running.trial.set_user_attr("stop_after", epoch)
            running.stop_after = epoch
        return stop

    def reported(self, number: int) -> int:
        """Give the last epoch of a trial that the storage knows."""
        running = self._running[number]
        return max(running.reported, *running.epochs, 0)

    def trained(self, number: int) -> float:
        """Give the seconds that the epochs of a running trial took, over all attempts."""
        return self._running[number].seconds

    def reached(self, number: int) -> dict[str, float]:
        """Give the metrics of the last epoch of a running trial that the storage knows; none before its first."""
        epochs = epochs_in(self._storage.get_trial(number).user_attrs)
        return epochs[max(epochs)].metrics if epochs else {}

    @_stopping
    def end(self, number: int, outcome: Outcome) -> None:
        """End a trial: its record and its state in one."""
        trial = self._running.pop(number).trial
        record = {**asdict(outcome), "reason": masked(outcome.reason), "ended": now()}
        with self._storage.transaction():
            trial.set_user_attr("record", record)
            # TPE never sees a FAIL and would sample there again; a violated constraint it avoids.
            if outcome.state == "diverged":
                trial.set_constraint("diverged", 1.0)
            elif outcome.reason == OUT_OF_MEMORY:
                trial.set_constraint("memory", 1.0)
            trial.set_user_attr("state", outcome.state)
            _close(self._optuna, self.settings, trial.number, record)

    def _suggest(self, trial: optuna.Trial) -> Configuration:
        domains = self.space.domains_of(enqueued_point(self._storage.get_trial(trial.number)))
        point = {name: _suggested(trial, name, domain) for name, domain in domains.items()}
        seed = trial.suggest_int("seed", 0, MAX_SEED) if self.space.seeded else self.settings.seed + trial.number
        return Configuration.at(self.optimizer, point, seed)

    def _reseed(self, number: int) -> None:
        """Seed the sampler: its draw depends on seed, optimizer, number and the history, and on no earlier launch."""
        of_study = (self.settings.seed, zlib.crc32(self.optimizer.encode()))
        own, common = (int(np.random.SeedSequence(one).generate_state(1)[0]) for one in ((*of_study, number), of_study))
        made = sampler(self.settings.sampler, own, common)
        if self._seeds or self.settings.sampler in TELLING:
            trials = [*self._seeds, *trials_before(self._optuna, number)]
            tell = TELLING.get(self.settings.sampler)
            told = tell(trials, self._optuna.directions) if tell else trials
            made = InMemory(made, told, self.space, own)
        self._optuna.sampler = made

    def _pruner(self) -> optuna.pruners.BasePruner:
        # The first rung is the first epoch at the lower rate: before that, large rates look worse than they are.
        first = (milestones(self.settings.epochs) or [self.settings.epochs])[0] + 1
        brackets = self._optuna.user_attrs.get(BRACKETS, self._optuna.study_name)
        return pruner(self.settings.scheduler, first, self.settings.epochs, brackets)

    def _in_state(self, state: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self._optuna.get_trials(deepcopy=False, states=(state,))


def _suggested(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    if isinstance(domain, Choice):
        value: Value = trial.suggest_categorical(name, domain.values)  # type: ignore[assignment]  # no None among them
        return value
    return trial.suggest_float(name, domain.low, domain.high, log=isinstance(domain, LogRange))


def own_points(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Find the trials of one optimizer that a person enqueued and that wait, the first at first."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [frozen for frozen in waiting if OWN in frozen.user_attrs]


def trials_needed(study: optuna.Study) -> int:
    """Count the trials of one optimizer that have begun, and those that a person enqueued."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return len(study.get_trials(deepcopy=False)) - len(waiting) + len(own_points(study))


def settle(study: optuna.Study, settings: StudySettings) -> None:
    """Close the trials of one optimizer whose driver, of an earlier release, died between the record and the state."""
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("state"):  # None where it is tried again
            _close(study, settings, frozen.number, frozen.user_attrs["record"])


def _close(study: optuna.Study, settings: StudySettings, number: int, record: dict[str, Any]) -> None:
    state, metrics = record["state"], record["metrics"]
    values = [metrics[name] for name in settings.directions] if state == "complete" else None
    study.tell(number, values, TrialState[ending(state, record["reason"]).optuna])
