"""Samples in memory as tensors: the store that suits most data sets, and subsets of the training split."""

from dataclasses import dataclass, is_dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tune_sam.errors import Refused
from tune_sam.workload import Splits


@dataclass(frozen=True)
class TensorStore:
    """n samples as one tensor, from which batches are indexed; a :class:`tune_sam.workload.Store`.

    Attributes:
        x: inputs, [n, ...].
        y: class of each sample, int64 [n].
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Copy the inputs and targets at `indices` (int64 [n])."""
        return self.x[indices], self.y[indices]

    def subset(self, indices: Tensor) -> Self:
        """Make a store of the samples at `indices` alone."""
        return replace(self, x=self.x[indices], y=self.y[indices])

    def joined(self, other: Self) -> Self:
        """Make a store of these samples, followed by those of `other`."""
        return replace(self, x=torch.cat([self.x, other.x]), y=torch.cat([self.y, other.y]))

    def to(self, device: torch.device) -> Self:
        """Move the samples to `device`."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))


def with_train_subset(splits: Splits, samples: int | None, seed: int = 0) -> Splits:
    """Reduce the training split to `samples`, the same for all trials.

    Each class keeps its proportion, to one sample: a subset of a balanced data set is balanced.

    Args:
        splits: of a workload.
        samples: how many to train on; None keeps all.
        seed: of the choice, not of a trial.

    Raises:
        Refused: there are not that many.
    """
    if samples is None:
        return splits
    labels = splits.train.y.cpu().numpy()
    if samples > len(labels):
        raise Refused(f"--train-subset {samples} is more than the {len(labels)} training samples; give fewer.")
    # Each class's samples stand, in random order, at even distances between 0 and 1; the first ones are taken.
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.sort(order[np.argsort(place[order], kind="stable")[:samples]])
    return Splits(splits.train.subset(torch.from_numpy(chosen)), splits.validation)


def with_label_noise(splits: Splits, share: float | None, seed: int = 0) -> Splits:
    """Replace a share of the training labels by another class, drawn uniformly, the same for all trials.

    Validation labels stay, so that a search judges trials by the truth.

    Args:
        splits: of a workload; the training split is a dataclass with a field `y`, as :class:`TensorStore` is.
        share: of the training labels, above 0 and below 1; None changes none.
        seed: of the draw, not of a trial.

    Raises:
        Refused: the training split is no such dataclass.
    """
    if share is None:
        return splits
    if not is_dataclass(splits.train) or isinstance(splits.train, type):
        raise Refused(
            f"--label-noise {share:g} needs a store that is a dataclass with a field y, not "
            f"{type(splits.train).__name__}; make it one, or leave --label-noise out."
        )
    draw, labels = np.random.default_rng(seed), splits.train.y.cpu().numpy().copy()
    classes = np.unique(labels)
    chosen = draw.choice(len(labels), round(share * len(labels)), replace=False)
    shift = draw.integers(1, len(classes), len(chosen))
    labels[chosen] = classes[(np.searchsorted(classes, labels[chosen]) + shift) % len(classes)]
    return Splits(replace(splits.train, y=torch.from_numpy(labels)), splits.validation)
