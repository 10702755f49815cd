"""Means over seeds with their intervals, and paired differences: what several trainings can show, and what not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
SIGNIFICANT = 0.05


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
        p: of the paired t-test, two-sided, for no difference; nan if n is 1, or if all differences are equal.
    """

    mean: Mean
    p: float

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> "Difference":
        """Of `values` minus `others`, which belong to the same seeds in the same order."""
        from scipy.stats import ttest_rel

        differences = [one - other for one, other in zip(values, others, strict=True)]
        spread = max(differences) - min(differences)
        p = float(ttest_rel(values, others).pvalue) if spread > 0 else math.nan
        return cls(Mean.of(differences), p)

    @property
    def shown(self) -> bool:
        """Whether the values show a difference at all, at the level 0.05 and for this comparison alone."""
        return self.p < SIGNIFICANT
