"""What is going on, on the screen: trials done and running, tests and measurements, the time that is left.

On a terminal, and in a notebook that has ipywidgets, a few lines that are redrawn; elsewhere a line for what is done.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from tune_sam.durations import OFF, clock
from tune_sam.scores import SPLITS, decimal
from tune_sam.study.records import Study
from tune_sam.study.spent import Spent, noted_seconds
from tune_sam.tuning.listener import SearchListener, Silent

if TYPE_CHECKING:
    from tune_sam.tuning.ledger import Outcome


@contextmanager
def heard_by(listener: SearchListener | None, progress: bool | None = None) -> Iterator[SearchListener]:
    """Give who is told how something goes: the listener, else the screen or nobody.

    Args:
        listener: that the caller has.
        progress: whether the screen shows it, on standard error; by default where that is a terminal or a notebook.
    """
    if listener is not None:
        yield listener
        return
    console = Console(stderr=True, highlight=False, emoji=False)
    if console.is_terminal or console.is_jupyter if progress is None else progress:
        with Progress(console) as shown:
            yield shown
    else:
        yield Silent()


@dataclass
class _Row:
    """One optimizer: how its trials ended, which run and how many epochs they have, and the best value so far."""

    ended: Counter[str] = field(default_factory=Counter)
    epochs: int = 0
    running: dict[int, int] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    sign: int = 1

    def end(self, number: int, state: str, value: float | None, epochs: int) -> None:
        self.running.pop(number, None)
        self.ended[state] += 1
        self.epochs += epochs
        if value is not None and (self.best is None or self.sign * value > self.sign * self.best[0]):
            self.best = value, number

    def epochs_left(self, trials: int, epochs: int) -> float:
        """Expect the epochs that are still trained if trials end as early as those before, of `epochs` at most."""
        ended = self.ended.total()
        each = self.epochs / ended if ended else epochs
        running = sum((each if done < each else epochs) - done for done in self.running.values())
        return running + max(0, trials - ended - len(self.running)) * each


class _Pace:
    """How fast something is done, from the first time that some of it was: what came before was starting up."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._done = 0.0

    def add(self, amount: float) -> None:
        if self._begun is None:
            self._begun = time.monotonic()
        else:
            self._done += amount

    def seconds(self, amount: float) -> float | None:
        """Give the seconds that so much takes; None while that is unknown."""
        if self._begun is None or not self._done:
            return None
        return (time.monotonic() - self._begun) * amount / self._done


class Progress(SearchListener):
    """Shows what it is told, for as long as it is entered.

    Args:
        console: where to show it. A quiet one shows nothing.

    Attributes:
        first: the first study that was followed; None before.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)
        self.first: Study | None = None
        self._stage, self._since = "Starting", time.monotonic()
        self._rows: dict[str, _Row] = {}
        self._trials: dict[str, int] = {}
        self._pace = _Pace()
        self._tasks: tuple[int, int] | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if _redraws(self.console):
            self._live = Live(
                console=self.console,
                get_renderable=self.screen,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,  # results are no progress
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def stage(self, text: str) -> None:
        """Show what begins. A log says nothing before there is a study: a refusal is its only line."""
        self._stage, self._since, self._tasks = text, time.monotonic(), None
        if self._live:
            self._live.refresh()  # what comes next may hold the interpreter
        elif self.first:
            self._say(f"{text} …")

    @contextmanager
    def following(self, study: Study) -> Iterator[None]:
        """Show `study` for as long as the context lasts, from where it stands."""
        self._study = study.name
        self.first = self.first or study
        self._epochs = study.settings.epochs
        self._settings = study.settings
        self._searched = noted_seconds(study) if study.settings.time_budget != OFF else 0.0
        self._trained: dict[tuple[str, int], int] = {}
        self._judged_by = study.settings.judged_by
        self._trials = {optimizer: study.settings.trials_of(optimizer) for optimizer in study.settings.optimizers}
        rows = {optimizer: _Row(sign=study.settings.sign) for optimizer in study.settings.optimizers}
        for trial in study.records():
            self._trained[trial.optimizer, trial.number] = trial.epochs
            if trial.state not in ("waiting", "running"):
                rows[trial.optimizer].end(trial.number, trial.state, trial.value, trial.epochs)
        self._begun, self._pace = time.monotonic(), _Pace()
        self._say(
            f"Study {study.name}: {study.settings.workload} on {study.settings.dataset}, "
            f"{', '.join(f'{trials} trials of {optimizer}' for optimizer, trials in self._trials.items())}, "
            f"{self._epochs} epochs each."
        )
        self._rows = rows
        try:
            yield
        finally:
            self._rows = {}

    def announced(self, text: str) -> None:
        """Show what is about to be trained, and what it costs."""
        self._say(text)

    def started(self, optimizer: str, number: int) -> None:
        """Show a trial among those that run."""
        self._rows[optimizer].running[number] = 0

    def epoch(self, optimizer: str, number: int, epoch: int) -> None:
        """Show how many epochs a trial has."""
        self._stage = ""
        self._rows[optimizer].running[number] = epoch
        self._trained[optimizer, number] = max(epoch, self._trained.get((optimizer, number), 0))
        self._pace.add(self._settings.gradients_of(optimizer))

    def put_back(self, optimizer: str, number: int) -> None:
        """Take a trial away from those that run."""
        self._rows[optimizer].running.pop(number, None)

    def ended(self, optimizer: str, number: int, outcome: "Outcome") -> None:
        """Count a trial that ended; where nothing is redrawn, write a line for it."""
        row = self._rows[optimizer]
        value = outcome.metrics.get(self._judged_by)
        row.end(number, outcome.state, value if outcome.state == "complete" else None, outcome.epochs)
        if not self._live:
            reached = "" if value is None else f"{self._judged_in_words()} {decimal(value, 4)}, {outcome.epochs} epochs"
            what = reached or outcome.reason
            self._say(f"{optimizer:8} {row.ended.total():>3}/{self._trials[optimizer]}  {outcome.state:9} {what}")

    def _judged_in_words(self) -> str:
        split, _, metric = self._judged_by.partition("/")
        return f"{SPLITS[split]} {metric}"

    def task(self, what: str, done: int, total: int) -> None:
        """Show how many tests or measurements are done."""
        if self._tasks is None:
            self._pace = _Pace()
        self._tasks = done, total
        self._pace.add(1)
        if not self._live:
            self._say(f"{what}: done, {done} of {total}")

    def seconds_left(self) -> float | None:
        """Return the seconds that the search still takes, from the epochs that were trained since this launch.

        Trials are expected to end as early as those before, and the search where a budget of the study is spent. None
        while that is unknown.
        """
        epochs = {name: row.epochs_left(self._trials[name], self._epochs) for name, row in self._rows.items()}
        left = self._pace.seconds(
            sum(self._settings.gradients_of(optimizer) * epochs[optimizer] for optimizer in epochs)
        )
        if left is None:
            return None
        spent = Spent(self._searched + time.monotonic() - self._begun, self._trained)
        return spent.leaves(self._settings, left, sum(epochs.values()))

    def screen(self) -> RenderableType:
        """Return what a terminal shows now."""
        parts: list[RenderableType] = []
        if self._rows:
            parts.append(self._table())
        if self._stage:
            text = f"{self._stage}, {clock(time.monotonic() - self._since)}"
            if self._tasks:
                done, total = self._tasks
                text = f"{self._stage}, {done} of {total} done, {_left_in_words(self._pace.seconds(total - done))}"
            parts.append(Spinner("line", text))
        return Group(*parts)

    def _say(self, text: str) -> None:
        # A log keeps a line whole; a terminal would break it in the middle of a word.
        self.console.print(text, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def _table(self) -> Table:
        gone = clock(time.monotonic() - self._begun)
        table = Table(
            title=f"{self._study}   {gone} gone, {_left_in_words(self.seconds_left())}",
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        # On a terminal of 80 columns what runs and what ended otherwise than complete may take several lines.
        best_of = f"best {self._judged_by.rpartition('/')[2]}"
        for column in ("optimizer", "trials", "", "running", best_of, "others"):
            table.add_column(column, no_wrap=column not in ("running", "others"))
        for optimizer, row in list(self._rows.items()):
            best = f"{decimal(row.best[0], 4)}  (trial {row.best[1]})" if row.best else "-"
            others = [f"{row.ended[state]} {state}" for state in ("pruned", "diverged", "failed") if row.ended[state]]
            table.add_row(
                optimizer,
                f"{row.ended.total()}/{self._trials[optimizer]}",
                ProgressBar(total=self._trials[optimizer], completed=row.ended.total(), width=6),
                ", ".join(f"{n} at {e}/{self._epochs}" for n, e in list(row.running.items())) or "-",
                best,
                ", ".join(others) or "-",
            )
        return table


def _left_in_words(seconds: float | None) -> str:
    return "time left not known yet" if seconds is None else f"about {clock(seconds)} left"


def _redraws(console: Console) -> bool:
    """Whether lines can be drawn again: on a terminal, and in a notebook by what rich draws them with there."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
