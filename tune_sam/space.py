"""The search space: where each hyperparameter is searched, and the grid that a search begins with."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any

MAX_SEED = 2**31 - 1
"""The largest seed, which NumPy and torch both take."""


Value = float | int | str | bool
"""What a hyperparameter can be."""

ASCENT = ("rho", "m")
"""The hyperparameters of the ascent alone, which the base optimizer has no use for."""


@dataclass(frozen=True)
class _Interval(ABC):
    """What both kinds of a range have in common: ends, which are included, and a default."""

    low: float
    high: float
    default: float | None = None

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            raise ValueError(f"the range {self} is none; give two finite numbers, the smaller first")
        if self.default is not None and self.default not in self:
            raise ValueError(f"the default {_exact(self.default)} is not in {self}; give one that is")

    def __contains__(self, value: Any) -> bool:
        return is_number(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{_exact(self.low)}:{_exact(self.high)}"

    def to_json(self) -> list[float]:
        """Return both ends."""
        return [self.low, self.high]

    @abstractmethod
    def spread(self, points: int) -> tuple[float, ...]:
        """Choose the middles of `points` equal pieces of the range, on its own scale.

        Middles rather than ends, because an end stands for half as much of the range as a middle.
        """

    @property
    def start(self) -> float:
        """The default, or the middle of the range where there is none."""
        return self.spread(1)[0] if self.default is None else self.default


class LogRange(_Interval):
    """A log-uniform range, both ends included.

    Args:
        low: its lower end, above 0.
        high: its upper end.
        default: where the grid has it; the middle in logarithms by default.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low > 0:
            raise ValueError(f"the range {self} is searched in logarithms; give ends above 0, or a linear Range")

    def spread(self, points: int) -> tuple[float, ...]:
        """Choose the middles of `points` equal pieces of the range, in logarithms; see :meth:`_Interval.spread`."""
        low, high = math.log(self.low), math.log(self.high)
        middles = (math.exp(low + (high - low) * (k + 0.5) / points) for k in range(points))
        # Four digits read better, where the range is wide enough for them.
        digits = 4 if self.high / self.low > 1.1 else 15
        return tuple(float(f"{middle:.{digits}g}") for middle in middles)


class Range(_Interval):
    """A uniform range on a linear scale, both ends included.

    Args:
        low: its lower end.
        high: its upper end.
        default: where the grid has it; the middle by default.
    """

    def spread(self, points: int) -> tuple[float, ...]:
        """Choose the middles of `points` equal pieces of the range; see :meth:`_Interval.spread`."""
        return tuple(self.low + (self.high - self.low) * (k + 0.5) / points for k in range(points))


@dataclass(frozen=True, init=False)
class Choice:
    """Some values to choose from: numbers, texts, or yes and no.

    Args:
        values: all different.
        default: where the grid has it; the first by default.
    """

    values: tuple[Value, ...]
    default: Value | None

    def __init__(self, *values: Value, default: Value | None = None) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "default", default)
        if not values:
            raise ValueError("there is nothing to choose from; give one value or more")
        for value in values:
            if not isinstance(value, (int, float, str)) or value in (math.inf, -math.inf) or value != value:
                raise ValueError(f"{value!r} cannot be chosen; give finite numbers, texts, True or False")
        if len(set(values)) < len(values):
            raise ValueError(f"a value of {self} comes twice; give each once")
        if default is not None and default not in self:
            raise ValueError(f"the default {default!r} is not one of {self}; give one that is")

    def __contains__(self, value: Any) -> bool:
        return any(_same(value, one) for one in self.values)

    def __str__(self) -> str:
        return ",".join(map(text_of_value, self.values))

    @property
    def start(self) -> Value:
        """The default, or the first value where there is none."""
        return self.values[0] if self.default is None else self.default


Domain = LogRange | Range | Choice
"""Where a hyperparameter is searched."""

_KINDS: dict[str, type[LogRange | Range]] = {"log": LogRange, "linear": Range}


def domain_to_json(domain: Domain) -> dict[str, Any]:
    """Return a further hyperparameter's domain as plain data."""
    if isinstance(domain, Choice):
        return {"values": list(domain.values), "default": domain.default}
    kind = next(name for name, one in _KINDS.items() if isinstance(domain, one))
    return {kind: domain.to_json(), "default": domain.default}


def domain_from_json(data: Mapping[str, Any]) -> Domain:
    """Read what :func:`domain_to_json` returned."""
    if "values" in data:
        return Choice(*data["values"], default=data["default"])
    (kind,) = data.keys() & _KINDS.keys()
    low, high = data[kind]
    return _KINDS[kind](low, high, data["default"])


def narrowed(domain: Domain, given: Range | Choice) -> Domain:
    """Narrow a declared domain to what a person gives, or fix it: a choice of one value. Its scale stays.

    Args:
        domain: the workload's.
        given: as :func:`parse_param` reads it. Ends may take the place of a range's; of a choice it can leave out
            values, and add none.

    Raises:
        ValueError: it is nothing that the domain can become.
    """
    if isinstance(domain, Choice):
        texts = {text_of_value(value): value for value in domain.values}
        named = given.values if isinstance(given, Choice) else (str(given),)
        if unknown := [name for name in map(text_of_value, named) if name not in texts]:
            raise ValueError(f"{unknown[0]} is not one of {domain}; name one or more of these")
        values = [texts[text_of_value(value)] for value in named]
        return Choice(*values, default=domain.default if domain.default in values else None)
    if isinstance(given, Choice):
        if not all(map(is_number, given.values)):
            raise ValueError("it is a number; give a range as LOW:HIGH, one number, or several as 0.1,0.2")
        numbers = [float(value) for value in given.values]
        return Choice(*numbers, default=domain.default if domain.default in numbers else None)
    default = domain.default if domain.default is not None and domain.default in given else None
    return type(domain)(given.low, given.high, default)


def parts_of_a_batch(given: Range | Choice) -> Choice:
    """Read what a person gives for `m`, the samples of a part of a batch.

    Raises:
        ValueError: these are not whole numbers above 0.
    """
    if isinstance(given, Choice) and all(isinstance(m, int) and is_number(m) and m > 0 for m in given.values):
        return given
    raise ValueError("m counts the samples of a part of a batch; give whole numbers above 0, as 16 or 16,32")


@dataclass(frozen=True)
class Configuration:
    """The hyperparameters of one training.

    Attributes:
        optimizer: its name; see :mod:`tune_sam.optimizers`.
        rho: radius of the neighbourhood, in the optimizer's own scale; None for one without.
        lr: initial learning rate.
        batch_size: samples in a step.
        seed: of initialisation, batch order, dropout and augmentation.
        more: further hyperparameters by name, sorted: those that the workload declares, and `m` of m-sharpness, the
            samples of a part of a batch that has its own perturbation. What is not named is as the workload has it.
    """

    optimizer: str
    rho: float | None
    lr: float
    batch_size: int
    seed: int
    more: Mapping[str, Value] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "more", dict(sorted(self.more.items())))

    @property
    def point(self) -> "Point":
        """The values by name without the seed: `rho` where there is one, `lr`, `batch_size`, and the further ones."""
        rho = {} if self.rho is None else {"rho": self.rho}
        return {**rho, "lr": self.lr, "batch_size": self.batch_size, **self.more}

    @property
    def matched(self) -> "Configuration":
        """The base optimizer's with the same values and seed, without what an ascent has alone."""
        point = {name: value for name, value in self.point.items() if name not in ASCENT}
        return Configuration.at("base", point, self.seed)

    @classmethod
    def at(cls, optimizer: str, point: Mapping[str, Any], seed: int = 0) -> "Configuration":
        """Make the configuration of a point.

        Args:
            optimizer: its name; see :mod:`tune_sam.optimizers`.
            point: values by name, with `lr` and `batch_size` at least; its `seed`, if it has one, comes first.
            seed: where the point has none.
        """
        further = {name: value for name, value in point.items() if name not in OF_EVERY_STUDY}
        return cls(
            optimizer, point.get("rho"), point["lr"], int(point["batch_size"]), int(point.get("seed", seed)), further
        )


OF_EVERY_STUDY = ("rho", "lr", "batch_size", "seed")
"""The fields of a :class:`Configuration` that are values of a point; a point's others are further hyperparameters."""

Point = dict[str, Any]
"""Values of hyperparameters by name; see :data:`Value`."""


def each_once(points: Sequence[Point]) -> list[Point]:
    """Leave out the points that have come before."""
    return [point for index, point in enumerate(points) if point not in points[:index]]


@dataclass(frozen=True)
class Space:
    """The search space of one optimizer.

    Attributes:
        rho: range of ρ; None for an optimizer without one, such as `base`.
        lr: range of the learning rate.
        batch_size: the batch sizes to choose from.
        grid: points that are tried before anything is sampled, as values of `rho`, `lr`, `batch_size` and what is in
            `more`. Points of a refit have a `seed`, too.
        more: where each further hyperparameter is searched, sorted by name; none by default.
    """

    rho: LogRange | None
    lr: LogRange
    batch_size: tuple[int, ...]
    grid: tuple[Point, ...]
    more: Mapping[str, Domain] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "more", dict(sorted(self.more.items())))

    @classmethod
    def of(cls, chosen: Sequence[Configuration], seeds: Sequence[int]) -> "Space":
        """Make a space of just the chosen configurations, each with each seed, as for a refit.

        They may differ in which further hyperparameters they have, as matched controls of several optimizers do.
        """
        rhos = [one.rho for one in chosen if one.rho is not None]
        rates = [one.lr for one in chosen]
        more: dict[str, list[Value]] = {}
        for name, value in ((name, value) for one in chosen for name, value in one.more.items()):
            more.setdefault(name, []).append(value)
        return cls(
            rho=LogRange(min(rhos), max(rhos)) if rhos else None,
            lr=LogRange(min(rates), max(rates)),
            batch_size=tuple(sorted({one.batch_size for one in chosen})),
            grid=tuple({**one.point, "seed": seed} for one in chosen for seed in seeds),
            more={name: Choice(*dict.fromkeys(values)) for name, values in more.items()},
        )

    @property
    def seeded(self) -> bool:
        """Whether the grid's points have seeds; in a search the trial's number gives the seed."""
        return any("seed" in point for point in self.grid)

    @property
    def domains(self) -> dict[str, Domain]:
        """Where each hyperparameter is searched, by its name in a point."""
        rho = {} if self.rho is None else {"rho": self.rho}
        return {**rho, "lr": self.lr, "batch_size": Choice(*self.batch_size), **self.more}

    def domains_of(self, given: Point) -> dict[str, Domain]:
        """Give where a trial's hyperparameters are searched: all, in a refit those of the point that it was given."""
        every = not self.seeded
        return {name: domain for name, domain in self.domains.items() if every or name in given}

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        more = {name: domain_to_json(domain) for name, domain in self.more.items()}
        return {
            "rho": self.rho.to_json() if self.rho else None,
            "lr": self.lr.to_json(),
            "batch_size": list(self.batch_size),
            "grid": list(self.grid),
            **({"more": more} if more else {}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Space":
        """Read what :meth:`to_json` returned."""
        return cls(
            rho=LogRange(*data["rho"]) if data["rho"] else None,
            lr=LogRange(*data["lr"]),
            batch_size=tuple(data["batch_size"]),
            grid=tuple(data["grid"]),
            more={name: domain_from_json(domain) for name, domain in data.get("more", {}).items()},
        )

    def outside(self) -> str | None:
        """Find the first grid point outside the ranges, and say what is wrong with it; None if all lie inside."""
        for point in self.grid:
            for name, domain in self.domains_of(point).items():
                if point[name] not in domain:
                    return f"{IN_WORDS.get(name, name)} {text_of_value(point[name])} is not in {domain}"
        return None


IN_WORDS = {"rho": "ρ", "lr": "learning rate", "batch_size": "batch size"}
"""What a sentence calls a hyperparameter; a further one by its name."""


@dataclass(frozen=True)
class Values:
    """The values of one hyperparameter in a plain grid, ascending, in place of a range."""

    points: tuple[float, ...]

    def __str__(self) -> str:
        return ",".join(map(_exact, self.points))


def _exact(value: float) -> str:
    """Write the shortest text that reads as the same number."""
    return repr(float(value)).removesuffix(".0")


def is_number(value: object) -> bool:
    """Whether a value is a number, which True and False are not meant as."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(one: object, other: object) -> bool:
    """Whether two values are the same; True is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def text_of_value(value: Value, digits: int | None = None) -> str:
    """Write a value as a person would give it.

    Args:
        value: a hyperparameter's.
        digits: significant digits of a number; as many as tell it from all others by default.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _exact(value) if digits is None else f"{value:.{digits}g}"
    return str(value)


def cells(point: Mapping[str, Any], names: Sequence[str], digits: int = 4, missing: str = "") -> tuple[str, ...]:
    """Write the cells of a table for the values of a point.

    Args:
        point: values by name; None or nan for what is not there.
        names: of the columns.
        digits: significant digits of numbers.
        missing: for what is not there.
    """
    found = [point.get(name) for name in names]
    return tuple(missing if value is None or value != value else text_of_value(value, digits) for value in found)


def grid(
    rhos: Sequence[float],
    lrs: Sequence[float],
    batch_sizes: Sequence[int],
    more: Mapping[str, Sequence[Value]] = MappingProxyType({}),
) -> tuple[Point, ...]:
    """Combine each ρ with each learning rate, batch size and further value; without any ρ, combine the others alone."""
    return tuple(
        {**({"rho": rho} if rho is not None else {}), "lr": lr, "batch_size": batch_size}
        | dict(zip(more, further, strict=True))
        for further in product(*more.values())
        for batch_size in batch_sizes
        for lr in lrs
        for rho in (rhos or (None,))
    )


def ends(what: LogRange | Values) -> LogRange:
    """Return the range itself, or the range from the smallest to the largest value."""
    return what if isinstance(what, LogRange) else LogRange(what.points[0], what.points[-1])


def parse_param(given: Any) -> Range | Choice:
    """Read a range from `LOW:HIGH`, or values from `0.8,0.9`, `relu,gelu`, a list or one value.

    Which scale a range has, and which values there are, the workload says; see :func:`narrowed`.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, Choice):
        return given
    if isinstance(given, (LogRange, Range)):
        return Range(given.low, given.high)
    if isinstance(given, str):
        found = [_literal(part.strip()) for part in given.split(":")]
        if len(found) == 2 and is_number(found[0]) and is_number(found[1]):
            if not found[0] < found[1]:  # type: ignore[operator]  # both are numbers
                raise ValueError("a range is LOW:HIGH with LOW below HIGH; give one value to fix it")
            return Range(float(found[0]), float(found[1]))
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, (list, tuple)) else [given]
    plain = [part.item() if hasattr(part, "item") else part for part in parts]
    values = [_literal(part.strip()) if isinstance(part, str) else part for part in plain]
    if "" in values:
        raise ValueError("expected a range as LOW:HIGH, values as 0.8,0.9, or one value")
    return Choice(*values)


def _literal(text: str) -> Value:
    """Read a number, true or false; anything else is a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_values(text: Any) -> LogRange | Values:
    """Read a range from `LOW:HIGH`, or the values of a plain grid from `0.01,0.1`, a list or one number.

    Raises:
        ValueError: it is neither, or a value is not a finite number above 0.
    """
    if isinstance(text, (LogRange, Values)):
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


def parse_range(text: str) -> LogRange:
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
    return LogRange(low, high)


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
