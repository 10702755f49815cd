"""Status: how far a study is, stage by stage, and about how long is left."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import fmean

from tune_sam.durations import OFF
from tune_sam.evaluation.refit import test_results
from tune_sam.evaluation.selection import were_given
from tune_sam.home import Place
from tune_sam.study.epochs import SECONDS
from tune_sam.study.lock import is_going
from tune_sam.study.records import Study, Trial, open_search, refits_of
from tune_sam.study.settings import StudySettings
from tune_sam.study.spent import Spent, ended_by, noted_seconds

STALLED, AT_LEAST = 10, 60.0
"""A trial is called stalled when it has ended no epoch for so many times the longest epoch, and for so many seconds."""


@dataclass(frozen=True)
class Running:
    """A trial that runs now.

    Attributes:
        key: the trial's.
        epochs, of: how many it has ended, and how many it is to train.
        waited: seconds since the last of them ended, or since the attempt was launched.
        longest: seconds of the longest epoch that is known of its study; None before one has ended.
        stalled: whether it has waited for many times that, so that it seems to hang.
    """

    key: str
    epochs: int
    of: int
    waited: float
    longest: float | None
    stalled: bool


@dataclass(frozen=True)
class Stage:
    """One stage of a study.

    Attributes:
        name: `search`, the name of a refit's study, `flatness` or `report`.
        done, parts: how much of it there is, and how much there will be; `parts` is 0 where it has not begun.
        unit: what is counted.
        left: seconds until it is done, if trainings take as long as those before; None where that cannot be said.
        going: whether a process is at it now. One that holds a study whose trainings and tests have ended is taken to
            measure it; it may also be delivering to MLflow, which takes up to a minute.
        running: the trials that run now.
        failed: why trials failed, by their keys.
        ended: which budget ended a search before its trials, as the rest of a sentence; empty where none did.
    """

    name: str
    done: int
    parts: int
    unit: str
    left: float | None = None
    going: bool = False
    running: tuple[Running, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    ended: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done of it."""
        return self.done >= self.parts or bool(self.ended)


def status(name: str, *, home: Place = None) -> tuple[Stage, ...]:
    """Show how far a study is, stage by stage; see :func:`stages`.

    Args:
        name: the study's, which is a search.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Returns:
        The stages in the order in which `tune-sam run` does them.

    Raises:
        Refused: there is no such study, or it is a refit.
    """
    return stages(open_search(name, home))


def stages(study: Study) -> tuple[Stage, ...]:
    """List the stages of a search, its refits and what is made of them, in the order in which `tune-sam run` does them.

    The time left takes each optimizer's mean over its complete trials, or, before it has one, the others' by the passes
    of a step. So it is too long where trials are pruned. It is no longer than the study's budgets of time and epochs
    leave. It takes as many trainings at a time as run now, or as this
    machine has room for.
    """
    own, children = study.home.study(study.name), refits_of(study)
    searched = not were_given(study)
    found = [_trainings("search", study)] if searched else []
    past = searched and _is_past(study, found[0])
    for child in children:
        trainings = _trainings(child.name, child)
        tested, trained = len(test_results(child)), _is_past(child, trainings)
        found += [
            trainings,
            Stage(
                f"{child.name}, test", tested, trainings.parts, "trainings", going=trained and tested < trainings.parts
            ),
        ]
        past = past or trained and tested == trainings.parts
    if not children:
        found.append(Stage("refit", 0, 0, "trainings"))
    analyses = [
        file
        for owner in (study, *children)
        for file in owner.home.study(owner.name).glob("flatness/*/analysis.json")
        if file.parent.suffix != ".unfinished"
    ]
    page = own / "report" / "index.html"
    return (
        *found,
        Stage("flatness", len(analyses), len(analyses), "analyses", going=past),
        Stage("report", int(page.exists()), int(page.exists()), "page"),
    )


def _is_past(study: Study, trainings: Stage) -> bool:
    """Whether a process is at what comes after a study's trainings, all of which have ended."""
    return trainings.is_over and is_going(study.home, study.name)


def _trainings(name: str, study: Study) -> Stage:
    trials, settings = study.records(), study.settings
    ended = [trial for trial in trials if trial.has_ended]
    parts = settings.trials_in_all
    running = sum(trial.state == "running" for trial in trials)
    at_once = running or max(1, int((os.cpu_count() or 1) / settings.cpus_per_trial))
    passes = [
        trial.seconds / settings.gradients_of(trial.optimizer)
        for trial in trials
        if trial.state == "complete" and trial.seconds is not None
    ]
    own = {optimizer: [trial for trial in trials if trial.optimizer == optimizer] for optimizer in settings.optimizers}
    missing = {optimizer: _missing(settings, optimizer, of_it) for optimizer, of_it in own.items()}
    left = None
    if passes or len(ended) == parts:
        times = (missing[optimizer] * _each(settings, optimizer, of_it, passes) for optimizer, of_it in own.items())
        seconds = noted_seconds(study) if settings.time_budget != OFF else 0.0
        spent = Spent(seconds, {(trial.optimizer, trial.number): trial.epochs for trial in trials})
        left = spent.leaves(settings, sum(times) / at_once, sum(missing.values()) * settings.epochs)
    budget = ended_by(study)
    return Stage(
        name,
        len(ended),
        parts,
        "trials",
        0.0 if budget else left,
        len(ended) < parts and not budget and is_going(study.home, study.name),
        () if budget else _running(study, trials),
        {trial.key: trial.reason for trial in trials if trial.state == "failed"},
        budget.why if budget else "",
    )


def _running(study: Study, trials: Sequence[Trial]) -> tuple[Running, ...]:
    """Say of each running trial how long it has ended no epoch, and whether that is much longer than one takes."""
    running = [trial for trial in trials if trial.state == "running" and trial.heard]
    known = [trial.metrics for trial in trials]
    for trial in running:
        known += study.history(trial).values()
    longest = max((metrics[SECONDS] for metrics in known if SECONDS in metrics), default=None)
    found = []
    for trial in running:
        assert trial.heard
        waited = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(trial.heard)).total_seconds())
        stalled = longest is not None and waited > max(STALLED * longest, AT_LEAST)
        found.append(Running(trial.key, trial.epochs, study.settings.epochs, waited, longest, stalled))
    return tuple(found)


def _missing(settings: StudySettings, optimizer: str, trials: Sequence[Trial]) -> float:
    """Count the whole trainings that an optimizer has before it; of a trial that runs or waits, what it has not."""
    begun = [trial for trial in trials if not trial.has_ended]
    missing = settings.trials_of(optimizer) - (len(trials) - len(begun))
    return missing - sum(trial.epochs / settings.epochs for trial in begun) if missing > 0 else 0.0


def _each(settings: StudySettings, optimizer: str, trials: Sequence[Trial], passes: Sequence[float]) -> float:
    """Expect the seconds of a whole training; 0 if no trial tells.

    `passes` has what each pass of a step costs over a whole training, in the study's complete trials.
    """
    whole = [trial.seconds for trial in trials if trial.state == "complete" and trial.seconds is not None]
    if not passes:
        return 0.0
    return fmean(whole) if whole else settings.gradients_of(optimizer) * fmean(passes)
