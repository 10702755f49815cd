"""What a study's journal holds for MLflow, delivered while it runs or afterwards."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tune_sam.errors import masked
from tune_sam.home import Place
from tune_sam.study.records import Study, note_run, open_study, refits_of
from tune_sam.study.storage import open_storage
from tune_sam.tracking import client, delivery

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds that a search waits at its end for the tracking server; what is left then is kept and delivered later."""


def sync(name: str, *, home: Place = None, patience: float = PATIENCE) -> int:
    """Deliver to MLflow what could not be delivered while trials of a study and of its refits ran.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        patience: seconds to wait for a server that is away, for each study.

    Returns:
        How many events are still not delivered; they are kept.

    Raises:
        Refused: there is no such study, or a search of it is going on, which delivers on its own.
    """
    study = open_study(name, home)
    return sum(deliver(one, patience) for one in (study, *refits_of(study)))


def deliver(study: Study, patience: float) -> int:
    """Deliver what a study's journal holds for MLflow; how many of its events are left then."""
    storage = open_storage(study.home)
    return delivery.deliver(
        study.tracking_uri, study.home.study(study.name), patience, lambda key, run_id: note_run(storage, key, run_id)
    )


@contextmanager
def tracked(study: Study, storage: "RDBStorage") -> Iterator[delivery.Tracker]:
    """A way to MLflow for the length of a launch. What cannot be delivered at its end is kept."""
    run = client.StudyRun(study.experiment_id, study.mlflow_run_id)
    tracker = delivery.Tracker(
        study.tracking_uri, study.home.study(study.name), run, lambda key, run_id: note_run(storage, key, run_id)
    )
    patience = 5.0  # after an interrupt or an error, nobody wants to wait long
    try:
        yield tracker
        patience = PATIENCE
    finally:
        if kept := tracker.close(patience):
            log.warning(
                "%d events of study %s could not be delivered to %s; they are kept, and `tune-sam sync %s` "
                "delivers them.",
                kept,
                study.name,
                masked(study.tracking_uri),
                study.name,
            )
