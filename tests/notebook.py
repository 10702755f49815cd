"""A program as a notebook is one: its workload is a class of its own, which no worker can import."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import tune_sam
from tune_sam.cluster.executor import RayExecutor
from tune_sam.space import LogRange
from tune_sam.workload import BaseOptimizer, DataSet, Setting, Splits, Workload


class Blobs(Workload):
    name = "blobs"
    datasets = {"blobs": DataSet(train=60, validation=20, test=20, classes=2)}
    settings = {"blobs": Setting({}, epochs=1, batch_size=20, lr=0.1)}
    base_optimizer = BaseOptimizer("SGD")
    rho = {"sam": LogRange(0.01, 0.2)}
    lr = LogRange(0.01, 1)
    batch_size = (10, 20)

    def network(self, setting: Setting) -> nn.Module:
        return nn.Linear(2, 2)

    def splits(self, dataset: str, root: Path) -> Splits:
        return Splits(PARTS[0], PARTS[1])

    def test_split(self, dataset: str, root: Path) -> TensorDataset:
        return PARTS[2]


def blobs(samples: int, seed: int) -> TensorDataset:
    targets = torch.arange(samples) % 2
    noise = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(noise + 2 * targets[:, None], targets)


PARTS = [blobs(samples, seed) for seed, samples in enumerate((60, 20, 20))]


if __name__ == "__main__":
    home = Path(sys.argv[1])
    with RayExecutor().opened(print):  # one Ray for all three
        study = tune_sam.search(Blobs, name="blobs", home=home, optimizers=["sam"], trials=1, progress=False)
        refit = tune_sam.refit("blobs", home=home, seeds=1, controls=False, progress=False)
        found = tune_sam.analyze("blobs", home=home, sample=20, grid=3, progress=False)
    print(json.dumps([[trial.state for trial in study.records()], len(refit.tests), len(found.flatness)]))
