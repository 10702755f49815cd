"""Models whose loss is no function of their weights alone, or whose tensors are of another kind."""

import torch
import torch.nn.functional as F
from torch import nn


def data(features: int = 4, n: int = 12) -> list:
    """Two batches of a classification with three classes, in float64."""
    random = torch.Generator().manual_seed(3)
    x = torch.randn(n, features, generator=random, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=random)
    return [(x[:7], y[:7]), (x[7:], y[7:])]


class AlwaysDropping(nn.Linear):
    """Dropout that eval mode does not turn off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(super().forward(x), 0.1, training=True)


class Counting(nn.Linear):
    """A network that is another one at each call."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * (1 + 0.01 * self.calls)


class Renormalised(nn.Module):
    """An embedding that shortens its rows when they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(4, 3, max_norm=0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rows(x[:, :2].abs().long().clamp(max=3)).sum(1)


class Clipped(nn.Linear):
    """A layer that clips its weights where autograd does not see it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data.clamp_(-0.1, 0.1)
        return super().forward(x)


class OddBuffers(nn.Module):
    """Expanded, sparse and complex buffers, each written to in the forward pass, and some that are only read."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("expanded", self.count.expand(5))
        self.register_buffer("still", torch.ones(1).expand(3, 4))
        self.register_buffer("coo", torch.eye(3).to_sparse())
        self.register_buffer("csr", torch.eye(3).to_sparse_csr())
        self.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
        self.register_buffer("signed", torch.tensor([-0.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.phase += 1j
        self.signed.neg_()
        self.coo._values().add_(1)
        self.csr.values().add_(1)
        self.register_buffer("late", torch.ones(1))
        return self.layer(x)


class Fourier(nn.Module):
    """A layer with complex weights: L = |c - 2|² over one weight c, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor([2.0 + 1.5j], dtype=torch.complex128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.c - 2).abs().square() + 0 * x[:, :1]


class Recurrent(nn.Module):
    """An LSTM with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 2, batch_first=True), nn.Linear(2, 3)
        self.cudnn: set[bool] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cudnn.add(torch.backends.cudnn.enabled)
        return self.head(self.lstm(x[:, :, None])[0][:, -1])


def bits(model: nn.Module) -> dict:
    """Bytes of all tensors of a model, whatever their layout, with their places in memory."""
    found: dict = {"modes": [module.training for module in model.modules()]}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        inside = tensor.detach()
        if inside.layout == torch.sparse_coo:
            inside = inside._values()
        elif inside.layout != torch.strided:
            inside = inside.values()
        found[name] = inside.data_ptr(), inside.contiguous().numpy().tobytes()
    return found
