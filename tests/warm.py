"""Command lines in processes of their own that begin with the heavy imports done.

Each is forked from one process that has them, once for all tests of a pytest process: to import torch, MLflow and the
rest takes seconds, and most of a short command's time. Ray is not among them, for it reads its environment as it is
imported. What is tested about the start itself needs a Python of its own.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

from tune_sam.cluster import forks

IMPORTED = [
    *forks.IMPORTED,
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna",
    "databases",
    "pytest",
    "torch_geometric.nn",
    "tune_sam.cli.main",
    "tune_sam.tuning.delivery",
]


class Command:
    """A function in a process and a session of its own, as a terminal would start it, with the methods of Popen."""

    def __init__(
        self,
        function: Callable[..., None],
        *args: object,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            function: of a module that the process can import.
            args: of the function; they are pickled.
            env: all environment variables that the process has; this process' by default.
            cwd: working directory; this process' by default.
        """
        folder = Path(tempfile.mkdtemp(prefix="command-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._printed = folder / "out", folder / "err"
        variables = dict(os.environ if env is None else env)
        place = cwd or Path.cwd()
        self._process = _context().Process(
            target=_call, args=(function, args, variables, place, self._printed), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (status := self.returncode) is None:
            raise subprocess.TimeoutExpired("the command", timeout or 0)
        return status

    def send_signal(self, sent: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, sent)

    def kill(self) -> None:
        """Kill it and what it has started in its session, and wait for its end."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.kill()
            self.wait()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Give what it printed to stdout and stderr when it has ended."""
        self.wait(timeout)
        out, err = (file.read_text() for file in self._printed)
        return out, err


def command(*words: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> Command:
    """Start a command line of tune-sam."""
    return Command(type_in, *words, env=env, cwd=cwd)


def type_in(*words: object) -> None:
    """Run a command line of tune-sam in this process, which it ends."""
    from tune_sam.cli.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["tune-sam", *map(str, words)]
    main()


def _call(
    function: Callable[..., None],
    args: tuple[object, ...],
    env: dict[str, str],
    cwd: Path,
    printed: tuple[Path, Path],
) -> None:
    os.setsid()
    os.chdir(cwd)
    for stream, place in zip((1, 2), printed, strict=True):
        os.dup2(os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [place for place in env.get("PYTHONPATH", "").split(os.pathsep) if place and place not in sys.path]
    words = _forks_of_this()
    with patch("tune_sam.cluster.forks.standing", words):
        function(*args)


def _forks_of_this() -> list[str]:
    """Start a process that forks the workers of a Ray from here, with these imports; it ends with this one."""
    address = _address()
    alive, held = os.pipe()
    if os.fork() == 0:
        os.close(held)
        os.setsid()
        forks.serve(address, [], alive)
        os._exit(0)
    os.close(alive)
    return forks.words(address)


_standing: list[tuple[multiprocessing.process.BaseProcess, list[str]]] = []


def forking() -> list[str]:
    """Start a process that forks workers for any Ray of this process, unless it lives; give the words that ask for one.

    It has been seen to end while tests ran, probably with the fork server, and then it is started again.
    """
    if not _standing or not _standing[-1][0].is_alive():
        address = _address()
        process = _context().Process(target=_serve, args=(address,), daemon=True)
        process.start()
        _standing.append((process, forks.words(address)))
    return _standing[-1][1]


class Forking(Sequence[str]):
    """Those words, for which the process is started when somebody looks at them: a search that is refused does not."""

    def __getitem__(self, index):
        return forking()[index]

    def __len__(self):
        return len(forking())


def _serve(address: str) -> None:
    forks.serve(address, [], multiprocessing.parent_process().sentinel)


def _address() -> str:
    return str(Path(tempfile.mkdtemp(prefix="forks-"), "forks"))


def _context() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context
