"""A Ray that is started on this machine: where its sockets lie, and whether it still lives."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread, current_thread, main_thread
from typing import TYPE_CHECKING

from tune_sam.cluster.ray_internals import (
    SOCKETS,
    ask_for_the_token,
    disconnect,
    leave_endings_alone,
    without_attendants,
    workers_started_by,
)
from tune_sam.errors import Refused, Stopped

if TYPE_CHECKING:
    from subprocess import Popen

SOCKET_PATH = 107
"""Bytes that the path of a socket may have."""

SHORT = ("/tmp", "/var/tmp")
"""Where Ray's folder is made in place of one that it cannot use."""


def start(words: Sequence[str], dashboard: bool = False) -> None:
    """Start a Ray on this machine, and connect to it.

    Args:
        words: that start its workers; see :func:`tune_sam.cluster.forks.served`.
        dashboard: whether it serves Ray's dashboard.

    Raises:
        Refused: there is no folder for its sockets.
        Stopped: it does not start.
    """
    import ray

    folder = sockets_folder()
    ask_for_the_token()
    try:
        with nullcontext() if dashboard else without_attendants(), workers_started_by(words):
            ray.init(
                address="local",
                include_dashboard=dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
    except Exception as error:  # Ray has no type of its own for it
        raise Stopped(
            f"Ray could not be started on this machine ({' '.join(str(error).split())}); look at its memory and its "
            f"load, and at {folder}/session_latest/logs"
        ) from None


class Start:
    """The start of a Ray on this machine beside other work: most of its seconds are waits.

    Args:
        words: that start its workers.
        dashboard: whether it serves Ray's dashboard.
    """

    def __init__(self, words: Sequence[str], dashboard: bool = False) -> None:
        leave_endings_alone()  # imports Ray, in this thread, for two that import one package can meet half of it
        self._done, self._over = Event(), Event()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(words, dashboard), name="tune_sam-start", daemon=True)
        self._thread.start()

    def _run(self, words: Sequence[str], dashboard: bool) -> None:
        try:
            start(words, dashboard)
        except BaseException as error:  # Stopped is no Exception
            self._error = error
        self._done.set()
        self._over.wait()  # the system ends Ray's processes with the thread that has started them

    def wait(self) -> None:
        """Wait until it has started.

        Raises:
            Refused, Stopped: as :func:`start` does.
        """
        self._done.wait()
        if self._error:
            raise self._error

    def end(self) -> None:
        """End that Ray, if it runs still."""
        self._done.wait()
        disconnect()
        self._over.set()
        self._thread.join()


def sockets_folder() -> Path:
    """Choose the folder in which Ray makes its sockets and logs.

    It is Ray's own default if that is ours and not too long a path.

    Raises:
        Refused: there is none.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    own = f"tune_sam-{os.getuid()}"
    for folder in (Path(chosen).absolute() / "ray", *(Path(place, own) for place in SHORT)):
        if len(os.fsencode(folder)) + SOCKETS <= SOCKET_PATH and _is_ours(folder):
            return folder
    raise Refused(
        f"Ray can make no sockets in TMPDIR {chosen}, nor in {' or '.join(SHORT)}; set TMPDIR to a folder of your own "
        f"with a path of at most {SOCKET_PATH - SOCKETS - len('/ray')} characters."
    )


def _is_ours(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder):
            return folder.stat().st_uid == os.getuid()
    except OSError:
        return False


class Watch:
    """Looks whether the processes of a Ray that was started here live, and interrupts the main thread if one does not.

    Ray itself would end this process after a while, with nothing but its own log.

    Args:
        processes: to watch, by what they are.
    """

    def __init__(self, processes: "Mapping[str, Popen[bytes]]") -> None:
        self._processes = processes
        self._over = Event()
        self._lost = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for as long as the context lasts.

        Raises:
            Stopped: one of the processes has ended.
        """
        if current_thread() is not main_thread():
            yield
            return
        before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
        thread = Thread(target=self._look, name="tune_sam-watch", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            if self._lost:
                raise Stopped(f"Ray's {self._lost} on this machine has ended, and with it the workers") from None
            raise
        finally:
            self._over.set()
            thread.join()
            signal.signal(signal.SIGUSR2, before)

    def _look(self) -> None:
        while not self._over.wait(0.1):
            if dead := [name for name, process in self._processes.items() if process.poll() is not None]:
                self._lost = dead[0]
                os.kill(os.getpid(), signal.SIGUSR2)
                return
