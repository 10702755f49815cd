"""The published study's rows, trained and tested on a GPU: what of them fits into a call, and the rest in the next.

Each training is one of `tune-sam refit`: on train and validation together, with its seeds, and tested after the last
epoch. `tune-sam refit --trained` reads the file that is written at the end into the study of a refit.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tune_sam.checkpoint import Checkpoint, Damaged
from tune_sam.config import TrialConfig
from tune_sam.files import replaced_folder, write_whole
from tune_sam.samples import with_train_subset
from tune_sam.space import Configuration
from tune_sam.trainables.attention import Attention
from tune_sam.trainables.wideresnet import WideResNet
from tune_sam.trained import Trained, tested, write
from tune_sam.training import Trainer, default_device
from tune_sam.workload import Splits, Store, Workload

from .report import give

FIRST_SEED = 10_000
"""The first of the seeds that `tune-sam refit` takes."""


@dataclass(frozen=True)
class Rows:
    """The rows of a network: base, its published SAM, and base for twice the epochs, which costs as much.

    Attributes:
        workload: what is trained.
        rho: of the published row, which is `asam-all`.
        dataset: in place of the default one.
        preset: of the published settings.
        epochs: in place of the setting's.
        train_subset: training samples; all by default.
    """

    workload: Workload
    rho: float
    dataset: str | None = None
    preset: str | None = "report-network"
    epochs: int | None = None
    train_subset: int | None = None

    def trials(self, seeds: Sequence[int], compile: bool) -> Iterator[TrialConfig]:
        """Give what each training is given: all rows with the first seed, then all with the next."""
        dataset = self.dataset or self.workload.default_dataset
        setting = self.workload.setting(dataset, self.preset)
        epochs = self.epochs or setting.epochs
        for seed in seeds:
            for optimizer, rho, times in (("base", None, 1), ("asam-all", self.rho, 1), ("base", None, 2)):
                yield TrialConfig(
                    dataset=dataset,
                    preset=self.preset,
                    epochs=times * epochs,
                    train_subset=self.train_subset,
                    compile=compile,
                    configuration=Configuration(optimizer, rho, setting.lr, setting.batch_size, seed),
                    together=not self.train_subset,
                    train_alone=bool(self.train_subset),
                )


PUBLISHED = {"wideresnet": Rows(WideResNet(), 2.0), "attention": Rows(Attention(), 1.0)}
"""By network, as in Table I."""


def rows(
    name: str,
    of: Rows,
    *,
    data: Path,
    folder: Path,
    output: Path,
    seeds: int,
    compile: bool = False,
    minutes: float = 8,
) -> bool:
    """Train what is left, and test all once all are trained.

    Args:
        name: of the rows, and of the file with the trainings.
        of: what is trained.
        data: folder that holds the data set.
        folder: of the checkpoints, from which the next call resumes.
        output: folder of the table's JSON and of the file with the trainings.
        seeds: how many each row has.
        compile: whether networks run through torch.compile.
        minutes: after which no epoch is begun.

    Returns:
        Whether all are trained and tested.

    Raises:
        tune_sam.errors.Refused: data are missing or damaged.
    """
    end = time.monotonic() + 60 * minutes
    trials = list(of.trials(range(FIRST_SEED, FIRST_SEED + seeds), compile))
    dataset = trials[0].dataset
    of.workload.check_data(dataset, data)
    splits = with_train_subset(of.workload.read(dataset, data), of.train_subset)
    splits = (splits.alone() if of.train_subset else splits.together()).to(default_device())
    trainings = [Training(of.workload, trial, folder / name / _label(trial)) for trial in trials]
    for one in trainings:
        one.train(splits, end)
        print(one.so_far, flush=True)
    whole = all(one.finished for one in trainings)
    if whole:  # and not before: no test result is known while anything can still be chosen
        test = of.workload.read_test(dataset, data)
        write(output / f"{name}-trainings.json", [one.tested(splits, test) for one in trainings])
    give(f"{name}-rows", [one.row() for one in trainings], output)
    print(f"{output / f'{name}-trainings.json'} has all of them" if whole else "not done: the same command resumes")
    return whole


def _label(trial: TrialConfig) -> str:
    compiled = "-compiled" if trial.compile else ""
    return f"{trial.configuration.optimizer}-{trial.epochs}-epochs-seed-{trial.configuration.seed}{compiled}"


EPOCHS, TEST = "epochs.json", "test.json"


@dataclass(frozen=True)
class Training:
    """A training that goes on from call to call.

    Attributes:
        workload: what is trained.
        trial: what it is given.
        place: its folder: `last` has its last checkpoint with the metrics of its epochs; and its test's results.
    """

    workload: Workload
    trial: TrialConfig
    place: Path

    @property
    def epochs(self) -> list[dict[str, float]]:
        """The metrics of the epochs that are kept."""
        file = self.place / "last" / EPOCHS
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []

    @property
    def finished(self) -> bool:
        """Whether it has all of its epochs."""
        return len(self.epochs) == self.trial.epochs

    @property
    def so_far(self) -> str:
        """How far it is, in words."""
        return f"{self.place.name}: {len(self.epochs)} of {self.trial.epochs} epochs"

    def row(self) -> dict[str, Any]:
        """Give its row of the table."""
        epochs, file = self.epochs, self.place / TEST
        last = {name: epochs[-1][name] for name in ("train/loss", "train/accuracy")} if epochs else {}
        test = json.loads(file.read_text(encoding="utf-8"))["test"] if file.exists() else {}
        return {
            "training": self.place.name,
            "epochs": f"{len(epochs)} of {self.trial.epochs}",
            "s an epoch": median(one["time/epoch_s"] for one in epochs) if epochs else "",
            **last,
            **{f"test/{name}": test[name] for name in ("loss", "accuracy") if name in test},
        }

    def train(self, splits: Splits, end: float) -> None:
        """Train until it has all of its epochs, or the time has come, and keep what is trained.

        Raises:
            ValueError: it diverged.
        """
        if self.finished or time.monotonic() > end:
            return
        trainer, epochs = self._resumed(splits)
        kept = time.monotonic()
        while not trainer.finished and time.monotonic() < end:
            epochs.append(trainer.epoch().metrics)
            if not epochs[-1]:
                raise ValueError(f"{self.place.name} diverged in epoch {trainer.done}; its rows have no mean")
            if time.monotonic() - kept > OFTEN and not trainer.finished:
                self._keep(trainer, epochs)
                kept = time.monotonic()
        self._keep(trainer, epochs)

    def tested(self, splits: Splits, test: Store) -> Trained:
        """Test it, unless that was done; the test set is read once for each training."""
        file = self.place / TEST
        if not file.exists():
            trainer, epochs = self._resumed(splits)
            with trainer.judged() as network:
                found = tested(network, trainer.workload, trainer.setting, test, trainer.precision, trainer.device)
            write_whole(file, json.dumps(asdict(Trained.of(trainer, self.trial, epochs, found))))
        return Trained(**json.loads(file.read_text(encoding="utf-8")))

    def _resumed(self, splits: Splits) -> tuple[Trainer, list[dict[str, float]]]:
        """Begin the training, or resume it from its last checkpoint if that is whole."""
        trial = self.trial
        setting = self.workload.setting(trial.dataset, trial.preset)
        trainer = Trainer(
            self.workload, setting, trial.configuration, splits, epochs=trial.epochs, compile=trial.compile
        )
        with suppress(FileNotFoundError, Damaged):
            trainer.load_state_dict(Checkpoint.read(self.place / "last").training)
        return trainer, self.epochs[: trainer.done]

    def _keep(self, trainer: Trainer, epochs: list[dict[str, float]]) -> None:
        with replaced_folder(self.place / "last") as unfinished:
            Checkpoint.of(trainer, self.trial).save(unfinished)
            write_whole(unfinished / EPOCHS, json.dumps(epochs))


OFTEN = 20
"""Seconds after which a training is kept again: a checkpoint of WRN-22-8 takes 140 MB."""
