"""The trials of a study in memory, and what of them is in the database: what Optuna would have there, or nothing."""

import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState
from services import postgres

from tune_sam.home import Home
from tune_sam.study.optuna_storage import Transactions
from tune_sam.study.storage import open_storage


@pytest.fixture
def storage(tmp_path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    optuna.create_study(storage=storage, study_name="s", direction="maximize")
    return storage


def loaded(storage, pruner=None):
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=4)
    return optuna.load_study(study_name="s", storage=storage, sampler=sampler, pruner=pruner)


def searched(study):
    """Search a little, with every ending that there is."""
    study.enqueue_trial({"lr": 0.5}, user_attrs={"own": True})
    for number in range(12):
        trial = study.ask()
        lr, size = trial.suggest_float("lr", 1e-3, 1, log=True), trial.suggest_categorical("size", [32, 64])
        trial.set_user_attr("seed", {"of": [trial.suggest_int("seed", 0, 9)]})
        pruned = False
        for step in range(1, 5):
            trial.report(lr / step + size, step)
            pruned = pruned or trial.should_prune()
        if number == 7:
            trial.set_constraint("diverged", 1.0)
        states = {7: TrialState.PRUNED, 8: TrialState.FAIL}
        state = states.get(number, TrialState.PRUNED if pruned else TrialState.COMPLETE)
        study.tell(trial, (float("inf") if number == 0 else lr) if state == TrialState.COMPLETE else None, state)
    study.ask()


def content(storage):
    """Read all of the trials but when they were."""
    return [
        (one.number, one.state, one.values, [*one.params.items()], one.distributions, one.user_attrs, one.system_attrs)
        + (one.intermediate_values, one.datetime_start is None, one.datetime_complete is None)
        for one in loaded(storage).get_trials()
    ]


def test_a_search_leaves_in_the_database_what_optuna_alone_would(storage):
    other = optuna.storages.RDBStorage("sqlite://")
    optuna.create_study(storage=other, study_name="s", direction="maximize")
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    searched(loaded(other, pruner))
    own = Transactions(storage, "s")
    searched(loaded(own, pruner))
    assert content(storage) == content(other) == content(own) == content(Transactions(storage, "s"))


@pytest.mark.slow
def test_postgres_has_the_same(tmp_path):
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    other = optuna.storages.RDBStorage("sqlite://")
    optuna.create_study(storage=other, study_name="s", direction="maximize")
    searched(loaded(other, pruner))
    with postgres(tmp_path) as server:
        storage = open_storage(Home.at(tmp_path, server.create("ours")))
        optuna.create_study(storage=storage, study_name="s", direction="maximize")
        own = Transactions(storage, "s")
        searched(loaded(own, pruner))
        assert content(storage) == content(other) == content(own)
        loaded(storage).enqueue_trial({"lr": 0.75})
        own.refresh()
        assert loaded(own).ask().number == len(content(other))


def test_times_are_those_that_optuna_reads(storage):
    own = Transactions(storage, "s")
    study = loaded(own)
    study.tell(study.ask(), 1.0)
    (here,), (there,) = loaded(own).get_trials(), loaded(storage).get_trials()
    assert (here.datetime_start, here.datetime_complete) == (there.datetime_start, there.datetime_complete)


def test_what_is_interrupted_is_not_there_at_all(storage):
    own = Transactions(storage, "s")
    study = loaded(own)
    first = study.ask()

    def work():
        first.set_user_attr("epoch", 1)
        study.ask()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        own.retried(work)
    assert content(own) == content(storage)
    assert [one.user_attrs for one in study.get_trials()] == [{}]


def test_a_transaction_is_seen_by_others_at_its_end(storage):
    own = Transactions(storage, "s")
    study = loaded(own)
    with own.transaction():
        trial = study.ask()
        trial.suggest_float("lr", 0, 1)
        assert loaded(storage).get_trials() == []
    assert len(loaded(storage).get_trials()) == 1


def test_a_point_that_another_process_enqueues_keeps_its_number(storage):
    own = Transactions(storage, "s")
    study = loaded(own)
    tries = []

    def work():
        tries.append(len(tries))
        trial = study.ask()
        lr = trial.suggest_float("lr", 0, 1)
        if len(tries) == 1:  # meanwhile
            loaded(storage).enqueue_trial({"lr": 0.25})
        return trial.number, lr

    assert own.retried(work) == (0, 0.25)
    loaded(storage).enqueue_trial({"lr": 0.75})
    own.refresh()
    trial = study.ask()
    assert (trial.number, trial.suggest_float("lr", 0, 1)) == (1, 0.75)
    assert len(tries) == 2


def test_a_trial_that_has_ended_is_not_changed(storage):
    study = loaded(Transactions(storage, "s"))
    trial = study.ask()
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("late", 1)


WRITES = """
import sys
import optuna
from tune_sam.study.optuna_storage import Transactions

optuna.logging.set_verbosity(optuna.logging.WARNING)
own = Transactions(optuna.storages.RDBStorage(sys.argv[1]), "s")
study = optuna.load_study(study_name="s", storage=own, sampler=optuna.samplers.RandomSampler())
while True:
    with own.transaction():
        trial = study.ask()
        trial.suggest_float("lr", 0, 1), trial.suggest_categorical("size", [32, 64])
        trial.set_user_attr("attempt", 1)
    for step in range(3):
        with own.transaction():
            trial.set_user_attr(f"epoch:{step}", {"value": step})
            trial.report(step, step)
    with own.transaction():
        trial.set_user_attr("record", "whole")
        study.tell(trial, 1.0)
"""


@pytest.mark.slow
def test_whenever_a_driver_is_killed_what_belongs_together_is_there_or_is_not(storage, tmp_path):
    file = tmp_path / "optuna.db"
    for moment in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITES, str(storage.engine.url)])
        begun = file.stat().st_size
        while file.stat().st_size < begun + 8192:  # some trials more
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(0.003 * moment)
        writer.kill()
        writer.wait()
        trials = loaded(storage).get_trials()
        assert [one.number for one in trials] == [*range(len(trials))]
        for one in trials:
            assert one.params.keys() == {"lr", "size"}
            assert one.user_attrs["attempt"] == 1
            epochs = [name for name in one.user_attrs if name.startswith("epoch:")]
            assert epochs == [f"epoch:{step}" for step in one.intermediate_values]
            assert ("record" in one.user_attrs) == (one.state == TrialState.COMPLETE) == (one.values is not None)
