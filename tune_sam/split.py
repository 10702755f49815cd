"""One data set in three parts: training, validation and test, by a seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def split(
    samples: int, *, validation: int, test: int, labels: "Sequence[Any] | np.ndarray | None" = None, seed: int = 0
) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
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
    import numpy as np
    from sklearn.model_selection import train_test_split

    if not (validation > 0 and test > 0 and validation + test < samples):
        raise ValueError(f"{samples} samples cannot be split with {validation} for validation and {test} for the test")
    classes = None if labels is None else np.asarray(labels)
    rest, tested = train_test_split(np.arange(samples), test_size=test, random_state=seed, stratify=classes)
    of_rest = None if classes is None else classes[rest]
    trained, validated = train_test_split(rest, test_size=validation, random_state=seed, stratify=of_rest)
    return np.sort(trained), np.sort(validated), np.sort(tested)
