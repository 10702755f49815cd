"""Whether Optuna, MLflow and Ray's results say the same about every trial of a study, and mending where they do not.

They can differ only after something broke: a driver that was killed, a server that was away, a run that somebody
deleted. Optuna's storage, the ledger, is the one that is right: every event is there first, and MLflow is given it from
there.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from tune_sam.cluster import results
from tune_sam.home import Place
from tune_sam.study.lock import is_going, study_lock
from tune_sam.study.records import Study, Trial, open_study, refits_of
from tune_sam.study.settings import ending
from tune_sam.study.storage import open_storage
from tune_sam.tracking import previous
from tune_sam.tracking.client import StudyRun
from tune_sam.tracking.content import RunState
from tune_sam.tracking.runs import run_states
from tune_sam.tuning.delivery import Content, deliver
from tune_sam.tuning.ledger import settle

PATIENCE = 60.0
"""Seconds to wait for the tracking server while mending."""


@dataclass(frozen=True)
class Diagnosis:
    """One trial, or a study's parent run.

    Attributes:
        key: the trial's, or the study's name.
        state: our word.
        optuna, mlflow, ray: what each ledger says; None where it has no record.
        trouble: where they contradict each other; empty where they agree.
        runs: that MLflow has of it.
    """

    key: str
    state: str
    optuna: str | None
    mlflow: str | None
    ray: str | None
    trouble: str = ""
    runs: int = 1


def doctor(name: str, *, home: Place = None, fix: bool = False) -> tuple[Diagnosis, ...]:
    """Compare what Optuna, MLflow and Ray's results say of every trial of a study and of its refits.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        fix: also :func:`mend` what differs.

    Returns:
        What each says of each trial and study; `trouble` is empty where they agree.

    Raises:
        Refused: there is no such study, or a record cannot be read; with `fix`, also if a process is searching it now.
    """
    return mend(name, home=home) if fix else diagnose(name, home=home)


def diagnose(name: str, *, home: Place = None) -> tuple[Diagnosis, ...]:
    """Each trial of a study and of its refits, and each of these studies, in all ledgers.

    A trial that waits to be resumed agrees, for `resume` or the same command finishes it.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Raises:
        Refused: there is no such study, or a ledger cannot be read.
    """
    study = open_study(name, home)
    return tuple(one for part in (study, *refits_of(study)) for one in _examined(part, is_going(part.home, part.name)))


def mend(name: str, *, home: Place = None) -> tuple[Diagnosis, ...]:
    """Close in each ledger what Optuna's storage says has ended, deliver what MLflow has missed, and diagnose again.

    No trial is ended that could be resumed, nothing is deleted, and Tune's own files stay as they are. Which of
    two runs of one trial is right, a person has to say.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Raises:
        Refused: there is no such study, a process drives it now, or a ledger cannot be read.
    """
    study = open_study(name, home)
    for part in (study, *refits_of(study)):
        with study_lock(part.home, part.name):
            _settle(part)
            deliver(part, PATIENCE, restore=True)
            ill = {one.key: one for one in _examined(part, going=False) if one.trouble}
            ended = {
                trial.key: ending(trial.state, trial.reason).tune
                for trial in part.records()
                if trial.key in ill and trial.has_ended
            }
            if lagging := {key: status for key, status in ended.items() if ill[key].ray != status}:
                results.close(part, lagging)
    return diagnose(name, home=home)


def _examined(study: Study, going: bool) -> list[Diagnosis]:
    """Diagnose a study and its trials; `going` says whether another process drives it."""
    status, of_trials = run_states(study.tracking_uri, StudyRun(study.experiment_id, study.mlflow_run_id))
    tune, trials = results.tune_states(study), study.records()
    optuna = _optuna_states(study)  # after the trials, so that it has each of them
    judged_by = study.settings.judged_by
    # What is on its way while the study is searched is not missing.
    epochs = {} if going else {run.key: {point.step for point in run.points} for run in Content(study)().trials}
    found = [
        _of_trial(
            trial,
            optuna[trial.key],
            of_trials.pop(trial.key, []),
            tune.get(trial.key),
            judged_by,
            epochs.get(trial.key, set()),
        )
        for trial in trials
    ]
    found += [
        Diagnosis(key or "a run without a key", "unknown", None, each[0].status, tune.get(key), "MLflow alone knows it")
        for key, each in of_trials.items()
    ]
    open_trials = sum(study.settings.budget(optimizer) for optimizer in study.settings.optimizers) - sum(
        trial.has_ended for trial in trials
    )
    state = "running" if going else "waiting" if open_trials else "complete"
    return [*found, Diagnosis(study.name, state, None, status, None, _trouble_of_study(study, state, status))]


def _trouble_of_study(study: Study, state: str, status: str) -> str:
    if state == "running":
        return ""
    wanted = "FINISHED" if state == "complete" else "RUNNING"
    left = previous.points_left(study.home.study(study.name))
    return "; ".join(
        [f"MLflow says {status}, not {wanted}"] * (status != wanted)
        + [f"MLflow lacks what release 0.1 left of {len(left)} trials"] * bool(left)
    )


def _of_trial(
    trial: Trial, optuna: str, runs: Sequence[RunState], ray: str | None, judged_by: str, epochs: Set[int]
) -> Diagnosis:
    troubles = []
    for run in runs:
        lacking = [] if run.step is None else [epoch for epoch in epochs if epoch > run.step]
        troubles += [f"MLflow lacks {len(lacking)} of {len(epochs)} epochs"] * bool(lacking)
    if trial.has_ended:
        wanted = ending(trial.state, trial.reason)
        troubles += [f"Optuna says {optuna}, not {wanted.optuna}"] * (optuna != wanted.optuna)
        troubles += [f"Ray says {ray or 'nothing'}, not {wanted.tune}"] * (ray != wanted.tune)
        value = trial.metrics.get(judged_by)
        for run in runs:
            troubles += [f"MLflow says {run.status}, not {wanted.mlflow}"] * (run.status != wanted.mlflow)
            troubles += [f"MLflow says {run.state or 'nothing'}, not {trial.state}"] * (run.state != trial.state)
            other = value is not None and run.metrics.get(judged_by) != value
            troubles += [f"MLflow has another {judged_by}"] * other
        troubles += ["MLflow has no run"] * (not runs)
    else:
        troubles += [f"MLflow says {run.status}, but it has not ended" for run in runs if run.status != "RUNNING"]
        troubles += ["Ray says TERMINATED, but it has not ended"] * (ray == "TERMINATED")
    troubles += [f"MLflow has {len(runs)} runs"] * (len(runs) > 1)
    if runs and not any(run.run_id == trial.mlflow_run_id for run in runs):
        troubles.append("its run in MLflow is another")
    return Diagnosis(
        trial.key, trial.state, optuna, runs[0].status if runs else None, ray, "; ".join(troubles), len(runs)
    )


def _optuna_states(study: Study) -> dict[str, str]:
    """Optuna's word for each trial, by its key."""
    storage = open_storage(study.home)
    found = {}
    for optimizer in study.settings.optimizers:
        name = f"{study.name}/{optimizer}"
        for frozen in storage.get_all_trials(storage.get_study_id_from_name(name), deepcopy=False):
            found[f"{name}/{frozen.number}"] = frozen.state.name
    return found


def _settle(study: Study) -> None:
    import optuna

    storage = open_storage(study.home)
    for optimizer in study.settings.optimizers:
        settle(optuna.load_study(study_name=f"{study.name}/{optimizer}", storage=storage), study.settings)
