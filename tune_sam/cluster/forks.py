"""Ray's workers on this machine as forks of one process that has their imports done.

To import torch and what a network needs takes a worker seconds of a core, each worker anew and all of them at the same
time. Here one process imports, while the driver checks its options and Ray starts. What Ray starts as a worker is then
this file, which sends its command there and ends. A worker that cannot be had so is started as Ray would.

The process imports no Ray, which reads its environment as it is imported, and initializes no GPU, which no fork could
use. This file runs by its path and imports nothing but Python's own modules, so that it starts in milliseconds.
"""

import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

IMPORTED = (
    "torch",
    "torch._dynamo",
    "pandas",
    "pyarrow.fs",
    "fsspec",
    "pydantic",
    "requests",
    "tune_sam.training",
    "tune_sam.checkpoint",
    "torch_geometric.data",
)
"""What workers import, but for Ray."""

SIZE = 4
"""Bytes of the length before a message."""

DONE = b"1"

START = 5.0
"""Seconds in which the process that serves must have made its socket, which is the first thing it does."""

CONTEXT = "--serialized-runtime-env-context="
"""How the word of a worker begins that has a runtime environment."""

SITE_FLAGS = ("-S", "-s")
"""Flags of the interpreter that Ray gives before a worker's script; :func:`served` has run the server with them."""

Worker = tuple[dict[str, object], list[int]]
"""A worker's command with its surroundings, and its three standard files."""


standing: list[str] = []
"""What :func:`served` yields while the process runs."""


@contextmanager
def served() -> Iterator[list[str]]:
    """Run the process for as long as the context lasts, unless it runs; it ends with this one, however that ends.

    Yields:
        The words that stand before a worker's command, in place of the interpreter.
    """
    global standing
    if standing or sys.platform != "linux":  # elsewhere, what torch has imported may not live through a fork
        yield standing or [sys.executable]
        return
    folder = tempfile.mkdtemp(prefix="tune_sam-")
    address = str(Path(folder, "forks"))
    server = subprocess.Popen(
        [sys.executable, *_site_flags(), __file__, "serve", address, *IMPORTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"OMP_NUM_THREADS": "1", **os.environ},  # as libraries come; trainings and tasks then say how many
        start_new_session=True,  # a terminal's Ctrl-C is for the driver
    )
    try:
        standing = words(address)
        yield standing
    finally:
        standing = []
        server.kill()
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _site_flags() -> list[str]:
    """Give those of :data:`SITE_FLAGS` that this interpreter runs with; Ray has its workers run with them, too."""
    return [flag for flag, given in zip(SITE_FLAGS, (sys.flags.no_site, sys.flags.no_user_site), strict=True) if given]


def words(address: str) -> list[str]:
    """Give the words that stand before a worker's command where a process serves at `address`."""
    return [sys.executable, "-S", "-E", __file__, "launch", address, sys.executable]


def serve(address: str, modules: Sequence[str], alive: int = 0) -> None:
    """Import the modules, and fork a worker for whoever asks.

    Args:
        address: of the socket that is made, a path.
        modules: to import.
        alive: file whose end, which comes with that of the process that holds the other one, ends this; standard input
            by default.
    """
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen(1024)
        for name in modules:
            with suppress(Exception):  # its worker meets it again, and says what it is
                importlib.import_module(name)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets those that have ended
        worker = _asked(listening, alive)
    if worker:
        _become(*worker)
        return
    with suppress(OSError):  # the driver has removed them, if it ended by itself
        os.unlink(address)
        os.rmdir(Path(address).parent)


def _asked(listening: socket.socket, alive: int) -> Worker | None:
    """Fork a worker for whoever asks; return in each worker with what it is to be, and here with None at the end."""
    while True:
        ready, _, _ = select.select([listening.fileno(), alive], [], [])
        if alive in ready:
            return None
        connection, _ = listening.accept()
        with connection, suppress(OSError, ValueError):
            asked, files = _received(connection)
            try:
                if (child := os.fork()) == 0:
                    return asked, files
            except OSError:  # there are too many processes
                child = None
            _close(files)
            if child:
                connection.sendall(DONE)


def _received(connection: socket.socket) -> Worker:
    first, files, _, _ = socket.recv_fds(connection, SIZE, 3)
    length = int.from_bytes(first)
    text = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    if len(files) != 3 or len(text) != length:
        _close(files)
        raise ValueError("it ended before it had asked")
    return json.loads(text), files


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def _become(asked: dict[str, object], files: Sequence[int]) -> None:
    """Be the worker that was asked for, to its end."""
    os.setpgid(0, 0)  # Ray ends a worker by its group
    for stream, file in enumerate(files):
        os.dup2(file, stream)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, asked["blocked"])  # type: ignore[arg-type]
    os.umask(asked["umask"])  # type: ignore[arg-type]
    os.chdir(asked["folder"])  # type: ignore[arg-type]
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(asked["oom"])  # type: ignore[arg-type]
    os.environ.clear()
    os.environ.update(asked["variables"])  # type: ignore[call-overload]
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # by the system, as at its import; forks would all draw the same numbers
    sys.argv = list(asked["command"])  # type: ignore[call-overload]
    own = [str(Path(sys.argv[0]).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*own, *(place for place in sys.path if place not in own)]
    runpy.run_path(sys.argv[0], run_name="__main__")


def launch(address: str, interpreter: str, command: list[str]) -> None:
    """Have a worker forked, else become it.

    Args:
        address: of the socket at which :func:`serve` listens.
        interpreter: that runs the command.
        command: as Ray gives it: a script that makes a runtime environment, the worker's own, and its arguments.
    """
    if Path(command[0]).name == "setup_worker.py" and not any(word.startswith(CONTEXT) for word in command):
        own = [word for word in command[1:] if word not in SITE_FLAGS and not word.startswith("--language=")]
        with suppress(OSError), _asking(address, own, (0, 1, 2)) as connection:
            if connection.recv(1) == DONE:
                return
    os.execv(interpreter, [interpreter, *command])


@contextmanager
def _asking(address: str, command: Sequence[str], files: Sequence[int]) -> Iterator[socket.socket]:
    """Ask for a fork that runs a command; :data:`DONE` comes when it is there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        text = json.dumps(_surroundings(command)).encode()
        socket.send_fds(connection, [len(text).to_bytes(SIZE)], files)
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        yield connection


def serving() -> bool:
    """Whether :func:`served` runs a process that forks."""
    return bool(standing)


def fork(command: Sequence[str], files: Sequence[int]) -> None:
    """Ask the process that :func:`served` runs for a fork, which comes when its imports are done; wait for nothing.

    Args:
        command: a Python file and its arguments.
        files: three, that are its standard ones.

    Raises:
        OSError: nobody serves, or not yet after some seconds.
    """
    if not standing:
        raise ConnectionError("nobody serves")
    *_, address, _ = standing
    until = time.monotonic() + START
    while True:
        try:
            with _asking(address, command, files):
                return
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > until:
                raise
            time.sleep(0.01)


def _surroundings(command: Sequence[str]) -> dict[str, object]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "command": list(command),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "umask": umask,
        "blocked": [int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "oom": Path("/proc/self/oom_score_adj").read_text() if Path("/proc/self/oom_score_adj").exists() else "0",
    }


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # this file's folder, whose modules are nobody's by their bare names
    if sys.argv[1] == "serve":
        sys.path.insert(0, str(Path(__file__).parents[2]))
        importlib.import_module("tune_sam")  # the driver's own, whatever other one is installed
        del sys.path[0]
        serve(sys.argv[2], sys.argv[3:])
    else:
        launch(sys.argv[2], sys.argv[3], sys.argv[4:])
