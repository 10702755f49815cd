"""Whether a workload's loss is a mean over samples: what a sum, or shapes that do not fit, would make of it.

Only what can be no mean is refused, whatever its weights, its ignored targets or its comparisons between samples; that
the count is the right one, :class:`tune_sam.testing.WorkloadContract` tests.
"""

import math
from collections.abc import Iterator, Sequence
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
        workload: for loss and count. One that cannot be asked about so few samples, or of outputs without their graph,
            is not judged.
        outputs: of the network, a tensor [n, …] or a tree of them; what has no row for each sample is not judged.
        targets: likewise.

    Raises:
        ValueError: the loss is a sum or pairs each output with every target, or the count is not of samples.
    """
    try:
        samples = rows(targets) // 2
        if samples < 1 or not _has_rows((outputs, targets), rows(targets)):
            return
        parts = [_taken((outputs, targets), torch.arange(samples).repeat(times)) for times in (1, 2, 3)]
        with torch.no_grad():
            losses = [float(workload.loss(*part)) for part in parts]
            paired = _pairs_all(workload, outputs, targets)
        counts = [float(workload.count(of)) for _, of in parts]
    except Exception:
        return
    if losses[0] and all(math.isclose(loss, times * losses[0], rel_tol=1e-4) for times, loss in enumerate(losses, 1)):
        raise ValueError(
            f"loss(): it is {losses[0]:.4g} for {samples} samples and {losses[1]:.4g} for the same twice, so it is a "
            "sum; give the batch's mean"
        )
    if paired:
        raise ValueError(
            f"loss(): it pairs each output with every target, for outputs are {tuple(outputs.shape)} and targets "
            f"{tuple(targets.shape)}; give both the same shape"
        )
    if 0 < counts[0] >= counts[1]:  # of what counts nowhere here nothing can be said
        raise ValueError(
            f"count(): it is {counts[0]:g} for {samples} samples and {counts[1]:g} for the same twice; count what the "
            "loss is the mean of, such as len(targets)"
        )


def _pairs_all(workload: Workload, outputs: Any, targets: Any) -> bool:
    """Whether tensors are stretched to each other's shape, and a loss is then the mean over all pairs.

    That is the mean over each target beside all outputs, where either matters.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and _stretched(outputs.shape, targets.shape)):
        return False
    whole = float(workload.loss(outputs, targets))
    of_targets = [float(workload.loss(outputs, one)) for one in _each(targets)]
    of_outputs = [float(workload.loss(one, targets)) for one in _each(outputs)]
    spread = min(max(some) - min(some) for some in (of_targets, of_outputs))
    return spread > CLOSE * abs(whole) and abs(sum(of_targets) / len(of_targets) - whole) < CLOSE * spread


def _stretched(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes fit each other only where both are stretched, as (4, 1) and (4,) to (4, 4)."""
    try:
        return torch.broadcast_shapes(one, other) not in (one, other)
    except RuntimeError:
        return False


def _each(batch: Tensor) -> Iterator[Tensor]:
    """Give a batch of each sample alone, as often as there are samples."""
    return (batch[row].expand_as(batch) for row in range(len(batch)))


def _taken(tree: Any, indices: Tensor) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach()[indices], tree)


def _has_rows(tree: Any, samples: int) -> bool:
    return all(isinstance(leaf, Tensor) and leaf.shape[:1] == (samples,) for leaf in tree_leaves(tree))
