"""The one module that touches Optuna's private API, beside the one of its tables, :mod:`optuna_storage`.

Optuna's ask-and-tell interface has no way to resume a trial that another process has begun, to begin another than the
first of those that wait, to see what an enqueued trial will be given, to keep Hyperband's brackets under another name,
to go on with a quasi-random sequence elsewhere, or to open a database without looking for tables of earlier releases,
or to close one. `setup.cfg` bounds the release, and tests/study/test_optuna_internals.py says what a newer one has
moved.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import HyperbandPruner
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

_SEQUENCE = "qmc:"
"""How names begin by which Optuna keeps a study's places in quasi-random sequences."""


def reopened(study: "optuna.Study", frozen: "FrozenTrial") -> "optuna.Trial":
    """Open a running trial of a study again, in whichever process it began."""
    import optuna

    return optuna.Trial(study, frozen._trial_id)


def begun(study: "optuna.Study", frozen: "FrozenTrial") -> "optuna.Trial":
    """Begin a trial that waits, be it the first or not; `ask` begins the first."""
    import optuna

    study._storage.set_trial_state_values(frozen._trial_id, state=optuna.trial.TrialState.RUNNING)
    return optuna.Trial(study, frozen._trial_id)


def enqueued_point(frozen: "FrozenTrial") -> dict[str, Any]:
    """Read the values that a trial which has not begun was enqueued with; none if it was not."""
    point: dict[str, Any] = frozen.system_attrs.get("fixed_params", {})
    return point


def hyperband(name: str, first: int, epochs: int, halving: int) -> "HyperbandPruner":
    """Make Hyperband with the brackets that the trials of a study have by its name, whatever the study is called.

    Args:
        name: of Optuna's study, by which a trial's bracket is drawn.
        first: the epoch of the first rung.
        epochs: of a whole training.
        halving: one in so many goes on at each rung.
    """
    from optuna.pruners import HyperbandPruner

    class Hyperband(HyperbandPruner):
        def _get_bracket_id(self, study: Any, trial: Any) -> int:
            return super()._get_bracket_id(SimpleNamespace(study_name=name), trial)  # type: ignore[arg-type]

    return Hyperband(first, epochs, halving)


NEWEST_SCHEMA = "v3.2.0.a"
"""The version of the tables of this release of Optuna, as the table `alembic_version` has it."""


def opened(url: str, connect: Callable[[], Any]) -> "RDBStorage | None":
    """Open a database that has Optuna's tables.

    Optuna itself asks alembic for their version, which takes longer to import than all else that a query needs.

    Args:
        url: the database's, as SQLAlchemy has it.
        connect: makes a connection to it.

    Returns:
        The storage; None if its tables are not of this release, so that Optuna can say what is wrong with them.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it cannot be used, or has no such tables.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import scoped_session, sessionmaker

    storage = RDBStorage.__new__(RDBStorage)
    engine_kwargs = {"creator": connect}
    storage.url, storage.engine_kwargs, storage.skip_compatibility_check = url, engine_kwargs, True
    storage.heartbeat_interval = storage.grace_period = None
    storage.heartbeat_stale_trial_callback = storage.failed_trial_callback = None
    storage.engine = create_engine(url, **engine_kwargs)
    storage.scoped_session = scoped_session(sessionmaker(bind=storage.engine))
    with storage.engine.connect() as connection:
        version = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return storage if version == NEWEST_SCHEMA else None


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


def sequence_of(storage: "RDBStorage", study: int) -> dict[str, int]:
    """Give how far a study is in each quasi-random sequence, by the name that Optuna has for it."""
    return {name: value for name, value in storage.get_study_system_attrs(study).items() if name.startswith(_SEQUENCE)}


def continue_sequence(storage: "RDBStorage", study: int, places: Mapping[str, int]) -> None:
    """Have a study go on with quasi-random sequences where :func:`sequence_of` has left them.

    Raises:
        ValueError, AttributeError: these are no such places.
    """
    for name, place in places.items():
        if not name.startswith(_SEQUENCE) or not isinstance(place, int):
            raise ValueError(f"{name!r} is no quasi-random sequence")
        storage.set_study_system_attr(study, name, place)


def trial_to_json(frozen: "FrozenTrial") -> dict[str, Any]:
    """Give all of a trial as JSON holds it, also what samplers and pruners keep of it."""
    from optuna.distributions import distribution_to_json

    return {
        "number": frozen.number,
        "state": frozen.state.name,
        "values": frozen.values,
        "params": frozen.params,
        "distributions": {name: distribution_to_json(one) for name, one in frozen.distributions.items()},
        "user_attrs": frozen.user_attrs,
        "system_attrs": frozen.system_attrs,
        "steps": [[step, value] for step, value in frozen.intermediate_values.items()],
        "started": frozen.datetime_start and frozen.datetime_start.isoformat(),
        "ended": frozen.datetime_complete and frozen.datetime_complete.isoformat(),
    }


def trial_from_json(trial: Mapping[str, Any]) -> "FrozenTrial":
    """Read what :func:`trial_to_json` gave, for a storage to make a trial like it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not that.
    """
    from optuna.distributions import json_to_distribution
    from optuna.trial import FrozenTrial, TrialState

    return FrozenTrial(
        number=trial["number"],
        state=TrialState[trial["state"]],
        value=None,
        values=trial["values"],
        datetime_start=trial["started"] and datetime.fromisoformat(trial["started"]),
        datetime_complete=trial["ended"] and datetime.fromisoformat(trial["ended"]),
        params=trial["params"],
        distributions={name: json_to_distribution(one) for name, one in trial["distributions"].items()},
        user_attrs=trial["user_attrs"],
        system_attrs=trial["system_attrs"],
        intermediate_values={int(step): value for step, value in trial["steps"]},
        trial_id=-1,  # the storage gives it one
    )


def rename_studies(
    storage: "RDBStorage",
    names: Mapping[str, str],
    records: Mapping[str, dict[str, Any]],
    trials: Mapping[str, Mapping[int, Mapping[str, Any]]],
) -> None:
    """Give studies other names, and attributes that have the name in them other values, all at once or not at all.

    Optuna itself gives no other name to a study, and takes no attribute of a trial that has ended.

    Args:
        storage: Optuna's.
        names: the new name of each study, by its name.
        records: the new attribute `record` of each, by its name of now.
        trials: new values of attributes that trials have, by the study's name of now and the trial's number.
    """
    from sqlalchemy import text

    change = text(
        "UPDATE trial_user_attributes SET value_json = :value WHERE key = :key AND trial_id = "
        "(SELECT trial_id FROM trials WHERE study_id = :study AND number = :number)"
    )
    record = text("UPDATE study_user_attributes SET value_json = :value WHERE key = 'record' AND study_id = :study")
    rename = text("UPDATE studies SET study_name = :name WHERE study_id = :study")
    numbers = {old: storage.get_study_id_from_name(old) for old in names}
    with storage.engine.begin() as connection:
        for old, new in names.items():
            study = numbers[old]
            changes = [
                {"study": study, "number": number, "key": key, "value": json.dumps(value)}
                for number, attributes in trials[old].items()
                for key, value in attributes.items()
            ]
            if changes:
                connection.execute(change, changes)
            connection.execute(record, {"study": study, "value": json.dumps(records[old])})
            connection.execute(rename, {"study": study, "name": new})
