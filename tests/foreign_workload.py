"""A workload that is none of the project's: a regression on a data set that is asked for sample by sample."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tune_sam.metrics import Metrics
from tune_sam.space import LogRange
from tune_sam.workload import BaseOptimizer, DataSet, Score, Setting, Splits, Workload


class Waves(Dataset):
    """Points of a noisy wave, the same every time; a batch is a mapping."""

    def __init__(self, begin: int, samples: int) -> None:
        random = torch.Generator().manual_seed(0)
        self.x = (6 * torch.rand(120, 1, generator=random) - 3)[begin : begin + samples]
        noise = torch.randn(120, 1, generator=random)[begin : begin + samples]
        self.y = self.x.sin() + 0.05 * noise

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[index], "labels": self.y[index]}


class Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.layers(x) * scale


class Regression(Workload):
    name = "waves"
    datasets = {"waves": DataSet(train=80, validation=20, test=20)}
    settings = {"waves": Setting({"width": 16}, epochs=3, batch_size=20, lr=0.05)}
    base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9})
    rho = {"sam": LogRange(0.01, 0.2), "asam": LogRange(0.05, 1)}
    lr = LogRange(0.005, 0.2)
    batch_size = (10, 20)
    scores = {"r2": Score(), "mae": Score("minimize")}

    def network(self, setting: Setting) -> nn.Module:
        return Wide(**setting.network)

    def splits(self, dataset: str, root: Path) -> Splits:
        return Splits(DataLoader(Waves(0, 80), shuffle=True), Waves(80, 20))

    def test_split(self, dataset: str, root: Path) -> Waves:
        return Waves(100, 20)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self, setting: Setting) -> Metrics:
        return {"r2": r2, "mae": lambda outputs, targets: (outputs - targets).abs().mean()}


def r2(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 1 - (targets - outputs).square().sum() / (targets - targets.mean()).square().sum()


TOKENS = torch.randint(1, 9, (96, 6), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.arange(96) % 4 + 3
TAGS = torch.where(torch.arange(6) < LENGTHS[:, None], TOKENS % 3, -100)


class Tags(Workload):
    """A class for each token of a sequence, but for its padding."""

    name = "tags"
    datasets = {"d": DataSet(train=48, validation=24, test=24, classes=3)}
    settings = {"d": Setting({}, epochs=2, batch_size=16, lr=0.05)}
    base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9})
    lr = LogRange(0.005, 0.2)
    batch_size = (16,)
    ignored = -100

    def network(self, setting: Setting) -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))

    def splits(self, dataset: str, root: Path) -> Splits:
        return Splits(TensorDataset(TOKENS[:48], TAGS[:48]), TensorDataset(TOKENS[48:72], TAGS[48:72]))

    def test_split(self, dataset: str, root: Path) -> TensorDataset:
        return TensorDataset(TOKENS[72:], TAGS[72:])


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sign, self.size = nn.Linear(1, 2), nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.sign(x), self.size(x)


class TwoTasks(Tags):
    """Two outputs with targets and losses of their own, of which one is a mean over weights."""

    name = "two"
    datasets = {"d": DataSet(train=80, validation=20, test=20)}
    ignored = None
    scores = {"hits": Score()}

    def network(self, setting: Setting) -> nn.Module:
        return Heads()

    def splits(self, dataset: str, root: Path) -> Splits:
        return Splits(Waves(0, 80), Waves(80, 20))

    def test_split(self, dataset: str, root: Path) -> Waves:
        return Waves(100, 20)

    def pair(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return batch["x"], {"sign": (batch["labels"] > 0)[:, 0].long(), "size": batch["labels"].abs()}

    def count(self, targets: dict[str, torch.Tensor]) -> float:
        return float(targets["size"].sum())

    def loss(self, outputs: tuple[torch.Tensor, torch.Tensor], targets: dict[str, torch.Tensor]) -> torch.Tensor:
        sign = nn.functional.cross_entropy(outputs[0], targets["sign"], reduction="none")
        size = (outputs[1] - targets["size"])[:, 0].square()
        weights = targets["size"][:, 0]
        return ((sign + size) * weights).sum() / weights.sum()

    def metrics(self, setting: Setting) -> Metrics:
        return {"hits": lambda outputs, targets: (outputs[0].argmax(1) == targets["sign"]).float().mean()}
