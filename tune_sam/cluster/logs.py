"""A trial's log: what its processes print, what it raised, and where it hangs, in one file beside its results."""

import faulthandler
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from pyarrow.fs import FileSystem

from tune_sam.errors import masked
from tune_sam.study.logs import heading, read_log
from tune_sam.study.settings import now

log = logging.getLogger(__name__)

LIMIT = 1 << 20
"""Bytes of a log. Of a training that prints more, the first and the last quarter stay."""

TIDYING, UPLOADING = 1.0, 10.0
"""Seconds between two looks at a log's size, and between two copies of it to a URI, where nothing can be appended."""

BEFORE_THE_END = 0.5
"""The part of the stall timeout after which the stack of an epoch that goes on is written to the log. The driver, which
ends the process, has waited for longer: since it asked for the process."""


class TrialLog(threading.Thread):
    """Keeps the log of the trial that this process trains. What goes wrong with it is not the training's affair.

    In a worker of Ray it takes everything that is printed, by native code and child processes, too. Any other process
    goes on printing where it did, and the log has the rest.

    Args:
        place: file or URI; earlier attempts of the trial may have begun it. Without one nothing is kept.
        attempt: of the trial, from 1.
    """

    def __init__(self, place: str | None, attempt: int = 1) -> None:
        super().__init__(name="tune_sam.log", daemon=True)
        self._place, self._closing, self._tidying = place, threading.Event(), threading.Lock()
        self._file: int | None = None
        self._streams: dict[int, int] = {}
        self._left_out, self._copied, self._looked = 0, -1, time.monotonic()
        if place:
            try:
                self._file = self._opened(place)
            except OSError as error:
                log.warning("the log %s cannot be written (%s)", masked(place), error)
                return
            self._write(heading(f"{attempt}, {now()}, process {os.getpid()} on {socket.gethostname()}"))
            if _is_worker():
                self._take_output()
            self.start()

    def run(self) -> None:
        """Keep the log short, and copied, while the process prints."""
        while not self._closing.wait(TIDYING):
            self._tidy(copy=time.monotonic() - self._looked > UPLOADING)

    def close(self) -> None:
        """Let the process print where it did before."""
        if self._file is None or self._closing.is_set():
            return
        self._closing.set()
        self.join()
        _flush()
        for stream, before in self._streams.items():
            os.dup2(before, stream)
            os.close(before)
        self._tidy(copy=True)
        os.close(self._file)
        if self._remote:
            Path(self._path).unlink(missing_ok=True)

    @contextmanager
    def noting(self, stall_timeout: float) -> Iterator[None]:
        """Note the error that ends the context, and after most of `stall_timeout` where in the code the process is.

        Raises:
            RuntimeError: the context called `sys.exit`, which would end the process, and other trials with it.
        """
        if stall_timeout and self._file is not None:
            # From a thread of its own in native code, so that it works whatever holds the interpreter.
            faulthandler.dump_traceback_later(BEFORE_THE_END * stall_timeout, file=self._file)
        try:
            yield
        except SystemExit as error:
            self._note_error()
            raise RuntimeError(f"the training called sys.exit({error.code!r})") from None
        except Exception:
            self._note_error()
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _note_error(self) -> None:
        if self._file is not None:
            _flush()
            self._write(masked(traceback.format_exc()))
            self._tidy(copy=True)

    @property
    def _remote(self) -> bool:
        return "://" in (self._place or "")

    def _opened(self, place: str) -> int:
        if self._remote:
            handle, self._path = tempfile.mkstemp(prefix="tune_sam-", suffix=".log")
            with open(handle, "w") as file:
                file.write(read_log(place) or "")
        else:
            self._path = place
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)  # a program may print anything

    def _take_output(self) -> None:
        assert self._file is not None
        _flush()
        for stream in (1, 2):
            self._streams[stream] = os.dup(stream)
            os.dup2(self._file, stream)

    def _write(self, text: str) -> None:
        assert self._file is not None
        with suppress(OSError):
            os.write(self._file, text.encode(errors="replace"))

    def _tidy(self, *, copy: bool) -> None:
        try:
            with self._tidying:
                self._shorten()
                if copy and self._remote:
                    self._copy()
        except Exception as error:  # of any file system
            log.warning("the log %s is not whole (%s)", masked(self._place or ""), error)

    def _shorten(self) -> None:
        assert self._file is not None
        size = os.fstat(self._file).st_size
        if size <= LIMIT:
            return
        with open(self._path, "rb") as file:
            head = file.read(LIMIT // 4)
            file.seek(size - LIMIT // 4)
            tail = file.read()
        self._left_out += size - len(head) - len(tail)
        os.ftruncate(self._file, len(head))  # what is printed from now on is appended to that
        os.write(self._file, f"\n[... {self._left_out:,} bytes left out ...]\n".encode() + tail)

    def _copy(self) -> None:
        assert self._file is not None
        assert self._place
        self._looked, size = time.monotonic(), os.fstat(self._file).st_size
        if size == self._copied:
            return
        filesystem, path = FileSystem.from_uri(self._place)
        filesystem.create_dir(str(Path(path).parent))
        with filesystem.open_output_stream(path) as file:
            file.write(Path(self._path).read_bytes())
        self._copied = size


def _is_worker() -> bool:
    return ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a notebook's may be anything
            stream.flush()
