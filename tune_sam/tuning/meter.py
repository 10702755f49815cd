"""Counts what a search takes while it runs, so that it ends when a budget of the study is spent."""

import time
from collections.abc import Callable
from contextlib import suppress

from tune_sam.errors import Refused, Stopped
from tune_sam.study.settings import StudySettings
from tune_sam.study.spent import Ended, Spent

EVERY = 10.0
"""Seconds of a search that a driver which is killed forgets, at most."""


class Meter:
    """Counts the time, the epochs and the trials of a search.

    Args:
        settings: the study's, with its budgets.
        spent: by its earlier launches.
        note: keeps the seconds of all launches in the study's ledger.
    """

    def __init__(self, settings: StudySettings, spent: Spent, note: Callable[[float], None]) -> None:
        self._settings, self._spent, self._note = settings, spent, note
        self._begun: float | None = None
        self._before = self._noted = spent.seconds

    def start(self) -> None:
        """Count the time from now on: workers can train."""
        self._begun = time.monotonic()

    def epoch(self, trial: tuple[str, int], epoch: int) -> None:
        """Count the epochs of a trial up to this one. Those that are trained again after an interrupt count once."""
        self._spent.epochs[trial] = max(epoch, self._spent.epochs.get(trial, 0))

    def end(self, optimizer: str, state: str, value: float | None) -> None:
        """Count a trial that ended, with its value if it is complete."""
        self._spent.end(optimizer, state, value)

    def ends(self) -> Ended | None:
        """Say which budget of the study is spent by now; None while none is.

        Raises:
            Stopped: the ledger's storage refuses.
        """
        if self._begun is not None:
            self._spent.seconds = self._before + time.monotonic() - self._begun
        if self._spent.seconds - self._noted >= EVERY:
            self._keep()
        return self._spent.ends(self._settings)

    def close(self) -> None:
        """Count no more time, and keep what was counted as far as the storage takes it."""
        if self._begun is not None:
            with suppress(Stopped):
                self.ends()
                self._keep()
            self._before, self._begun = self._spent.seconds, None

    def _keep(self) -> None:
        try:
            self._note(self._spent.seconds)
        except Refused as error:  # which Tune would take for a trial's
            raise Stopped(str(error).rstrip(".")) from error
        self._noted = self._spent.seconds
