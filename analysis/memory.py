"""Memory: what autograd graphs hold, what a device has left, and one sentence when it runs out."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor

from tune_sam.shortages import gpu_ran_out


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Map the address of each tensor's storage to its bytes; tensors that share a storage count once."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def saved_tensors(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors that the autograd graph behind `outputs` keeps for backward, some of them repeatedly."""
    nodes: list[Any] = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        # torch's own nodes have an attribute for each saved tensor (or list of them), Python's have one for all.
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                saved = getattr(node, name)
                yield from (
                    part
                    for part in (saved if isinstance(saved, tuple | list) else (saved,))
                    if isinstance(part, Tensor)
                )
        following = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= following
        nodes.extend(following)


def available(device: torch.device) -> int | None:
    """Return the bytes that can still be had on `device`, or None where nobody says.

    On the CPU these are what Linux calls available: it would hand out more, and end the process later.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        share = torch.cuda.get_per_process_memory_fraction(device) * total  # of this process, if it has a cap
        return min(free, int(share) - reserved) + reserved - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None


def in_words(size: float) -> str:
    """Write bytes with a unit: 1500000000 as `1.4 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


@contextmanager
def shortage_told(way_out: str) -> Iterator[None]:
    """Turn torch's way of running out of memory into one sentence.

    Args:
        way_out: what the caller can change, put after "out of memory: ".

    Raises:
        ValueError: memory ran out inside.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise ValueError(f"out of memory: {way_out}") from error


def is_shortage(error: BaseException) -> bool:
    """Say whether memory ran out, on the CPU or on a GPU."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or gpu_ran_out(error)
