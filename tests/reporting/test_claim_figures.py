"""The forest plot of the differences: what is drawn where, and what is left out."""

import math
from itertools import combinations

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from tune_sam.evaluation.claims import Answers, Claim
from tune_sam.evaluation.statistics import Difference, Mean, family
from tune_sam.reporting.claim_figures import HEADINGS, differences
from tune_sam.reporting.plots import differences as tabulated
from tune_sam.reporting.style import save

SAM = "sam ρ=0.05 lr=0.01 batch=64"
ASAM = "asam ρ=1 lr=0.01 batch=64"
NAMES = {SAM: "SAM", ASAM: "ASAM", "base": "Adam"}
BASE = [0.80, 0.81, 0.79]
BETTER = [0.90, 0.92, 0.89]
ALIKE = [0.81, 0.80, 0.79]


def claim(values, others, optimizer="sam", row=SAM):
    return Claim(
        row, "base", optimizer, "test/accuracy", Mean.of(values), Mean.of(others), Difference.of(values, others)
    )


@pytest.fixture
def found():
    return Answers(
        help=(claim(BETTER, BASE), claim(ALIKE, BASE, "asam", ASAM)),
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
    axis = differences(tabulated(found, NAMES)).axes[0]
    assert points(axis) == [
        (pytest.approx(100 * one.difference.mean.value), one.difference.shown) for one in (*found.help, *found.by_rho)
    ]
    assert [filled for _, filled in points(axis)] == [True, False, False]
    texts = [text.get_text() for text in axis.texts]
    assert [text for text in texts if text in HEADINGS.values()] == [HEADINGS["use"], HEADINGS["rho"]]
    assert "+10.33" in texts


def test_an_interval_is_that_of_the_difference(found):
    mean = found.help[0].difference.mean
    assert (
        pytest.approx([100 * mean.low, 100 * mean.high]) == intervals(differences(tabulated(found, NAMES)).axes[0])[0]
    )


def test_shown_is_what_is_shown_after_the_correction():
    """One p of 0.02 among three is no longer below 0.05."""
    alone = Difference.of([0.8300, 0.8500, 0.8400], [0.80, 0.81, 0.79])
    assert alone.shown
    corrected = family([alone, *(Difference.of(ALIKE, BASE) for _ in range(4))])[0]
    assert not corrected.shown
    one = Claim(SAM, "base", "sam", "test/accuracy", Mean.of(BETTER), Mean.of(BASE), corrected)
    assert not tabulated(Answers(help=(one,)), NAMES)["shown"].any()


def test_below_three_seeds_there_are_points_and_no_interval():
    frame = tabulated(Answers(help=(claim(BETTER[:2], BASE[:2]),)), NAMES)
    assert math.isnan(frame["low"][0])
    axis = differences(frame).axes[0]
    assert points(axis) == [(pytest.approx(10.5), False)]
    assert intervals(axis) == []


def test_rows_have_the_names_of_the_page(found):
    axis = differences(tabulated(found, NAMES)).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["SAM", "ASAM", "SAM"]


def test_the_numbers_lie_beside_the_figure(found, tmp_path):
    frame = tabulated(found, NAMES)
    save(differences(frame), frame, tmp_path / "differences")
    assert list(pd.read_csv(tmp_path / "differences.csv")["difference"]) == pytest.approx(
        [one.difference.mean.value for one in (*found.help, *found.by_rho)]
    )


def test_where_nothing_is_compared_there_is_nothing_to_draw():
    assert tabulated(Answers(), {}).empty


def test_long_names_do_not_lie_on_each_other(found):
    long = "AdaptiveSharpnessAwareMinimizationWithMomentum, batch 128 of a study of a long name"
    figure = differences(tabulated(found, {**NAMES, SAM: long, ASAM: f"{long} again"}))
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == 3
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
