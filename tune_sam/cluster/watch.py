"""Which trials and tasks take too long: what ends nothing for a while, or trains longer than a trial may."""

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tune_sam.durations import OFF, written

T = TypeVar("T", bound=Hashable)
"""What names a trial or a task."""

ATTENTION = 10.0
"""Seconds between two looks at what runs that count, at most: a driver that was stopped has heard of nothing."""


class Looks:
    """Tells how much time passed from each look at what runs to the next."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def passed(self) -> float:
        """Give the seconds since the last call that count."""
        last, self._last = self._last, time.monotonic()
        return min(self._last - last, ATTENTION)


class Watch(Generic[T]):
    """Counts the time that trials or tasks take and says which of them are to be ended.

    It has no clock: who drives the trials says how much time passed, so that hours in which the driver itself was
    stopped, and could hear of no epoch, are held against nobody.

    Args:
        trial_timeout: seconds of training, over all attempts, that a trial may take; 0 for no limit.
        stall_timeout: seconds that may pass without an epoch; 0 for no limit.
        trained: gives the seconds of the epochs that a trial has, those of earlier attempts too.
        stalled: says what one has not done in the stall timeout.
    """

    def __init__(
        self,
        trial_timeout: float,
        stall_timeout: float,
        trained: Callable[[T], float] = lambda _: 0,
        stalled: str = "it ended no epoch",
    ) -> None:
        self._trial_timeout, self._stall_timeout = trial_timeout, stall_timeout
        self._trained, self._stalled = trained, stalled
        self._now = 0.0
        self._since: dict[T, float] = {}
        self._overdue: dict[T, str] = {}

    def passes(self, seconds: float) -> None:
        """Let time pass for all trials that are waited for."""
        self._now += seconds

    def waits_for(self, one: T) -> None:
        """Wait for an epoch of a trial from now on, unless one is waited for already: it has a process."""
        self._since.setdefault(one, self._now)

    def heard(self, one: T) -> None:
        """Wait for the next epoch of a trial, or the next sign of life of a task: one was there."""
        self._since[one] = self._now

    def overdue(self, one: T) -> str:
        """Say, once, why a trial that is waited for is to be ended; empty if it is not."""
        if one in self._overdue or one not in self._since:
            return ""
        waited = self._now - self._since[one]
        if OFF < self._stall_timeout <= waited:
            why = f"{self._stalled} in {written(self._stall_timeout)}, its study's --stall-timeout"
        elif OFF < self._trial_timeout <= self._trained(one) + waited:
            why = f"it trained for {written(self._trial_timeout)}, its study's --trial-timeout"
        else:
            return ""
        self._overdue[one] = why
        return why

    def forget(self, one: T) -> str:
        """Wait for no more of a trial, whose attempt has ended; say why it was to be ended, if it was."""
        self._since.pop(one, None)
        return self._overdue.pop(one, "")
