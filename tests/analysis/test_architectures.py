"""Flatness of networks with parts that have no second derivative in their fastest kernels, or share their weights."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tune_sam.analysis import spectrum
from tune_sam.analysis.sharpness import average_case, worst_case

TOKENS, WIDTH = 6, 6


class Head(nn.Module):
    """Embeds tokens, passes them through a body, and predicts by the same table: tied weights."""

    def __init__(self, body):
        super().__init__()
        self.table, self.body = nn.Embedding(TOKENS, WIDTH), body

    def forward(self, tokens):
        found = self.body(self.table(tokens))
        states = found[0] if isinstance(found, tuple) else found
        return states.mean(1) @ self.table.weight.T


class Attention(nn.Module):
    """Attention by torch's fused kernel."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = self.project(x).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Checkpointed(nn.Module):
    """Two layers whose activations are computed again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False)


BODIES = {
    "lstm": lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True),
    "gru": lambda: nn.GRU(WIDTH, WIDTH, batch_first=True),
    "fused attention": Attention,
    "encoder": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True),
    "checkpointed": Checkpointed,
}
LARGER = ("lstm", "gru", "encoder")


def dense_hessian(model, loss_fn, batches):
    """The Hessian by differentiating each component of the gradient, with every parameter in its own column."""
    params = dict(model.named_parameters())
    shapes = [value.shape for value in params.values()]

    def mean(flat):
        pieces = [
            piece.view(shape) for piece, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)
        ]
        total, count = 0.0, 0
        for inputs, targets in batches:
            outputs = torch.func.functional_call(model, dict(zip(params, pieces, strict=True)), (inputs,))
            total = total + loss_fn(outputs, targets) * len(targets)
            count += len(targets)
        return total / count

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        flat = torch.cat([value.detach().flatten() for value in params.values()])
        return torch.autograd.functional.hessian(mean, flat)


@pytest.mark.parametrize(
    "body", [pytest.param(body, marks=pytest.mark.slow if body in LARGER else []) for body in BODIES]
)
def test_their_largest_eigenvalue_is_that_of_the_dense_hessian(body):
    torch.manual_seed(0)
    model = Head(BODIES[body]()).double().eval()
    inputs, targets = torch.randint(0, TOKENS, (12, 5)), torch.randint(0, TOKENS, (12,))
    batches = [(inputs[:8], targets[:8]), (inputs[8:], targets[8:])]
    found = spectrum(model, nn.functional.cross_entropy, batches, probes=2)
    expected = torch.linalg.eigvalsh(dense_hessian(model, nn.functional.cross_entropy, batches))
    assert found.size == expected.numel()
    assert found.lambda_max.value == pytest.approx(float(expected[-1]), rel=1e-6)
    assert found.lambda_min.value == pytest.approx(float(expected[0]), rel=1e-6)
    assert worst_case(model, nn.functional.cross_entropy, batches, 0.05, restarts=0).value > 0
    assert average_case(model, nn.functional.cross_entropy, batches, 0.05, pairs=4).value > -1


class Padded(nn.Module):
    """An encoder of padded sequences whose outputs are pooled over the padding, too."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, 2)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), 1)

    def forward(self, tokens):
        return self.head(self.encoder(self.table(tokens), src_key_padding_mask=tokens == 0).mean(1))


def test_an_encoder_of_padded_sequences_is_measured():
    """Without gradients, torch's fast path would put zeros where a sequence is padded."""
    torch.manual_seed(0)
    model, tokens = Padded(), torch.randint(1, TOKENS, (12, 5))
    tokens[:6, 3:] = 0
    found = spectrum(model, nn.functional.cross_entropy, [(tokens, tokens[:, 0] % 2)], probes=1)
    assert found.lambda_max.resolved
    assert torch.backends.mha.get_fastpath_enabled()
