"""A study's ledger, as MLflow should have it, delivered while the study is searched or afterwards."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tune_sam.config import TrainingSettings
from tune_sam.errors import Refused, masked
from tune_sam.home import Place
from tune_sam.study.epochs import epochs_in
from tune_sam.study.lock import study_lock
from tune_sam.study.records import Study, Trial, note_run, open_study, refits_of
from tune_sam.study.settings import ending
from tune_sam.study.storage import open_storage
from tune_sam.tracking import previous
from tune_sam.tracking.content import STATE_TAG, Point, StudyContent, TrialRun
from tune_sam.tracking.delivery import Delivery

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds that a search waits at its end for the tracking server; what is left then is delivered later."""


def sync(name: str, *, home: Place = None, patience: float = PATIENCE) -> int:
    """Deliver to MLflow what could not be delivered while trials of a study and of its refits ran.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        patience: seconds to wait for a server that is away, for each study.

    Returns:
        How many trials MLflow still lacks something of, each study itself counted as one; the ledger keeps everything.

    Raises:
        Refused: there is no such study, or another process uses it; a search delivers on its own.
    """
    study = open_study(name, home)
    left = 0
    for one in (study, *refits_of(study)):
        with study_lock(one.home, one.name):
            left += deliver(one, patience)
    return left


def deliver(study: Study, patience: float, *, restore: bool = False) -> int:
    """Deliver what MLflow lacks of a study whose lock this process holds.

    Args:
        study: whose ledger is delivered.
        patience: seconds to wait for a server that is away.
        restore: make runs anew that were deleted in MLflow.

    Returns:
        How many trials MLflow still lacks something of, the study itself counted as one.
    """
    delivery = _delivery(study, restore=restore)
    delivery.start()
    return _close(study, delivery, patience)


def adopt_epochs(study: Study) -> None:
    """Take the epochs of trials that release 0.1 trained from MLflow into the ledger, once.

    Where MLflow is away, a warning says so, and the next call tries again.
    """
    if study.versions:  # of this release: its ledger has every epoch there is
        return
    for trial in study.records():
        if trial.has_ended and trial.epochs and trial.mlflow_run_id and not study.history(trial):
            try:
                study.adopt(trial, previous.epochs_in_mlflow(study.mlflow, trial.mlflow_run_id))
            except Refused as error:
                log.warning("The epochs of %s are not in the study's ledger yet: %s", trial.key, error)
                return


@contextmanager
def tracked(study: Study) -> Iterator[None]:
    """Deliver to MLflow what a study's ledger gets, for the length of a launch. What is left at its end is kept."""
    delivery = _delivery(study)
    delivery.start()
    patience = 5.0  # after an interrupt or an error, nobody wants to wait long
    try:
        yield
        patience = PATIENCE
    finally:
        if left := _close(study, delivery, patience):
            log.warning(
                "MLflow at %s lacks results of %d trials of study %s; they are kept, and `tune-sam sync %s` delivers "
                "them.",
                masked(study.tracking_uri),
                left,
                study.name,
                study.name,
            )


def _delivery(study: Study, *, restore: bool = False) -> Delivery:
    content = Content(study)
    return Delivery(study.mlflow, study.mlflow_run, content, content.note_run, restore=restore)


def _close(study: Study, delivery: Delivery, patience: float) -> int:
    left = delivery.close(patience)
    if delivery.whole:
        previous.remove(study.home.study(study.name))
    return left


class Content:
    """What MLflow should have of a study, read from the ledger at each call; trials that have ended only once.

    Args:
        study: whose.
    """

    def __init__(self, study: Study) -> None:
        import optuna

        self.study = study
        self._storage = open_storage(study.home)
        self._loaded = {
            optimizer: optuna.load_study(study_name=f"{study.name}/{optimizer}", storage=self._storage)
            for optimizer in study.settings.optimizers
        }
        self._runs: dict[str, str] = study.run_ids()
        self._left = previous.points_left(study.home.study(study.name))
        self._ended: dict[str, TrialRun] = {}

    def __call__(self) -> StudyContent:
        """Read the ledger."""
        trials = tuple(
            self._trial_run(optimizer, frozen)
            for optimizer, loaded in self._loaded.items()
            for frozen in loaded.get_trials(deepcopy=False)
            if "attempt" in frozen.user_attrs  # it has begun
        )
        settings = self.study.settings
        whole = len(self._ended) >= sum(settings.budget(optimizer) for optimizer in settings.optimizers)
        return StudyContent("FINISHED" if whole else "RUNNING", trials)

    def note_run(self, key: str, run_id: str) -> None:
        """Keep the run that a trial has got."""
        self._runs[key] = run_id
        self._ended.pop(key, None)  # it has another run there
        note_run(self._storage, key, run_id)

    def _trial_run(self, optimizer: str, frozen: "FrozenTrial") -> TrialRun:
        trial = self.study.trial_of(optimizer, frozen, going=True)
        if trial.key in self._ended:
            return self._ended[trial.key]
        run = trial_run(self.study, trial, frozen.user_attrs, self._runs.get(trial.key))
        if left := self._left.get(trial.key):
            steps = {point.step for point in run.points}
            points = [*(point for point in left if point.step not in steps), *run.points]
            run = replace(run, points=tuple(sorted(points, key=lambda point: point.step)))
        if trial.has_ended:
            self._ended[trial.key] = run
        return run


def trial_run(study: Study, trial: Trial, attributes: Mapping[str, Any], run_id: str | None) -> TrialRun:
    """Say what MLflow should have of a trial that has begun.

    Args:
        study: the trial's.
        trial: its record.
        attributes: of its Optuna trial.
        run_id: of its run, if it has one.
    """
    assert trial.config is not None  # it has begun
    training = study.settings.trial(trial.config, number=trial.number)
    shared = {field.name: getattr(training, field.name) for field in fields(TrainingSettings)}
    about = {"tune_trial_id": attributes.get("tune_trial_id"), "seed": trial.config.seed, **shared}
    tags = {
        **attributes.get("versions", study.versions),
        **{f"tune_sam.{name}": value for name, value in {"optimizer": trial.optimizer, **about}.items()},
    }
    if trial.has_ended:
        tags |= {STATE_TAG: trial.state, "tune_sam.reason": trial.reason or None, "tune_sam.precision": trial.precision}
    return TrialRun(
        key=trial.key,
        name=f"{trial.optimizer} {trial.number}",
        run_id=run_id,
        params=_told({**asdict(trial.config), "epochs": training.epochs}),
        tags=_told(tags),
        points=_points(trial, attributes),
        status=ending(trial.state, trial.reason).mlflow if trial.has_ended else "RUNNING",
        start=_milliseconds(trial.started) or 0,
        end=_milliseconds(trial.ended),
    )


def _points(trial: Trial, attributes: Mapping[str, Any]) -> tuple[Point, ...]:
    """List the metrics of each epoch; of a trial that release 0.1 trained, the ledger has those of the last."""
    epochs = epochs_in(attributes)
    points = [
        Point(name, value, epoch.time, number)
        for number, epoch in epochs.items()
        for name, value in epoch.metrics.items()
    ]
    if not epochs:
        moment = _milliseconds(trial.ended) or 0
        points = [Point(name, value, moment, trial.epochs) for name, value in trial.metrics.items()]
    return tuple(points)


def _told(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}


def _milliseconds(moment: str | None) -> int | None:
    return round(datetime.fromisoformat(moment).timestamp() * 1000) if moment else None
