"""Means over seeds with their intervals, and paired differences: what several trainings can show, and what not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

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
        n = len(values)
        if n < 2:
            return cls(float(np.mean(values)), math.nan, n)
        spread = float(np.std(values, ddof=1)) / math.sqrt(n)
        return cls(float(np.mean(values)), float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * spread, n)


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
        differences = np.asarray(values, float) - np.asarray(others, float)
        if len(differences) < 2 or np.ptp(differences) == 0:
            return cls(Mean.of(differences.tolist()), math.nan)
        return cls(Mean.of(differences.tolist()), float(stats.ttest_rel(values, others).pvalue))

    @property
    def shown(self) -> bool:
        """Whether the values show a difference at all, at the level 0.05 and for this comparison alone."""
        return self.p < SIGNIFICANT
