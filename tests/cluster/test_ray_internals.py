"""What we use of Ray beyond its promises, and what would be noticed if a release moved it."""

import ctypes
import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import ray._private.utils
import ray._raylet
import ray.train._internal.storage
from ray import tune
from ray._private import grpc_utils
from ray._private.node import Node
from ray.air.execution._internal import RayActorManager
from ray.core.generated import ray_client_pb2_grpc
from ray.exceptions import RayActorError
from ray.experimental import internal_kv
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.trainable import trainable

from tune_sam.cluster.ray_internals import ENDINGS_TAKEN, death_of, failure_of


def _set_in(one):
    """The attributes that a class sets in `__init__`."""
    return one.__init__.__code__.co_names


def test_this_release_of_ray_has_what_we_use_of_its_inside():
    found = {
        "ray.train._internal.storage has no _get_ray_train_session_dir, the folder of a driver over Ray's client": (
            hasattr(ray.train._internal.storage, "_get_ray_train_session_dir")
        ),
        "ray.tune.run has no argument _remote, so a driver over Ray's client would run on the head": (
            "_remote" in inspect.signature(tune.run).parameters
        ),
        "Ray has no init_grpc_channel or no ClusterInfo, by which a client's server is asked whether it takes us": (
            hasattr(grpc_utils, "init_grpc_channel") and "ClusterInfo" in inspect.getsource(ray_client_pb2_grpc)
        ),
        "RayActorError has no actor_init_failed, so a process that cannot start looks like one that died": (
            hasattr(RayActorError, "actor_init_failed") or "actor_init_failed" in inspect.getsource(RayActorError)
        ),
        "ray.tune.trainable.trainable has no DEFAULT_STORAGE_PATH, where the contract's trainables would write": (
            hasattr(trainable, "DEFAULT_STORAGE_PATH")
        ),
        "Ray's library has no InstallFailureSignalHandler, so SIGTERM prints C++ while a driver connects": (
            hasattr(ctypes.CDLL(ray._raylet.__file__), ENDINGS_TAKEN)
        ),
        "TuneController has no checkpoint, so Tune writes its state, whole, every few seconds": (
            hasattr(TuneController, "checkpoint")
        ),
        "ray.tune.tune has no ExperimentAnalysis, which reads that state at the end of a run": (
            hasattr(sys.modules["ray.tune.tune"], "ExperimentAnalysis")
        ),
        "Tune's class_cache has no ENV_VARS_TO_PROPAGATE, by which a login at AWS comes into workers' command lines": (
            "AWS_SECRET_ACCESS_KEY" in class_cache.ENV_VARS_TO_PROPAGATE
        ),
        "TuneController has no _trial_to_actor or _actor_manager, by which a trial's process is found": (
            {"_trial_to_actor", "_actor_manager"} <= {*_set_in(TuneController)}
        ),
        "Tune's actor manager has no _live_actors_to_ray_actors_resources, by which a process is ended": (
            "_live_actors_to_ray_actors_resources" in _set_in(RayActorManager)
        ),
        "ray.experimental.internal_kv has no _internal_kv_put, _list and _del, by which tasks give signs of life": (
            {"_internal_kv_put", "_internal_kv_list", "_internal_kv_del"} <= {*dir(internal_kv)}
        ),
        "Ray's Node has other names for starting what attends to a cluster, so a search here starts it, too": (
            {"start_monitor", "start_log_monitor", "start_api_server"} <= {*dir(Node)}
        ),
        "ray._private.utils has no get_dashboard_dependency_error, by which a node's agent is made small": (
            hasattr(ray._private.utils, "get_dashboard_dependency_error")
        ),
        **{
            f"Tune's Trial has no {name}, by which an ending is explained": name
            in {*dir(Trial), *vars(Trial("PPO", stub=True))}
            for name in ("error_file", "pickled_error_file", "placement_group_factory", "last_result")
        },
    }
    moved = [sentence for sentence, there in found.items() if not there]
    assert not moved, f"ray {ray.__version__}: {'; '.join(moved)}. Mend tune_sam/cluster/ray_internals.py."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "Failure # 1 (occurred at 2026)\nray::x.train()\n  File a.py\nRuntimeError: no batch works\n",
            "RuntimeError: no batch works",
        ),
        ("Failure # 1\ntorch.cuda.OutOfMemoryError: 2 GiB\n\nhint\n", "torch.cuda.OutOfMemoryError: 2 GiB"),
        (
            "Failure # 1\nThe actor died unexpectedly before finishing this task.\n\tclass_name: X\n",
            "The actor died unexpectedly before finishing this task.",
        ),
        ("", "the worker gave no reason"),
    ],
)
def test_a_failure_is_told_in_one_line(tmp_path, text, reason):
    (tmp_path / "error.txt").write_text(text)
    assert failure_of(SimpleNamespace(error_file=str(tmp_path / "error.txt"))) == reason


DIED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
EOF = DIED + (
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) a crash. "
    "If so, consider enabling resource isolation to prevent node deaths by resource contention."
)


@pytest.mark.parametrize(
    ("said", "printed", "sentence"),
    [
        (EOF, "", "its process was killed, by the system where memory ran out or by a person with SIGKILL, or ended"),
        (EOF, "x\nFatal Python error: Aborted\n\nStack:\n", "its process crashed in native code (Aborted)"),
        (DIED + "Worker exits unexpectedly. Worker exits with an exit code 3.", "", "its process exited with status 3"),
        (
            DIED + "Task was killed due to the node running low on memory.",
            "",
            "Ray ended its process because the memory",
        ),
        ("The actor died because its node has died. Node Id: 1f", "", "its machine was lost"),
    ],
)
def test_a_death_is_told_in_a_sentence(said, printed, sentence):
    assert death_of(RuntimeError(said), printed).startswith(sentence)


FREES = """
import ray, threading, time
from tune_sam.cluster.ray_internals import disconnect

class Circle: pass

def let_go():
    while references:
        for _ in range(20):
            circle = Circle()
            circle.itself, circle.reference = circle, references.pop()
        time.sleep(0.002)

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
references = [ray.put(0) for _ in range(20000)]
threading.Thread(target=let_go, daemon=True).start()
time.sleep(0.3)
disconnect()
print("lives, and has let go of", 20000 - len(references))
"""


@pytest.mark.slow
def test_another_thread_that_lets_go_of_references_does_not_end_the_process_with_ray():
    """By `ray.shutdown()` alone this one ends with status 1 in the middle of it."""
    done = subprocess.run([sys.executable, "-c", FREES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("lives")
