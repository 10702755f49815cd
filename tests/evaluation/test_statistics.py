import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from tune_sam.evaluation.statistics import Correlation, Difference, Mean, family, holm, p_value, with_interval

VALUES, OTHERS = [0.81, 0.79, 0.83, 0.80, 0.82], [0.80, 0.80, 0.79, 0.78, 0.81]


def test_an_interval_is_scipys():
    mean = Mean.of(VALUES)
    low, high = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert (mean.value - mean.half, mean.value + mean.half) == pytest.approx((low, high))
    assert mean.n == 5


def test_an_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    covered = [abs(mean.value - 3.0) <= mean.half for mean in map(Mean.of, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_a_paired_difference_is_scipys():
    difference = Difference.of(VALUES, OTHERS)
    reference = stats.ttest_rel(VALUES, OTHERS)
    low, high = reference.confidence_interval(0.95)
    assert difference.p == pytest.approx(reference.pvalue)
    assert (difference.mean.value - difference.mean.half, difference.mean.value + difference.mean.half) == (
        pytest.approx((low, high))
    )


@pytest.mark.parametrize(
    ("values", "others", "shown"),
    [
        (VALUES, OTHERS, False),
        ([0.9, 0.91, 0.92], [0.8, 0.81, 0.825], True),
        ([0.9], [0.1], False),  # one seed shows nothing
        ([0.9, 0.91], [0.1, 0.1], False),  # nor do two
        ([0.9, 0.9, 0.9], [0.8, 0.8, 0.8], False),  # no spread to judge by
        ([0.5, 0.5], [0.5, 0.5], False),
    ],
)
def test_a_difference_is_shown_or_not(values, others, shown):
    difference = Difference.of(values, others)
    assert difference.shown is shown
    assert math.isnan(Difference.of([0.9], [0.1]).p)


def test_two_seeds_have_neither_an_interval_nor_a_verdict():
    difference = Difference.of([0.9, 0.91], [0.8, 0.8])
    assert [math.isnan(part) for part in (difference.mean.half, difference.p, difference.deviations)] == [True] * 3
    assert math.isnan(Mean.of([1.0, 2.0]).half)


@pytest.mark.parametrize(
    ("mean", "written"),
    [
        (Mean(0.8312, 0.0123, 5), "83.12 ± 1.23"),
        (Mean(0.0031, math.nan, 2), "0.31"),
        (Mean(0.00003, math.nan, 2), "0.0030"),
        (Mean(0.000031, 0.0000004, 5), "0.003100 ± 0.000040"),
        (Mean(0.0, 0.0, 3), "0.00 ± 0.00"),
        (Mean(0.912, 1e-15, 5), "91.20 ± 0.00"),
        (Mean(-0.00002, 0.005, 3), "-0.00 ± 0.50"),
    ],
)
def test_a_small_half_or_mean_is_not_written_as_0(mean, written):
    assert with_interval(mean, 100, 2) == written


def test_p_values_of_a_family_are_corrected_by_holms_method():
    """The smallest of three is tripled, the next one doubled, and none falls below one before it."""
    assert holm([0.03, 0.01, math.nan, 0.04]) == pytest.approx([0.06, 0.03, math.nan, 0.06], nan_ok=True)
    alone = Difference.of([0.90, 0.91, 0.92], [0.85, 0.871, 0.86])
    assert alone.shown
    corrected = family([alone, *[Difference.of(VALUES, OTHERS)] * 40, Difference.of([0.9], [0.1])])
    assert (corrected[0].p, corrected[0].among, corrected[0].shown) == (alone.p, 41, False)


def test_the_effect_size_is_in_standard_deviations_of_the_seeds():
    difference = Difference.of([4.0, 6.0, 8.0], [1.0, 3.5, 5.0])
    assert difference.deviations == pytest.approx((6 - 9.5 / 3) / math.sqrt((4 + np.var([1, 3.5, 5], ddof=1)) / 2))


@pytest.mark.slow
@pytest.mark.parametrize(("optimizers", "seeds"), [(3, 5), (8, 5)])
def test_without_any_difference_a_question_shows_one_in_at_most_five_percent_of_studies(optimizers, seeds):
    """1,000 studies: each row's accuracies against the same base row, over seeds that shift all rows together."""
    draw = np.random.default_rng(optimizers)
    falsely = 0
    for study in draw.normal(0.8, 0.01, (1000, optimizers + 1, seeds)) + draw.normal(0, 0.01, (1000, 1, seeds)):
        base, *others = study.tolist()
        falsely += any(one.shown for one in family([Difference.of(other, base) for other in others]))
    assert falsely / 1000 <= 0.05


def test_a_correlation_is_scipys_with_an_interval_around_it():
    draws = np.random.default_rng(0).normal(size=(2, 20))
    values, others = draws[0].tolist(), (draws[0] + draws[1]).tolist()
    found = Correlation.of(values, others)
    reference = stats.kendalltau(values, others)
    assert (found.tau, found.p, found.n) == (reference.statistic, reference.pvalue, 20)
    assert found.low < found.tau < found.high
    again = Correlation.of(values, others)
    assert asdict(found) == pytest.approx(asdict(again), abs=0, rel=0, nan_ok=True)


@pytest.mark.slow
def test_a_correlations_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    """τ of two normal variables with correlation r is 2/π arcsin r."""
    monkeypatch.setattr("tune_sam.evaluation.statistics.BOOTSTRAPS", 200)
    draws = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], (100, 30))
    truth = 2 / math.pi * math.asin(0.6)
    found = [Correlation.of(one[:, 0].tolist(), one[:, 1].tolist()) for one in draws]
    assert np.mean([one.low <= truth <= one.high for one in found]) == pytest.approx(0.95, abs=0.05)


def seeds_of_configurations(draw, configurations, seeds, within=0.0):
    """Two measures without any relation between configurations, and of their networks within them with correlation."""
    noise = draw.multivariate_normal([0, 0], [[1, within], [within, 1]], (configurations, seeds))
    x, y = (3 * draw.normal(size=(2, configurations, 1)) + np.moveaxis(noise, 2, 0)).reshape(2, -1)
    return x.tolist(), y.tolist(), np.repeat(np.arange(configurations), seeds).tolist()


def test_seeds_of_one_configuration_are_no_evidence_of_a_relation(monkeypatch):
    """As if they were independent, the interval would exclude 0 in a third of these cases."""
    monkeypatch.setattr("tune_sam.evaluation.statistics.BOOTSTRAPS", 200)
    draw = np.random.default_rng(0)
    found = [Correlation.of(*seeds_of_configurations(draw, 20, 5)) for _ in range(60)]
    assert np.mean([one.low > 0 or one.high < 0 for one in found]) <= 0.10
    assert np.mean([one.p < 0.05 for one in found]) <= 0.10
    assert np.mean([one.within_p < 0.05 for one in found]) <= 0.10


def test_a_relation_within_configurations_is_found_whatever_lies_between_them():
    found = Correlation.of(*seeds_of_configurations(np.random.default_rng(0), 5, 10, within=0.9))
    assert found.within > 0.5
    assert found.within_p < 0.01
    assert (found.configurations, found.n, found.interval) == (5, 50, "")


def test_configurations_of_one_network_have_nothing_within():
    found = Correlation.of([1, 2, 3, 4], [1, 3, 2, 4])
    assert math.isnan(found.within)
    assert math.isnan(found.within_p)


def test_few_networks_have_a_correlation_without_an_interval():
    found = Correlation.of([1, 2, 3, 4], [1, 2, 3, 4])
    assert (found.tau, found.n, found.interval) == (1, 4, "")
    assert found.p > 0.05, "a perfect order of four shows nothing"
    assert Correlation.of(list(range(10)), [*range(9), 0]).interval.count("to") == 1


@pytest.mark.parametrize(("values", "others"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])])
def test_too_few_networks_have_no_correlation(values, others):
    assert Correlation.of(values, others) is None


@pytest.mark.parametrize(
    ("values", "others"),
    [
        ((0.81, 0.82, 0.83), (0.80, 0.81, 0.82)),
        ((0.75, 0.5, 1), (0.5, 0.25, 0.75)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        (
            [float(np.float32(hits / 36)) for hits in (32, 34, 31)],
            [float(np.float32(hits / 36)) for hits in (31, 33, 30)],
        ),
    ],
)
def test_differences_that_are_equal_but_for_rounding_show_nothing(values, others):
    found = Difference.of(values, others)
    assert found.mean.value == pytest.approx(values[0] - others[0])
    assert (math.isnan(found.p), math.isnan(found.mean.half), found.shown) == (True, True, False)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Mean.of([]), "a mean needs at least one value, got none"),
        (lambda: Mean.of([0.5, math.nan]), "a mean needs finite values, got nan among 2"),
        (lambda: Mean.of([math.inf]), "a mean needs finite values, got inf among 1"),
        (lambda: Difference.of([], []), "a difference needs at least one value, got none"),
        (lambda: Difference.of([0.5, math.nan], [0.5, 0.5]), "a difference needs finite values, got nan"),
        (lambda: Difference.of([0.5, 0.5], [-math.inf, 0.5]), "a difference needs finite values, got -inf"),
        (lambda: Difference.of([0.5, 0.5], [0.5]), "differences need pairs, got 2 values and 1 others"),
        (lambda: Correlation.of([1, 2, 3, math.nan], [1, 2, 3, 4]), "a correlation needs numbers, got nan"),
        (lambda: Correlation.of([1, 2, 3, 4], [1, 2, 3]), "a correlation needs pairs, got 4 values and 3 others"),
    ],
)
def test_what_has_no_mean_and_no_rank_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "< 0.001"),
        (0.0213, "0.021"),
        (0.0497, "0.0497"),
        (0.04997, "0.04997"),
        (0.05, "0.05"),
        (0.0504, "0.05"),
    ],
)
def test_a_p_value_is_written_on_its_side_of_the_level(p, text):
    assert p_value(p) == text
