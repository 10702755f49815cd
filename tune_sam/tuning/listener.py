"""Who is told how a search, a refit or an analysis goes: the screen is one listener, a test may be another."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from tune_sam.study.records import Study

if TYPE_CHECKING:  # it needs Optuna, which a refusal does not wait for
    from tune_sam.tuning.ledger import Outcome


class SearchListener(Protocol):
    """Told of every event, on the driver's thread. What is not overridden does nothing."""

    def stage(self, text: str) -> None:
        """Note what begins now and may take a while before anything else is heard, such as the start of Ray."""
        return

    def following(self, study: Study) -> AbstractContextManager[object]:
        """Follow `study` for as long as the context lasts, from where it stands."""
        return nullcontext()

    def announced(self, text: str) -> None:
        """Note what is about to be trained, and what it costs."""
        return

    def started(self, optimizer: str, number: int) -> None:
        """Note that a trial starts, or starts again."""
        return

    def epoch(self, optimizer: str, number: int, epoch: int) -> None:
        """Note that a trial has trained so many epochs."""
        return

    def put_back(self, optimizer: str, number: int) -> None:
        """Note that a trial lost its process or its memory, and waits to be started again."""
        return

    def ended(self, optimizer: str, number: int, outcome: "Outcome") -> None:
        """Note that a trial ended, and how."""
        return

    def task(self, what: str, done: int, total: int) -> None:
        """Note that a test or a measurement is done, how many are, and how many there will be."""
        return


class Silent(SearchListener):
    """Shows nothing."""
