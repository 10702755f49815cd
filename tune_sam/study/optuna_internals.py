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
