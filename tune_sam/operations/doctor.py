"""Whether Optuna and MLflow say the same about every trial of a study and its checkpoint is whole, and mending.

They can differ only after something broke: a driver that was killed, a server that was away, a run that somebody
deleted. Optuna's storage, the ledger, is the one that is right: every event is there first, and MLflow is given it from
there.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from tune_sam.cluster.results import state_of
from tune_sam.errors import Refused
from tune_sam.evaluation.summary import summarize
from tune_sam.home import Place
from tune_sam.study.lock import is_going, study_lock
from tune_sam.study.records import Study, Trial, open_study, refits_of, trials_in
from tune_sam.study.settings import ending, trial_key
from tune_sam.study.spent import ended_by
from tune_sam.study.storage import open_storage
from tune_sam.study.summary import note_summary
from tune_sam.tracking import previous
from tune_sam.tracking.content import RunContent, RunState, differences
from tune_sam.tracking.runs import run_states
from tune_sam.tuning.delivery import Content, adopt_epochs, deliver, restored
from tune_sam.tuning.ledger import settle

PATIENCE = 60.0
"""Seconds to wait for the tracking server while mending."""

READERS = 8
"""Checkpoints that are read at the same time."""


@dataclass(frozen=True)
class Diagnosis:
    """One trial, or a study's parent run.

    Attributes:
        key: the trial's, or the study's name.
        state: our word.
        optuna, mlflow: what each says; None where it has no record.
        checkpoint: `whole`, `damaged` or `gone`; None where the trial has none.
        trouble: where they contradict each other, or what can no longer be loaded; empty where all is well.
        runs: that MLflow has of it.
    """

    key: str
    state: str
    optuna: str | None
    mlflow: str | None
    checkpoint: str | None
    trouble: str = ""
    runs: int = 1


def doctor(name: str, *, home: Place = None, fix: bool = False) -> tuple[Diagnosis, ...]:
    """Compare what Optuna and MLflow say of every trial of a study and of its refits, and read their checkpoints.

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
    """Each trial of a study and of its refits, and each of these studies, in Optuna, MLflow and the results.

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
    """Close what the ledger says has ended, deliver what MLflow has missed, and diagnose again.

    MLflow's side is made anew where it is lost: its database in a file, the study's run, the runs of trials. No trial
    is ended that could be resumed, and nothing is deleted: a damaged database stays beside the new one. Which of two
    runs of one trial is right, a person has to say.

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
            if part.settings.kind == "search":
                with suppress(Refused):  # of files that are gone, which the page says
                    note_summary(part, summarize(part))
            with suppress(Refused):  # of MLflow, which the diagnosis repeats
                adopt_epochs(part)
                deliver(restored(part), PATIENCE, restore=True)
    return diagnose(name, home=home)


def _examined(study: Study, going: bool) -> list[Diagnosis]:
    """Diagnose a study and its trials; `going` says whether another process drives it."""
    own, of_trials, silence = _in_mlflow(study)
    trials = study.records()
    optuna = _optuna_states(study)  # after the trials, so that it has each of them
    # What is on its way while the study is searched is not missing.
    content = None if going else Content(study)()
    wanted = {run.key: run for run in content.trials} if content else {}
    checkpoints = _checkpoints(study, trials)
    found = []
    for trial in trials:
        runs = of_trials.pop(trial.key, [])
        troubles = [
            *_in_the_ledger(trial, optuna[trial.key]),
            *([] if silence else _of_runs(trial, runs, wanted.get(trial.key))),
            *_of_checkpoint(trial, checkpoints.get(trial.key)),
        ]
        found.append(
            Diagnosis(
                trial.key,
                trial.state,
                optuna[trial.key],
                runs[0].status if runs else None,
                checkpoints.get(trial.key),
                "; ".join(troubles),
                len(runs),
            )
        )
    found += [
        Diagnosis(key or "a run without a key", "unknown", None, each[0].status, None, "MLflow alone knows it")
        for key, each in of_trials.items()
    ]
    open_trials = study.settings.trials_in_all - sum(trial.has_ended for trial in trials)
    budget = ended_by(study)
    state = "running" if going else budget.why if budget else "waiting" if open_trials else "complete"
    trouble = silence or (_trouble_of_study(study, content.study, own) if content and own else "")
    return [*found, Diagnosis(study.name, state, None, own.status if own else None, None, trouble)]


def _in_mlflow(study: Study) -> tuple[RunState | None, dict[str, list[RunState]], str]:
    """Read a study's own run, and the runs of its trials; or say why MLflow cannot be asked."""
    try:
        return *run_states(study.mlflow, study.mlflow_run), ""
    except Refused as error:
        return None, {}, str(error)


def _trouble_of_study(study: Study, wanted: RunContent, run: RunState) -> str:
    left = previous.points_left(study.home.study(study.name))
    return "; ".join(
        [f"MLflow says {run.status}, not {wanted.status}"] * (run.status != wanted.status)
        + differences(wanted, run)
        + [f"MLflow lacks what release 0.1 left of {len(left)} trials"] * bool(left)
    )


def _in_the_ledger(trial: Trial, optuna: str) -> list[str]:
    wanted = ending(trial.state, trial.reason).optuna if trial.has_ended else optuna
    return [f"Optuna says {optuna}, not {wanted}"] * (optuna != wanted)


def _of_runs(trial: Trial, runs: Sequence[RunState], wanted: RunContent | None) -> list[str]:
    """Compare what MLflow has of a trial with what it should have; `wanted` is None while that is on its way."""
    troubles = []
    for run in runs:
        troubles += differences(wanted, run) if wanted else []
        if trial.has_ended:
            status = ending(trial.state, trial.reason).mlflow
            troubles += [f"MLflow says {run.status}, not {status}"] * (run.status != status)
            troubles += [f"MLflow says {run.state or 'nothing'}, not {trial.state}"] * (run.state != trial.state)
        else:
            troubles += [f"MLflow says {run.status}, but it has not ended"] * (run.status != "RUNNING")
    troubles += ["MLflow has no run"] * (trial.has_ended and not runs)
    troubles += [f"MLflow has {len(runs)} runs"] * (len(runs) > 1)
    if runs and not any(run.run_id == trial.mlflow_run_id for run in runs):
        troubles.append("its run in MLflow is another")
    return troubles


def _of_checkpoint(trial: Trial, checkpoint: str | None) -> list[str]:
    then = "its network cannot be loaded" if trial.has_ended else "it starts anew when it is resumed"
    return [f"its checkpoint is {checkpoint}, so {then}"] * (checkpoint not in (None, "whole"))


def _checkpoints(study: Study, trials: Sequence[Trial]) -> dict[str, str]:
    """Say whether the checkpoint of each trial that has one can be loaded, by the trial's key."""
    kept = study.checkpoints()
    # One that trains replaces its own. One that waits needs only one of those that are kept of it.
    places = {
        trial.key: kept[trial.key][: 1 if trial.has_ended else None] for trial in trials if trial.state != "running"
    }

    def best(places: Sequence[str]) -> str:
        states = [state_of(place) for place in places]
        return "whole" if "whole" in states else states[0]

    with ThreadPoolExecutor(READERS) as readers:
        found = {key: readers.submit(best, some) for key, some in places.items() if some}
        return {key: one.result() for key, one in found.items()}


def _optuna_states(study: Study) -> dict[str, str]:
    """Optuna's word for each trial, by its key."""
    return {
        trial_key(study.name, optimizer, frozen.number): frozen.state.name
        for optimizer in study.settings.optimizers
        for frozen in trials_in(study, optimizer)
    }


def _settle(study: Study) -> None:
    import optuna

    storage = open_storage(study.home)
    for optimizer in study.settings.optimizers:
        settle(optuna.load_study(study_name=f"{study.name}/{optimizer}", storage=storage), study.settings)
