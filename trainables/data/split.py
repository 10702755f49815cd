"""How a data set is split that has no official split, or no official validation split."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from tune_sam.split import split

SPLIT_SEED = 0
"""Seed of every split that a workload's `split_seed` does not draw. Splits do not depend on a trial's seed."""


@dataclass(frozen=True)
class Indices:
    """The samples of each split, int64, ascending."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def stratified(labels: NDArray[np.int64], seed: int = SPLIT_SEED) -> Indices:
    """Split 60 : 10 : 30, each split with the proportions of the classes.

    The published study had 70 % and 30 %; one seventh of the 70 % validates.

    Args:
        labels: class of each sample, [n].
        seed: of the split, not of a trial.
    """
    kept = int(0.7 * len(labels))
    return Indices(*split(len(labels), validation=kept // 7, test=len(labels) - kept, labels=labels, seed=seed))


def held_out(labels: NDArray[np.int64], validation: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples, none of which is for testing, into training and validation, each with the classes' proportions.

    Args:
        labels: class of each sample, [n].
        validation: size of the validation split.

    Returns:
        The indices of both, ascending.
    """
    everything = np.arange(len(labels))
    train, held = train_test_split(everything, test_size=validation, stratify=labels, random_state=SPLIT_SEED)
    return np.sort(train), np.sort(held)
