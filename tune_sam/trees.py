"""Batches whose inputs, outputs or targets are several tensors: tuples, mappings, and these again."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
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


def differing(targets: Tensor, value: int) -> Tensor:
    """Say of each target whether it is another than a value, with which labels of a byte are not compared as bytes."""
    return (targets if targets.is_floating_point() else targets.long()) != value


def tensors_in(value: Any) -> list[Tensor]:
    """Collect the tensors in a store or a batch, in a fixed order, also of objects such as a batch of PyG."""
    found: list[Tensor] = []
    seen: dict[int, Any] = {}  # with the parts, so that none is made where another was
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, Tensor):
            found.append(part)
        elif id(part) not in seen:
            seen[id(part)] = part
            todo += reversed(_parts(part))
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [value[key] for key in sorted(value, key=str)]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return []
    if hasattr(type(value), "to_dict"):
        with suppress(TypeError):  # it takes more, and is another thing
            return _parts(value.to_dict())
    return _parts(vars(value))


def alike(one: Any, other: Any) -> bool:
    """Whether batches have the same tensors, also where both have no number, as for a target that does not count.

    Of tensors that cannot be compared nothing is said.
    """
    some, others = ([plain for tensor in tensors_in(batch) for plain in _plain(tensor)] for batch in (one, other))
    return len(some) == len(others) and all(map(_is_same, some, others))


def _plain(tensor: Tensor) -> Sequence[Tensor]:
    if tensor.is_nested:
        return tensor.unbind()
    return [tensor.dequantize() if tensor.is_quantized else tensor.to_dense()]


def _is_same(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    try:
        return torch.allclose(one, other, 0, 0, equal_nan=True)
    except RuntimeError:  # also of what is not implemented
        return True


def moved(value: Any, device: torch.device) -> Any:
    """Move the tensors in a batch, or in a part of one, to `device`."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(moved(part, device) for part in value)
    return value
