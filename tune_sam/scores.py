"""How the score of a study is written: an accuracy in percent, any other as it is."""

import math
from dataclasses import dataclass

SPLITS = {"val": "validation", "train": "training", "test": "test", "gap": "generalisation gap:"}


@dataclass(frozen=True)
class Written:
    """How values of a score are written.

    Attributes:
        factor: by which a value is multiplied.
        unit: after it.
        decimals: of a mean, which has an interval.
        difference: form of a difference.
        points: after a difference.
    """

    factor: int
    unit: str
    decimals: int
    difference: str
    points: str


def written(score: str) -> Written:
    """Say how a score is written.

    Args:
        score: its name, such as `accuracy`.
    """
    if score == "accuracy":
        return Written(100, " %", 2, "+.2f", " points")
    return Written(1, "", 4, "+.3g", "")


def in_words(score: str) -> str:
    """Write a score with its unit: accuracy %."""
    return f"{score}{written(score).unit}"


def decimal(value: float, least: int, size: float | None = None) -> str:
    """Write a number with so many decimals, or with two of its digits where it would be written as 0.

    Args:
        value: the number.
        least: decimals.
        size: of the number that is not to be written as 0; the value's own by default.
    """
    size = abs(value) if size is None else size
    vanishes = size > 0 and round(size, least) == 0
    return f"{value:.{_for_two_digits(size) if vanishes else least}f}"


def signed(value: float, half: float, form: str) -> str:
    """Write a difference, or an end of its interval, with its sign.

    Args:
        value: the number.
        half: of the interval, two digits of which can be seen where the form would write it as 0, or both of its ends
            alike; nan for none.
        form: such as `+.2f`, or `+.3g`.
    """
    is_narrow = form.endswith("g") and half < abs(value) / 200  # at most half of what a third digit tells
    vanishes = half > 0 and (is_narrow or float(format(half, form)) == 0)
    return format(value, f"+.{_for_two_digits(half)}f" if vanishes else form)


def _for_two_digits(size: float) -> int:
    """Count the decimals with which a number has two digits."""
    return max(1 - math.floor(math.log10(size)), 0)


def standard_error(score: str, value: float, samples: int) -> float:
    """Give the standard error of a score of one training: binomial for an accuracy, after Agresti and Coull (1998).

    Two hits and two misses are added, without which it would be 0 where all or none of the samples are hits.

    Args:
        score: its name, such as `accuracy`.
        value: the score.
        samples: that it was measured on.

    Returns:
        The error; nan of another score, whose error one training does not tell, and of an accuracy that is no share, as
        a person's metrics could give it to an earlier release.
    """
    share = (value * samples + 2) / (samples + 4)
    if score != "accuracy" or not 0 <= share <= 1:
        return math.nan
    return math.sqrt(share * (1 - share) / (samples + 4))


def of_loss(unit: str) -> str:
    """Write the unit of a loss behind its name; nothing where it has none."""
    return f" ({unit})" if unit else ""


def per_squared_weight(unit: str) -> str:
    """Write the unit of an eigenvalue of the Hessian, or of its trace, for a loss of this unit."""
    return f" ({unit or 'loss'} per squared weight)"
