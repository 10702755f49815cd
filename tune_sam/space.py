"""The search space: ranges of ρ and learning rate, a list of batch sizes, and the grid that a search begins with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("base", "sam", "asam", "asam-all")
"""`base` is the workload's own optimizer; the others are named as in :mod:`tune_sam.optim`."""

MAX_SEED = 2**31 - 1
"""The largest seed, which NumPy and torch both take."""


@dataclass(frozen=True)
class Range:
    """A log-uniform range, both ends included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{_exact(self.low)}:{_exact(self.high)}"

    def to_json(self) -> list[float]:
        """Return both ends."""
        return [self.low, self.high]

    def spread(self, points: int) -> tuple[float, ...]:
        """Choose the middles of `points` equal pieces of the range, in logarithms.

        Middles rather than ends, because an end stands for half as much of the range as a middle.
        """
        low, high = math.log(self.low), math.log(self.high)
        middles = (math.exp(low + (high - low) * (k + 0.5) / points) for k in range(points))
        # Four digits read better, where the range is wide enough for them.
        digits = 4 if self.high / self.low > 1.1 else 15
        return tuple(float(f"{middle:.{digits}g}") for middle in middles)


@dataclass(frozen=True)
class Configuration:
    """The hyperparameters of one training.

    Attributes:
        optimizer: one of :data:`OPTIMIZERS`.
        rho: radius of the neighbourhood, in the optimizer's own scale; None for `base`.
        lr: initial learning rate.
        batch_size: samples in a step.
        seed: of initialisation, batch order, dropout and augmentation.
    """

    optimizer: str
    rho: float | None
    lr: float
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Space:
    """The search space of one optimizer.

    Attributes:
        rho: range of ρ; None for `base`, which has none.
        lr: range of the learning rate.
        batch_size: the batch sizes to choose from.
        grid: points that are tried before anything is sampled, as values of `rho`, `lr` and `batch_size`. Points of a
            refit have a `seed`, too.
    """

    rho: Range | None
    lr: Range
    batch_size: tuple[int, ...]
    grid: tuple[dict[str, float], ...]

    @property
    def seeded(self) -> bool:
        """Whether the grid's points have seeds; in a search the trial's number gives the seed."""
        return any("seed" in point for point in self.grid)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {
            "rho": self.rho.to_json() if self.rho else None,
            "lr": self.lr.to_json(),
            "batch_size": list(self.batch_size),
            "grid": list(self.grid),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Space":
        """Read what :meth:`to_json` returned."""
        return cls(
            rho=Range(*data["rho"]) if data["rho"] else None,
            lr=Range(*data["lr"]),
            batch_size=tuple(data["batch_size"]),
            grid=tuple(data["grid"]),
        )

    def outside(self) -> str | None:
        """Find the first grid point outside the ranges, and say what is wrong with it; None if all lie inside."""
        for point in self.grid:
            if self.rho and point["rho"] not in self.rho:
                return f"ρ {point['rho']:g} is not in {self.rho}"
            if point["lr"] not in self.lr:
                return f"learning rate {point['lr']:g} is not in {self.lr}"
            if point["batch_size"] not in self.batch_size:
                return f"batch size {point['batch_size']} is not in {','.join(map(str, self.batch_size))}"
        return None


@dataclass(frozen=True)
class Values:
    """The values of one hyperparameter in a plain grid, ascending, in place of a range."""

    points: tuple[float, ...]

    def __str__(self) -> str:
        return ",".join(map(_exact, self.points))


def _exact(value: float) -> str:
    """Write the shortest text that reads as the same number."""
    return repr(float(value)).removesuffix(".0")


def grid(rhos: Sequence[float], lrs: Sequence[float], batch_sizes: Sequence[int]) -> tuple[dict[str, float], ...]:
    """Combine each ρ with each learning rate and batch size; without any ρ, combine those two alone."""
    return tuple(
        {**({"rho": rho} if rho is not None else {}), "lr": lr, "batch_size": batch_size}
        for batch_size in batch_sizes
        for lr in lrs
        for rho in (rhos or (None,))
    )


def ends(what: Range | Values) -> Range:
    """Return the range itself, or the range from the smallest to the largest value."""
    return what if isinstance(what, Range) else Range(what.points[0], what.points[-1])


def parse_values(text: Any) -> Range | Values:
    """Read a range from `LOW:HIGH`, or the values of a plain grid from `0.01,0.1`, a list or one number.

    Raises:
        ValueError: it is neither, or a value is not a finite number above 0.
    """
    if isinstance(text, (Range, Values)):
        return text
    if isinstance(text, str) and ":" in text:
        return parse_range(text)
    parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
    try:
        values = sorted({float("yes" if isinstance(part, bool) else part) for part in parts})
    except (TypeError, ValueError):
        raise ValueError(
            "expected a range as LOW:HIGH, for example 0.001:1, or values for --sampler grid, for example 0.01,0.1"
        ) from None
    if not values or not all(0 < value < math.inf for value in values):
        raise ValueError("values must be finite and above 0")
    return Values(tuple(values))


def parse_range(text: str) -> Range:
    """Read a range from `LOW:HIGH`.

    Raises:
        ValueError: these are not two finite numbers above 0, the smaller first.
    """
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError("expected two numbers as LOW:HIGH, for example 0.001:1") from None
    if not (0 < low < math.inf and 0 < high < math.inf):
        raise ValueError("both ends must be finite and above 0, since the range is searched in logarithms")
    if low >= high:
        raise ValueError(
            f"the lower end must come first, as in {high:g}:{low:g}"
            if low > high
            else "the two ends are equal; give LOW:HIGH with LOW below HIGH"
        )
    return Range(low, high)


def parse_batch_sizes(text: Any) -> tuple[int, ...]:
    """Read batch sizes from `32,64,128`, a list of whole numbers or one number.

    Raises:
        ValueError: there is none, or one is not a whole number above 0.
    """
    parts = text.split(",") if isinstance(text, str) else text if isinstance(text, (list, tuple)) else [text]
    try:
        sizes = tuple(int(str(part)) for part in parts)
    except ValueError:
        raise ValueError("expected whole numbers as 32,64,128") from None
    if not sizes or min(sizes) < 1:
        raise ValueError("a batch has at least 1 sample")
    return tuple(sorted(set(sizes)))


PASSES = {"base": 1}
"""Gradients of a step by optimizer. Those that are not named here take two."""
