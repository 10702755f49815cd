"""The two executors give the same: trainings and tasks in this process, and under Ray."""

import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import pytest
from ill_workload import HANGS, go_on, suffer
from studies import INLINE

import tune_sam
from tune_sam.cluster.executor import Failure, RayExecutor
from tune_sam.errors import Refused
from tune_sam.operations.doctor import diagnose
from tune_sam.operations.refit import refit
from tune_sam.study.records import open_study
from tune_sam.tuning.listener import Silent


def numbers(study):
    """What a study's trials came to, without times, processes and places."""
    return {
        trial.key: (trial.config, trial.state, trial.value, trial.epochs, losses(trial.metrics))
        for trial in study.records()
    }


def losses(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.slow
def test_a_study_and_its_refit_are_the_same_inline_and_under_ray(cluster, tmp_path):
    executors = ((tmp_path / "inline", INLINE), (tmp_path / "ray", RayExecutor(max_concurrent=2)))
    options = {"dataset": "digits", "optimizers": ["base", "sam"], "trials": 1, "epochs": 2, "train_subset": 128}
    for home, executor in executors:
        tune_sam.search("gcn", name="one", home=home, executor=executor, **options)
    assert numbers(open_study("one", tmp_path / "ray")) == numbers(open_study("one", tmp_path / "inline"))
    ours, theirs = (
        refit("one", home=home, seeds=1, epochs=1, controls=False, executor=executor) for home, executor in executors
    )
    columns = [name for name in ours.table() if name != "seconds"]
    assert ours.table()[columns].equals(theirs.table()[columns])
    flat = [
        tune_sam.analyze("one", home=home, sample=24, grid=3, optimizers=["sam"], executor=executor).flatness
        for home, executor in executors
    ]
    assert flat[0].keys() == flat[1].keys()
    for key, one in flat[0].items():
        assert {name: measure.value for name, measure in one.measures.items()} == {
            name: measure.value for name, measure in flat[1][key].measures.items()
        }


@pytest.mark.slow
def test_inline_an_interrupted_study_is_resumed(tmp_path):
    class Interrupts(Silent):
        def epoch(self, optimizer, number, epoch):
            if (number, epoch) == (1, 1):
                raise KeyboardInterrupt

    options = {"dataset": "digits", "optimizers": ["base"], "trials": 2, "epochs": 2, "train_subset": 128}
    with pytest.raises(KeyboardInterrupt):
        tune_sam.search("gcn", name="one", home=tmp_path, executor=INLINE, listener=Interrupts(), **options)
    assert open_study("one", tmp_path).counts() == {"complete": 1, "waiting": 1}
    tune_sam.resume("one", home=tmp_path, executor=INLINE)
    assert open_study("one", tmp_path).counts() == {"complete": 2}


@pytest.fixture
def small(cluster, tmp_path):
    """A search under Ray, as small as one can be."""
    options = {"dataset": "digits", "optimizers": ["base"], "trials": 1, "epochs": 1, "train_subset": 128}
    return tune_sam.search("gcn", name="small", home=tmp_path, executor=RayExecutor(), **options)


def test_under_ray_a_trial_has_a_node_and_a_process_of_its_own(small):
    (trial,) = small.records()
    assert trial.state == "complete"
    assert trial.node
    assert trial.pid != os.getpid()
    assert not [one for one in diagnose("small", home=small.home) if one.trouble]


@pytest.mark.slow
def test_under_ray_a_trial_finds_relative_paths(cluster, tmp_path):
    options = {"dataset": "digits", "optimizers": ["base"], "trials": 1, "epochs": 1, "train_subset": 128}
    study = tune_sam.search("odd_workload:Stays", name="stays", home=tmp_path, executor=RayExecutor(), **options)
    assert [(trial.state, trial.reason) for trial in study.records()] == [("complete", "")]


def refuse():
    raise Refused("it is gone")


def test_what_a_call_refuses_is_a_failure_and_a_mistake_is_raised():
    found = INLINE.call([lambda: 1, refuse, lambda: 3], 1, 0)
    assert list(found) == [(0, 1), (1, Failure("it is gone")), (2, 3)]
    with pytest.raises(ZeroDivisionError):
        list(INLINE.call([lambda: 1 / 0], 1, 0))


@pytest.mark.slow
def test_under_ray_a_task_that_hangs_is_ended_and_the_next_has_its_place(cluster):
    calls = [partial(suffer, HANGS), partial(go_on, 7)]
    found = dict(RayExecutor().call(calls, cpus=4, gpus=0, stall_timeout=6))
    hung = Failure("it got no further in 6s, its study's --stall-timeout; run the same command again")
    assert found == {0: hung, 1: "it went on"}


class Boom:
    """A pickle that runs code where it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.slow
def test_what_tune_left_in_a_home_that_somebody_sent_is_not_unpickled(cluster, searched, tmp_path):
    home = Path(shutil.copytree(searched, tmp_path / "home"))
    study, trap = open_study("one", home), pickle.dumps(Boom(str(tmp_path / "ran")))
    folder = Path(study.results)
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-1.pkl", "search_gen_state-1.json"):
        (folder / name).write_bytes(trap)
    state = {"trial_data": [], "runner_data": {"_type": "CLOUDPICKLE_FALLBACK", "value": trap.hex()}}
    (folder / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps(state))
    for optimizer in study.settings.optimizers:
        next_one = folder / f"{optimizer}-0003.1"  # where the next trial's results will be
        next_one.mkdir()
        for name in ("error.pkl", "params.pkl", ".tune_metadata"):
            (next_one / name).write_bytes(trap)
    for checkpoint in folder.glob("*/checkpoint_*"):
        (checkpoint / ".tune_metadata").write_bytes(trap)
    assert tune_sam.resume("one", home=home, trials=4).counts() == {"complete": 8}
    assert not (tmp_path / "ran").exists()
