"""The digits with batch sizes that go wrong, so that a search meets every ending of a trial."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import ray
import torch

from tune_sam.trainables.gcn import GCN
from tune_sam.workload import AS_PUBLISHED, Preset

PYTHONPATH = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))
"""With which other processes import this module, as they would a user's."""

FAILS, DIES, DIVERGES, TRAINS = 32, 48, 128, 64


class Odd(GCN):
    name = "odd"
    batch_size = (FAILS, DIES, DIVERGES, TRAINS)

    def loss(self, outputs, targets):
        if len(targets) == FAILS and outputs.requires_grad:
            raise RuntimeError("this batch size is broken")
        if len(targets) == DIES and outputs.requires_grad:
            if "pytest" in sys.modules:  # where a trial has no process of its own that could die
                raise RuntimeError("this batch size kills its process")
            os._exit(1)
        loss = super().loss(outputs, targets)
        return loss * float("nan") if len(targets) == DIVERGES and outputs.requires_grad else loss


class Broken(GCN):
    name = "broken"

    def loss(self, outputs, targets):
        if len(targets) > 4:  # so many are tried before Ray starts
            raise RuntimeError("no batch works")
        return super().loss(outputs, targets)


class Slow(GCN):
    """The digits with batches that wait, so that a training lasts without work for the machine."""

    name = "slow"
    SECONDS = 0.1

    def loss(self, outputs, targets):
        if outputs.requires_grad:
            time.sleep(self.SECONDS)
        return super().loss(outputs, targets)


FOLDER = Path.cwd()
"""In which a process was when it had this module imported."""


class Stays(GCN):
    """The digits with relative paths: a trial in another folder than that of its process fails."""

    name = "stays"

    def loss(self, outputs, targets):
        if Path.cwd() != FOLDER:
            raise FileNotFoundError(f"{FOLDER} was left for {Path.cwd()}")
        return super().loss(outputs, targets)


class Reported(GCN):
    """The digits with a preset of their own, so that it can be searched without the real data."""

    name = "reported"
    datasets = {"digits": GCN.datasets["digits"]}
    settings = {"digits": GCN.settings["digits"]}
    presets = {
        "report": Preset(
            replace(
                settings["digits"], network={**settings["digits"].network, "widths": (8,)}, classes=tuple("abcdefghij")
            ),
            AS_PUBLISHED,
        )
    }


FITS, FITS_HALF, NEVER_FITS = 32, 64, 128
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB."


def gpus_here():
    """The GPU fraction of a trial; all of one in the driver, where a workload is tried before Ray trains it."""
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return 1
    return ray.get_runtime_context().get_assigned_resources().get("GPU", 0)


class Heavy(GCN):
    """The digits with a network that a quarter of a GPU cannot hold."""

    name = "heavy"
    gpus_per_trial = 0.25

    def network(self, setting):
        if gpus_here() < 0.5:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return super().network(setting)


class Hungry(GCN):
    """The digits with batches that need more of a GPU than there is: a counted one has no memory that could run out."""

    name = "hungry"
    batch_size = (FITS, FITS_HALF, NEVER_FITS)

    def loss(self, outputs, targets):
        share = gpus_here()
        if outputs.requires_grad and (len(targets) == NEVER_FITS or (len(targets) == FITS_HALF and share < 0.5)):
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return super().loss(outputs, targets)
