"""A graph classifier of GraphConv layers (Morris et al. 2019, arXiv 1810.02244)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GraphConv, global_max_pool, global_mean_pool


class GraphClassifier(nn.Module):
    """GraphConv layers with ReLU between them (none after the last), a pool, and a head of two linear layers.

    Dropout stands before each linear layer, and nothing else between the two, as in the published study.

    Args:
        features: node features F.
        widths: outputs of each GraphConv layer.
        hidden: outputs of the first linear layer.
        classes: outputs of the network.
        pool: `mean` or `max` over the nodes of a graph.
        dropout: probability that a value is dropped.
    """

    def __init__(
        self, features: int, widths: Sequence[int], hidden: int, classes: int, pool: str, dropout: float
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            GraphConv(inputs, outputs) for inputs, outputs in zip((features, *widths), widths, strict=False)
        )
        self.pooled = POOLS[pool]
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(widths[-1], hidden), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, graphs: Batch) -> Tensor:
        """Compute logits [graphs, classes]."""
        x = graphs.x
        for convolution in self.convolutions[:-1]:
            x = torch.relu(convolution(x, graphs.edge_index))
        logits: Tensor = self.head(self.pooled(self.convolutions[-1], x, graphs))
        return logits


def _mean(last: GraphConv, x: Tensor, graphs: Batch) -> Tensor:
    """Average the last layer's outputs over each graph's nodes, [graphs, outputs].

    The layer is linear, so the mean is taken first: the layer then multiplies graphs, not 30 times as many nodes.
    """
    neighbours = last.propagate(graphs.edge_index, x=(x, x), edge_weight=None, size=None)
    of_neighbours, of_nodes = (global_mean_pool(part, graphs.batch, graphs.num_graphs) for part in (neighbours, x))
    pooled: Tensor = last.lin_rel(of_neighbours) + last.lin_root(of_nodes)
    return pooled


def _max(last: GraphConv, x: Tensor, graphs: Batch) -> Tensor:
    """Take the maximum of the last layer's outputs over each graph's nodes, [graphs, outputs]."""
    pooled: Tensor = global_max_pool(last(x, graphs.edge_index), graphs.batch, graphs.num_graphs)
    return pooled


POOLS = {"mean": _mean, "max": _max}
