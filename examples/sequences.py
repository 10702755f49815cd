"""An LSTM on sequences: which of three noisy waves is it? The data are made from a seed.

tune-sam run sequences:Waves --optimizer base --optimizer sam --trials 10
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tune_sam.groups import without_decay
from tune_sam.space import LogRange
from tune_sam.split import split
from tune_sam.workload import BaseOptimizer, DataSet, Setting, Splits, Workload


class Waves(Workload):
    name = "waves"
    datasets = {"waves": DataSet(train=600, validation=150, test=150, classes=3)}
    settings = {
        "waves": Setting(
            {"hidden": 24}, epochs=10, batch_size=50, lr=0.01, classes=("sine", "square", "saw"), clip_norm=1.0
        )
    }
    base_optimizer = BaseOptimizer("AdamW", {"weight_decay": 0.01})
    rho = {"sam": LogRange(0.005, 0.5)}
    lr = LogRange(1e-3, 5e-2)
    batch_size = (25, 50, 100)

    def network(self, setting: Setting) -> nn.Module:
        return Recurrent(**setting.network)

    def parameter_groups(self, network: nn.Module):
        return without_decay(network)

    def splits(self, dataset: str, root: Path) -> Splits:
        train, validation, _ = waves()
        return Splits(train, validation)

    def test_split(self, dataset: str, root: Path) -> TensorDataset:
        return waves()[2]


class Recurrent(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


def waves() -> list[TensorDataset]:
    """Training, validation and test split of 900 sequences of 40 points, with as many of each wave."""
    random = torch.Generator().manual_seed(0)
    kinds = torch.arange(900) % 3
    phase, speed = torch.rand(900, 1, generator=random), 1 + torch.rand(900, 1, generator=random)
    time = phase + speed * torch.linspace(0, 2, 40)
    sine, saw = (2 * torch.pi * time).sin(), 2 * (time % 1) - 1
    shapes = torch.stack([sine, sine.sign(), saw])
    x = shapes[kinds, torch.arange(900)] + 0.5 * torch.randn(900, 40, generator=random)
    parts = split(900, validation=150, test=150, labels=kinds)
    return [TensorDataset(x[part, :, None], kinds[part]) for part in parts]
