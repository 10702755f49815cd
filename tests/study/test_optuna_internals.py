"""Optuna's private API, of which two modules make use, study/optuna_*.py: what a newer release has moved."""

import re
import sqlite3
from pathlib import Path

import optuna
import pytest

import tune_sam
from tune_sam.study.optuna_internals import NEWEST_SCHEMA, begun, close, enqueued_point, opened, reopened

MOVED = "this release of Optuna has moved {}: mend tune_sam/study/optuna_internals.py, and the bound in setup.cfg"


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(storage=f"sqlite:///{tmp_path / 'optuna.db'}", study_name="s")


def test_a_running_trial_goes_on_in_another_process(study, tmp_path):
    begun = study.ask()
    value = begun.suggest_float("lr", 0, 1)
    other = optuna.load_study(storage=f"sqlite:///{tmp_path / 'optuna.db'}", study_name="s")
    (frozen,) = other.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert hasattr(frozen, "_trial_id"), MOVED.format("FrozenTrial._trial_id")
    trial = reopened(other, frozen)
    assert trial.suggest_float("lr", 0, 1) == value, MOVED.format("what optuna.Trial reads of a running trial")
    trial.set_user_attr("epoch:1", 0.5)
    other.tell(trial, 0.5)
    assert study.trials[0].user_attrs == {"epoch:1": 0.5}


def test_an_enqueued_trial_says_what_it_will_be_given(study):
    study.enqueue_trial({"lr": 0.5, "batch_size": 64})
    assert enqueued_point(study.trials[0]) == {"lr": 0.5, "batch_size": 64}, MOVED.format(
        "system_attrs['fixed_params']"
    )


def test_a_trial_that_waits_is_begun_before_an_earlier_one(study):
    for lr in (0.1, 0.2):
        study.enqueue_trial({"lr": lr})
    trial = begun(study, study.trials[1])
    assert trial.suggest_float("lr", 0, 1) == 0.2, MOVED.format("what begins a trial that waits")
    assert [one.state.name for one in study.trials] == ["WAITING", "RUNNING"]


def test_a_storage_lets_go_of_its_file(tmp_path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    assert hasattr(storage, "engine"), MOVED.format("RDBStorage.engine")
    close(storage)
    assert storage.engine.pool.checkedout() == 0, MOVED.format("what keeps a connection of RDBStorage")


def test_a_database_is_opened_as_optuna_opens_it(tmp_path):
    file = tmp_path / "optuna.db"
    own = optuna.storages.RDBStorage(f"sqlite:///{file}")
    assert own.get_head_version() == NEWEST_SCHEMA, MOVED.format("the version of its tables, NEWEST_SCHEMA")
    storage = opened(f"sqlite:///{file}", lambda: sqlite3.connect(file))
    assert vars(storage).keys() == vars(own).keys() - {"_version_manager"}, MOVED.format("what a storage holds")
    study = optuna.create_study(storage=storage, study_name="s")
    study.tell(study.ask(), 1.0)
    assert optuna.load_study(storage=own, study_name="s").best_value == 1.0


def test_no_other_module_touches_it():
    private = re.compile(r"\._trial_id|system_attrs|\.remove_session|optuna\.\S*\._|from optuna\S* import _")
    sources = Path(tune_sam.__file__).parent.rglob("*.py")
    found = {file.name for file in sources if private.search(file.read_text())}
    assert found == {"optuna_internals.py", "optuna_storage.py"}
