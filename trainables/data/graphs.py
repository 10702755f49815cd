"""Graphs in memory: collated once, batches sliced from the collated tensors.

PyG is imported with the first batch: a driver that only shares the graphs needs none, and importing it takes seconds.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import Batch


@dataclass(frozen=True)
class GraphStore:
    """G graphs with N nodes and E directed edges in all.

    Attributes:
        x: node features, float32 [N, F].
        edge_index: source and target of each edge, numbered within its graph, int64 [2, E].
        node_start: where each graph's nodes begin, and N, int64 [G + 1].
        edge_start: where each graph's edges begin, and E, int64 [G + 1].
        y: class of each graph, int64 [G].
    """

    x: Tensor
    edge_index: Tensor
    node_start: Tensor
    edge_start: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: Tensor) -> "tuple[Batch, Tensor]":
        """Collate the graphs at `indices` (int64 [n]) to one PyG batch, and return their classes (int64 [n]), too."""
        from torch_geometric.data import Batch

        nodes, node_counts = _slices(self.node_start, indices)
        edges, edge_counts = _slices(self.edge_start, indices)
        start = _starts(node_counts)
        graph = torch.repeat_interleave(torch.arange(len(indices), device=start.device), node_counts)
        shift = torch.repeat_interleave(start[:-1], edge_counts)
        batch = Batch(x=self.x[nodes], edge_index=self.edge_index[:, edges] + shift, batch=graph, ptr=start)
        return batch, self.y[indices]

    def subset(self, indices: Tensor) -> "GraphStore":
        """Make a store of the graphs at `indices` alone."""
        nodes, node_counts = _slices(self.node_start, indices)
        edges, edge_counts = _slices(self.edge_start, indices)
        return GraphStore(
            self.x[nodes], self.edge_index[:, edges], _starts(node_counts), _starts(edge_counts), self.y[indices]
        )

    def joined(self, other: "GraphStore") -> "GraphStore":
        """Make a store of these graphs, followed by those of `other`."""
        return GraphStore(
            torch.cat([self.x, other.x]),
            torch.cat([self.edge_index, other.edge_index], dim=1),
            torch.cat([self.node_start, other.node_start[1:] + self.node_start[-1]]),
            torch.cat([self.edge_start, other.edge_start[1:] + self.edge_start[-1]]),
            torch.cat([self.y, other.y]),
        )

    def to(self, device: torch.device) -> "GraphStore":
        """Move the graphs to `device`."""
        return GraphStore(*(getattr(self, field.name).to(device) for field in fields(self)))


def _slices(starts: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """List the rows that belong to the graphs at `indices`, graph by graph, and count those of each graph."""
    begin = starts[indices]
    counts = starts[indices + 1] - begin
    # Row k of the result is k further than the rows of earlier graphs, counted from its own graph's begin.
    shift = torch.repeat_interleave(begin - _starts(counts)[:-1], counts)
    return torch.arange(len(shift), device=starts.device) + shift, counts


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
