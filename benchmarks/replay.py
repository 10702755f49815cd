"""Trials that train nothing and give the learning curves of a formula: what they cost is the driver's."""

import json
import math
import resource
import time
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import psutil
from ray import tune

CHECKPOINT = "training.pt"
"""The file of a checkpoint, an archive as torch makes them, so that `tune-sam doctor` finds it whole."""


def accuracy(rho: float, lr: float, batch_size: int, epoch: int) -> float:
    """Give the validation accuracy of an epoch: the best ρ is 0.05, the best learning rate 0.01."""
    worst = abs(math.log10(rho / 0.05)) / 4 + abs(math.log10(lr / 0.01)) / 4 + batch_size / 4096
    return max(0.0, 0.98 - worst) * (1 - math.exp(-epoch))


class Replay(tune.Trainable):
    """A training whose epochs are over at once. It says what a trial of `tune_sam` says, and has a checkpoint."""

    def setup(self, config: dict[str, Any], data: object = None) -> None:
        """Begin a trial."""
        self.given, self.done = config, 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Give the next epoch."""
        self.done += 1
        found = accuracy(self.given["rho"], self.given["lr"], self.given["batch_size"], self.done)
        return {
            "train/loss": 1 - found, "train/accuracy": found, "train/lr": self.given["lr"], "train/grad_norm": 1.0,
            "val/loss": 1 - found, "val/accuracy": found, "gap/accuracy": 0.0, "gap/loss": 0.0,
            "time/epoch_s": 1.0, "compute/gradients": 512.0 * self.done,
            "epoch": self.done, "diverged": False, "unperturbed": 0, "seconds": float(self.done),
            "precision": "fp32", "device": "CPU", "node": None, "done": self.done >= self.given["epochs"],
        }  # fmt: skip

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write how far it is."""
        with ZipFile(Path(checkpoint_dir, CHECKPOINT), "w") as file:
            file.writestr("state.json", json.dumps({"done": self.done}))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Read how far it was."""
        with ZipFile(Path(checkpoint, CHECKPOINT)) as file:
            self.done = json.loads(file.read("state.json"))["done"]


class Meter:
    """What this process has used after each so many results, from the first result on.

    Args:
        every: results between two measurements.
    """

    def __init__(self, every: int) -> None:
        self.every, self.results = every, 0
        self.points: list[dict[str, float]] = []

    def result(self, trials: int) -> None:
        """Count one result, while so many trials have begun."""
        self.results += 1
        if self.results % self.every == 1 or self.every == 1:
            used = resource.getrusage(resource.RUSAGE_SELF)
            self.points.append({
                "results": self.results, "trials": trials, "wall": time.time(), "cpu": used.ru_utime + used.ru_stime,
                "memory": psutil.Process().memory_info().rss / 2**20,
            })  # fmt: skip
