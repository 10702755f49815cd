"""What a training is resumed from and its network is loaded from: one file, in a format with a version.

torch is imported where a checkpoint is written or read: whether one is whole, a command says without it.
"""

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self
from zipfile import ZipFile

from tune_sam.config import TrialConfig
from tune_sam.provenance import versions
from tune_sam.space import Configuration

if TYPE_CHECKING:
    from torch import Tensor

    from tune_sam.training import Trainer

FORMAT = 3
"""Of the file. Format 1, of tune_sam 0.1, had data set, preset and training alone; format 2 had no split seed."""

FILE = "training.pt"
"""The file in a checkpoint's folder."""


class Damaged(Exception):
    """A file that is no checkpoint, or not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after an epoch, and what it is the state of.

    Attributes:
        dataset, preset: which of the workload's settings made the network.
        training: what :meth:`tune_sam.training.Trainer.state_dict` gave; its tensors are on the CPU.
        workload: the workload's name; empty in format 1.
        configuration: the trial's; None in format 1.
        epoch: epochs trained so far.
        split_seed: with which the data were split.
        versions: of the packages that trained it, by the names of :func:`tune_sam.provenance.versions`.
    """

    dataset: str
    preset: str | None
    training: dict[str, Any]
    workload: str = ""
    configuration: Configuration | None = None
    epoch: int = 0
    split_seed: int = 0
    versions: dict[str, str] | None = None

    @classmethod
    def of(cls, trainer: "Trainer", trial: TrialConfig) -> Self:
        """Take the state of a training.

        Args:
            trainer: the training, after an epoch.
            trial: what it was given.
        """
        return cls(
            dataset=trial.dataset,
            preset=trial.preset,
            training=trainer.state_dict(),
            workload=trainer.workload.name,
            configuration=trial.configuration,
            epoch=trainer.done,
            split_seed=trial.split_seed,
            versions=versions(),
        )

    @property
    def weights(self) -> "dict[str, Tensor]":
        """The state dict of the network that was evaluated: the model's, or that of its moving average."""
        if average := self.training.get("average"):
            return {
                name.removeprefix("module."): value for name, value in average.items() if name.startswith("module.")
            }
        model: dict[str, Tensor] = self.training["model"]
        return model

    def save(self, folder: str | Path) -> None:
        """Write the file into a folder that is there.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        import torch

        # Not `asdict` of all: it would copy every tensor.
        state = {name: getattr(self, name) for name in self.__dataclass_fields__}
        configuration = asdict(self.configuration) if self.configuration else None
        with (Path(folder) / FILE).open("wb") as file:  # given a path, torch does not say what is wrong with the disk
            torch.save({"format": FORMAT, **state, "configuration": configuration}, file)

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the file in a folder; nothing but tensors and plain values is unpickled.

        Raises:
            OSError: there is no file.
            Damaged: it is no checkpoint, or not what was written.
            ValueError: its format is of a later release.
        """
        import torch

        with (Path(folder) / FILE).open("rb") as file:
            check_whole(file)
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
                raise Damaged(str(error)) from None
        if (written := state.pop("format", 1)) > FORMAT:
            raise ValueError(
                f"checkpoint format {written} is of a later release than format {FORMAT}; upgrade tune_sam"
            )
        configuration = Configuration(**state.pop("configuration")) if state.get("configuration") else None
        return cls(**state | {"configuration": configuration, "epoch": state["training"]["done"]})


def check_whole(file: IO[bytes]) -> None:
    """Compare what is in a checkpoint's file with the checksums there, which torch writes and does not read.

    Args:
        file: that :meth:`Checkpoint.save` wrote; it is at its beginning afterwards.

    Raises:
        OSError: it cannot be read.
        Damaged: it is not what was written.
    """
    try:
        with ZipFile(file) as archive:
            wrong = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # whatever `zipfile` stumbles over
        raise Damaged(str(error)) from None
    if wrong:
        raise Damaged(f"{wrong} is not what was written")
    file.seek(0)
