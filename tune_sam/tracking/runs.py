"""The runs of a study and of its trials in MLflow: made, read, and given results.

MLflow is imported inside functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.tracking.client import (
    HOME_TAG,
    STUDY_TAG,
    StudyRun,
    artifacts_of,
    check,
    connect,
    connect_to_read,
    create_run,
    expect_run,
    expect_there,
    experiment_id_of,
    find_unused_run,
    log_batch,
    metric_history,
    milliseconds,
    refusing,
    restore_run,
    run_state,
    runs_of_study,
    states_in,
    with_values,
)
from tune_sam.tracking.content import Point, RunState

if TYPE_CHECKING:
    from tune_sam.tracking.client import Store


def open_study_run(
    uri: str,
    *,
    experiment: str,
    artifact_root: str | None = None,
    name: str,
    home: str = "",
    tags: Mapping[str, str] = MappingProxyType({}),
) -> StudyRun:
    """Get or create the experiment, and the parent run, of a new study. The driver does it before any trial starts.

    A fresh SQLite database takes about 3 s to create.

    Args:
        uri: see :func:`check`.
        experiment: its name; the workload's.
        artifact_root: folder or URI for the artifacts of a new experiment. Default: the server's own; for a database
            without a server, `./mlruns` in the working directory.
        name: the study's. A run that it has already, by its tags, is taken where nothing of a search is in it, as after
            a making that was killed: one with results is of a study that had the name before.
        home: where the study lives, if several homes share a server: a study of the same name in another is another.
        tags: of the run, brought up to date where it exists; `mlflow.note.content` is shown on its page.

    Raises:
        Refused: the server cannot be reached, or it does not take the study.
    """
    check(uri)
    with refusing(uri, f"does not take study {name!r}"):
        store = connect(uri, artifact_root)
        experiment_id = experiment_id_of(store, experiment, artifact_root)
        identity = {STUDY_TAG: name, **({HOME_TAG: home} if home else {})}
        run_id = find_unused_run(store, experiment_id, identity) or create_run(
            store, experiment_id, name, milliseconds(), identity
        )
        log_batch(store, run_id, [], {}, tags)
    return StudyRun(experiment_id, run_id)


def run_states(uri: str, study_run: StudyRun) -> tuple[RunState, dict[str, list[RunState]]]:
    """Read all that MLflow has of a study and of its trials.

    Args:
        uri: see :func:`check`.
        study_run: the study's.

    Returns:
        The study's own run, and the runs of each trial by its key; more than one is one too many.

    Raises:
        Refused: MLflow cannot be asked, or the study's run is gone or deleted.
    """
    with refusing(uri, "cannot be asked"):
        store = connect_to_read(uri)
        expect_run(store, study_run)
        states = states_in(store, study_run)
        read = {key: [with_values(store, state) for state in each] for key, each in states.items()}
        return run_state(store, study_run.run_id), read


def restore_study_run(uri: str, study_run: StudyRun) -> bool:
    """Bring back the run of a study that was deleted in MLflow, and say whether it is there.

    Raises:
        Refused: MLflow cannot be asked, or the run's whole experiment was deleted.
    """
    check(uri)
    with refusing(uri, "cannot be asked"):
        return restore_run(connect(uri), study_run.run_id)


def find_study_runs(uri: str, names: Sequence[str], home: str | None) -> list[str]:
    """Find all runs of some studies and of their trials; nothing is written.

    Args:
        uri: see :func:`check`.
        names: the studies'.
        home: whose they are; None where MLflow has this home's alone.

    Raises:
        Refused: MLflow cannot be asked.
    """
    with refusing(uri, "cannot be asked"):
        store = connect_to_read(uri)
        return [run_id for name in names for run_id in runs_of_study(store, name, home)]


def tag_runs(uri: str, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Set tags of runs, by their ids.

    Raises:
        Refused: MLflow cannot be reached, or a run is gone.
    """
    expect_there(uri)
    with refusing(uri, "does not take the tags"):
        store = connect(uri)
        for run_id, some in tags.items():
            log_batch(store, run_id, [], {}, some)


def delete_runs(uri: str, run_ids: Sequence[str]) -> None:
    """Delete runs, which MLflow keeps among the deleted ones until `mlflow gc`.

    Raises:
        Refused: MLflow cannot be reached or does not do it.
    """
    with refusing(uri, "does not delete the runs"):
        store = connect(uri)
        for run_id in run_ids:
            store.delete_run(run_id)


def publish(
    uri: str, study_run: StudyRun, metrics: Mapping[str, Mapping[str, float]], step: int, files: Path, path: str
) -> None:
    """Add files to the study's run and numbers to the runs of trials that have ended, now.

    A number that its run has already is not added again; where the two differ the new one is the latest of its step.
    MLflow shows that of the highest step. Files take the place of earlier ones. Numbers come last, so that none is
    there without its files.

    Args:
        uri: see :func:`check`.
        study_run: the study's.
        metrics: numbers by name, by run id; nan is kept, as what has no value.
        step: of the numbers.
        files: the folder that holds them.
        path: folder among the run's artifacts.

    Raises:
        Refused: MLflow cannot be reached or does not take them.
    """
    expect_there(uri)
    with refusing(uri, "does not take the results"):
        store = connect(uri)
        states = {run_id: run_state(store, run_id) for run_id in metrics}  # all of them, before anything is written
        try:
            artifacts_of(store, uri, study_run.run_id, study_run.artifacts).log_artifacts(str(files), path)
        except Refused:
            raise
        except Exception as error:  # whatever the client of an artifact store raises
            raise OSError(str(error)) from error
        for run_id, values in metrics.items():
            latest = states[run_id].metrics
            new = [
                Point(name, value, milliseconds(), step)
                for name, value in values.items()
                if not _same(latest.get(name), value) and not _same(_value_at(store, run_id, name, step), value)
            ]
            log_batch(store, run_id, new, {}, {})


def _same(one: float | None, other: float) -> bool:
    return one == other or (one is not None and math.isnan(one) and math.isnan(other))


def _value_at(store: Store, run_id: str, name: str, step: int) -> float | None:
    """Read the latest value of a metric at a step."""
    points = [point for point in metric_history(store, run_id, name) if point.step == step]
    return max(points, key=lambda point: point.time).value if points else None
