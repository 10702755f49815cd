"""A search on the screen: trials done and running, the best so far of each optimizer, the time that is left.

On a terminal a table that is redrawn; elsewhere a line for each trial that ended.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as BarOfParts
from rich.progress_bar import ProgressBar
from rich.table import Table

from tune_sam.cli.tables import clock
from tune_sam.space import PASSES
from tune_sam.study.records import Study
from tune_sam.tuning.listener import SearchListener

if TYPE_CHECKING:
    from tune_sam.tuning.ledger import Outcome

WORDS = {"val/accuracy": "validation accuracy", "val/loss": "validation loss", "train/accuracy": "training accuracy"}
"""For what is the value of a trial."""


@dataclass
class _Row:
    """One optimizer: how its trials ended, which run and how many epochs they have, and the best value so far."""

    ended: Counter[str] = field(default_factory=Counter)
    running: dict[int, int] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    sign: int = 1

    def end(self, number: int, state: str, value: float | None) -> None:
        self.running.pop(number, None)
        self.ended[state] += 1
        if value is not None and (self.best is None or self.sign * value > self.sign * self.best[0]):
            self.best = value, number


class Progress(SearchListener):
    """Follows one search.

    Args:
        console: where to show it. A quiet one shows nothing.

    Attributes:
        first: name of the first study that was followed; None before.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)
        self.first: str | None = None
        self._rows: dict[str, _Row] = {}
        self._trials: dict[str, int] = {}

    @contextmanager
    def following(self, study: Study) -> Iterator[None]:
        """Show `study` for as long as the context lasts, from where it stands."""
        self._study = study.name
        self.first = self.first or study.name
        self._epochs = study.settings.epochs
        self._judged_by = study.settings.judged_by
        self._trials = {optimizer: study.settings.budget(optimizer) for optimizer in study.settings.optimizers}
        self._rows = {optimizer: _Row(sign=study.settings.sign) for optimizer in study.settings.optimizers}
        for trial in study.records():
            if trial.state not in ("waiting", "running"):
                self._rows[trial.optimizer].end(trial.number, trial.state, trial.value)
        self._begun, self._before = time.monotonic(), self._work_done()
        self._say(
            f"Study {study.name}: {study.settings.workload} on {study.settings.dataset}, "
            f"{', '.join(f'{trials} trials of {optimizer}' for optimizer, trials in self._trials.items())}, "
            f"{self._epochs} epochs each."
        )
        with self._shown():
            yield

    def announced(self, text: str) -> None:
        """Show what is about to be trained, and what it costs."""
        self._say(text)

    def started(self, optimizer: str, number: int) -> None:
        """Show a trial among those that run."""
        self._rows[optimizer].running[number] = 0

    def epoch(self, optimizer: str, number: int, epoch: int) -> None:
        """Show how many epochs a trial has."""
        self._rows[optimizer].running[number] = epoch

    def put_back(self, optimizer: str, number: int) -> None:
        """Take a trial away from those that run."""
        self._rows[optimizer].running.pop(number, None)

    def ended(self, optimizer: str, number: int, outcome: "Outcome") -> None:
        """Count a trial that ended; without a terminal, write a line for it."""
        row = self._rows[optimizer]
        value = outcome.metrics.get(self._judged_by)
        row.end(number, outcome.state, value if outcome.state == "complete" else None)
        if not self.console.is_terminal:
            what = outcome.reason if value is None else f"{WORDS[self._judged_by]} {value:.4f}, {outcome.epochs} epochs"
            self._say(f"{optimizer:8} {row.ended.total():>3}/{self._trials[optimizer]}  {outcome.state:9} {what}")

    def _shown(self) -> AbstractContextManager[object]:
        if not self.console.is_terminal:
            return nullcontext()
        return Live(console=self.console, get_renderable=self.table, refresh_per_second=4, transient=True)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _work_done(self) -> float:
        """Gradients so far, in epochs; a trial that ended early has done all that it will do."""
        return sum(
            PASSES.get(optimizer, 2) * (row.ended.total() * self._epochs + sum(row.running.values()))
            for optimizer, row in self._rows.items()
        )

    def seconds_left(self) -> float | None:
        """Return the seconds that the search still takes at its speed since this launch; None while that is unknown."""
        total = self._epochs * sum(PASSES.get(optimizer, 2) * trials for optimizer, trials in self._trials.items())
        done = self._work_done()
        if done <= self._before:
            return None
        return (time.monotonic() - self._begun) * (total - done) / (done - self._before)

    def table(self) -> Table:
        """Return what a terminal shows: a row for each optimizer."""
        left = self.seconds_left()
        remaining = f"{clock(left)} left" if left is not None else "time left not known yet"
        table = Table(
            title=f"{self._study}   {clock(time.monotonic() - self._begun)} gone, {remaining}",
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        # Narrow enough for a terminal of 80 columns; only what ended otherwise than complete may take a second line.
        for column in ("optimizer", "trials", "", "running", f"best {self._judged_by.rpartition('/')[2]}"):
            table.add_column(column, no_wrap=True)
        table.add_column("others")
        for optimizer, row in self._rows.items():
            best = f"{row.best[0]:.4f}  (trial {row.best[1]})" if row.best else "–"
            others = [f"{row.ended[state]} {state}" for state in ("pruned", "diverged", "failed") if row.ended[state]]
            table.add_row(
                optimizer,
                f"{row.ended.total()}/{self._trials[optimizer]}",
                ProgressBar(total=self._trials[optimizer], completed=row.ended.total(), width=6),
                ", ".join(f"{n} at {e}/{self._epochs}" for n, e in list(row.running.items())) or "–",
                best,
                ", ".join(others) or "–",
            )
        return table


@contextmanager
def task_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar of tasks; yield what to call with the name of a task that is done, how many are done, and of all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with BarOfParts(*columns, console=console, disable=not console.is_terminal) as bar:

        def done(what: str, count: int, total: int) -> None:
            if not bar.tasks:  # with nothing to measure there is nothing to show
                bar.add_task("measuring")
            bar.update(bar.tasks[0].id, completed=count, total=total)
            console.print(f"{what}: done, {count} of {total}", soft_wrap=True, markup=False)

        yield done
