"""The trials of one optimizer in memory, and each change of them as one transaction of Optuna's storage.

Optuna writes each parameter and each attribute of a trial by itself, at milliseconds each, and reads trials again for
each suggestion. The driver of a study is the only one to change its trials, so it need not look what they are; and what
belongs together is there as a whole or, where the driver is killed, not at all. Beside :mod:`optuna_internals` this is
the one module that touches Optuna's private API: its tables.
"""

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

Result = TypeVar("Result")


class Overtaken(Exception):
    """Another process has enqueued a trial meanwhile, which has the number that one was to get here."""


@dataclass
class _Change:
    """What of a trial the database lacks: whether its state and values, and the names of the rest."""

    state: bool = False
    params: set[str] = field(default_factory=set)
    user_attrs: set[str] = field(default_factory=set)
    system_attrs: set[str] = field(default_factory=set)
    intermediate_values: set[int] = field(default_factory=set)


class Transactions(BaseStorage):
    """A storage for one of Optuna's studies, of which this process alone changes the trials that it has read.

    Reads are answered from memory; what is written reaches the database at once, or at the end of a
    :meth:`transaction`. A trial's id is its number here.

    Args:
        storage: Optuna's.
        name: the study's.
    """

    def __init__(self, storage: RDBStorage, name: str) -> None:
        self._storage, self._name = storage, name
        self._study = storage.get_study_id_from_name(name)
        self._directions = storage.get_study_directions(self._study)
        self._changes: dict[int, _Change] = {}
        self._gathers = False
        self._read()

    def _read(self) -> None:
        trials = self._storage.get_all_trials(self._study, deepcopy=False)
        self._ids = {trial.number: trial._trial_id for trial in trials}
        self._trials = {trial.number: _with_id(trial, trial.number) for trial in trials}
        self._is_stale = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write what is changed inside all at once, at its end, or nothing of it.

        Raises:
            Overtaken: a trial that was created inside has another's number.
        """
        self._gathers = True
        try:
            yield
            self._write()
        except BaseException:
            self._changes.clear()
            self._is_stale = True  # memory is ahead of the database
            raise
        finally:
            self._gathers = False

    def retried(self, work: Callable[[], Result]) -> Result:
        """Do something in a transaction, and anew where another process has enqueued a trial meanwhile."""
        while True:
            try:
                with self.transaction():
                    return work()
            except Overtaken:
                continue

    def refresh(self) -> None:
        """Read the trials that other processes have enqueued."""
        trials = models.TrialModel.__table__
        count = select(func.count()).select_from(trials).where(trials.c.study_id == self._study)
        with self._storage.engine.connect() as connection:
            self._is_stale |= connection.scalar(count) != len(self._trials)

    def _known(self) -> dict[int, FrozenTrial]:
        if self._is_stale:
            self._read()
        return self._trials

    def _changed(self, number: int) -> tuple[FrozenTrial, _Change]:
        """Put a copy in a trial's place, which may be changed, as readers keep what they have read."""
        trial = copy(self._known()[number])
        self.check_trial_is_updatable(number, trial.state)
        self._trials[number] = trial
        return trial, self._changes.setdefault(number, _Change())

    def _finish(self) -> None:
        if not self._gathers:
            with self.transaction():
                pass

    def _write(self) -> None:
        if not self._changes:
            return
        begun: dict[int, int] = {}
        with self._storage.engine.begin() as connection:
            for number, change in self._changes.items():
                trial = self._trials[number]
                row = self._ids.get(number)
                if row is None:
                    row = begun[number] = _inserted(connection, self._study, trial)
                elif change.state:
                    trials = models.TrialModel.__table__
                    connection.execute(trials.update().where(trials.c.trial_id == row).values(_state(trial)))
                _upsert(connection, row, trial, change)
        self._ids |= begun
        self._changes.clear()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Create a running trial, or one like another."""
        number = len(self._known())
        if template_trial is None:
            trial = FrozenTrial(
                number=number,
                state=TrialState.RUNNING,
                value=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params={},
                distributions={},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=number,
            )
        else:
            trial = _with_id(deepcopy(template_trial), number)
            trial.number = number
        self._trials[number] = trial
        self._changes[number] = _Change(
            True, {*trial.params}, {*trial.user_attrs}, {*trial.system_attrs}, {*trial.intermediate_values}
        )
        self._finish()
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Give a trial a parameter."""
        trial, change = self._changed(trial_id)
        trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = {**trial.distributions, param_name: distribution}
        change.params.add(param_name)
        self._finish()

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Begin or end a trial; say whether that was possible."""
        if state == TrialState.RUNNING and self._known()[trial_id].state != TrialState.WAITING:
            return False
        trial, change = self._changed(trial_id)
        trial.state = state
        if values is not None:
            trial.values = values
        if state == TrialState.RUNNING:
            trial.datetime_start = datetime.now()
        if state.is_finished():
            trial.datetime_complete = datetime.now()
        change.state = True
        self._finish()
        return True

    def run_again(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Let a trial that has ended, but is not complete, run once more, which Optuna itself has no call for.

        Args:
            number: the trial's.
            attributes: those that said how it ended, with other values.
        """
        trial = self._trials[number] = copy(self._known()[number])
        trial.state, trial.values, trial.datetime_complete = TrialState.RUNNING, None, None
        met = {name: 0.0 for name in trial.system_attrs if name.startswith("constraints:")}
        trial.user_attrs, trial.system_attrs = {**trial.user_attrs, **attributes}, {**trial.system_attrs, **met}
        change = self._changes.setdefault(number, _Change())
        change.state = True
        change.user_attrs |= attributes.keys()
        change.system_attrs |= met.keys()
        self._finish()

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Keep the value of a step."""
        trial, change = self._changed(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
        change.intermediate_values.add(step)
        self._finish()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Give a trial an attribute."""
        trial, change = self._changed(trial_id)
        trial.user_attrs = {**trial.user_attrs, key: value}
        change.user_attrs.add(key)
        self._finish()

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Give a trial an attribute of Optuna's own."""
        trial, change = self._changed(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}
        change.system_attrs.add(key)
        self._finish()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial."""
        return self._known()[trial_id]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """Return a trial's id, which is its number."""
        return self._known()[trial_number].number

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials by their numbers."""
        found = [trial for trial in self._known().values() if states is None or trial.state in states]
        return _deepcopied(found) if deepcopy else found

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the study's id in the database."""
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the study's name."""
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions of the objectives."""
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read the study's attributes, which other threads may set."""
        return self._storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Read Optuna's own attributes of the study."""
        return self._storage.get_study_system_attrs(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Give the study an attribute."""
        self._storage.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Give the study an attribute of Optuna's own."""
        self._storage.set_study_system_attr(study_id, key, value)

    def get_all_studies(self) -> list[FrozenStudy]:
        """Read all studies of the database."""
        return self._storage.get_all_studies()

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Refuse: this is the storage of one study."""
        raise NotImplementedError

    def delete_study(self, study_id: int) -> None:
        """Refuse: likewise."""
        raise NotImplementedError


_deepcopied = deepcopy  # Optuna calls an argument so


def _with_id(trial: FrozenTrial, trial_id: int) -> FrozenTrial:
    trial._trial_id = trial_id
    return trial


def _inserted(connection: "Connection", study: int, trial: FrozenTrial) -> int:
    """Insert the row of a trial, and give its id."""
    trials, studies = models.TrialModel.__table__, models.StudyModel.__table__
    # A database lets one after the other in here; in a file, the insertion itself does.
    connection.execute(select(studies.c.study_id).where(studies.c.study_id == study).with_for_update())
    key = connection.execute(
        trials.insert().values(study_id=study, number=trial.number, **_state(trial))
    ).inserted_primary_key
    assert key is not None
    before = select(func.count()).select_from(trials).where(trials.c.study_id == study, trials.c.trial_id < key[0])
    if connection.scalar(before) != trial.number:
        raise Overtaken
    row: int = key[0]
    return row


def _state(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "state": trial.state,
        "datetime_start": _in_utc(trial.datetime_start),
        "datetime_complete": _in_utc(trial.datetime_complete),
    }


def _in_utc(local: datetime | None) -> datetime | None:
    return local and local.astimezone(UTC).replace(tzinfo=None)


def _upsert(connection: "Connection", row: int, trial: FrozenTrial, change: _Change) -> None:
    """Insert or replace what has changed of a trial beside its own row.

    In the order in which it was given: a sampler's dimensions are in that of the parameters.
    """
    params = [_param(trial, name) for name in trial.params if name in change.params]
    steps = [_step(trial, step) for step in trial.intermediate_values if step in change.intermediate_values]
    for model, key, rows in (
        (models.TrialParamModel, "param_name", params),
        (models.TrialUserAttributeModel, "key", _attributes(trial.user_attrs, change.user_attrs)),
        (models.TrialSystemAttributeModel, "key", _attributes(trial.system_attrs, change.system_attrs)),
        (models.TrialIntermediateValueModel, "step", steps),
        (models.TrialValueModel, "objective", _values(trial) if change.state else []),
    ):
        if rows:
            statement = _upserting(connection.dialect.name, model.__table__, key, tuple(rows[0]))
            connection.execute(statement, [{"trial_id": row, **one} for one in rows])


@cache
def _upserting(dialect: str, table: "Table", key: str, columns: tuple[str, ...]) -> Any:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    statement = insert(table)
    return statement.on_conflict_do_update(
        index_elements=["trial_id", key],
        set_={column: statement.excluded[column] for column in columns if column != key},
    )


def _param(trial: FrozenTrial, name: str) -> dict[str, Any]:
    distribution = trial.distributions[name]
    return {
        "param_name": name,
        "param_value": distribution.to_internal_repr(trial.params[name]),
        "distribution_json": distribution_to_json(distribution),
    }


def _attributes(attributes: Mapping[str, Any], names: set[str]) -> list[dict[str, Any]]:
    return [{"key": name, "value_json": json.dumps(value)} for name, value in attributes.items() if name in names]


def _step(trial: FrozenTrial, step: int) -> dict[str, Any]:
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(trial.intermediate_values[step])
    return {"step": step, "intermediate_value": stored[0], "intermediate_value_type": stored[1]}


def _values(trial: FrozenTrial) -> list[dict[str, Any]]:
    stored = map(models.TrialValueModel.value_to_stored_repr, trial.values or ())
    return [{"objective": index, "value": one[0], "value_type": one[1]} for index, one in enumerate(stored)]
