"""Connecting to Ray, and what the cluster can give a trial."""

import ctypes
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from tune_sam.cluster.forks import served
from tune_sam.cluster.local import Start, Watch, start
from tune_sam.cluster.ray_internals import (
    dashboard_address,
    disconnect,
    knock_as_client,
    leave_endings_alone,
    own_processes,
    session_folder,
    without_rays_lines,
)
from tune_sam.cluster.signals import endings_kept
from tune_sam.errors import Refused

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files that nobody reads here
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of a workload hold in a trial, too; Tune hands it on to all nodes
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours says what it waits for
}

CLIENT = "ray://"
"""How the address of Ray's client begins, for a machine from which only one port of the head is reached."""

Stage = Callable[[str], None]
"""Told what begins now and may take a while."""

_alone = False
"""Whether the connection is to a Ray that :func:`connected` started, and which has no nodes but this one."""

_start: Start | None = None
"""Of a Ray that starts here, or has, which nobody has connected to yet."""


@contextmanager
def ahead(address: str | None, dashboard: bool = False) -> Iterator[Callable[[], None]]:
    """Let what a Ray that is started here takes long for go on beside other work.

    Workers' imports begin at once.

    Args:
        address: that :func:`connected` will be given; nothing is begun where it names a cluster.
        dashboard: whether that Ray serves its dashboard.

    Yields:
        What starts Ray itself, which a command does once its options are right: it takes a second to end, too. The next
        :func:`connected` waits for it and uses it. What is not used ends with the context.
    """
    if is_there(address):
        yield lambda: None
        return
    with served() as words, ExitStack() as stack:

        def begin() -> None:
            global _start
            _set_quiet()
            _start = Start(words, dashboard)
            stack.callback(forget, _start)

        def forget(started: Start) -> None:
            global _start
            _start = None
            started.end()

        yield begin


@contextmanager
def connected(address: str | None, stage: Stage = lambda _: None, dashboard: bool = False) -> Iterator[bool]:
    """Connect to Ray: the cluster at `address`, the one already connected to, or a new one here.

    Args:
        address: of the cluster; None starts one here.
        stage: is told what is waited for.
        dashboard: whether a Ray that is started here serves its dashboard.

    Yields:
        Whether the cluster may have nodes beside this one, now or later: whether it is not a new one here.

    Raises:
        Refused: no cluster answers at `address`.
        Stopped: Ray cannot be started here, or one of its processes here has ended.
    """
    _set_quiet()
    import ray
    from ray.util import client

    address = named(address)
    global _alone, _start
    begun, _start = _start, None
    if not begun and ray.is_initialized():
        with session_folder() if client.ray.is_connected() else nullcontext():
            yield not _alone
        return
    leave_endings_alone()
    stage(f"Connecting to Ray at {address}" if address else "Starting Ray")
    with ExitStack() as stack:
        with endings_kept():
            if address:
                _join(address)
            elif begun:
                begun.wait()
            else:
                start(stack.enter_context(served()), dashboard)
        if dashboard:
            stage(f"Ray's dashboard is at {dashboard_address()}")
        stack.callback(disconnect)
        # Interrupted and failed trials are told by the study, in its own words.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        _alone = not address
        try:
            with (
                without_rays_lines(),
                Watch(own_processes()).watching(),
                session_folder() if (address or "").startswith(CLIENT) else nullcontext(),
            ):
                yield bool(address)
        finally:
            _alone = False


def _set_quiet() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def _join(address: str) -> None:
    """Connect to the cluster at `address`.

    Raises:
        Refused: none answers there, or it does not take this process.
    """
    import ray
    from ray.exceptions import AuthenticationError

    try:
        _knock(address)
        if address.startswith(CLIENT):
            knock_as_client(address.removeprefix(CLIENT).partition("?")[0])
        with warnings.catch_warnings(action="ignore"):  # the client says twice that nobody answers
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise Refused(
            f"the Ray cluster at --address {address} refuses this process ({str(error).splitlines()[0]}); "
            "give it RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN."
        ) from None
    except RuntimeError as error:  # such as another version of Ray or Python
        raise Refused(
            f"the Ray cluster at --address {address} does not take this process "
            f"({' '.join(str(error).split())}); install the same Ray and Python here and there."
        ) from None
    except (OSError, ValueError, OverflowError) as error:  # the last of a port over 65535
        raise Refused(
            f"no Ray cluster answers at --address {address} ({' '.join(str(error).split())}); start one, "
            "give RAY_AUTH_TOKEN if it has one, or leave --address out to search on this machine."
        ) from None


def named(address: str | None) -> str | None:
    """Give the address that is asked for: the one given, else $TUNE_SAM_ADDRESS; None to start a cluster here."""
    asked = address or os.environ.get("TUNE_SAM_ADDRESS")
    return None if asked == "local" else asked


def _knock(address: str) -> None:
    """Check that something answers at HOST:PORT; Ray itself would go on trying for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def check_offer(cpus: float, gpus: float, address: str | None) -> None:
    """Check that some node has the CPUs and GPUs of one trial; Tune would wait for ever for what none has.

    Args:
        cpus, gpus: of one trial; a fraction of one is below 1.
        address: of the cluster that is asked; without one, this machine is, before Ray starts on it.

    Raises:
        Refused: none has.
    """
    if is_there(address):
        with connected(address):
            nodes, where = _nodes(), "the cluster's largest node"
    else:
        nodes, where = [{"CPU": os.cpu_count() or 1, "GPU": _local_gpus() if gpus else 0}], "this machine"
    for asked, what, option in ((cpus, "CPU", "--cpus-per-trial"), (gpus, "GPU", "--gpus-per-trial")):
        offered = max(node.get(what, 0) for node in nodes)
        if asked > offered:
            raise Refused(f"{option} {asked:g} cannot be met, {where} has {offered:g} {what}s; ask for less.")
    if not any(fitting_trials(node, cpus, gpus) for node in nodes):
        raise Refused(
            f"--cpus-per-trial {cpus:g} with --gpus-per-trial {gpus:g} cannot be met by any one node; ask for "
            "less of one."
        )


def concurrency(cpus: float, gpus: float, asked: int | None) -> int:
    """Trials that run at the same time on the connected cluster: as many as fit, or fewer if fewer were asked for.

    Raises:
        Refused: no node has room for one.
    """
    fitting = sum(fitting_trials(node, cpus, gpus) for node in _nodes())
    if not fitting:
        raise Refused(f"no node of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for one trial; ask for less of one.")
    return min(asked or fitting, fitting)


def _nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_there(address: str | None) -> bool:
    """Whether there is a Ray to connect to: one that is named, or that this process is connected to."""
    # Asking Ray would import it, and a refusal should not take that long.
    return bool(named(address)) or (not _start and "ray" in sys.modules and sys.modules["ray"].is_initialized())


def _local_gpus() -> int:
    """GPUs that torch sees here. Importing it takes seconds, and without a driver its answer is known."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        if not Path("/dev/kfd").exists():  # AMD's
            return 0
    import torch

    return torch.cuda.device_count()


def fitting_trials(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Count the trials of so many CPUs and GPUs that a node has room for."""
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    # A fraction is of one GPU: what two GPUs have left over does not add up.
    by_gpu = int(node.get("GPU", 0)) * int(1 / gpus + 1e-9) if gpus < 1 else int(node.get("GPU", 0) // gpus)
    return min(by_cpu, by_gpu)
