"""What one trial is given: its configuration, and the settings that it shares with the other trials of its study."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from tune_sam.durations import OFF
from tune_sam.optimizers import climbs
from tune_sam.space import ASCENT, OF_EVERY_STUDY, Configuration
from tune_sam.workload import Workload


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How every trial of a study is trained. A new option of trainings is a field here and one of the search options.

    Attributes:
        dataset: one of the workload's.
        preset: a named setting of the workload in place of the data set's own; None for none.
        epochs: of each training, which also set the schedule.
        train_subset: training samples that are used; None for all.
        label_noise: share of the training labels that another class replaces, drawn once for all; None for none.
        split_seed: with which the workload draws its splits.
        precision: `auto`, `bf16` or `fp32` of :class:`tune_sam.training.Trainer`; None for its default.
        compile: whether networks run through `torch.compile`.
        cpus_per_trial: CPUs of a trial, or the fraction of one.
    """

    dataset: str
    preset: str | None = None
    epochs: int
    train_subset: int | None = None
    label_noise: float | None = None
    split_seed: int = 0
    precision: str | None = None
    compile: bool = False
    cpus_per_trial: float = 1

    @property
    def threads(self) -> int:
        """Threads of a trial's process: one for each of its CPUs, and one on a fraction of a CPU."""
        return max(1, int(self.cpus_per_trial))


@dataclass(frozen=True, kw_only=True)
class TrialConfig(TrainingSettings):
    """What one trial is given, by name and type. Tune carries it as a flat dict, which only this class reads.

    Attributes:
        configuration: optimizer, ρ, learning rate, batch size and seed.
        together: whether the validation split is trained on, too, and not evaluated, as in a refit.
        train_alone: whether the validation split is neither, as in a refit on few samples or on wrong labels.
        sharpness: whether `val/sharpness` is measured after the last epoch.
        gpus_per_trial: GPUs, or the fraction of one; None for the workload's where the cluster has GPUs.
        data: folder that holds the data set; None for $TUNE_SAM_DATA, else ~/.tune_sam/data.
        number: of the trial among those of its optimizer.
        attempt: 1, and one more for each time that it was interrupted.
        resume_from: folders or URIs of its checkpoints, the last first; it resumes from the first that is whole, and
            is a new training without one.
        stop_after: epoch after which it was told to stop before it was interrupted; None where it was not.
        log: file or URI that keeps what its process prints; None leaves that where it is printed.
        stall_timeout: seconds without an epoch after which it is taken to hang; 0 for no limit.
    """

    configuration: Configuration
    together: bool = False
    train_alone: bool = False
    sharpness: bool = False
    gpus_per_trial: float | None = None
    data: str | None = None
    number: int = 0
    attempt: int = 1
    resume_from: tuple[str, ...] = ()
    stop_after: int | None = None
    log: str | None = None
    stall_timeout: float = OFF

    def to_tune(self) -> dict[str, Any]:
        """Give the flat dict that Tune carries: what the configuration has, by its names, beside the others."""
        flat: dict[str, Any] = asdict(self)
        configuration: dict[str, Any] = flat.pop("configuration")
        more: dict[str, Any] = configuration.pop("more")
        return flat | configuration | more

    @staticmethod
    def resources(given: Mapping[str, Any]) -> tuple[float, float | None]:
        """Read the CPUs and GPUs that the dict of a trial asks for, which Tune wants to know of an incomplete one, too.

        Returns:
            CPUs, 1 by default, and GPUs, None by default.
        """
        return given.get("cpus_per_trial", 1), given.get("gpus_per_trial")

    @staticmethod
    def identity(given: Mapping[str, Any]) -> tuple[str, int]:
        """Read from the dict of a trial which of its study it is: its optimizer, and its number among that one's."""
        return given["optimizer"], given["number"]

    @staticmethod
    def folder(given: Mapping[str, Any]) -> str:
        """Name the folder of an attempt of a trial, from its dict."""
        return f"{given['optimizer']}-{given['number']:04}.{given['attempt']}"

    @classmethod
    def from_tune(cls, given: Mapping[str, Any], workload: Workload) -> Self:
        """Read the dict of a trial. What it leaves out has the default of its field, or is the workload's.

        Args:
            given: with `optimizer`, `lr` and `batch_size` at least, and further hyperparameters by their names.
            workload: that is trained.

        Raises:
            ValueError: a key is missing or unknown.
        """
        if missing := sorted({"optimizer", "lr", "batch_size"} - given.keys()):
            raise ValueError(f"a trial needs {missing[0]!r} in its config; give it a value")
        own = {"optimizer", *OF_EVERY_STUDY}
        # A matched control has those of its row's optimizer, but for what only an ascent has.
        more = {*workload.hyperparameters, *ASCENT} - (set() if climbs(given["optimizer"]) else {*ASCENT})
        others = {field.name for field in fields(cls)} - {"configuration"}
        if unknown := sorted(given.keys() - own - others - more):
            raise ValueError(f"a trial has no {unknown[0]!r}; choose from {', '.join(sorted(own | others | more))}")
        point = {name: given[name] for name in {*OF_EVERY_STUDY, *more} & given.keys()}
        configuration = Configuration.at(given["optimizer"], point)
        chosen = {name: given[name] for name in others & given.keys() if given[name] is not None}
        dataset = chosen.setdefault("dataset", workload.default_dataset)
        chosen.setdefault("epochs", workload.setting(dataset, chosen.get("preset")).epochs)
        return cls(configuration=configuration, **chosen)
