"""What Ray does not promise to keep: everything here may move with a release, and a test says which.

`setup.cfg` bounds Ray from above for this module's sake.
"""

import ctypes
import gc
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from subprocess import list2cmdline
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from subprocess import Popen

SOCKETS = len("/session_2026-11-27_02-36-31_123456_1234567/sockets/plasma_store")
"""Characters that the paths of Ray's sockets have below its folder."""

DRIVER_STAYS_HERE: dict[str, Any] = {"_remote": False}
"""An argument of `ray.tune.run`. Over Ray's client Tune would send searcher and callbacks to the head by default, where
their databases are not."""


ENDINGS_TAKEN = "_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"
"""What Ray's library calls `ray::RayLog::InstallFailureSignalHandler(const char *, bool)`."""


def dashboard_address() -> str:
    """Give the address of the dashboard of the Ray that this process is connected to."""
    from ray._private.worker import get_dashboard_url

    return f"http://{get_dashboard_url()}"


def knock_as_client(server: str) -> None:
    """Ask the server of Ray's client whether it takes this process, for which Ray itself goes on for half a minute.

    Args:
        server: HOST:PORT.

    Raises:
        AuthenticationError: it does not. What else is wrong is for the connection itself to find.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import ray_client_pb2_grpc
    from ray.exceptions import AuthenticationError

    messages: Any = import_module("ray.core.generated.ray_client_pb2")  # whose names are made as it is imported
    asked = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
    with init_grpc_channel(server) as channel:
        try:
            ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(asked, timeout=5)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise AuthenticationError(error.details()) from None


@contextmanager
def session_folder() -> Iterator[None]:
    """Give Tune a folder for what it keeps beside its driver, which Ray's client, unlike a session, does not have."""
    import ray.train._internal.storage  # noqa: F401

    with (
        tempfile.TemporaryDirectory(prefix="tune_sam-") as folder,
        patch("ray.train._internal.storage._get_ray_train_session_dir", lambda: folder),
    ):
        yield


@contextmanager
def without_snapshots() -> Iterator[None]:
    """Keep Tune from writing down its own state, from which nothing here is ever restored.

    By default it writes the state of all trials, searcher and callbacks every ten seconds, whole, beside the results.
    The ledger has all that a study is resumed from. What Tune would write lags behind it, and is half written where
    the disk is full or the driver is killed.
    """
    import ray.tune.tune  # noqa: F401

    with (
        patch("ray.tune.execution.tune_controller.TuneController.checkpoint", lambda *_, **__: None),
        patch("ray.tune.tune.ExperimentAnalysis", lambda *_, **__: None),  # which reads that state at the end
    ):
        yield


@contextmanager
def without_logins_handed_on() -> Iterator[None]:
    """Keep Tune from giving this process' login at AWS to its workers in their command lines, which everybody can read.

    Workers of a Ray that is started here have it from their parent, and nodes elsewhere have their own. Tune also sets
    a variable for a library that trains elsewhere. With none to set, a trial is trained by a worker that waits already;
    with one, Ray starts a worker for that environment.
    """
    from ray.tune.execution import class_cache

    others = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")}
    with patch.multiple(class_cache, ENV_VARS_TO_PROPAGATE=others, DEFAULT_ENV_VARS={}):
        yield


@contextmanager
def without_rays_lines() -> Iterator[None]:
    """Keep Ray from printing what its nodes tell each other, to stdout, which belongs to the results of a command."""
    import ray._private.worker  # noqa: F401

    with patch("ray._private.worker.print_to_stdstream", lambda *_, **__: None):
        yield


def ask_for_the_token() -> None:
    """Have a Ray that is started here take nobody without its token, unless the person says otherwise.

    Ray does so by itself from 2.59 on. Before, whoever reaches its ports can run anything as this user.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        library: Any = import_module("ray._raylet")
        library.Config.initialize("")  # it has read the environment before


@contextmanager
def without_attendants() -> Iterator[None]:
    """Keep a Ray that is started here from starting what attends to a cluster and what its pages are made from.

    These are the autoscaler, the reader of logs and the server of the dashboard. Each is a Python process that takes a
    second of the CPU to start, and what they gather nobody asks for here: there is one node, no dashboard, and each
    trial's log is its own.
    """
    import ray._private.services  # noqa: F401
    from ray._private.node import Node

    def nothing(*_: Any, **__: Any) -> None: ...

    with (
        patch.multiple(Node, start_monitor=nothing, start_log_monitor=nothing, start_api_server=nothing),
        # Then the agent, without which no node runs, has only the part that the node itself needs.
        patch("ray._private.utils.get_dashboard_dependency_error", lambda: ImportError("the dashboard is not wanted")),
    ):
        yield


def leave_endings_alone() -> None:
    """Keep Ray from taking SIGTERM from this process as it connects, for which its own handler prints C++ and aborts.

    Its library sets that once a process, in the middle of its start and in whichever thread that is. It is asked to do
    so here, before, and then the handler that was there is set again: by Python's C interface, for the handler may be
    none of Python's.
    """
    library = ctypes.CDLL(import_module("ray._raylet").__file__)
    if (taken := getattr(library, ENDINGS_TAKEN, None)) is None:
        return  # a Ray whose library names it otherwise: it starts as it would without this
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    put.argtypes = [ctypes.c_int, ctypes.c_void_p]
    own = get(signal.SIGTERM)
    taken(os.fsencode(sys.executable), False)
    put(signal.SIGTERM, own)


def disconnect() -> None:
    """End the connection to Ray, and the Ray that was started here.

    Ray's library ends the process, with status 1, where Python asks it for something after it has shut down, as does a
    reference to one of its objects that is freed. The collector of garbage may free one in any thread, and at any time;
    so nothing is collected meanwhile.
    """
    import ray

    collects = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collects:
            gc.enable()


@contextmanager
def workers_started_by(words: Sequence[str]) -> Iterator[None]:
    """Have a Ray that is started here start its workers by another program than the interpreter.

    Args:
        words: of the program and its first arguments; what Ray would give the interpreter follows them.
    """
    from ray._private import ray_constants, services

    start = services.start_ray_process
    by_default, by_program = (f"--python_worker_command={list2cmdline(own)} " for own in ([sys.executable], words))

    def started(command: list[str], process_type: str, *args: Any, **options: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_RAYLET:
            command = [word.replace(by_default, by_program, 1) for word in command]
        return start(command, process_type, *args, **options)

    with patch("ray._private.services.start_ray_process", started):
        yield


def own_processes() -> dict[str, "Popen[bytes]"]:
    """Give the processes without which a Ray that was started here cannot go on, by what they are."""
    from ray._private import ray_constants
    from ray._private.worker import _global_node

    kinds = {"GCS": ray_constants.PROCESS_TYPE_GCS_SERVER, "raylet": ray_constants.PROCESS_TYPE_RAYLET}
    started: dict[str, list[Any]] = _global_node.all_processes if _global_node else {}
    return {name: started[kind][0].process for name, kind in kinds.items() if kind in started}


def processes(tune_controller: Any) -> dict[Any, Any]:
    """Give the actor of each of Tune's trials that has one, also of those whose training is still being built.

    Args:
        tune_controller: as Tune gives it to a scheduler.
    """
    started = tune_controller._actor_manager._live_actors_to_ray_actors_resources
    return {trial: started[actor][0] for trial, actor in tune_controller._trial_to_actor.items() if actor in started}


class Signs:
    """Signs of life of a driver's tasks: Ray itself tells a driver only that they have ended.

    Workers note them in the store that Ray keeps for itself in its GCS.
    """

    def __init__(self) -> None:
        self._prefix = f"tune_sam-{secrets.token_hex(8)}/"
        self._known: set[bytes] = set()

    def note(self, index: int) -> None:
        """In a worker: note that a task begins, or goes on."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(f"{self._prefix}{index}/{secrets.token_hex(4)}", b"")

    def new(self) -> list[int]:
        """In the driver: give the indices of the tasks that have begun or gone on since the last call."""
        from ray.experimental.internal_kv import _internal_kv_list

        noted = set(_internal_kv_list(self._prefix)) - self._known
        self._known |= noted
        return [int(key.split(b"/")[1]) for key in noted]

    def forget(self) -> None:
        """In the driver: remove what was noted."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(self._prefix, del_by_prefix=True)


def gpus_of(trial: Any) -> float:
    """Read the GPUs that one of Tune's trials was given."""
    resources: Mapping[str, float] = trial.placement_group_factory.required_resources
    return resources.get("GPU", 0)


def error_of(trial: Any) -> BaseException | None:
    """Read the exception that ended one of Tune's trials; None if Ray keeps none that this process can read."""
    from ray import cloudpickle
    from ray.exceptions import RayTaskError

    # Tune's own accessor reads the copy in the storage, which is written later.
    file = trial.pickled_error_file
    if not file or not Path(file).exists():
        return None
    try:
        error: BaseException = cloudpickle.loads(Path(file).read_bytes())
    except Exception:  # of a package that this process lacks
        return None
    return error.cause if isinstance(error, RayTaskError) else error


def failure_of(trial: Any) -> str:
    """Say in one line what ended one of Tune's trials: its exception, or what Ray says first of a process that died."""
    # Tune's own accessor reads the copy in the storage, which is written later.
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    exceptions = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return exceptions[-1] if exceptions else lines[1] if len(lines) > 1 else "the worker gave no reason"


def death_of(error: BaseException | None, printed: str) -> str:
    """Say in a sentence what ended the process of one of Tune's trials.

    Args:
        error: that Ray gives for it.
        printed: what the process printed, where that is known; the interpreter's last words are at its end.
    """
    said = str(error)
    if words := re.findall(r"^Fatal Python error: (.+)$", printed, flags=re.MULTILINE):
        return f"its process crashed in native code ({words[-1].strip()})"
    if status := re.search(r"Worker exits with an exit code (-?\d+)", said):
        return f"its process exited with status {status[1]}"
    if re.search(r"low on memory|memory monitor|OutOfMemory", said):
        return "Ray ended its process because the memory of its machine ran out"
    if re.search(r"node (?:has |was |is )?(?:died|dead|terminated|lost)|node failure|unreachable|draining", said):
        return "its machine was lost"
    return (
        "its process was killed, by the system where memory ran out or by a person with SIGKILL, or ended itself "
        "with os._exit"
    )


def could_not_start(error: BaseException | None) -> bool:
    """Whether a trial's process ended while its training was built."""
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError) and error.actor_init_failed
