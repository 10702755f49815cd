"""MLflow tracking that never blocks, slows or kills a search, and loses nothing.

Every event of a search (a trial starts, reports, ends) is one JSON line, appended to `FOLDER/mlflow.jsonl` before
the call returns, so it survives `kill -9` of the driver. One daemon thread delivers the lines in order to MLflow,
with explicit run ids, and remembers in `FOLDER/mlflow.offset` how far it came. While the server is away it waits
and tries again; what is left at the end is delivered by the next :class:`Tracker` on the same folder or by
:func:`deliver`. Both files are removed once everything has arrived. Events that MLflow refuses for their content go
to `FOLDER/mlflow.rejected.jsonl` with the reason.

A line may be sent twice (killed between sending it and remembering that), yet it counts once: a trial's run is
found by its tag `tune_sam.key` before one is created, and a metric is sent only for steps after the last one that
its run has in MLflow.

MLflow is imported inside functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.errors import Refused, masked
from tune_sam.tracking.client import (
    HOME_TAG,
    KEY_TAG,
    PARENT_TAG,
    STUDY_TAG,
    StudyRun,
    check,
    connect,
    create_run,
    expect_there,
    experiment_id_of,
    find_run,
    milliseconds,
    run_tags,
    strings,
)

if TYPE_CHECKING:
    from mlflow.store.tracking.abstract_store import AbstractStore


def open_study_run(
    uri: str,
    *,
    experiment: str,
    artifact_root: str | None = None,
    name: str,
    home: str = "",
    description: str = "",
    tags: Mapping[str, object] | None = None,
) -> StudyRun:
    """Get or create the experiment and the parent run of a study. The driver does it before any trial starts.

    A fresh SQLite database takes about 3 s to create.

    Args:
        uri: see :func:`check`.
        experiment: its name; the workload's.
        artifact_root: folder or URI for the artifacts of a new experiment. Default: the server's own; for a database
            without a server, `./mlruns` in the working directory.
        name: the study's; its run is found again by the tag `tune_sam.study.records`.
        home: where the study lives, if several homes share a server: a study of the same name in another is another.
        description: shown on the run's page.
        tags: of the run. Where the run exists, they and the description are brought up to date.

    Raises:
        Refused: the server cannot be reached, or it does not take the study.
    """
    check(uri)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        store = connect(uri, artifact_root)
        experiment_id = experiment_id_of(store, experiment, artifact_root)
        identity = {STUDY_TAG: name, **({HOME_TAG: home} if home else {})}
        run_id = find_run(store, experiment_id, identity) or create_run(
            store, experiment_id, name, milliseconds(), identity
        )
        note = {"mlflow.note.content": description} if description else {}
        store.log_batch(run_id, [], [], run_tags({**note, **strings(tags)}))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} does not take study {name!r}; it says {masked(str(error))}") from error
    return StudyRun(experiment_id, run_id)


@dataclass(frozen=True)
class RunState:
    """What MLflow says about a trial.

    Attributes:
        run_id: of its run.
        status: RUNNING, FINISHED, FAILED or KILLED.
        state: our word for it, from the run's tags; None before its end.
        metrics: the latest value of each.
    """

    run_id: str
    status: str
    state: str | None
    metrics: dict[str, float]


def run_states(uri: str, study_run: StudyRun) -> tuple[str, dict[str, list[RunState]]]:
    """What MLflow says about a study and its trials.

    Args:
        uri: see :func:`check`.
        study_run: the study's.

    Returns:
        The status of the study's run, and the runs of each trial by its key; more than one is one too many.

    Raises:
        Refused: the server cannot be reached, or the study's run is gone.
    """
    expect_there(uri)
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    found: dict[str, list[RunState]] = {}
    try:
        store = connect(uri)
        status = store.get_run(study_run.run_id).info.status
        condition, token = f"tags.`{PARENT_TAG}` = '{study_run.run_id}'", None
        while True:
            page = store.search_runs([study_run.experiment_id], condition, ViewType.ACTIVE_ONLY, page_token=token)
            for run in page:
                tags = run.data.tags
                found.setdefault(tags.get(KEY_TAG, ""), []).append(
                    RunState(run.info.run_id, run.info.status, tags.get("tune_sam.state"), dict(run.data.metrics))
                )
            if not (token := page.token):
                return status, found
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} cannot be asked; it says {masked(str(error))}") from error


def curves(uri: str, run_id: str, metrics: Sequence[str]) -> dict[str, dict[int, float]]:
    """Each metric of a run, by its step; the last value where a step has several.

    Args:
        uri: see :func:`check`.
        run_id: of the run.
        metrics: their names.

    Raises:
        Refused: MLflow cannot be reached, or does not answer.
    """
    with _reading(uri, f"curves of run {run_id}") as store:
        return {name: {point.step: point.value for point in store.get_metric_history(run_id, name)} for name in metrics}


def tags(uri: str, run_id: str) -> dict[str, str]:
    """The tags of a run.

    Args:
        uri: see :func:`check`.
        run_id: of the run.

    Raises:
        Refused: MLflow cannot be reached, or does not answer.
    """
    with _reading(uri, f"tags of run {run_id}") as store:
        return dict(store.get_run(run_id).data.tags)


@contextmanager
def _reading(uri: str, what: str) -> Iterator[AbstractStore]:
    """The store at `uri`; its errors become a sentence that names what was to be read."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    store = connect(uri)
    try:
        yield store
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} gives no {what}; it says {masked(str(error))}") from error


def publish(
    uri: str, study_run: StudyRun, metrics: Mapping[str, Mapping[str, float]], step: int, files: Path, path: str
) -> None:
    """Add files to the study's run and numbers to the runs of trials that have ended, now.

    A number that its run has already is not added again; where the two differ the new one is the latest. Files take the
    place of earlier ones. Numbers come last, so that none is there without its files.

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
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    expect_there(uri)
    store = connect(uri)
    try:
        runs = {run_id: store.get_run(run_id) for run_id in metrics}  # all of them, before anything is written
        try:
            MlflowClient(uri).log_artifacts(study_run.run_id, str(files), path)
        except Exception as error:  # whatever the client of an artifact store raises
            raise OSError(str(error)) from error
        for run_id, values in metrics.items():
            latest = runs[run_id].data.metrics
            new = [
                Metric(name, value, milliseconds(), step)
                for name, value in values.items()
                if not _same(latest.get(name), value) and not _same(_value_at(store, run_id, name, step), value)
            ]
            store.log_batch(run_id, new, [], [])
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} does not take the results; it says {masked(str(error))}") from error


def _same(one: float | None, other: float) -> bool:
    return one == other or (one is not None and math.isnan(one) and math.isnan(other))


def _value_at(store: AbstractStore, run_id: str, name: str, step: int) -> float | None:
    """The latest value of a metric at a step."""
    points = [point for point in store.get_metric_history(run_id, name) if point.step == step]
    return max(points, key=lambda point: point.timestamp).value if points else None
