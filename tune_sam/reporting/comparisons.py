"""Tables of comparisons: which rows, the difference with its interval, and what it shows."""

import math
from collections.abc import Mapping, Sequence

from tune_sam.evaluation.claims import Claim, EqualLoss
from tune_sam.evaluation.statistics import p_value
from tune_sam.scores import decimal, signed

HEADER = ("", "against", "seeds", "difference", "95 % interval", "corrected p", "in SDs of the seeds", "shown?")


def claim_rows(claims: Sequence[Claim], names: Mapping[str, str], unit: float, form: str) -> list[tuple[str, ...]]:
    """Write the cells of comparisons; those that it takes three seeds for are empty where there are fewer.

    Args:
        claims: the comparisons.
        names: what the rows are called.
        unit: factor of what is written; 100 for accuracies in points.
        form: of a difference, such as `+.2f`.
    """
    return [
        (names[claim.row], names[claim.to], str(claim.difference.mean.n), *_difference(claim, unit, form))
        for claim in claims
    ]


def _difference(claim: Claim, unit: float, form: str) -> tuple[str, ...]:
    difference, mean = claim.difference, claim.difference.mean
    value, low, high = (signed(unit * one, unit * mean.half, form) for one in (mean.value, mean.low, mean.high))
    if math.isnan(difference.corrected):
        return value, "", "", "", "no verdict"
    return (
        value,
        f"{low} to {high}",
        p_value(difference.corrected),
        f"{difference.deviations:+z.1f}",
        _verdict(difference.shown, mean.value > 0),
    )


def equal_loss_rows(found: Sequence[EqualLoss], names: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Write the cells of comparisons of λ_max at equal training loss: factors, and how many networks have it."""
    return [(names[one.row], names[one.to], "", *_factor(one)) for one in found]


def _factor(one: EqualLoss) -> tuple[str, ...]:
    if not one.overlap:
        return "", "", "", "", "the losses do not overlap"
    if math.isnan(one.factor):
        return "", "", "", "", "no verdict"
    return (
        f"× {decimal(one.factor, 2)}",
        f"× {decimal(one.low, 2)} to {decimal(one.high, 2)}",
        p_value(one.corrected),
        "",
        f"{_verdict(one.shown, one.factor > 1)}, by {one.common} of {one.networks} networks",
    )


def _verdict(shown: bool, higher: bool) -> str:
    return f"shown: {'higher' if higher else 'lower'}" if shown else "not shown"
