"""Batches whose inputs, outputs or targets are several tensors: tuples, mappings, and these again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def joined(parts: Sequence[Any]) -> Any:
    """Join batches of outputs or targets, each a tensor [n, …] or a tree of tensors such as a mapping."""
    return tree_map(lambda *tensors: torch.cat(tensors), *parts)


def rows(batch: Any) -> int:
    """Count the samples of a batch by its inputs, outputs or targets, each with a row for each sample.

    Of several by name or in turn it is the first that counts.
    """
    if isinstance(batch, Mapping):
        return rows(next(iter(batch.values())))
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        return len(batch[0])
    return len(batch)


def moved(value: Any, device: torch.device) -> Any:
    """Move the tensors in a batch, or in a part of one, to `device`."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(moved(part, device) for part in value)
    return value
