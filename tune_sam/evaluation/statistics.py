"""Means over seeds with intervals, paired differences, rank correlations: what several trainings show, and what not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
BOOTSTRAPS = 2_000
ROUNDING = 1e-12
ENOUGH = 10


@dataclass(frozen=True)
class Mean:
    """A mean over n values.

    Attributes:
        value: the mean.
        half: half the width of its 95 % interval, from Student's t with n - 1 degrees of freedom; nan if n is 1.
        n: of values.
    """

    value: float
    half: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Of values that are independent, such as of several seeds."""
        from scipy.stats import t

        n = len(values)
        if n < 2:
            return cls(fmean(values), math.nan, n)
        return cls(fmean(values), float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * stdev(values) / math.sqrt(n), n)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, of two configurations over the same seeds.

    Attributes:
        mean: with its interval.
        p: of the paired t-test, two-sided, for no difference. Both interval and p are nan if n is 1, or if all
            differences are equal but for rounding, which would make them of rounding alone.
    """

    mean: Mean
    p: float

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Difference":
        """Of `values` minus `others`, which belong to the same seeds in the same order."""
        from scipy.stats import ttest_rel

        differences = [one - other for one, other in zip(values, others, strict=True)]
        found = Mean.of(differences)
        if max(differences) - min(differences) <= ROUNDING * max(map(abs, (*values, *others))):
            return cls(replace(found, half=math.nan), math.nan)
        return cls(found, float(ttest_rel(values, others).pvalue))

    @property
    def shown(self) -> bool:
        """Whether the values show a difference at all, at the level 0.05 and for this comparison alone."""
        return self.p < SIGNIFICANT


@dataclass(frozen=True)
class Correlation:
    """Kendall's rank correlation τ of two measures over n networks.

    Attributes:
        tau: from -1 to 1.
        low, high: its 95 % interval, the percentiles of a bootstrap over the networks; nan of fewer than
            :data:`ENOUGH`, of which the order is often perfect in each resample, as if it were certain.
        p: two-sided, for no association.
        n: of networks.
    """

    tau: float
    low: float
    high: float
    p: float
    n: int

    @property
    def interval(self) -> str:
        """As a cell of a table; empty if there is none."""
        return "" if math.isnan(self.low) else f"{self.low:+.2f} to {self.high:+.2f}"

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Correlation | None":
        """None of fewer than four, where even a perfect order has p = 1/3, or where one of the two does not vary."""
        from scipy.stats import bootstrap, kendalltau

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


def _tau(values: Sequence[float], others: Sequence[float]) -> float:
    """0 where a resample has one network only, which orders nothing."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(values, others).statistic)
    return tau if math.isfinite(tau) else 0.0


def difference_in_words(difference: "Difference") -> str:
    """What a paired difference of accuracies shows."""
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
    """A mean and half of its 95 % interval, times `unit`; the mean alone of a single value."""
    half = f" ± {unit * mean.half:.{decimals}f}" if math.isfinite(mean.half) else ""
    return f"{unit * mean.value:.{decimals}f}{half}"
