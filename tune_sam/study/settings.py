"""What makes a study what it is, and the words for how its trials end."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from tune_sam.space import Space


class Ending(NamedTuple):
    """What each ledger calls one of our endings."""

    optuna: str
    mlflow: str
    tune: str


ENDINGS = {
    "complete": Ending("COMPLETE", "FINISHED", "TERMINATED"),
    "pruned": Ending("PRUNED", "KILLED", "TERMINATED"),
    "diverged": Ending("PRUNED", "FAILED", "TERMINATED"),
    "failed": Ending("FAIL", "FAILED", "ERROR"),
}
"""How a trial can end. A diverged one is PRUNED with a violated constraint in Optuna, since samplers ignore FAIL."""

OUT_OF_MEMORY = "out of memory"
"""The reason of a trial that failed with twice its share of a GPU too, so that its batch size is infeasible there."""


def ending(state: str, reason: str) -> Ending:
    """What each ledger calls the ending of a trial that ended as `state` because of `reason`."""
    # Optuna's samplers must see what they are to avoid.
    return ENDINGS[state]._replace(optuna="PRUNED") if reason == OUT_OF_MEMORY else ENDINGS[state]


STATES = ("waiting", "running", *ENDINGS)

OBJECTIVES: dict[str, dict[str, Literal["maximize", "minimize"]]] = {
    "val/accuracy": {"val/accuracy": "maximize"},
    "val/loss": {"val/loss": "minimize"},
    "two": {"val/accuracy": "maximize", "val/sharpness": "minimize"},
    "train/accuracy": {"train/accuracy": "maximize"},  # of a refit, which has no validation part
}
"""The metrics that a trial can be judged by after its last epoch, and which way is better. The first is its value."""

REFIT, TWICE = "refit", "twice"
"""What the studies of a refit are called, after the search's name: its own, and the base optimizer's at equal compute,
for twice the epochs."""


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def trial_key(study: str, optimizer: str, number: int) -> str:
    """The one name of a trial in every ledger."""
    return f"{study}/{optimizer}/{number}"


@dataclass(frozen=True)
class StudySettings:
    """What makes a study what it is; stored with it, and the same for every launch that goes on with it.

    Attributes:
        workload, dataset, preset: what is trained; no preset is None.
        data: the folder that holds the data set; None for the one of the home, whichever home that is.
        optimizers: in the order in which they are searched.
        trials: of each optimizer, grid points included. Only this can grow.
        epochs: of each trial.
        seed: trial number n trains with seed + n; suggestions come from seed, optimizer and n.
        scheduler: `asha` or `none`.
        cpus_per_trial: CPUs and threads.
        gpus_per_trial: share of a GPU; `auto` measures it; None leaves it to the workload.
        spaces: the search space of each optimizer.
        sampler: `tpe`, or `grid` for the points of the grid alone.
        train_subset: samples that are trained on; None for all.
        precision: `bf16` or `fp32`; None leaves it to the device.
        compile: whether networks run through torch.compile.
        objective: what a trial is judged by after its last epoch, one of :data:`OBJECTIVES`.
        refit_of: the study whose configurations are trained again here, on train and validation part together; None for
            a search.
        choice: which of them, as :class:`tune_sam.evaluation.selection.Choice` has it; None for a search.
        asked: when this refit was asked for last, ISO 8601, UTC; None for a search.
    """

    workload: str
    dataset: str
    preset: str | None
    data: str | None
    optimizers: tuple[str, ...]
    trials: int
    epochs: int
    seed: int
    scheduler: str
    cpus_per_trial: int
    gpus_per_trial: float | Literal["auto"] | None
    spaces: dict[str, Space]
    sampler: str = "tpe"
    train_subset: int | None = None
    precision: str | None = None
    compile: bool = False
    objective: str = "val/accuracy"
    refit_of: str | None = None
    choice: dict[str, Any] | None = None
    asked: str | None = None

    @property
    def share_said(self) -> float | None:
        """The share of a GPU that a person gave; None where it is measured or the workload's."""
        return None if self.gpus_per_trial == "auto" else self.gpus_per_trial

    @property
    def directions(self) -> dict[str, Literal["maximize", "minimize"]]:
        """The metrics that trials are judged by, each with `maximize` or `minimize`."""
        return OBJECTIVES[self.objective]

    @property
    def judged_by(self) -> str:
        """The metric that is a trial's value."""
        return next(iter(self.directions))

    @property
    def sign(self) -> int:
        """1 where a higher value is better, -1 where a lower one is."""
        return 1 if self.directions[self.judged_by] == "maximize" else -1

    def budget(self, optimizer: str) -> int:
        """Trials of one optimizer: the same for all, unless the grid alone is tried and has fewer points."""
        return min(self.trials, len(self.spaces[optimizer].grid)) if self.sampler == "grid" else self.trials

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "spaces": {optimizer: space.to_json() for optimizer, space in self.spaces.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "StudySettings":
        spaces = {optimizer: Space.from_json(space) for optimizer, space in data["spaces"].items()}
        return cls(**{**data, "optimizers": tuple(data["optimizers"]), "spaces": spaces})
