from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from tune_sam.cli.progress import Progress, task_progress
from tune_sam.tuning.ledger import Outcome


def study(records=()):
    settings = SimpleNamespace(
        budget=lambda optimizer: 4,
        epochs=10,
        optimizers=("base", "sam"),
        workload="gcn",
        dataset="digits",
        judged_by="val/accuracy",
        sign=1,
        kind="search",
    )
    return SimpleNamespace(name="s", settings=settings, records=lambda: list(records))


def outcome(state, value=0.5):
    metrics = {} if value is None else {"val/accuracy": value}
    return Outcome(state, "" if state == "complete" else "why", 10, metrics, 1.0, None, None)


def test_a_log_has_a_line_for_each_trial_that_ended():
    console = Console(record=True, width=200, force_terminal=False)
    progress = Progress(console)
    with progress.following(study()):
        progress.started("sam", 0)
        progress.epoch("sam", 0, 3)
        progress.ended("sam", 0, outcome("complete", 0.9))
        progress.ended("sam", 1, outcome("diverged", None))
        progress.ended("sam", 2, replace(outcome("failed", None), reason="OSError: cannot read [/tmp/x] [red]"))
    lines = console.export_text().splitlines()
    assert lines == [
        "Study s: gcn on digits, 4 trials of base, 4 trials of sam, 10 epochs each.",
        "sam        1/4  complete  validation accuracy 0.9000, 10 epochs",
        "sam        2/4  diverged  why",
        "sam        3/4  failed    OSError: cannot read [/tmp/x] [red]",
    ]


def test_a_terminal_sees_where_each_optimizer_stands():
    console = Console(record=True, width=160, force_terminal=True)
    progress = Progress(console)
    old = SimpleNamespace(state="complete", optimizer="base", number=0, value=0.8)
    with progress.following(study([old])):
        progress.started("sam", 0)
        progress.epoch("sam", 0, 3)
        progress.ended("base", 1, outcome("complete", 0.7))
        progress.ended("base", 2, outcome("pruned", 0.95))
        console.print(progress.table())
    text = console.export_text()
    assert "0.8000  (trial 0)" in text, "pruned trials are not the best of anything"
    assert "0 at 3/10" in text
    assert "3/4" in text


def test_the_time_left_counts_gradients_since_this_launch(monkeypatch):
    clock = iter([0.0, 10.0])
    progress = Progress()
    monkeypatch.setattr("tune_sam.cli.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    old = SimpleNamespace(state="complete", optimizer="base", number=0, value=0.8)
    with progress.following(study([old])):
        assert progress.seconds_left() is None
        progress.started("sam", 0)
        progress.epoch("sam", 0, 5)
        # 4 trials of 10 epochs at 1 and at 2 gradients are 120; 10 were done before, 10 in these 10 seconds.
        assert progress.seconds_left() == pytest.approx(100)


def test_parts_that_are_done_have_a_line_each_and_none_shows_no_bar():
    console = Console(record=True, width=100, force_terminal=True)
    with task_progress(console):
        pass
    assert "measuring" not in console.export_text()
    with task_progress(console) as progress:
        progress("one/sam/0", 1, 2)
        progress("one/sam/1", 2, 2)
    assert "one/sam/1: done, 2 of 2" in console.export_text()
