"""Signals that end a job, taken as an interrupt."""

import logging
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what schedulers end a job with, and what a terminal sends that is closed."""


WAITS_FOR = "workers end and MLflow gets what it lacks, which takes some seconds"
"""What an interrupt of trainings and tasks waits for."""


class Interrupt:
    """A handler of signals: the first one interrupts, and says what it waits for; another calls `again`.

    Args:
        again: by default the first thing once more: another KeyboardInterrupt, which ends what the first one waits for.

    Attributes:
        waits_for: the rest of a sentence; nothing is said if it is empty.
    """

    def __init__(self, again: Callable[[], object] | None = None) -> None:
        self.waits_for = ""
        self._again = again
        self._taken = False

    def __call__(self, number: int, frame: object) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: always, unless `again` ends the process.
        """
        if number == signal.SIGHUP:
            _leave_closed_terminal()
        if self._taken and self._again:
            self._again()
        elif not self._taken and self.waits_for:
            log.warning("Stopping: %s; once more stops at once.", self.waits_for)
        self._taken = True
        raise KeyboardInterrupt


@contextmanager
def interruptible(waits_for: str = WAITS_FOR, again: Callable[[], object] | None = None) -> Iterator[None]:
    """Let each of the signals that end a job interrupt it: what is trained is kept, and the next launch resumes.

    Inside another one it is that one's handler that takes them. It is set again, for Ray sets its own when it starts.
    Signals that are ignored, as by `nohup` and of what a script starts in the background, stay ignored.

    Args:
        waits_for: what is said of a first signal.
        again: what a second one does; see :class:`Interrupt`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    handler = next((one for one in before.values() if isinstance(one, Interrupt)), Interrupt(again))
    outer, handler.waits_for = handler.waits_for, waits_for
    for number, other in before.items():
        if other is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        handler.waits_for = outer
        for number, other in before.items():
            signal.signal(number, other)


@contextmanager
def endings_kept() -> Iterator[None]:
    """Let the signals that end a job have the handlers again that they had, for Ray sets its own as it connects."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it is none of Python's
                signal.signal(number, handler)


def _leave_closed_terminal() -> None:
    """Print to nowhere from now on if the terminal is gone: every line would be an error."""
    if stat.S_ISCHR(os.fstat(2).st_mode) and not os.isatty(2):
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  to the end of the process
