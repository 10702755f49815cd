"""A transformer encoder for sequences of one value a step (Vaswani et al. 2017, arXiv 1706.03762)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SequenceClassifier(nn.Module):
    """A projection of each value to a vector with its time, encoder layers, and a head on all steps at once.

    Args:
        length: steps L of a sequence.
        width: size of a step's vector, even.
        heads: of each attention.
        feedforward: hidden units of each encoder layer.
        layers: encoder layers.
        dropout: probability, in the encoder.
        head: hidden units of the head's linear layers, with ReLU after each.
        classes: outputs.
        position_dropout: probability, of what the first encoder layer is given.
        attention_dropout: probability, of the attention weights; `dropout` by default.
        epsilon: of the encoder's layer norms.
        projection_gain: by which the initial weights of queries, keys and values are multiplied. torch draws the three
            matrices as one, by Xavier's rule; √2 gives those that the rule draws for each alone.
    """

    positions: Tensor

    def __init__(
        self,
        length: int,
        width: int,
        heads: int,
        feedforward: int,
        layers: int,
        dropout: float,
        head: Sequence[int],
        classes: int,
        position_dropout: float = 0.0,
        attention_dropout: float | None = None,
        epsilon: float = 1e-5,
        projection_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(1, width)
        # The architecture determines it, so a checkpoint need not hold it.
        self.register_buffer("positions", positional_encoding(length, width), persistent=False)
        self.of_positions = nn.Dropout(position_dropout) if position_dropout else nn.Identity()
        # torch's own layer computes scaled_dot_product_attention as long as nobody asks for the attention weights.
        encoder = [
            nn.TransformerEncoderLayer(width, heads, feedforward, dropout, layer_norm_eps=epsilon, batch_first=True)
            for _ in range(layers)
        ]
        for layer in encoder:
            layer.self_attn.dropout = dropout if attention_dropout is None else attention_dropout
            with torch.no_grad():
                layer.self_attn.in_proj_weight.mul_(projection_gain)
        self.encoder = nn.ModuleList(encoder)
        self.norm = nn.LayerNorm(width)
        sizes = (length * width, *head)
        hidden = [
            part
            for inputs, outputs in zip(sizes, head, strict=False)
            for part in (nn.Linear(inputs, outputs), nn.ReLU())
        ]
        self.head = nn.Sequential(*hidden, nn.Linear(sizes[-1], classes))

    def forward(self, sequences: Tensor) -> Tensor:
        """Compute logits [n, classes] of sequences [n, L]."""
        x = self.of_positions(self.project(sequences[:, :, None]) + self.positions)
        for layer in self.encoder:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x).flatten(1))
        return logits


def positional_encoding(length: int, width: int) -> Tensor:
    """Compute sines and cosines of the time step, float32 [length, width] (section 3.5 of the paper)."""
    time = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000) / width))
    return torch.stack([torch.sin(time * rate), torch.cos(time * rate)], dim=2).flatten(1)
