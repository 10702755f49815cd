"""The one way in which a data set is split where it has no official split, or no official validation part."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0


@dataclass(frozen=True)
class Indices:
    """The samples of each part, ascending, int64."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def stratified(labels: NDArray[np.int64], seed: int = SPLIT_SEED) -> Indices:
    """70 % and 30 % as in the report, and one seventh of the 70 % for validation; each part has the classes' shares.

    Args:
        labels: class of each sample, [n].
        seed: of the split, not of a trial.
    """
    everything = np.arange(len(labels))
    kept = int(0.7 * len(labels))
    rest, test = train_test_split(everything, train_size=kept, stratify=labels, random_state=seed)
    train, validation = held_out(labels[rest], kept // 7, seed)
    return Indices(np.sort(rest[train]), np.sort(rest[validation]), np.sort(test))


def held_out(labels: NDArray[np.int64], validation: int, seed: int = SPLIT_SEED) -> tuple[NDArray, NDArray]:
    """Training and validation part of samples of which none is for testing, each with the classes' shares.

    Args:
        labels: class of each sample, [n].
        validation: size of that part.
        seed: of the split, not of a trial.
    """
    train, held = train_test_split(np.arange(len(labels)), test_size=validation, stratify=labels, random_state=seed)
    return np.sort(train), np.sort(held)
