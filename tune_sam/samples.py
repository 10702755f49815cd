"""What a study trains on: a subset of the training split, and labels with noise, both the same for all trials."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tune_sam.errors import Refused
from tune_sam.workload import Splits, Store


def with_train_subset(splits: Splits, samples: int | None, seed: int = 0) -> Splits:
    """Reduce the training split to `samples`, the same for all trials.

    Each class keeps its proportion, to one sample: a subset of a balanced data set is balanced. Targets that are no
    classes, such as those of a regression, do not matter to the choice.

    Args:
        splits: of a workload.
        samples: how many to train on; None keeps all.
        seed: of the choice, not of a trial.

    Raises:
        Refused: there are not that many.
    """
    if samples is None:
        return splits
    if samples > len(splits.train):
        raise Refused(f"--train-subset {samples} is more than the {len(splits.train)} training samples; give fewer.")
    labels = _classes(splits.train)
    if labels is None:
        labels = np.zeros(len(splits.train), dtype=np.int64)
    # Each class's samples stand, in random order, at even distances between 0 and 1; the first ones are taken.
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.sort(order[np.argsort(place[order], kind="stable")[:samples]])
    return replace(splits, train=splits.train.subset(torch.from_numpy(chosen)))


def shuffled(splits: Splits) -> Splits:
    """Give the training split an order of no meaning, always the same: data that are stored by class have none.

    Batches cut from it have about the proportions of the whole.
    """
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(splits.train)))
    return replace(splits, train=splits.train.subset(order))


def with_label_noise(splits: Splits, share: float | None, *, ignored: int | None = None) -> Splits:
    """Replace a share of the training labels by another class, drawn uniformly, the same for all trials.

    Validation labels stay, so that a search judges trials by the truth.

    Args:
        splits: of a workload; the training split is a dataclass with a field `y`, as :class:`TensorStore` is.
        share: of the training labels, above 0 and below 1; None changes none.
        ignored: value of targets that do not count, which stay as they are.

    Raises:
        Refused: the training split is no such dataclass, its targets are no classes, or the share is of no label.
    """
    if share is None:
        return splits
    train = splits.train
    if not is_dataclass(train) or isinstance(train, type) or all(field.name != "y" for field in fields(train)):
        raise Refused(
            f"--label-noise {share:g} needs a store that is a dataclass with a field y, not "
            f"{type(train).__name__}; make it one, or leave --label-noise out."
        )
    if (found := _classes(train)) is None:
        kind = f"{train.y.dtype} of shape {tuple(train.y.shape)}" if isinstance(train.y, Tensor) else "no tensor"
        raise Refused(
            f"--label-noise {share:g} replaces classes, and the targets here are {kind}; leave --label-noise out."
        )
    draw, labels = np.random.default_rng(0), found.copy()
    counted = np.arange(len(labels)) if ignored is None else np.flatnonzero(labels != ignored)
    classes, wrong = np.unique(labels[counted]), round(share * len(counted))
    if len(classes) < 2 or not wrong:
        raise Refused(
            f"--label-noise {share:g} changes none of {len(counted)} training labels of {len(classes)} classes; give a "
            "larger share, or leave it out."
        )
    chosen = draw.choice(counted, wrong, replace=False)
    shift = draw.integers(1, len(classes), len(chosen))
    labels[chosen] = classes[(np.searchsorted(classes, labels[chosen]) + shift) % len(classes)]
    return replace(splits, train=replace(train, y=torch.from_numpy(labels)))


def _classes(store: Store) -> "np.ndarray | None":
    """Give the class of each sample, or None where the targets are no classes.

    One sample is looked at first: others may not even have the same shape, such as sequences.
    """
    _, targets = store.batch(torch.zeros(min(1, len(store)), dtype=torch.int64))
    if not isinstance(targets, Tensor) or targets.ndim > 1 or targets.is_floating_point():
        return None
    return store.y.cpu().numpy()
