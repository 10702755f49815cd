"""Whether a workload's loss is a mean over samples: what a sum, or shapes that do not fit, would make of it.

What is refused here can be no mean, whatever its weights, its ignored targets or its comparisons between samples; that
the count is the right one, :class:`tune_sam.testing.WorkloadContract` tests.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from tune_sam.trees import rows
from tune_sam.workload import Workload

CLOSE = 1e-5
"""Of the spread of losses: less than samples that have nothing to do with each other differ by, more than rounding."""


def check_mean(workload: Workload, outputs: Any, targets: Any) -> None:
    """Expect that a loss and its count follow few samples as a mean does.

    Args:
        workload: for loss and count.
        outputs: of the network, a tensor [n, …] or a tree of them; what has no row for each sample is not judged.
        targets: likewise.

    Raises:
        ValueError: the loss is a sum or pairs each output with every target, or the count is not of samples.
    """
    samples = rows(targets)
    if samples < 2 or not _has_rows((outputs, targets), samples):
        return
    half = torch.arange(samples // 2)
    once, twice = (_taken((outputs, targets), indices) for indices in (half, torch.cat([half, half])))
    with torch.no_grad():
        loss, doubled = (float(workload.loss(*some)) for some in (once, twice))
        everywhere, paired = _is_broadcast(workload, outputs, targets), _shapes(outputs, targets)
    if loss and math.isclose(doubled, 2 * loss, rel_tol=1e-4):
        raise ValueError(
            f"loss(): it is {loss:.4g} for {len(half)} samples and {doubled:.4g} for the same twice, so it is a sum; "
            "give the batch's mean"
        )
    if everywhere:
        raise ValueError(f"loss(): it pairs each output with every target{paired}; give both the same shape")
    counts = [workload.count(some) for _, some in (once, twice)]
    if not math.isclose(counts[1], 2 * counts[0], rel_tol=1e-4):
        raise ValueError(
            f"count(): it is {counts[0]:g} for {len(half)} samples and {counts[1]:g} for the same twice; count what "
            "the loss is the mean of, such as len(targets)"
        )


def _is_broadcast(workload: Workload, outputs: Any, targets: Any) -> bool:
    """Whether a loss is the mean over all pairs: that over each target beside all outputs, where either matters."""
    whole = float(workload.loss(outputs, targets))
    of_targets = [float(workload.loss(outputs, one)) for one in _each(targets)]
    of_outputs = [float(workload.loss(one, targets)) for one in _each(outputs)]
    spread = min(max(some) - min(some) for some in (of_targets, of_outputs))
    return abs(sum(of_targets) / len(of_targets) - whole) < CLOSE * spread


def _each(tree: Any) -> Iterator[Any]:
    """Give a batch of each sample alone, as often as there are samples."""
    for row in range(rows(tree)):
        yield _taken(tree, torch.full((rows(tree),), row))


def _taken(tree: Any, indices: Tensor) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach()[indices], tree)


def _has_rows(tree: Any, samples: int) -> bool:
    return all(isinstance(leaf, Tensor) and leaf.shape[:1] == (samples,) for leaf in tree_leaves(tree))


def _shapes(outputs: Any, targets: Any) -> str:
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return ""
    return f", for outputs are {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
