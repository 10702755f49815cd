"""A function that needs torch, called in a fork of the process that has it while this one goes on without.

To import torch and what a data set needs takes a driver as many seconds as a worker. The process of
:mod:`tune_sam.cluster.forks` has imported it already, on another core. A call there gives what it returns or a refusal;
of anything else that may happen there the driver learns nothing, and calls the function itself, to meet it, too.

Run by its path, this file is the fork's side.
"""

import ctypes
import importlib
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

DIES_WITH_PARENT = 1
"""The option of Linux' `prctl` that sends a process a signal when its parent has ended."""


class NoAnswer(Exception):
    """The fork has ended without a result; what it met is met again by calling the function here."""


def offered() -> bool:
    """Whether a call beside this process saves it something: there is who forks, and torch is not here yet."""
    return bool(_forks().standing) and "torch" not in sys.modules


class Call:
    """A call that goes on while this process does other things.

    Args:
        function: that is called, as `package.module:name`; its module is imported there alone.
        args: of the function; they are pickled, as its result is.

    Raises:
        NoAnswer: it cannot be called there.
    """

    def __init__(self, function: str, *args: object) -> None:
        try:
            asked = pickle.dumps((sys.path, function, args))
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # such as of a class in a function
            raise NoAnswer from error
        self._answer, write = os.pipe()
        try:
            with tempfile.TemporaryFile() as request:
                request.write(asked)
                request.seek(0)
                _forks().fork([__file__], (request.fileno(), write, sys.__stderr__.fileno() if sys.__stderr__ else 2))
        except OSError as error:
            os.close(self._answer)
            raise NoAnswer from error
        finally:
            os.close(write)

    def result(self) -> Any:
        """Wait for what the function returns.

        Raises:
            Refused: by the function.
            NoAnswer: it raised something else, or its process ended.
        """
        with open(self._answer, "rb") as answer:
            said = answer.read()
        if not said:
            raise NoAnswer
        refusal, result = pickle.loads(said)
        if refusal:
            raise refusal
        return result


def _forks() -> Any:
    """Not when this module is imported: where it is the fork's side, the function called needs none of it."""
    from tune_sam.cluster import forks

    return forks


def _called() -> None:
    """Answer the call on standard input on what is standard output; what the function prints goes to the errors."""
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)
    with os.fdopen(0, "rb") as asked, os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        sys.path[:], name, args = pickle.load(asked)
        from tune_sam.errors import Refused

        module, _, attribute = name.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        outcome: tuple[Refused | None, Any] = None, None
        try:
            outcome = None, function(*args)
        except Refused as refusal:
            outcome = refusal, None
        answer.write(pickle.dumps(outcome))


if __name__ == "__main__":
    with suppress(Exception):  # no answer says enough
        _called()
