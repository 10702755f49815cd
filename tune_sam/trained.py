"""Trainings that were made and tested without a study, as on a GPU that is lent to a machine without Ray; one file."""

import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from tune_sam.config import TrialConfig
from tune_sam.files import write_whole
from tune_sam.metrics import Calibration, Classification, Merged, finite, gathering
from tune_sam.provenance import versions
from tune_sam.space import Configuration
from tune_sam.training import Trainer, device_name, evaluate, outputs
from tune_sam.workload import Setting, Store, Workload

FORMAT = 1
"""Of the file."""

MADE_BY = (
    "dataset",
    "preset",
    "epochs",
    "train_subset",
    "label_noise",
    "split_seed",
    "compile",
    "together",
    "train_alone",
)
"""What of a trial's config makes its numbers, beside its configuration."""

_EARLIER = {"train_alone": False}
"""What was so of each training of a file that does not say it yet."""


@dataclass(frozen=True)
class Trained:
    """A training that reached its last epoch, and was tested after it.

    Attributes:
        workload: its name.
        given: those of :data:`MADE_BY`.
        configuration: optimizer, ρ, learning rate, batch size, seed and the others, by their names.
        epochs: the metrics of each epoch, as :class:`tune_sam.training.Epoch` has them.
        seconds: spent in them.
        precision: of the network's passes.
        device: the name of the GPU, or `CPU`.
        machine: its Python, CUDA and operating system.
        versions: of what its numbers depend on.
        test: loss and scores on the test set, by name.
    """

    workload: str
    given: Mapping[str, Any]
    configuration: Mapping[str, Any]
    epochs: tuple[Mapping[str, float], ...]
    seconds: float
    precision: str
    device: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    test: Mapping[str, float]

    @classmethod
    def of(
        cls, trainer: Trainer, trial: TrialConfig, epochs: Iterable[Mapping[str, float]], test: Mapping[str, float]
    ) -> Self:
        """Describe a training that was made and tested in this process.

        Args:
            trainer: the training, after its last epoch.
            trial: what it was given.
            epochs: the metrics of each of its epochs.
            test: as :func:`tested` gives it.
        """
        return cls(
            workload=trainer.workload.name,
            given={name: getattr(trial, name) for name in MADE_BY},
            configuration=asdict(trial.configuration),
            epochs=tuple(epochs),
            seconds=trainer.seconds,
            precision=trainer.precision,
            device=device_name(trainer.device),
            machine={"python": platform.python_version(), "system": platform.platform(), "cuda": torch.version.cuda},
            versions=versions(),
            test=dict(test),
        )

    def is_of(self, workload: str, trial: TrialConfig) -> bool:
        """Say whether this is the training of a workload that a trial's config describes."""
        return (
            self.workload == workload
            and {**_EARLIER, **self.given} == {name: getattr(trial, name) for name in MADE_BY}
            and Configuration(**self.configuration) == trial.configuration
            and trial.precision in (None, self.precision)
            and len(self.epochs) == trial.epochs
        )


def write(file: Path, trainings: Iterable[Trained]) -> None:
    """Write trainings as JSON."""
    write_whole(file, json.dumps({"format": FORMAT, "trainings": [asdict(one) for one in trainings]}, indent=1) + "\n")


def read(file: Path) -> list[Trained]:
    """Read what :func:`write` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError, KeyError, TypeError, AttributeError: it is no such file, and the text says why not.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"it has no format {FORMAT}, as if of another release")
    return [Trained(**{**one, "epochs": tuple(one["epochs"])}) for one in content["trainings"]]


def tested(
    model: nn.Module, workload: Workload, setting: Setting, test: Store, precision: str, device: torch.device
) -> dict[str, float]:
    """Compute loss and scores on the test set; of a classifier its calibration, too.

    Args:
        model: in eval mode, on `device`.
        workload: configured as for the training.
        setting: of the network.
        test: the test set.
        precision: that the network was trained with.
        device: to compute on.

    Raises:
        ValueError: the loss or a score is not finite.
    """
    metrics = gathering(workload.metrics(setting), device)
    if isinstance(metrics, Classification):
        metrics = Merged((metrics, Calibration(workload.ignored)))
    found = evaluate(
        lambda inputs: outputs(model, inputs, precision, device), workload, test.to(device), device, metrics
    )
    if not math.isfinite(found.loss):
        raise ValueError(f"the loss of the test split is {found.loss}, though that of the training split is finite")
    return {"loss": found.loss, **finite(found.scores, "test")}
