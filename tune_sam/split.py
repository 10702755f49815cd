"""One data set in three parts: training, validation and test, by a seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def split(
    samples: int, *, validation: int, test: int, labels: Sequence[Any] | NDArray[Any] | None = None, seed: int = 0
) -> tuple[Indices, Indices, Indices]:
    """Choose the samples of the training, validation and test split of one data set.

    Args:
        samples: how many there are.
        validation, test: how many go into these splits; the rest is trained on.
        labels: the class of each sample, of which each split then has its share; None for a choice without regard to
            classes.
        seed: of the choice; the same seed gives the same splits.

    Returns:
        Indices of each split, int64, ascending; no sample is in two.

    Raises:
        ValueError: so many cannot be chosen, or not with a share of each class.
    """
    if not (validation > 0 and test > 0 and validation + test < samples):
        raise ValueError(f"{samples} samples cannot be split with {validation} for validation and {test} for the test")
    classes = None if labels is None else np.asarray(labels)
    rest, tested = set_aside(samples, test, classes, seed)
    trained, validated = set_aside(len(rest), validation, None if classes is None else classes[rest], seed)
    return np.sort(rest[trained]), np.sort(rest[validated]), np.sort(tested)


def set_aside(samples: int, aside: int, labels: NDArray[Any] | None, seed: int) -> tuple[Indices, Indices]:
    """Set samples of a data set aside, in random order.

    They are those that scikit-learn's `train_test_split` chooses, and in its order. Its import takes a second, which
    every command that reads data would wait for.

    Args:
        samples: how many there are.
        aside: how many are set aside.
        labels: the class of each sample, of which both parts have their share; None without regard to classes.
        seed: of the choice.

    Returns:
        The indices of the others, and of those set aside.

    Raises:
        ValueError: either part would have fewer samples than there are classes, or a class has one sample only.
    """
    random = np.random.RandomState(seed)
    if labels is None:
        order = random.permutation(samples)
        return order[aside:], order[:aside]
    classes, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = samples - aside
    if counts.min() < 2 or min(kept, aside) < len(classes):
        raise ValueError(
            f"{kept} and {aside} samples cannot each have a share of {len(classes)} classes, the smallest of which has "
            f"{counts.min()} samples"
        )
    ours = _shares(counts, kept, random)
    theirs = _shares(counts - ours, aside, random)
    first: list[int] = []
    second: list[int] = []
    for members, count, one, other in zip(
        np.split(np.argsort(of, kind="stable"), np.cumsum(counts)[:-1]), counts, ours, theirs, strict=True
    ):
        order = members[random.permutation(count)]
        first.extend(order[:one])
        second.extend(order[one : one + other])
    return random.permutation(first), random.permutation(second)


def _shares(counts: Indices, draws: int, random: np.random.RandomState) -> Indices:
    """Give how many of each class are drawn: its proportion, rounded up where most is missing, ties by chance."""
    exact = counts / counts.sum() * draws
    drawn: Indices = np.floor(exact).astype(np.int64)
    lacking = exact - drawn
    for value in np.unique(lacking)[::-1]:
        if missing := draws - drawn.sum():
            (tied,) = np.where(lacking == value)
            drawn[random.choice(tied, size=min(len(tied), missing), replace=False)] += 1
    return drawn
