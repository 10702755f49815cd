"""A folder of files, larger than the memory it is given: a batch is read when it is needed, two batches ahead.

The files are handwritten digits as `.npy`, one each, which `fetch` writes into the folder of the data set; with your
own, leave `fetch` out and give `--data FOLDER`.

    tune-sam run folder:Folder --optimizer base --optimizer sam --trials 6
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tune_sam.errors import Refused
from tune_sam.space import LogRange
from tune_sam.split import split
from tune_sam.workload import BaseOptimizer, DataSet, Setting, Splits, Workload


class Folder(Workload):
    name = "folder"
    datasets = {"digits": DataSet(train=1197, validation=300, test=300, classes=10)}
    settings = {"digits": Setting({}, epochs=5, batch_size=64, lr=0.05)}
    base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9})
    rho = {"sam": LogRange(0.01, 0.5), "asam": LogRange(0.1, 2)}
    lr = LogRange(1e-3, 1e-1)
    batch_size = (32, 64)

    def network(self, setting: Setting) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
        )

    def fetch(self, dataset: str, root: Path) -> None:
        folder = root / "digits-files"
        if not folder.exists():
            unfinished = root / "digits-files.part"
            unfinished.mkdir(parents=True, exist_ok=True)
            images, labels = load_digits(return_X_y=True)
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                np.save(unfinished / f"{index:05}-{label}.npy", image.astype(np.float32).reshape(1, 8, 8) / 16)
            unfinished.rename(folder)

    def check_data(self, dataset: str, root: Path) -> None:
        found = len(list((root / "digits-files").glob("*.npy")))
        if found != 1797:
            raise Refused(
                f"{root / 'digits-files'} has {found} files in place of 1797; remove it to have it made again."
            )

    def splits(self, dataset: str, root: Path) -> Splits:
        train, validation, _ = files(root)
        return Splits(DataLoader(Files(train), num_workers=1), Files(validation))

    def test_split(self, dataset: str, root: Path) -> "Files":
        return Files(files(root)[2])


class Files(Dataset):
    """Images that are read one by one. It holds their paths alone."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        return torch.from_numpy(np.load(path)), int(path.stem.rpartition("-")[2])


def files(root: Path) -> list[list[Path]]:
    """List the files of training, validation and test split."""
    paths = sorted((root / "digits-files").glob("*.npy"))
    labels = [path.stem.rpartition("-")[2] for path in paths]
    parts = split(len(paths), validation=300, test=300, labels=labels)
    return [[paths[index] for index in part] for part in parts]
