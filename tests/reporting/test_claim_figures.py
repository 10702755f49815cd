"""The forest plot of the differences: what is drawn where, and what is left out."""

import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from tune_sam.evaluation.claims import Answers, Claim
from tune_sam.evaluation.statistics import Difference, Mean, family
from tune_sam.reporting.claim_figures import HEADINGS, differences
from tune_sam.reporting.plots import differences as tabulated
from tune_sam.reporting.plots import draw_answers

BASE = [0.80, 0.81, 0.79]
BETTER = [0.90, 0.92, 0.89]
ALIKE = [0.81, 0.80, 0.79]


def claim(values, others, optimizer="sam", row="sam ρ=0.05 lr=0.01 batch=64"):
    return Claim(
        row, "base", optimizer, "test/accuracy", Mean.of(values), Mean.of(others), Difference.of(values, others)
    )


@pytest.fixture
def found():
    return Answers(
        help=(claim(BETTER, BASE), claim(ALIKE, BASE, "asam", "asam ρ=1 lr=0.01 batch=64")),
        by_rho=(claim(ALIKE, BASE),),
    )


def points(axis):
    """Each point: its x, and whether it is filled."""
    return [
        (line.get_xdata()[0], to_hex(line.get_markerfacecolor()) != "#ffffff")
        for line in axis.lines
        if line.get_marker() not in ("None", None, "")
    ]


def intervals(axis):
    return [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "None" and line.get_ydata()[0] > 0]


def test_each_difference_stands_below_its_question_in_points_filled_where_it_is_shown(found):
    axis = differences(tabulated(found)).axes[0]
    assert points(axis) == [
        (pytest.approx(100 * one.difference.mean.value), one.difference.shown) for one in (*found.help, *found.by_rho)
    ]
    assert [filled for _, filled in points(axis)] == [True, False, False]
    texts = [text.get_text() for text in axis.texts]
    assert [text for text in texts if text in HEADINGS.values()] == [HEADINGS["use"], HEADINGS["rho"]]
    assert "+10.33" in texts


def test_an_interval_is_that_of_the_difference(found):
    mean = found.help[0].difference.mean
    assert pytest.approx([100 * mean.low, 100 * mean.high]) == intervals(differences(tabulated(found)).axes[0])[0]


def test_shown_is_what_is_shown_after_the_correction():
    """One p of 0.02 among three is no longer below 0.05."""
    alone = Difference.of([0.8300, 0.8500, 0.8400], [0.80, 0.81, 0.79])
    assert alone.shown
    corrected = family([alone, *(Difference.of(ALIKE, BASE) for _ in range(4))])[0]
    assert not corrected.shown
    one = Claim("sam", "base", "sam", "test/accuracy", Mean.of(BETTER), Mean.of(BASE), corrected)
    assert not tabulated(Answers(help=(one,)))["shown"].any()


def test_below_three_seeds_there_are_points_and_no_interval():
    frame = tabulated(Answers(help=(claim(BETTER[:2], BASE[:2]),)))
    assert math.isnan(frame["low"][0])
    axis = differences(frame).axes[0]
    assert points(axis) == [(pytest.approx(10.5), False)]
    assert intervals(axis) == []


def test_a_row_is_named_by_its_optimizer_unless_that_has_several():
    rows = [f"sam ρ={rho} lr=0.01 batch=64" for rho in (0.05, 0.5)]
    frame = tabulated(Answers(help=tuple(claim(BETTER, BASE, row=row) for row in rows), by_rho=(claim(ALIKE, BASE),)))
    assert list(frame["label"]) == ["SAM ρ=0.05 lr=0.01 batch=64", "SAM ρ=0.5 lr=0.01 batch=64", "SAM"]


def test_the_numbers_lie_beside_the_figure(found, tmp_path):
    draw_answers(found, tmp_path)
    written = pd.read_csv(tmp_path / "differences.csv")
    assert list(written["question"]) == ["use", "use", "rho"]
    assert list(written["difference"]) == pytest.approx(
        [one.difference.mean.value for one in (*found.help, *found.by_rho)]
    )
    assert (tmp_path / "differences.png").exists()


def test_where_nothing_is_compared_nothing_is_drawn(tmp_path):
    draw_answers(Answers(), tmp_path)
    assert list(tmp_path.iterdir()) == []
