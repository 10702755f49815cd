"""Signs of life of a task in a worker, which tell a measurement that takes hours from one that hangs."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

Words = ParamSpec("Words")
Result = TypeVar("Result")


@dataclass
class Pulse:
    """What tells the driver that a task goes on.

    Attributes:
        tell: does so.
        period: seconds between two signs of life, at least; infinite where nobody waits for one.
    """

    tell: Callable[[], None]
    period: float
    _last: float = -math.inf

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Give a sign of life now, and for as long as the context lasts wherever something is `alive`."""
        global _pulse
        _pulse = self
        try:
            self.beat()
            yield
        finally:
            _pulse = None

    def beat(self) -> None:
        """Give a sign of life, unless the last was given just now."""
        if self.period < math.inf and time.monotonic() - self._last >= self.period:
            self._last = time.monotonic()
            self.tell()


_pulse: Pulse | None = None
"""Of the task that this process runs."""


def alive(function: Callable[Words, Result]) -> Callable[Words, Result]:
    """Have each call of a function be a sign of life of the task that calls it."""

    @wraps(function)
    def calling(*words: Words.args, **options: Words.kwargs) -> Result:
        if _pulse:
            _pulse.beat()
        return function(*words, **options)

    return calling
