"""The one module that touches Optuna's private API.

Optuna's ask-and-tell interface has no way to resume a trial that another process has begun, to see what an enqueued
trial will be given, or to close a database. `setup.cfg` bounds the release, and tests/study/test_optuna_internals.py
says what a newer one has moved.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial


def reopened(study: "optuna.Study", frozen: "FrozenTrial") -> "optuna.Trial":
    """Open a running trial of a study again, in whichever process it began."""
    import optuna

    return optuna.Trial(study, frozen._trial_id)


def enqueued_point(frozen: "FrozenTrial") -> dict[str, Any]:
    """Read the values that a trial which has not begun was enqueued with; none if it was not."""
    point: dict[str, Any] = frozen.system_attrs.get("fixed_params", {})
    return point


def close(storage: "RDBStorage") -> None:
    """Close the connections of a storage, so that its file can be renamed."""
    storage.remove_session()
    storage.engine.dispose()


def attributes_of_studies(storage: "RDBStorage") -> dict[str, dict[str, Any] | ValueError]:
    """Read the user attributes of all studies, by their names; the error of those whose JSON is damaged."""
    from sqlalchemy import text

    try:
        return {study.study_name: study.user_attrs for study in storage.get_all_studies()}
    except ValueError:  # of one of them, so each by itself
        pass
    with storage.engine.connect() as connection:
        names = connection.execute(text("SELECT study_id, study_name FROM studies ORDER BY study_id")).all()
    found: dict[str, dict[str, Any] | ValueError] = {}
    for study, name in names:
        try:
            found[name] = storage.get_study_user_attrs(study)
        except ValueError as error:
            found[name] = error
    return found
