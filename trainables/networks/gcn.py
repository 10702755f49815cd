"""A graph classifier of GraphConv layers (Morris et al. 2019, arXiv 1810.02244)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GraphConv, global_max_pool

from tune_sam.trainables.networks.sums import adjacency, membership

NODES = 512
"""To a multiple of which a batch's nodes are padded under autocast on a CPU.

oneDNN, which multiplies there in bf16, makes a kernel for each new shape, in a time in which it multiplies two batches.
"""


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
        if torch.is_autocast_enabled("cpu"):
            # A node without edges and graph, whose features are 0, changes no other's outputs, nor a gradient.
            x = F.pad(x, (0, 0, 0, -len(x) % NODES))
        adjacent = adjacency(graphs.edge_index, len(x))
        for convolution in self.convolutions[:-1]:
            x = torch.relu(_convolved(convolution, adjacent @ x, x))
        nodes = len(graphs.x)
        logits: Tensor = self.head(self.pooled(self.convolutions[-1], (adjacent @ x)[:nodes], x[:nodes], graphs))
        return logits


def _convolved(layer: GraphConv, neighbours: Tensor, x: Tensor) -> Tensor:
    """Compute a layer's outputs from the sums of each node's neighbours and the nodes themselves."""
    outputs: Tensor = layer.lin_rel(neighbours) + layer.lin_root(x)
    return outputs


def _mean(last: GraphConv, neighbours: Tensor, x: Tensor, graphs: Batch) -> Tensor:
    """Average the last layer's outputs over each graph's nodes, [graphs, outputs].

    The layer is linear, so the mean is taken first: the layer then multiplies graphs, not 30 times as many nodes.
    """
    members = membership(graphs.batch, graphs.ptr)
    sizes = graphs.ptr.diff()[:, None].clamp(min=1)
    return _convolved(last, (members @ neighbours) / sizes, (members @ x) / sizes)


def _max(last: GraphConv, neighbours: Tensor, x: Tensor, graphs: Batch) -> Tensor:
    """Take the maximum of the last layer's outputs over each graph's nodes, [graphs, outputs]."""
    pooled: Tensor = global_max_pool(_convolved(last, neighbours, x), graphs.batch, graphs.num_graphs)
    return pooled


POOLS = {"mean": _mean, "max": _max}
