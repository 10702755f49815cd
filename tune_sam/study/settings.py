"""What makes a study what it is, and the words for how its trials end."""

import math
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from tune_sam.config import TrainingSettings, TrialConfig
from tune_sam.durations import OFF
from tune_sam.optimizers import gradients_of, is_optimizer
from tune_sam.settings import LIMITS, STALL_TIMEOUT, Budget, Logger
from tune_sam.space import Choice, Configuration, Space
from tune_sam.study.reading import check_fields
from tune_sam.workload import DataSet


class Ending(NamedTuple):
    """What each ledger calls one of our endings."""

    optuna: str
    mlflow: str


ENDINGS = {
    "complete": Ending("COMPLETE", "FINISHED"),
    "pruned": Ending("PRUNED", "FINISHED"),  # nothing failed; MLflow draws KILLED as a red cross
    "diverged": Ending("PRUNED", "FAILED"),
    "failed": Ending("FAIL", "FAILED"),
}
"""How a trial can end. A diverged one is PRUNED with a violated constraint in Optuna, since samplers ignore FAIL."""

OUT_OF_MEMORY = "out of memory"
"""The reason of a trial that failed with twice its GPU fraction, too, so that its batch size is infeasible there."""


def ending(state: str, reason: str) -> Ending:
    """Give the words of Optuna and MLflow for the ending of a trial as `state` because of `reason`."""
    # Optuna's samplers must see what they are to avoid.
    return ENDINGS[state]._replace(optuna="PRUNED") if reason == OUT_OF_MEMORY else ENDINGS[state]


STATES = ("waiting", "running", *ENDINGS)

Direction = Literal["maximize", "minimize"]

Kind = Literal["search", "refit", "equal-compute", "control"]
"""A search; the refit of its best configurations; and two refits of the base optimizer to compare them with: at equal
compute, for as many epochs as cost the same, and as matched controls, with the others' learning rates and batch
sizes."""


CHANGEABLE = ("trials", "log", *LIMITS)
"""The settings that another launch of a study may have otherwise: they change no number of any training."""


def now() -> str:
    """Give the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def trial_key(study: str, optimizer: str, number: int) -> str:
    """Give the key of a trial: its one name in Optuna, MLflow and Tune."""
    return f"{study}/{optimizer}/{number}"


@dataclass(frozen=True, kw_only=True)
class StudySettings(TrainingSettings):
    """What makes a study what it is; stored with it, and the same for every launch but for :data:`CHANGEABLE`.

    JSON record, tags, description, recipe and the comparison with an existing study are made from these fields.

    Attributes:
        kind: `search`, `refit`, `equal-compute` or `control`; see :data:`Kind`.
        workload: name of a workload, or `package.module:Class`.
        data: the folder that holds the data set; None for the one of the home, whichever home that is.
        optimizers: in the order in which they are searched.
        trials: of each optimizer, grid points included; with a budget of `compute`, of the costliest. It can grow.
        budget: what optimizers have equally much of: `trials`, or `compute`, gradient evaluations; see
            :meth:`trials_of`.
        trial_timeout: seconds of training, over all its attempts, after which a trial fails; 0 for no limit.
        stall_timeout: seconds without an epoch after which a trial fails; 0 for no limit.
        time_budget: seconds of search, over all launches, after which it ends; 0 for no limit.
        epoch_budget: epochs of all trials together after which the search ends; 0 for no limit.
        patience: trials of each optimizer without a better best after which the search ends; 0 for no limit.
        seed: trial number n trains with seed + n; suggestions come from seed, optimizer and n.
        sampler: `tpe`, `gp`, `cmaes`, `qmc` or `random`, or `grid` for the points of the grid alone.
        from_study: the study whose finished trials the sampler began with, kept in the ledger; None for none.
        scheduler: `asha`, `hyperband`, `median` or `none`.
        objective: what a trial is judged by after its last epoch: `val/loss`, the score as `val/…`, `two` for that
            and `val/sharpness`, or of a refit, which has no validation split, the score as `train/…`.
        score: the metric of the workload that comparisons are made by.
        score_direction: which way it is better.
        log: loggers of each epoch beside MLflow.
        gpus_per_trial: GPUs, or the fraction of one; `auto` measures it; None leaves it to the workload.
        spaces: the search space of each optimizer.
        gradients: that a step of each optimizer takes on average, as its entry said when the study was made; empty of a
            study of an earlier release, see :meth:`gradients_of`.
        refit_of: the study whose configurations are trained again here; None for a search.
        choice: which of them, as :class:`tune_sam.evaluation.selection.Choice` has it; None for a search.
        asked: when this refit was asked for last, ISO 8601, UTC; None for a search.
        train_alone: of a refit, whether it leaves the validation split out, of which it would have more samples than
            its search was given, or right labels; an earlier release never did.
    """

    kind: Kind = "search"
    workload: str
    data: str | None = None
    optimizers: tuple[str, ...]
    trials: int
    budget: Budget = "trials"
    trial_timeout: float = OFF
    stall_timeout: float = STALL_TIMEOUT
    time_budget: float = OFF
    epoch_budget: int = 0
    patience: int = 0
    seed: int = 0
    sampler: str = "tpe"
    from_study: str | None = None
    scheduler: str = "asha"
    objective: str = "val/accuracy"
    score: str = "accuracy"
    score_direction: Direction = "maximize"
    log: tuple[Logger, ...] = ()
    gpus_per_trial: float | Literal["auto"] | None = None
    spaces: dict[str, Space]
    gradients: dict[str, float] = field(default_factory=dict)
    refit_of: str | None = None
    choice: dict[str, Any] | None = None
    asked: str | None = None
    train_alone: bool = False

    @property
    def gpu_fraction(self) -> float | None:
        """The GPUs of a trial that a person gave; None where they are measured or the workload's."""
        return None if self.gpus_per_trial == "auto" else self.gpus_per_trial

    def trial(self, configuration: Configuration, **attempt: Any) -> TrialConfig:
        """Give what a trial of the study with a configuration is given.

        Args:
            configuration: the trial's.
            attempt: `number`, `attempt`, `resume_from`, `log` and, where this trial has its own, `gpus_per_trial`.
        """
        shared = {field.name: getattr(self, field.name) for field in fields(TrainingSettings)}
        return TrialConfig(
            **shared,
            configuration=configuration,
            together=self.together,
            train_alone=self.train_alone,
            sharpness="val/sharpness" in self.directions,
            stall_timeout=self.stall_timeout,
            **{"gpus_per_trial": self.gpu_fraction} | attempt,
        )

    @property
    def together(self) -> bool:
        """Whether trainings have the validation split to train on, too."""
        return self.kind != "search" and not self.train_alone

    def trained_samples(self, sizes: DataSet) -> int:
        """Count the samples that a training has.

        Args:
            sizes: of the study's data set, as its workload states them.
        """
        return (self.train_subset or sizes.train) + (sizes.validation if self.together else 0)

    @property
    def directions(self) -> dict[str, Direction]:
        """The metrics that trials are judged by, each with `maximize` or `minimize`. The first is a trial's value."""
        if self.objective == "two":
            return {f"val/{self.score}": self.score_direction, "val/sharpness": "minimize"}
        return {self.objective: "minimize" if self.objective == "val/loss" else self.score_direction}

    @property
    def judged_by(self) -> str:
        """The metric that is a trial's value."""
        return next(iter(self.directions))

    @property
    def sign(self) -> int:
        """1 where a higher value is better, -1 where a lower one is."""
        return 1 if self.directions[self.judged_by] == "maximize" else -1

    def gradients_of(self, optimizer: str) -> float:
        """Say how many gradients a step takes on average: 1 for base, 2 for SAM.

        What the study's record does not say, which is of an earlier release, is what the optimizer says today; see
        :func:`tune_sam.optimizers.gradients_of`.
        """
        return self.gradients.get(optimizer) or gradients_of(optimizer)

    def trials_of(self, optimizer: str) -> int:
        """Trials of one optimizer: the same for all, unless the grid alone is tried and has fewer points.

        With a budget of `compute`, an optimizer has as many as take the gradient evaluations of the costliest one's,
        or just fewer, if all are trained to their ends.
        """
        if self.sampler == "grid":
            return min(self.trials, len(self.spaces[optimizer].grid))
        if self.budget == "trials":
            return self.trials
        costliest = max(map(self.gradients_of, self.optimizers))
        return int(self.trials * costliest / self.gradients_of(optimizer) + 1e-9)  # 10 * 1.2 is a bit less than 12

    def budget_with(self, optimizer: str, needed: int) -> int:
        """Give the `trials` with which an optimizer has so many trials at least; those of now if they do."""
        share = (
            1.0
            if self.budget == "trials"
            else self.gradients_of(optimizer) / max(map(self.gradients_of, self.optimizers))
        )
        return max(self.trials, math.ceil(needed * share - 1e-9))

    @property
    def trials_in_all(self) -> int:
        """Trials of all optimizers together."""
        return sum(map(self.trials_of, self.optimizers))

    @property
    def more(self) -> list[str]:
        """The names of the further hyperparameters that some optimizer has, sorted."""
        return sorted({name for space in self.spaces.values() for name in space.more})

    def searches(self, name: str) -> bool:
        """Whether a further hyperparameter has several values, of one optimizer or of several."""
        domains = [space.more[name] for space in self.spaces.values() if name in space.more]
        values = {value for domain in domains if isinstance(domain, Choice) for value in domain.values}
        return len(values) > 1 or not all(isinstance(domain, Choice) for domain in domains)

    def described(self) -> dict[str, Any]:
        """Give the settings that are one value and can neither grow nor change, for tags and a description."""
        left_out = ["workload", "asked", "data", "score_direction", *CHANGEABLE]
        if self.budget == "trials":  # as every study of an earlier release had it, whose run has no word of it
            left_out.append("budget")
        if self.split_seed == 0:  # likewise
            left_out.append("split_seed")
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        return {
            name: value for name, value in values.items() if isinstance(value, (str, int, float)) and value is not False
        }

    def to_json(self) -> dict[str, Any]:
        """Give the settings as JSON holds them."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return plain | {"spaces": {optimizer: space.to_json() for optimizer, space in self.spaces.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "StudySettings":
        """Read what :meth:`to_json` gave, also that of an earlier release.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is not that, and the text says why not.
        """
        spaces = {optimizer: Space.from_json(space) for optimizer, space in data["spaces"].items()}
        given = {
            **data,
            "optimizers": tuple(data["optimizers"]),
            "log": tuple(data.get("log", ())),
            "spaces": spaces,
        }
        check_fields(cls, given)
        found = cls(**given)
        if not found.optimizers or not set(found.optimizers) == set(spaces) or not all(map(is_optimizer, spaces)):
            raise ValueError(f"its optimizers are {', '.join(found.optimizers)}, and its spaces those of others")
        if found.objective not in ("two", "val/loss", f"val/{found.score}", f"train/{found.score}"):
            raise ValueError(f"its objective is {found.objective!r}, which this release does not know")
        if min(found.trials, found.epochs) < 1 or not found.cpus_per_trial > 0:
            raise ValueError("it has no trials, epochs or CPUs")
        if not all(0 < gradients < math.inf for gradients in found.gradients.values()):
            raise ValueError(f"its gradients of a step are {found.gradients}, and not all numbers above 0")
        for name, value in given.items():
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(f"its {name!r} is {value!r:.60}, with characters that cannot be shown")
        return found
