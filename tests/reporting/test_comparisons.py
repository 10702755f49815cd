"""What a comparison's row says, of a difference and of a factor."""

import math

import pytest

from tune_sam.evaluation.claims import Claim, EqualLoss
from tune_sam.evaluation.statistics import Difference, Mean
from tune_sam.reporting.comparisons import claim_rows, equal_loss_rows

BASE = [200.0, 210.0, 190.0, 205.0, 195.0]
NAMES = {"sam": "SAM", "base": "Adam"}


def row(values, others=BASE):
    mine, theirs = Mean.of(values), Mean.of(others)
    claim = Claim("sam", "base", "sam", "lambda_max", mine, theirs, Difference.of(values, others))
    return claim_rows([claim], NAMES, 1, "+.0f")[0]


@pytest.mark.parametrize(
    ("added", "verdict"),
    [
        ([-101, -99, -100, -102, -98], "shown: lower"),
        ([101, 99, 100, 102, 98], "shown: higher"),
        ([-100, 90, 5, -80, 85], "not shown"),
    ],
)
def test_a_row_says_which_way_a_difference_is_shown(added, verdict):
    cells = row([one + more for one, more in zip(BASE, added, strict=True)])

    assert cells[:3] == ("SAM", "Adam", "5")
    assert cells[3] == f"{sum(added) / 5:+.0f}"
    assert cells[-1] == verdict


def test_a_small_difference_that_is_shown_is_not_written_as_none():
    accuracies = [0.9, 0.91, 0.89, 0.9]
    more = [one + added for one, added in zip(accuracies, [3e-5, 4e-5, 5e-5, 4e-5], strict=True)]
    claim = Claim(
        "sam", "base", "sam", "test/accuracy", *map(Mean.of, (more, accuracies)), Difference.of(more, accuracies)
    )
    assert claim_rows([claim], NAMES, 100, "+.2f")[0][3:5] == ("+0.0040", "+0.0027 to +0.0053")


def test_of_too_few_seeds_there_is_a_difference_and_no_verdict():
    assert row([100.0, 100.0], BASE[:2]) == ("SAM", "Adam", "2", "-105", "", "", "", "no verdict")


@pytest.mark.parametrize(
    ("factor", "p", "common", "verdict"),
    [
        (0.28, 0.0001, 4, "shown: lower, by 4 of 10 networks"),
        (3.6, 0.0001, 10, "shown: higher, by 10 of 10 networks"),
        (0.9, 0.2, 7, "not shown, by 7 of 10 networks"),
        (math.nan, math.nan, 2, "no verdict"),
        (math.nan, math.nan, 0, "the losses do not overlap"),
    ],
)
def test_a_factor_is_judged_against_one(factor, p, common, verdict):
    found = EqualLoss("sam", "base", "sam", factor, 0.9 * factor, 1.1 * factor, p, p, common, networks=10)

    assert equal_loss_rows([found], NAMES)[0][-1] == verdict
