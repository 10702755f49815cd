"""What several trainings show: means over seeds with intervals, paired differences, rank correlations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from tune_sam.errors import Refused

CONFIDENCE = 0.95
"""Of every interval."""

SIGNIFICANT = 0.05
"""The level below which a p-value shows a difference."""

BOOTSTRAPS = 2_000
"""Resamples for the interval of a correlation."""

ROUNDING = 1e-12
"""Differences count as equal within this fraction of the largest value."""

ENOUGH = 10
"""Networks from which a correlation has an interval."""


@dataclass(frozen=True)
class Mean:
    """A mean over n values.

    Attributes:
        value: the mean.
        half: half the width of its 95 % interval, from Student's t with n - 1 degrees of freedom; nan if n is 1.
        n: number of values.
    """

    value: float
    half: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Average independent values, such as those of several seeds.

        Raises:
            Refused: there is none, or one is not finite.
        """
        from scipy.stats import t

        _expect_finite("a mean", values)
        n = len(values)
        if n < 2:
            return cls(fmean(values), math.nan, n)
        return cls(fmean(values), float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * stdev(values) / math.sqrt(n), n)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences between two configurations over the same seeds.

    Interval and p-value are nan if n is 1. They are nan, too, if all differences are equal but for rounding, because
    they would then measure the rounding alone.

    Attributes:
        mean: with its interval.
        p: of the two-sided paired t-test for no difference.
    """

    mean: Mean
    p: float

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Difference":
        """Compare `values` with `others`, which belong to the same seeds in the same order.

        Raises:
            Refused: there are none or not as many of both, or one is not finite.
        """
        from scipy.stats import ttest_rel

        if len(values) != len(others):
            raise Refused(f"differences need pairs, got {len(values)} values and {len(others)} others")
        _expect_finite("a difference", [*values, *others])
        differences = [one - other for one, other in zip(values, others, strict=True)]
        found = Mean.of(differences)
        if max(differences) - min(differences) <= ROUNDING * max(map(abs, (*values, *others))):
            return cls(replace(found, half=math.nan), math.nan)
        return cls(found, float(ttest_rel(values, others).pvalue))

    @property
    def shown(self) -> bool:
        """Whether the values show a difference, at the level 0.05 and for this comparison alone."""
        return self.p < SIGNIFICANT


@dataclass(frozen=True)
class Correlation:
    """Kendall's rank correlation τ of two measures over n networks.

    Attributes:
        tau: from -1 to 1.
        low, high: its 95 % interval, the percentiles of a bootstrap over the networks; nan with fewer than
            :data:`ENOUGH`. So few are often in perfect order in every resample, as if τ were certain.
        p: two-sided, for no association.
        n: number of networks.
    """

    tau: float
    low: float
    high: float
    p: float
    n: int

    @property
    def interval(self) -> str:
        """The interval as a cell of a table; empty if there is none."""
        return "" if math.isnan(self.low) else f"{self.low:+.2f} to {self.high:+.2f}"

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Correlation | None":
        """Correlate two measures of the same networks.

        Returns:
            None with fewer than four networks, where even a perfect order has p = 1/3, or if a measure does not vary.

        Raises:
            Refused: there are not as many of both, or one is nan, which has no rank.
        """
        from scipy.stats import bootstrap, kendalltau

        if len(values) != len(others):
            raise Refused(f"a correlation needs pairs, got {len(values)} values and {len(others)} others")
        if any(map(math.isnan, (*values, *others))):
            raise Refused("a correlation needs numbers, got nan among them: leave those networks out")
        if len(values) < 4 or len(set(values)) < 2 or len(set(others)) < 2:
            return None
        found = kendalltau(values, others)
        if len(values) < ENOUGH:
            return cls(float(found.statistic), math.nan, math.nan, float(found.pvalue), len(values))
        interval = bootstrap(
            (values, others),
            _tau,
            paired=True,
            vectorized=False,
            n_resamples=BOOTSTRAPS,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=0,
        ).confidence_interval
        return cls(float(found.statistic), float(interval.low), float(interval.high), float(found.pvalue), len(values))


def _expect_finite(what: str, values: Sequence[float]) -> None:
    if not len(values):
        raise Refused(f"{what} needs at least one value, got none")
    if odd := [float(value) for value in values if not math.isfinite(value)]:
        raise Refused(f"{what} needs finite values, got {odd[0]} among {len(values)}: leave those out")


def _tau(values: Sequence[float], others: Sequence[float]) -> float:
    """Compute τ of a resample; 0 if all its networks are the same, which have no order."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(values, others).statistic)
    return tau if math.isfinite(tau) else 0.0


def difference_in_words(difference: "Difference") -> str:
    """Say what a paired difference of accuracies shows."""
    mean = difference.mean
    points = f"{100 * mean.value:+.2f} points"
    if mean.n < 2:
        return f"{points} with one seed, which shows nothing."
    if math.isnan(mean.half):
        return f"{points} with every one of {mean.n} seeds, which gives no interval and shows nothing."
    low, high = 100 * (mean.value - mean.half), 100 * (mean.value + mean.half)
    p = f", p = {difference.p:.2g}" if math.isfinite(difference.p) else ""
    verdict = "a difference is shown" if difference.shown else "no difference is shown"
    return f"{points} (95 % interval {low:+.2f} to {high:+.2f}{p}): {verdict} at n = {mean.n}."


def with_interval(mean: "Mean", unit: float, decimals: int) -> str:
    """Write a mean and half of its 95 % interval, times `unit`; for a single value, the mean alone."""
    half = f" ± {unit * mean.half:.{decimals}f}" if math.isfinite(mean.half) else ""
    return f"{unit * mean.value:.{decimals}f}{half}"
