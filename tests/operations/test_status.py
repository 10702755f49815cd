import io
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import fmean

import pytest
from rich.console import Console
from studies import INLINE

from tune_sam import open_study
from tune_sam.cli.tables import running_table
from tune_sam.operations.refit import refit
from tune_sam.operations.status import stages
from tune_sam.reporting.page import report
from tune_sam.study.lock import study_lock
from tune_sam.study.records import Study
from tune_sam.study.spent import noted_seconds

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def study(searched):
    return open_study("one", searched)


def shown(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue().splitlines()


def by_name(study):
    return {stage.name: stage for stage in stages(study)}


def test_a_search_that_is_done_has_nothing_left(study):
    stage = by_name(study)["search"]
    assert (stage.done, stage.parts, stage.left, stage.going) == (6, 6, 0, False)


def test_the_time_left_is_that_of_the_trials_before(study):
    """Two more of each optimizer, as many at a time as the machine has CPUs for."""
    grown = replace(study, settings=replace(study.settings, trials=5))
    stage = by_name(grown)["search"]
    assert (stage.done, stage.parts) == (6, 10)
    seconds = [fmean(trial.seconds for trial in study.records(optimizer)) for optimizer in ("base", "sam")]
    assert stage.left == pytest.approx(2 * sum(seconds) / os.cpu_count())


def test_the_time_left_is_no_longer_than_budgets_leave(study):
    grown = replace(study.settings, trials=1000)
    left = by_name(replace(study, settings=grown))["search"].left
    spent = noted_seconds(study)

    def of(**limits):
        return by_name(replace(study, settings=replace(grown, **limits)))["search"].left

    assert of(time_budget=spent + 3) == pytest.approx(3)
    assert of(epoch_budget=12 + 10) == pytest.approx(left * 10 / (2 * 1994)), (
        "six trials had two epochs, 1994 have none"
    )
    assert of(time_budget=spent + 1e9, epoch_budget=10**9) == left


def test_what_an_interrupted_trial_has_done_is_not_left(study, monkeypatch):
    """Of two missing trials one is running and half through, alone."""
    records = study.records("base")
    half = replace(records[-1], number=3, state="running", heard=None, epochs=1, value=None, seconds=None)
    monkeypatch.setattr(Study, "records", lambda self, optimizer=None: [*records, half])
    alone = replace(study, settings=replace(study.settings, trials=5, optimizers=("base",)))
    assert by_name(alone)["search"].left == pytest.approx(1.5 * fmean(trial.seconds for trial in records))


def test_an_optimizer_without_a_complete_trial_takes_the_others_time_by_its_passes(study, monkeypatch):
    base = study.records("base")
    monkeypatch.setattr(Study, "records", lambda self, optimizer=None: base)
    seconds = fmean(trial.seconds for trial in base)
    assert by_name(study)["search"].left == pytest.approx(3 * 2 * seconds / os.cpu_count())


def test_a_trial_that_seems_to_hang_is_told_from_one_that_goes_on(study, monkeypatch):
    """Of a study whose longest epoch took two minutes, after three and after half an hour without one."""
    records = study.records()
    slow = replace(records[0], metrics=records[0].metrics | {"time/epoch_s": 120.0})

    def running(number, minutes):
        heard = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
        return replace(records[0], key=f"one/base/{number}", state="running", epochs=1, heard=heard, value=None)

    trials = [slow, running(1, 3), running(2, 30)]
    monkeypatch.setattr(Study, "records", lambda self, optimizer=None: trials)
    found = by_name(study)["search"].running
    assert [(one.key, one.epochs, one.of, one.longest, one.stalled) for one in found] == [
        ("one/base/1", 1, 2, 120.0, False),
        ("one/base/2", 1, 2, 120.0, True),
    ]
    rows = [line.split() for line in shown(running_table(found))[1:]]
    assert [(row[:4], row[5:]) for row in rows] == [
        (["one/base/1", "1", "of", "2"], ["ago"]),
        (["one/base/2", "1", "of", "2"], ["ago", "stalled:", "the", "longest", "epoch", "took", "2:00"]),
    ]


@pytest.mark.parametrize(("trials", "stage"), [(5, "search"), (3, "flatness")])
def test_what_goes_on_is_what_is_not_done(study, trials, stage):
    """With the budget spent, who drives the study is taken to measure it."""
    with study_lock(study.home, study.name):
        asked = replace(study, settings=replace(study.settings, trials=trials))
        assert [found.name for found in stages(asked) if found.going] == [stage]


def test_without_a_complete_trial_nobody_knows(study, monkeypatch):
    monkeypatch.setattr(Study, "records", lambda self, optimizer=None: [])
    stage = by_name(study)["search"]
    assert (stage.done, stage.parts, stage.left) == (0, 6, None)


@pytest.mark.slow
def test_the_stages_follow_what_is_done(study, searched):
    assert [stage.name for stage in stages(study)] == ["search", "refit", "flatness", "report"]
    assert not any(stage.parts for stage in stages(study)[1:])
    refit("one", home=searched, seeds=1, executor=INLINE)
    report("one", home=searched)
    found = by_name(study)
    assert list(found) == [
        "search",
        "one.refit",
        "one.refit, test",
        "one.twice",
        "one.twice, test",
        "flatness",
        "report",
    ]
    assert [(stage.done, stage.parts) for stage in found.values()] == [
        (6, 6),
        (2, 2),
        (2, 2),
        (1, 1),
        (1, 1),
        (0, 0),
        (1, 1),
    ]
    assert not any(stage.going for stage in found.values())
    child = open_study("one.refit", searched)
    with study_lock(child.home, child.name):
        assert [found.name for found in stages(study) if found.going] == ["flatness"]
        file = next(child.home.study(child.name).glob("test/*.json"))
        away = file.rename(file.with_suffix(".away"))
        assert [found.name for found in stages(study) if found.going] == ["one.refit, test"]
        away.rename(file)
