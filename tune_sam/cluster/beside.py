"""A function that needs torch, called in a fork of the process that has it while this one goes on without.

To import torch and what a data set needs takes a driver as many seconds as a worker. The process of
:mod:`tune_sam.cluster.forks` has imported it already, on another core. A call there gives what it returns, or a refusal
that has no cause; of anything else that may happen there the driver learns nothing, and calls the function itself, to
meet it, too.

Run by its path, this file is the fork's side.
"""

import ctypes
import importlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import warnings
from contextlib import suppress
from logging.handlers import QueueHandler
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from tune_sam.cluster import forks
from tune_sam.errors import Refused

DIES_WITH_PARENT = 1
"""The option of Linux' `prctl` that sends a process a signal when its parent has ended."""

PID = 8
"""Bytes of the fork's number, which it says before its answer."""


class NoAnswer(Exception):
    """The fork has ended without a result; what it met is met again by calling the function here."""


def called(function: str, *args: object) -> Any:
    """Call a function beside this process where that saves it something, else here.

    Args:
        function: as `package.module:name`.
        args: its arguments.

    Raises:
        Exception: whatever the function raises.
    """
    if offered():
        with suppress(NoAnswer), Call(function, *args) as call:
            return call.result()
    return _named(function)(*args)


def offered() -> bool:
    """Whether a call beside this process saves it something: there is who forks, and torch is not here yet."""
    return forks.serving() and "torch" not in sys.modules


class Call:
    """A call that goes on while this process does other things, until its context ends.

    Args:
        function: that is called, as `package.module:name`; its module is imported there alone.
        args: of the function; they are pickled, as its result is.

    Raises:
        NoAnswer: it cannot be called there.
    """

    def __init__(self, function: str, *args: object) -> None:
        try:
            if any(type(one).__module__ == "__main__" for one in args):
                raise ValueError("the fork's __main__ is another one")
            asked = pickle.dumps(sys.path) + pickle.dumps((function, args))
        except Exception as error:  # such as of a class in a function, or of a pointer
            raise NoAnswer from error
        self._answer, write = os.pipe()
        self._process = b""
        try:
            with tempfile.TemporaryFile() as request, open(os.devnull, "wb") as nowhere:
                request.write(asked)
                request.seek(0)
                errors = nowhere.fileno()
                with suppress(ValueError, OSError, AttributeError):
                    errors = sys.__stderr__.fileno()  # type: ignore[union-attr]
                forks.fork([__file__], (request.fileno(), write, errors))
        except OSError as error:
            os.close(self._answer)
            raise NoAnswer from error
        finally:
            os.close(write)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End the fork, and whatever it has started, if it has not answered."""
        os.set_blocking(self._answer, False)
        with suppress(OSError):
            self._process += os.read(self._answer, PID - len(self._process)) if len(self._process) < PID else b""
        os.close(self._answer)
        if len(self._process) == PID:
            with suppress(OSError):  # it has ended
                os.killpg(int.from_bytes(self._process), signal.SIGKILL)

    def result(self) -> Any:
        """Wait for what the function returns; what it warned of and logged is said here.

        Raises:
            Refused: by the function.
            NoAnswer: it raised something else, or its process ended.
        """
        with open(self._answer, "rb", closefd=False) as answer:
            self._process, said = answer.read(PID), answer.read()
        try:
            refusal, result, warned, logged = pickle.loads(said)
        except Exception as error:  # it ended in the middle of it
            raise NoAnswer from error
        for one in warned:
            warnings.warn_explicit(*one)
        for record in logged:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        if refusal is not None:
            raise Refused(refusal)
        return result


def _named(function: str) -> Any:
    module, _, attribute = function.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _called() -> None:
    """Answer the call on standard input on what is standard output; what the function prints goes to the errors."""
    with os.fdopen(0, "rb") as asked, os.fdopen(os.dup(1), "wb") as answer:
        answer.write(os.getpid().to_bytes(PID))
        answer.flush()
        parent = os.getppid()
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            return
        os.dup2(2, 1)
        sys.path[:] = pickle.load(asked)
        function, args = pickle.load(asked)
        _have_all_cpus()
        logged: SimpleQueue[logging.LogRecord] = SimpleQueue()
        logging.getLogger().addHandler(QueueHandler(logged))
        refusal, result = None, None
        with warnings.catch_warnings(record=True) as warned:
            try:
                result = _named(function)(*args)
            except Refused as error:
                if error.__cause__:  # which a person is to see with its lines
                    raise
                refusal = str(error)
        told = [(str(one.message), one.category, one.filename, one.lineno) for one in warned]
        answer.write(pickle.dumps((refusal, result, told, [logged.get() for _ in range(logged.qsize())])))


def _have_all_cpus() -> None:
    """Compute with as many threads as a driver would: the process that forks has one, as most workers."""
    import torch

    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    torch.set_num_threads(int(asked) if asked.isdecimal() and int(asked) else len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    with suppress(Exception):  # no answer says enough
        _called()
