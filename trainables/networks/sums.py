"""Sums over rows that a sparse pattern names, such as those over a node's neighbours, in one pass over the memory."""

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Bags:
    """Which rows each bag sums.

    Attributes:
        members: rows, bag after bag, int64 [E]; within a bag in the order in which they are added.
        starts: where each bag begins in `members`, and E, int64 [bags + 1].
    """

    members: Tensor
    starts: Tensor

    @classmethod
    def of(cls, rows: Tensor, bags: Tensor, count: int) -> Self:
        """Put `rows` [E] into the `count` bags that `bags` [E] says, in their order."""
        order = torch.argsort(bags, stable=True)
        return cls(rows[order], torch._convert_indices_from_coo_to_csr(bags[order], count))


@dataclass(frozen=True)
class Pattern:
    """A matrix of zeros and ones, as what its product sums, and as what the transposed one's does."""

    sums: Bags
    transposed: Bags

    def __matmul__(self, x: Tensor) -> Tensor:
        """Sum the rows of x [n, F] in each bag, [bags, F]."""
        summed: Tensor = _Sums.apply(
            x, self.sums.members, self.sums.starts, self.transposed.members, self.transposed.starts
        )
        return summed


_PATTERNS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def adjacency(edge_index: Tensor, nodes: int) -> Pattern:
    """Give the pattern that sums, for each node, those from which an edge (int64 [2, E], from and to) leads to it.

    It is made once for edges that are there: sorting them takes a fifth of the time of a measurement, which passes over
    the same batches hundreds of times. So change them, if at all, as torch notices it, and not through `.data`.
    """
    # What is made in inference mode serves no gradient, and what was made there does not tell whether it has changed.
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or edge_index.is_inference():
        return _sorted(edge_index, nodes)
    state = nodes, edge_index._version
    known: tuple[Any, Pattern] | None = _PATTERNS.get(edge_index)
    if known is None or known[0] != state:
        known = _PATTERNS[edge_index] = state, _sorted(edge_index, nodes)
    return known[1]


def _sorted(edge_index: Tensor, nodes: int) -> Pattern:
    source, target = edge_index
    return Pattern(Bags.of(source, target, nodes), Bags.of(target, source, nodes))


def membership(graph: Tensor, starts: Tensor) -> Pattern:
    """Make the pattern that sums each graph's nodes, of the nodes' graphs [n] and where those begin [graphs + 1]."""
    nodes = torch.arange(len(graph) + 1, device=graph.device)
    return Pattern(Bags(nodes[:-1], starts), Bags(graph, nodes))


class _Sums(torch.autograd.Function):
    """Sums of rows, bag by bag. The gradient is the transposed pattern's sums, by this same function.

    So it can be differentiated again and again, as the curvature needs it, which `embedding_bag` alone cannot.
    """

    @staticmethod
    def forward(x: Tensor, members: Tensor, starts: Tensor, *transposed: Tensor) -> Tensor:
        # Of a detached x, for which it keeps nothing for a gradient of its own.
        return F.embedding_bag(members, x.detach(), starts, mode="sum", include_last_offset=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, *bags = inputs
        ctx.save_for_backward(*bags)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        members, starts, *transposed = ctx.saved_tensors
        return _Sums.apply(gradient.contiguous(), *transposed, members, starts), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *bags: Tensor) -> tuple[Tensor, int]:
        if any(dim is not None for dim in in_dims[1:]):
            raise NotImplementedError("graphs of different patterns cannot be mapped over: put them into one batch")
        several = x.movedim(in_dims[0] or 0, 1)
        return _Sums.apply(several.flatten(1), *bags).unflatten(1, several.shape[1:]), 1
