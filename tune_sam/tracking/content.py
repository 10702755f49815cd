"""What MLflow has, and what it should have, of a study and of its trials."""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

KEY_TAG = "tune_sam.key"
"""The tag of a trial's run with the trial's key."""

STATE_TAG = "tune_sam.state"
"""The tag of a trial's run with our word for how the trial ended."""

LOG_TAG = "tune_sam.log"
"""The tag of a failed trial's run with the command that shows its log."""

STEP_TAG = "tune_sam.epoch"
"""The tag of a trial's run with the last epoch up to which every metric is there."""


@dataclass(frozen=True)
class Point:
    """The value of one metric at one step.

    Attributes:
        name: the metric's.
        value: finite.
        time: milliseconds since 1970, when it was measured. MLflow takes the same point twice for one.
        step: the epoch.
    """

    name: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class TrialRun:
    """What MLflow should have of one trial.

    Attributes:
        key: the trial's, `study/optimizer/number`.
        name: of its run.
        run_id: of the run that it has had; None before the first. Two that differ in it alone are equal.
        params: its configuration, at most 100; MLflow refuses a value other than an earlier one.
        tags: at most 90.
        points: its metrics, in the order of their steps.
        status: RUNNING, FINISHED, FAILED or KILLED.
        start: milliseconds since 1970.
        end: milliseconds since 1970; None before its end.
    """

    key: str
    name: str
    run_id: str | None = field(compare=False)
    params: dict[str, str]
    tags: dict[str, str]
    points: tuple[Point, ...]
    status: str
    start: int
    end: int | None


@dataclass(frozen=True)
class StudyContent:
    """What MLflow should have of a study.

    Attributes:
        status: of its own run.
        trials: those that have begun.
    """

    status: str
    trials: tuple[TrialRun, ...]


@dataclass(frozen=True)
class RunState:
    """What MLflow has of a trial.

    Attributes:
        run_id: of its run.
        status: RUNNING, FINISHED, FAILED or KILLED.
        params, tags: of the run.
        metrics: the latest value of each.
        values: all values of each metric at each step, where they were read.
    """

    run_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    values: Mapping[tuple[str, int], Set[float]] = field(default_factory=dict)

    @property
    def state(self) -> str | None:
        """Our word for how the trial ended; None before its end."""
        return self.tags.get(STATE_TAG)

    @property
    def step(self) -> int | None:
        """The last step up to which every metric is there; None of a run that release 0.1 made."""
        if STEP_TAG in self.tags:
            return int(self.tags[STEP_TAG])
        return None if self.metrics else 0


def renamed(metric: str) -> str:
    """Give the name that a metric has today: release 0.1 called `train/lr` by the name of the configuration's `lr`."""
    return "train/lr" if metric == "lr" else metric


def differences(trial: TrialRun, run: RunState) -> list[str]:
    """Say what a run lacks of what it should have, or has otherwise; its status and the trial's state are not compared.

    Args:
        trial: what it should have.
        run: what it has, with its values.
    """
    points = [point for point in trial.points if math.isfinite(point.value)]
    epochs = {point.step for point in points}
    lacking = {point.step for point in points if (point.name, point.step) not in run.values}
    other = [
        f"{point.name} of epoch {point.step}"
        for point in points
        if point.value not in run.values.get((point.name, point.step), {point.value})
    ]
    found = [f"MLflow lacks {len(lacking)} of {len(epochs)} epochs"] * bool(lacking)
    found += [f"MLflow has another {first}" for first in other[:1]]
    for what, wanted, there in (("parameter", trial.params, run.params), ("tag", trial.tags, run.tags)):
        missing = [name for name in wanted if name not in there and name != STATE_TAG]
        changed = [name for name in wanted if name in there and there[name] != wanted[name] and name != STATE_TAG]
        found += [f"MLflow lacks the {what} {', '.join(missing)}"] * bool(missing)
        found += [f"MLflow has another {what} {', '.join(changed)}"] * bool(changed)
    return found
