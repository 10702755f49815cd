import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from tune_sam.study.records import open_study
from tune_sam.study.spent import note_seconds
from tune_sam.tuning.ledger import Outcome
from tune_sam.tuning.listener import Silent
from tune_sam.tuning.progress import Progress, heard_by


def study(records=()):
    settings = SimpleNamespace(
        trials_of=lambda optimizer: 4,
        gradients_of={"base": 1, "sam": 2}.get,
        time_budget=0,
        epoch_budget=0,
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


def old(number, state="complete", epochs=10):
    return SimpleNamespace(state=state, optimizer="base", number=number, value=0.8, epochs=epochs)


def terminal(width=160):
    return Console(record=True, width=width, force_terminal=True, file=io.StringIO())


def seen(progress):
    """What the terminal shows now."""
    console = terminal(progress.console.width)
    console.print(progress.screen())
    return console.export_text()


def test_a_terminal_sees_where_each_optimizer_stands():
    with Progress(terminal()) as progress, progress.following(study([old(0)])):
        progress.started("sam", 0)
        progress.epoch("sam", 0, 3)
        progress.ended("base", 1, outcome("complete", 0.7))
        progress.ended("base", 2, outcome("pruned", 0.95))
        text = seen(progress)
    assert "0.8000  (trial 0)" in text, "pruned trials are not the best of anything"
    assert "0 at 3/10" in text
    assert "3/4" in text


def test_a_sentence_is_broken_between_words_on_a_terminal_and_stays_a_line_of_a_log():
    sentence = "To train: the refit 9 trainings of 10 epochs."
    shown = {}
    for is_terminal in (True, False):
        console = Console(record=True, width=20, force_terminal=is_terminal, file=io.StringIO())
        Progress(console).announced(sentence)
        shown[is_terminal] = [line.rstrip() for line in console.export_text().splitlines()]
    assert shown == {
        True: ["To train: the refit", "9 trainings of 10", "epochs."],
        False: [sentence],
    }


def test_a_terminal_sees_what_is_waited_for_until_an_epoch_is_trained():
    with Progress(terminal()) as progress:
        assert "Starting, 0:00" in seen(progress), "at once"
        progress.stage("Checking services")
        assert "Checking services, 0:00" in seen(progress)
        with progress.following(study()):
            progress.stage("Starting workers")
            assert "Starting workers" in seen(progress)
            progress.started("sam", 0)
            assert "Starting workers" in seen(progress), "no epoch is trained yet"
            progress.epoch("sam", 0, 1)
            assert "Starting workers" not in seen(progress)


def test_a_log_has_what_is_waited_for_from_the_study_on():
    console = Console(record=True, width=200, force_terminal=False, file=io.StringIO())
    with Progress(console) as progress:
        progress.stage("Checking services")
        with progress.following(study()):
            progress.stage("Starting Ray")
    first, second = console.export_text().splitlines()
    assert first.startswith("Study s: ")
    assert second == "Starting Ray …"


@pytest.fixture
def clock(monkeypatch):
    """Gives the time, which is what the test sets `now` to."""
    found = SimpleNamespace(now=0.0)
    monkeypatch.setattr("tune_sam.tuning.progress.time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def test_the_time_left_is_that_of_epochs_trained_and_not_of_starting_up(clock):
    progress = Progress()
    with progress.following(study([old(0)])):
        clock.now = 100.0  # Ray and workers have started
        assert progress.seconds_left() is None
        progress.started("sam", 0)
        progress.epoch("sam", 0, 1)
        assert progress.seconds_left() is None, "the first epoch's start is not known"
        for epoch in range(2, 6):
            clock.now += 2
            progress.epoch("sam", 0, epoch)
        # 4 epochs of 2 gradients took 8 s. Left are 3 trials of base with 10, and 35 epochs of sam: 100 gradients.
        assert progress.seconds_left() == pytest.approx(100)


def test_a_resumed_trial_counts_what_it_trains_now(clock):
    progress = Progress()
    with progress.following(study()):
        progress.started("base", 0)
        progress.epoch("base", 0, 8)
        clock.now += 3
        progress.epoch("base", 0, 9)
        # An epoch of base takes 3 s. Left are 31 of them, and 40 of sam with two gradients.
        assert progress.seconds_left() == pytest.approx(3 * (31 + 80))


def test_trials_are_expected_to_end_as_early_as_those_before(clock):
    progress = Progress()
    with progress.following(study([old(0, "pruned", 2), old(1, "pruned", 4)])):
        progress.started("base", 2)
        progress.epoch("base", 2, 1)
        clock.now += 1
        progress.epoch("base", 2, 2)
        # Trials of base had 3 epochs on average: 1 and 3 are left of it. No trial of sam has ended: 40, two gradients.
        assert progress.seconds_left() == pytest.approx(4 + 80)


def test_measurements_are_counted_and_a_log_has_a_line_for_each():
    with Progress(terminal()) as progress:
        progress.stage("Measuring s")
        progress.task("one/sam/0", 1, 3)
        assert "1 of 3 done, time left not known yet" in seen(progress)
    console = Console(record=True, width=100, force_terminal=False, file=io.StringIO())
    with Progress(console) as progress:
        progress.task("one/sam/0", 1, 2)
        progress.task("one/sam/1", 2, 2)
    assert console.export_text().splitlines() == ["one/sam/0: done, 1 of 2", "one/sam/1: done, 2 of 2"]


@pytest.mark.parametrize(("environment", "shown"), [({}, False), ({"FORCE_COLOR": "1"}, True)])
def test_python_shows_progress_where_somebody_sees_it(monkeypatch, environment, shown):
    for name, value in environment.items():  # has rich take the stream for a terminal
        monkeypatch.setenv(name, value)
    with heard_by(None) as listener:
        assert isinstance(listener, Progress) == shown
    with heard_by(None, progress=False) as listener:
        assert isinstance(listener, Silent)
    with heard_by(None, progress=True) as listener:
        assert isinstance(listener, Progress)
    mine = Silent()
    with heard_by(mine, progress=True) as listener:
        assert listener is mine


def test_the_time_left_ends_with_the_epochs_that_a_budget_allows(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress, limited = Progress(), study()
    limited.settings.epoch_budget = 12
    with progress.following(limited):
        progress.started("base", 0)
        for epoch in (1, 2, 3):
            now[0] = 10.0 * epoch
            progress.epoch("base", 0, epoch)
        # 77 more epochs, half of which take twice as long, were nothing to end them: nine are allowed.
        assert progress.seconds_left() == pytest.approx((37 + 2 * 40) * 10 * 9 / 77)


def test_epochs_that_a_trial_was_trained_for_before_an_interrupt_are_spent(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress, limited = Progress(), study([old(0, "waiting", 8), old(1, "waiting", 2)])
    limited.settings.epoch_budget = 13
    with progress.following(limited):
        progress.started("base", 0)
        progress.epoch("base", 0, 9)
        now[0] = 10.0
        progress.epoch("base", 0, 10)
        # 70 epochs more and half as many again would be left, of which one is allowed: 10 and 2 are trained.
        assert progress.seconds_left() == pytest.approx((30 + 2 * 40) * 10 / 70)


def test_the_time_left_is_no_longer_than_a_budget_of_time_leaves(clock, searched):
    one = open_study("one", searched)
    note_seconds(one, 100.0)
    limited = replace(one, settings=replace(one.settings, trials=40, time_budget=130.0))
    progress = Progress()
    with progress.following(limited):
        progress.started("sam", 3)
        progress.epoch("sam", 3, 1)
        clock.now = 10.0
        progress.epoch("sam", 3, 2)
        assert progress.seconds_left() == pytest.approx(20), "130 seconds, of which 100 were spent before, and 10 now"
