"""What several trainings show: means with intervals, paired differences with corrected p-values, rank correlations."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev, variance
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.scores import decimal

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
"""Of every interval."""

SIGNIFICANT = 0.05
"""The level below which a corrected p-value shows a difference."""

FEWEST = 3
"""Values from which a mean has an interval and a difference a verdict."""

BOOTSTRAPS = 2_000
"""Resamples for the interval of a correlation, and permutations for its p-value within configurations."""

ROUNDING = 1e-6
"""Differences count as equal within this fraction of the largest value: some roundings of float32, as metrics are."""

ENOUGH = 10
"""Configurations from which a correlation has an interval."""


def p_value(p: float) -> str:
    """Write a p-value with two digits, or as many as tell on which side of 0.05 it lies."""
    if p < 0.001:
        return "< 0.001"
    written = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in written if (float(text) < SIGNIFICANT) == (p < SIGNIFICANT))


@dataclass(frozen=True)
class Mean:
    """A mean over n values.

    Attributes:
        value: the mean.
        half: half the width of its 95 % interval, from Student's t with n - 1 degrees of freedom; nan with fewer values
            than :data:`FEWEST`.
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
        from scipy.special import stdtrit  # Student's t as in scipy.stats, in a hundredth of its time

        _expect_finite("a mean", values)
        n = len(values)
        if n < FEWEST:
            return cls(fmean(values), math.nan, n)
        half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * stdev(values) / math.sqrt(n)
        return cls(fmean(values), half, n)

    @property
    def low(self) -> float:
        """The lower end of the interval; nan if there is none."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """The upper end of the interval; nan if there is none."""
        return self.value + self.half


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences between two rows over the same seeds.

    With fewer seeds than :data:`FEWEST` there is neither interval nor p-value. There is none, too, if all differences
    are equal but for rounding, because they would then measure the rounding alone.

    Attributes:
        mean: with its interval.
        p: of the two-sided paired t-test for no difference, as if this comparison were the only one.
        corrected: the same by Holm's method over the comparisons of one question; see :func:`family`.
        deviations: the effect size: the mean difference in standard deviations of the seeds, which is the root of the
            mean of both rows' variances (Cohen's d_av); nan where there is no p-value.
        among: number of comparisons that `corrected` is corrected for.
    """

    mean: Mean
    p: float
    corrected: float
    deviations: float
    among: int = 1

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Difference":
        """Compare `values` with `others`, which belong to the same seeds in the same order, as a family of one.

        Raises:
            Refused: there are none or not as many of both, or one is not finite.
        """
        from scipy.special import stdtr

        if len(values) != len(others):
            raise Refused(f"differences need pairs, got {len(values)} values and {len(others)} others")
        _expect_finite("a difference", [*values, *others])
        differences = [one - other for one, other in zip(values, others, strict=True)]
        found = Mean.of(differences)
        same = max(differences) - min(differences) <= ROUNDING * max(map(abs, (*values, *others)))
        if found.n < FEWEST or same:
            return cls(replace(found, half=math.nan), math.nan, math.nan, math.nan)
        p = 2 * float(stdtr(found.n - 1, -abs(found.value) / (stdev(differences) / math.sqrt(found.n))))
        return cls(found, p, p, found.value / math.sqrt((variance(values) + variance(others)) / 2))

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: its corrected p-value is below 0.05."""
        return self.corrected < SIGNIFICANT


def holm(p: Sequence[float]) -> list[float]:
    """Correct the p-values of a family by Holm's method; nan stays nan and does not count."""
    from unittest.mock import patch

    from statsmodels.stats.multitest import multipletests

    judged = [one for one in p if math.isfinite(one)]
    # Each call collects all garbage of the process, for the sake of arrays of millions: half a second beside torch.
    with patch("gc.collect"):
        corrected = iter(multipletests(judged, method="holm")[1].tolist() if judged else [])
    return [next(corrected) if math.isfinite(one) else math.nan for one in p]


def family(differences: Sequence[Difference]) -> list[Difference]:
    """Correct the p-values of all comparisons of one question.

    If there is no difference anywhere, one is shown in at most 5 % of families.
    """
    corrected = holm([difference.p for difference in differences])
    among = sum(map(math.isfinite, corrected))
    return [replace(one, corrected=p, among=among) for one, p in zip(differences, corrected, strict=True)]


@dataclass(frozen=True)
class Correlation:
    """Kendall's rank correlation τ of two measures over the networks of several configurations.

    Networks of one configuration that differ in the seed alone are not independent of each other, but configurations
    are taken to be. So interval and p-value are over configurations.

    Attributes:
        tau: over all networks, from -1 to 1.
        low, high: its 95 % interval, the percentiles of a bootstrap over the configurations; nan with fewer than
            :data:`ENOUGH`. So few are often in perfect order in every resample, as if τ were certain.
        p: two-sided, for no association of the configurations' means; nan with fewer than four configurations, of which
            even a perfect order has p = 1/3.
        n: number of networks.
        configurations: number of configurations.
        within: τ of the pairs of networks that have the same configuration; nan where there are none.
        within_p: two-sided, for no association within the configurations, by permutations of their networks; nan
            where there are no pairs.
    """

    tau: float
    low: float
    high: float
    p: float
    n: int
    configurations: int
    within: float
    within_p: float

    @property
    def interval(self) -> str:
        """The interval as a cell of a table; empty if there is none."""
        return "" if math.isnan(self.low) else f"{self.low:+.2f} to {self.high:+.2f}"

    @classmethod
    def of(
        cls, values: Sequence[float], others: Sequence[float], configurations: Sequence[Hashable] | None = None
    ) -> "Correlation | None":
        """Correlate two measures of the same networks.

        Args:
            values, others: of each network.
            configurations: of each network; by default each has its own.

        Returns:
            None with fewer than four networks, or if a measure does not vary.

        Raises:
            Refused: there are not as many of both, or one is nan, which has no rank.
        """
        import numpy as np
        from scipy.stats import kendalltau

        if len(values) != len(others):
            raise Refused(f"a correlation needs pairs, got {len(values)} values and {len(others)} others")
        if any(map(math.isnan, (*values, *others))):
            raise Refused("a correlation needs numbers, got nan among them: leave those networks out")
        if len(values) < 4 or len(set(values)) < 2 or len(set(others)) < 2:
            return None
        names = list(configurations) if configurations is not None else list(range(len(values)))
        place = {name: index for index, name in enumerate(dict.fromkeys(names))}
        member = np.array([place[name] for name in names])
        x, y = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
        means = [[part[member == index].mean() for index in range(len(place))] for part in (x, y)]
        low, high = _interval(x, y, member) if len(place) >= ENOUGH else (math.nan, math.nan)
        return cls(
            tau=float(kendalltau(x, y).statistic),
            low=low,
            high=high,
            p=float(kendalltau(*means).pvalue) if len(place) >= 4 else math.nan,
            n=len(values),
            configurations=len(place),
            within=(within := _within(x, y, member))[0],
            within_p=within[1],
        )


def _expect_finite(what: str, values: Sequence[float]) -> None:
    if not len(values):
        raise Refused(f"{what} needs at least one value, got none")
    if odd := [float(value) for value in values if not math.isfinite(value)]:
        raise Refused(f"{what} needs finite values, got {odd[0]} among {len(values)}: leave those out")


def _interval(x: "np.ndarray", y: "np.ndarray", member: "np.ndarray") -> tuple[float, float]:
    """Bootstrap τ over configurations, each of which is drawn with all of its networks."""
    import numpy as np

    clusters = member[:, None] == np.arange(member.max() + 1)  # [networks, configurations]
    order_x, order_y = _order(x), _order(y)
    agreement, varied_x, varied_y = (
        clusters.T @ pairs @ clusters for pairs in (order_x * order_y, abs(order_x), abs(order_y))
    )
    size = clusters.shape[1]
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), BOOTSTRAPS).astype(float)

    def total(of: "np.ndarray") -> "np.ndarray":
        found: np.ndarray = ((drawn @ of) * drawn).sum(1)
        return found

    pairs = np.sqrt(total(varied_x) * total(varied_y))
    taus = np.divide(total(agreement), pairs, out=np.zeros_like(pairs), where=pairs > 0)  # without an order, none
    low, high = np.percentile(taus, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def _within(x: "np.ndarray", y: "np.ndarray", member: "np.ndarray") -> tuple[float, float]:
    """Compute τ over the pairs within configurations, and its p-value by permuting networks within them."""
    import numpy as np

    together = member[:, None] == member
    order_x, order_y = _order(x) * together, _order(y) * together
    pairs = math.sqrt(abs(order_x).sum() * abs(order_y).sum())
    if pairs == 0:
        return math.nan, math.nan
    agreement = float((order_x * order_y).sum())
    draw, grouped = np.random.default_rng(0), np.argsort(member, kind="stable")
    reached = 1  # the order that was found is one of them
    for _ in range(BOOTSTRAPS):
        permuted = np.empty(len(y), dtype=int)
        permuted[grouped] = np.lexsort((draw.random(len(y)), member))
        reached += abs((order_x * order_y[np.ix_(permuted, permuted)]).sum()) >= abs(agreement)
    return agreement / pairs, reached / (BOOTSTRAPS + 1)


def _order(values: "np.ndarray") -> "np.ndarray":
    """Compare each two values: 1 where the first is larger, -1 where it is smaller, 0 where they are equal."""
    import numpy as np

    order: np.ndarray = np.sign(values[:, None] - values)
    return order


def with_digits(mean: Mean) -> str:
    """Write a mean of any size with three digits, and half of its 95 % interval with two, where there is one."""
    return f"{mean.value:.3g}" + (f" ± {mean.half:.2g}" if math.isfinite(mean.half) else "")


def with_interval(mean: "Mean", unit: float, decimals: int, among: int = 0) -> str:
    """Write a mean and half of its 95 % interval, times `unit`; without an interval, the mean alone.

    Both have so many decimals, or more where the half, or a mean alone, would be written as 0. Where it is of fewer
    values than there are `among`, it is said of how many.
    """
    value, half = unit * mean.value, unit * mean.half
    size = half if math.isfinite(half) and half > ROUNDING * abs(value) else abs(value)
    interval = f" ± {decimal(half, decimals, size)}" if math.isfinite(half) else ""
    return f"{decimal(value, decimals, size)}{interval}{of_some(mean.n, among)}"


def of_some(n: int, among: int) -> str:
    """Say of how many values a mean is, where there are others that it is not of."""
    return f" (n = {n})" if n < among else ""
