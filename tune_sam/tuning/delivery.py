"""A study's ledger, as MLflow should have it, delivered while the study is searched or afterwards."""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tune_sam.config import TrainingSettings
from tune_sam.errors import Refused, masked
from tune_sam.home import Place
from tune_sam.space import is_number, text_of_value
from tune_sam.study.epochs import adopted_attribute, epochs_in
from tune_sam.study.lock import study_lock
from tune_sam.study.optuna_internals import enqueued_point
from tune_sam.study.records import Study, Trial, find_study, note_run, open_study, refits_of
from tune_sam.study.settings import Kind, ending, trial_key
from tune_sam.study.spent import ended_by
from tune_sam.study.storage import open_storage
from tune_sam.study.summary import noted_summary
from tune_sam.tracking import previous, runs
from tune_sam.tracking.client import PARENT_TAG, make_usable
from tune_sam.tracking.content import LOG_TAG, STATE_TAG, DataSetInput, Point, RunContent, StudyContent
from tune_sam.tracking.delivery import Delivery
from tune_sam.tuning.plan import store, study_run

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


log = logging.getLogger(__name__)

LONGEST = 5000
"""Characters of a tag or a parameter; MLflow refuses a run's whole request for one of some thousands more."""

LONGEST_NAME = 250
"""Characters of a run's name, which MLflow's databases hold."""

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
            adopt_epochs(one)
            left += deliver(one, patience)
    return left


def restored(study: Study) -> Study:
    """Make anew what MLflow lost of a study as a whole, its database in a file or its run.

    What was trained and measured is not in it yet: :func:`deliver` gives it what the ledger has.

    Args:
        study: whose lock this process holds.

    Returns:
        The study with the run that it has now, which its record names, too.

    Raises:
        Refused: MLflow cannot be reached, or somebody deleted the experiment.
    """
    with study.home.made():
        make_usable(study.mlflow)
        if runs.restore_study_run(study.mlflow, study.mlflow_run):
            return study
        run = study_run(study.name, study.settings, study.home, study.mlflow)
    # Its results stay in the folder that has the name of the first run.
    again = replace(study, experiment_id=run.experiment_id, mlflow_run_id=run.run_id, folder=study.results_folder)
    store(again)
    log.warning(
        "Study %s has a new run in MLflow. Test results, flatness and the page are given to it by the commands that "
        "made them; none measures anything twice.",
        study.name,
    )
    return again


def deliver(study: Study, patience: float, *, restore: bool = False, thorough: bool = True) -> int:
    """Deliver what MLflow lacks of a study whose lock this process holds.

    Args:
        study: whose ledger is delivered.
        patience: seconds to wait for a server that is away.
        restore: make runs anew that were deleted in MLflow.
        thorough: look for every value of each epoch, at a request for each metric of each run; otherwise a run's tag is
            taken for it.

    Returns:
        How many trials MLflow still lacks something of, the study itself counted as one.
    """
    delivery = _delivery(study, restore=restore, thorough=thorough)
    delivery.start()
    return _close(study, delivery, patience)


def adopt_epochs(study: Study) -> None:
    """Take the epochs of trials that release 0.1 trained from MLflow and from its files into the ledger, once.

    Where MLflow is away, a warning says so, and the next call tries again.
    """
    if study.versions:  # of this release: its ledger has every epoch there is
        return
    left = previous.points_left(study.home.study(study.name))
    for trial in study.records():
        if trial.has_ended and trial.epochs and trial.mlflow_run_id and not study.history(trial):
            try:
                history = previous.epochs_in_mlflow(study.mlflow, trial.mlflow_run_id)
                for point in left.get(trial.key, []):
                    history.setdefault(point.step, {}).setdefault(point.name, point.value)
                study.adopt(trial, dict(sorted(history.items())))
            except Refused as error:
                log.warning("The epochs of %s are not in the study's ledger yet: %s", trial.key, error)
                return


def publish(study: Study, numbers: Mapping[str, Mapping[str, float]], step: int, files: Path, path: str) -> str:
    """Add files to a study's run and numbers to those of its trials, as :func:`tune_sam.tracking.runs.publish` does.

    Returns:
        Why MLflow does not have them; empty if it has.
    """
    try:
        runs.publish(study.mlflow, study.mlflow_run, numbers, step, files, path)
    except Refused as error:
        return str(error)
    return ""


@contextmanager
def tracked(study: Study) -> Iterator[None]:
    """Deliver to MLflow what a study's ledger gets, for the length of a launch. What is left at its end is kept."""
    delivery = _delivery(study)
    delivery.start()
    try:
        yield
    except BaseException:
        with suppress(Refused):  # of a ledger that cannot be read, which is what ended the launch
            _warn(study, _close(study, delivery, 5.0))  # nobody wants to wait long now
        raise
    _warn(study, _close(study, delivery, PATIENCE))


def _warn(study: Study, left: int) -> None:
    if left:
        log.warning(
            "MLflow at %s lacks results of %d trials of study %s; they are kept, and `tune-sam sync %s` delivers them.",
            masked(study.tracking_uri),
            left,
            study.name,
            study.name,
        )


def _delivery(study: Study, *, restore: bool = False, thorough: bool = False) -> Delivery:
    content = Content(study)
    return Delivery(study.mlflow, study.mlflow_run, content, content.note_run, restore=restore, thorough=thorough)


def _close(study: Study, delivery: Delivery, patience: float) -> int:
    left = delivery.close(patience)
    if not left:
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
        self._adopted = {
            f"{study.name}/{optimizer}": {} if study.versions else loaded.user_attrs
            for optimizer, loaded in self._loaded.items()
        }
        self._left = previous.points_left(study.home.study(study.name))
        self._ended: dict[str, RunContent] = {}
        self._best: dict[str, Trial] = {}
        self._summary = noted_summary(study)
        self._dataset = _dataset(study)
        self._parent = _parent(study)

    def __call__(self) -> StudyContent:
        """Read the ledger."""
        trials = tuple(
            self._run(optimizer, frozen)
            for optimizer, loaded in self._loaded.items()
            for frozen in loaded.get_trials(deepcopy=False)
            if self._has_begun(optimizer, frozen)
        )
        return StudyContent(self._own_run(), trials)

    def _own_run(self) -> RunContent:
        """Say what MLflow should have of the study as a whole."""
        study, settings = self.study, self.study.settings
        whole = len(self._ended) >= settings.trials_in_all
        budget = None if whole else ended_by(study)
        over = bool(whole or budget)
        return RunContent(
            key=study.name,
            name=study.name,
            run_id=study.mlflow_run_id,
            # MLflow never changes a parameter, and the search that a refit is of can be renamed: a tag says it.
            params=_told({"workload": settings.workload, **settings.described(), "refit_of": None}),
            tags=self._parent | {STATE_TAG: budget.why if budget else "complete" if whole else "running"},
            points=(),
            status="FINISHED" if over else "RUNNING",
            start=_milliseconds(study.created) or 0,
            end=max((run.end or 0 for run in self._ended.values()), default=None) if over else None,
            results={} if settings.refit_of else {**self._of_best(), **self._summary},
            dataset=self._dataset,
        )

    def _of_best(self) -> dict[str, float]:
        """Name the numbers of each optimizer's best trial, and, as every trial's run has them, those of the best."""
        numbers: dict[str, float] = {}
        # The last one's numbers stay: of equal ones the first optimizer's, as :meth:`Study.best` has it.
        bests = [self._best[name] for name in reversed(self.study.settings.optimizers) if name in self._best]
        for trial in sorted(bests, key=self._how_good):
            assert trial.config is not None  # it is complete
            shown = _of_the_best(self.study.settings.score)
            judged = {name: value for name, value in trial.metrics.items() if name in shown}
            numbers |= judged
            numbers |= {
                f"best/{trial.optimizer}/{name.replace('/', '_')}": float(value)
                for name, value in {**judged, **trial.config.point}.items()
                if is_number(value)
            }
        return _finite(numbers)

    def _has_begun(self, optimizer: str, frozen: "FrozenTrial") -> bool:
        """Whether a trial has begun, and was read whole: Optuna reads its parameters before its attributes."""
        space = self.study.settings.spaces[optimizer]
        needed = {*space.domains_of(enqueued_point(frozen))} | ({"seed"} if space.seeded else set())
        return "attempt" in frozen.user_attrs and (frozen.state.is_finished() or needed <= frozen.params.keys())

    def note_run(self, key: str, run_id: str) -> None:
        """Keep the run that a trial has got."""
        self._runs[key] = run_id
        self._ended.pop(key, None)  # it has another run there
        note_run(self._storage, key, run_id)

    def _run(self, optimizer: str, frozen: "FrozenTrial") -> RunContent:
        if ended := self._ended.get(trial_key(self.study.name, optimizer, frozen.number)):
            return ended
        trial = self.study.trial_of(optimizer, frozen, going=True)
        adopted = self._adopted[trial.key.rpartition("/")[0]].get(adopted_attribute(trial.number), {})
        run = trial_run(self.study, trial, frozen.user_attrs, self._runs.get(trial.key), adopted)
        run = replace(run, dataset=self._dataset)
        if left := self._left.get(trial.key):
            there = {(point.name, point.step) for point in run.points}
            points = [*(point for point in left if (point.name, point.step) not in there), *run.points]
            run = replace(run, points=tuple(sorted(points, key=lambda point: point.step)))
        if trial.has_ended:
            self._ended[trial.key] = run
            if trial.value is not None:
                # They end in any order, and of equal ones the first is the best.
                so_far = self._best.get(optimizer, trial)
                self._best[optimizer] = max(so_far, trial, key=lambda one: (self._how_good(one), -one.number))
        return run

    def _how_good(self, trial: Trial) -> float:
        assert trial.value is not None  # it is complete
        return self.study.settings.sign * trial.value


def _of_the_best(score: str) -> tuple[str, ...]:
    """List the metrics of the best trials that a study's own run has."""
    return f"val/{score}", "val/loss", "val/sharpness", f"gap/{score}"


def _dataset(study: Study) -> DataSetInput | None:
    """Describe the data set that the study's trainings are given; None if its workload cannot be used here."""
    settings = study.settings
    try:
        sizes = study.workload.datasets[settings.dataset]
    except (Refused, KeyError):
        return None
    other = {"validation": sizes.validation} if settings.kind == "search" else {"test": sizes.test}
    splits = {"train": settings.trained_samples(sizes), **other}
    profile = splits | ({"classes": sizes.classes} if sizes.classes else {})
    what = [settings.workload, settings.dataset, settings.label_noise, profile]
    what += [settings.split_seed] if settings.split_seed else []  # as it was before there was another
    return DataSetInput(settings.dataset, hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8], profile)


def _parent(study: Study) -> dict[str, str]:
    """Give the tag that puts a refit's own run below that of its search; none of a search."""
    search = find_study(study.settings.refit_of, study.home) if study.settings.refit_of else None
    return {PARENT_TAG: search.mlflow_run_id} if search and search.experiment_id == study.experiment_id else {}


def trial_run(
    study: Study,
    trial: Trial,
    attributes: Mapping[str, Any],
    run_id: str | None,
    adopted: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> RunContent:
    """Say what MLflow should have of a trial that has begun.

    Args:
        study: the trial's.
        trial: its record.
        attributes: of its Optuna trial.
        run_id: of its run, if it has one.
        adopted: the metrics of each epoch that release 0.1 trained, where the ledger has got them since.
    """
    assert trial.config is not None  # it has begun
    training = study.settings.trial(trial.config, number=trial.number)
    shared = {field.name: getattr(training, field.name) for field in fields(TrainingSettings)}
    about = {"tune_trial_id": attributes.get("tune_trial_id"), "seed": trial.config.seed, **shared}
    tags = {
        **attributes.get("versions", study.versions),
        **{f"tune_sam.{name}": value for name, value in {"optimizer": trial.optimizer, **about}.items()},
    }
    retried = attributes.get("retried")  # so that its run says already how it had failed
    if trial.has_ended or retried:
        reason = trial.reason if trial.reason or retried else None
        tags |= {STATE_TAG: trial.state, "tune_sam.reason": reason, "tune_sam.precision": trial.precision}
    if trial.log and (trial.state == "failed" or retried):
        tags[LOG_TAG] = trial.log_command if trial.state == "failed" else ""
    return RunContent(
        key=trial.key,
        name=run_name(trial, study.settings.kind),
        run_id=run_id,
        params=_told(
            {
                "optimizer": trial.optimizer,
                **trial.config.point,
                "seed": trial.config.seed,
                "epochs": training.epochs,
            }
        ),
        tags=_told(tags),
        points=_points(trial, attributes, adopted),
        status=ending(trial.state, trial.reason).mlflow if trial.has_ended else "RUNNING",
        start=_milliseconds(trial.started) or 0,
        end=_milliseconds(trial.ended),
    )


def run_name(trial: Trial, kind: Kind) -> str:
    """Name the run of a trial by its configuration, as `sam 3 ρ=0.05 lr=0.0081 b=64`; those of a refit by seed, too."""
    config = trial.config
    assert config is not None  # it has begun
    rho = [f"ρ={config.rho:.3g}"] if config.rho is not None else []
    seed = [f"seed={config.seed}"] if kind != "search" else []
    more = [f"{name}={text_of_value(value, 3)}" for name, value in config.more.items()]
    words = (trial.optimizer, str(trial.number), *rho, f"lr={config.lr:.3g}", f"b={config.batch_size}", *more, *seed)
    return " ".join(words)[:LONGEST_NAME]


def _points(
    trial: Trial, attributes: Mapping[str, Any], adopted: Mapping[str, Mapping[str, float]]
) -> tuple[Point, ...]:
    """List the metrics of each epoch; of a trial that release 0.1 trained, the ledger may have those of the last."""
    if epochs := epochs_in(attributes):
        return tuple(
            Point(name, value, epoch.time, number)
            for number, epoch in epochs.items()
            for name, value in _finite(epoch.metrics).items()
        )
    moment = _milliseconds(trial.ended) or 0
    known = {int(number): metrics for number, metrics in adopted.items()} or {trial.epochs: trial.metrics}
    return tuple(
        Point(name, value, moment, number)
        for number, metrics in known.items()
        for name, value in _finite(metrics).items()
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what is not finite, which is no measurement."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _told(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value)[:LONGEST] for name, value in values.items() if value is not None}


def _milliseconds(moment: str | None) -> int | None:
    return round(datetime.fromisoformat(moment).timestamp() * 1000) if moment else None
