"""A regression: scikit-learn's diabetes data, 442 patients with 10 measurements each, judged by R².

tune-sam run regression:Diabetes --optimizer base --optimizer sam --trials 10
"""

from pathlib import Path

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tune_sam.space import LogRange
from tune_sam.split import split
from tune_sam.workload import BaseOptimizer, DataSet, Score, Setting, Splits, Workload


class Diabetes(Workload):
    name = "diabetes"
    datasets = {"diabetes": DataSet(train=310, validation=66, test=66)}
    settings = {"diabetes": Setting({"hidden": 32}, epochs=20, batch_size=32, lr=0.01)}
    base_optimizer = BaseOptimizer("Adam")
    rho = {"sam": LogRange(0.005, 0.5), "asam": LogRange(0.05, 2)}
    lr = LogRange(1e-3, 1e-1)
    batch_size = (16, 32, 64)
    scores = {"r2": Score("maximize"), "mae": Score("minimize")}

    def network(self, setting: Setting) -> nn.Module:
        hidden = setting.network["hidden"]
        return nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Flatten(0))

    def splits(self, dataset: str, root: Path) -> Splits:
        train, validation, _ = diabetes()
        return Splits(train, validation)

    def test_split(self, dataset: str, root: Path) -> TensorDataset:
        return diabetes()[2]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, targets)

    def metrics(self, setting: Setting):
        return {"r2": r2, "mae": nn.functional.l1_loss}


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    return 1 - (targets - outputs).square().sum() / (targets - targets.mean()).square().sum()


def diabetes() -> list[TensorDataset]:
    """Training, validation and test split; inputs and targets are scaled by the training split."""
    x, y = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    train, validation, test = split(len(y), validation=66, test=66)
    x = (x - x[train].mean(0)) / x[train].std(0)
    y = (y - y[train].mean()) / y[train].std()
    return [TensorDataset(x[part], y[part]) for part in (train, validation, test)]
