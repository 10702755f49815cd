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

    Of several by name or in turn it is the first that counts. A list with a tensor for each sample looks like these.
    """
    if isinstance(batch, Mapping):
        return rows(next(iter(batch.values())))
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        return len(batch[0])
    return len(batch)


def tensors_in(value: Any, within: tuple[int, ...] = ()) -> list[Tensor]:
    """Collect the tensors in a store or a batch, in a fixed order, also of objects such as a batch of PyG.

    Args:
        value: to look into.
        within: identities of what that is a part of, which is not looked into again.
    """
    if isinstance(value, Tensor):
        return [value]
    within = (*within, id(value))
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif not isinstance(value, Mapping) and hasattr(value, "__dict__"):
        value = vars(value)
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value, key=str)]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):  # of a text each letter is one again
        return [tensor for part in value if id(part) not in within for tensor in tensors_in(part, within)]
    return []


def moved(value: Any, device: torch.device) -> Any:
    """Move the tensors in a batch, or in a part of one, to `device`."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(moved(part, device) for part in value)
    return value
