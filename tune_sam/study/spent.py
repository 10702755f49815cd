"""What a search has taken so far, and which of its budgets that ends."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from tune_sam.durations import OFF, written
from tune_sam.errors import Refused
from tune_sam.scores import standard_error
from tune_sam.settings import flag_of
from tune_sam.study.records import Study, attributes_in, stored
from tune_sam.study.settings import StudySettings

_SECONDS = "searched_s"
"""The attribute of a study's first optimizer that has the seconds in which the study was searched."""

_SAMPLES = "validation_samples"
"""That which has the size of the validation split."""


class Ended(NamedTuple):
    """Which budget ended a search before all of its trials had ended.

    Attributes:
        why: the rest of a sentence about the study.
        more: the option with which a person gives it more, such as `--time-budget 4h`.
    """

    why: str
    more: str


@dataclass
class Spent:
    """What a search has taken, over all its launches.

    Attributes:
        seconds: in which a process searched: not those between two launches, nor those before workers start.
        epochs: of each trial that has begun, by its optimizer and number.
        values: of each optimizer's trials in the order in which they ended, None for one that gave none. Those that
            failed are left out: they say nothing of what was tried.
        samples: of the validation split, which an accuracy is of; 0 if neither the ledger nor a workload tells.
    """

    seconds: float = 0.0
    epochs: dict[tuple[str, int], int] = field(default_factory=dict)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    samples: int = 0

    @classmethod
    def of(cls, study: Study) -> "Spent":
        """Read what the ledger of a study has."""
        trials = study.records()
        found = cls(noted_seconds(study), {(trial.optimizer, trial.number): trial.epochs for trial in trials})
        for trial in sorted(trials, key=lambda trial: (trial.ended or "", trial.number)):
            if trial.has_ended:
                found.end(trial.optimizer, trial.state, trial.value)
        found.samples = _noted_samples(study)
        return found

    def end(self, optimizer: str, state: str, value: float | None) -> None:
        """Count a trial that ended now, with its value if it is complete."""
        if state != "failed":
            self.values.setdefault(optimizer, []).append(value)

    def idle(self, settings: StudySettings) -> int:
        """Count the trials in which no optimizer's best has improved by more than its standard error.

        What counts is an improvement over the last one that did, so that many small ones together are one. Of a score
        whose error one training does not tell, any improvement counts.

        Returns:
            Of the optimizer that has the fewest such trials, for the others have been as idle as that.
        """
        score = settings.judged_by.partition("/")[2]

        def is_better(value: float, best: float | None) -> bool:
            if best is None:
                return True
            error = standard_error(score, best, self.samples) if self.samples else math.nan
            return settings.sign * (value - best) > (0.0 if math.isnan(error) else error)

        def idle(values: Sequence[float | None]) -> int:
            best, since = None, 0
            for value in values:
                if value is not None and is_better(value, best):
                    best, since = value, 0
                elif best is not None:
                    since += 1
            return since

        return min(idle(self.values.get(optimizer, ())) for optimizer in settings.optimizers)

    def leaves(self, settings: StudySettings, seconds: float, epochs: float) -> float:
        """Give the seconds after which a search ends, be it that a budget of time or of epochs is spent before.

        Args:
            settings: the study's.
            seconds: that its trials still take.
            epochs: that they are still trained for in these.
        """
        if settings.epoch_budget and epochs:
            seconds *= min(1.0, max(0, settings.epoch_budget - sum(self.epochs.values())) / epochs)
        return seconds if settings.time_budget == OFF else min(seconds, max(0.0, settings.time_budget - self.seconds))

    def ends(self, settings: StudySettings) -> Ended | None:
        """Say which budget of a study is spent; None while none is."""
        if OFF < settings.time_budget <= self.seconds:
            allowed = written(settings.time_budget)
            return _ended("time_budget", f"its time budget of {allowed} is spent", written(2 * math.ceil(self.seconds)))
        if 0 < settings.epoch_budget <= (trained := sum(self.epochs.values())):
            return _ended("epoch_budget", f"its budget of {settings.epoch_budget:,} epochs is spent", 2 * trained)
        if 0 < settings.patience <= (idle := self.idle(settings)):
            last = f"{settings.patience} trials" if settings.patience > 1 else "trial"
            why = f"no optimizer's best has improved by more than its standard error in its last {last}"
            return _ended("patience", why, 2 * idle)
        return None


def _ended(option: str, why: str, more: object) -> Ended:
    return Ended(why, f"{flag_of(option)} {more}")


def ended_by(study: Study) -> Ended | None:
    """Say which budget ended a search; None where none did, and where all of its trials have ended anyway."""
    settings = study.settings
    if settings.time_budget == OFF and not settings.epoch_budget and not settings.patience:
        return None
    ended = sum(trial.has_ended for trial in study.records())
    return Spent.of(study).ends(settings) if ended < settings.trials_in_all else None


def note_seconds(study: Study, seconds: float) -> None:
    """Keep the seconds in which a study was searched, by all its launches, in place of earlier ones."""
    storage, keeper = stored(study, study.settings.optimizers[0])
    storage.set_study_user_attr(keeper, _SECONDS, seconds)


def noted_seconds(study: Study) -> float:
    """Read what :func:`note_seconds` kept; 0 of a study that an earlier release searched.

    Raises:
        Refused: it is no number of seconds.
    """
    return float(_noted(study, _SECONDS, "it was searched for {} seconds") or 0.0)


def note_samples(study: Study) -> None:
    """Keep the size of the validation split, for those who read the study without its workload."""
    if samples := _samples(study):
        storage, keeper = stored(study, study.settings.optimizers[0])
        storage.set_study_user_attr(keeper, _SAMPLES, samples)


def _noted_samples(study: Study) -> int:
    """Read what :func:`note_samples` kept; of an earlier release what the workload says, and 0 if it is not known."""
    if (noted := _noted(study, _SAMPLES, "it was judged on {} samples")) is not None:
        return int(noted)
    return _samples(study)


def _samples(study: Study) -> int:
    with suppress(Refused, KeyError):  # a record can be read without the workload that it names
        return study.workload.datasets[study.settings.dataset].validation
    return 0


def _noted(study: Study, name: str, what: str) -> float | None:
    number = attributes_in(study, study.settings.optimizers[0]).get(name)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
        told = what.format(f"{number!r:.60}")
        raise Refused(f"the record of study {study.name} cannot be read ({told}); put back a copy of it.")
    return number
