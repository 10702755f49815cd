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
        value: finite in a :class:`RunContent`.
        time: milliseconds since 1970, when it was measured. MLflow takes the same point twice for one.
        step: the epoch.
    """

    name: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class DataSetInput:
    """The data set that a run was given.

    Attributes:
        name: the data set's.
        digest: tells versions of it apart.
        profile: the sizes of its splits, by name.
    """

    name: str
    digest: str
    profile: Mapping[str, int] = field(compare=False)


@dataclass(frozen=True)
class RunContent:
    """What MLflow should have of one trial, or of a study as a whole.

    Attributes:
        key: the trial's, `study/optimizer/number`, or the study's name.
        name: of its run, at most 250 characters.
        run_id: of the run that it has had; None before the first. Two that differ in it alone are equal.
        params: its configuration, at most 100; MLflow refuses a value other than an earlier one.
        tags: at most 90.
        points: its metrics, in the order of their steps.
        status: RUNNING, FINISHED or FAILED.
        start: milliseconds since 1970.
        end: milliseconds since 1970; None before its end.
        results: numbers that may change and have no steps; nan for one that is no more.
        dataset: that it is given; None if that is not known.
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
    results: Mapping[str, float] = field(default_factory=dict)
    dataset: DataSetInput | None = None


@dataclass(frozen=True)
class StudyContent:
    """What MLflow should have of a study.

    Attributes:
        study: its own run, which exists.
        trials: those that have begun.
    """

    study: RunContent
    trials: tuple[RunContent, ...]


@dataclass(frozen=True)
class RunState:
    """What MLflow has of a trial or of a study.

    Attributes:
        run_id: of its run.
        name: of the run.
        status: RUNNING, FINISHED, FAILED or, of an earlier release, KILLED.
        params, tags: of the run.
        metrics: the latest value of each.
        datasets: names and digests of its inputs.
        values: all values of each metric at each step, where they were read.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    datasets: Set[tuple[str, str]] = frozenset()
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


def lacked(results: Mapping[str, float], there: Mapping[str, float]) -> dict[str, float]:
    """Find the results that a run has otherwise or not at all; what is no more it need not have."""
    return {
        name: value
        for name, value in results.items()
        if there.get(name, math.nan) != value and not (math.isnan(value) and math.isnan(there.get(name, math.nan)))
    }


def differences(wanted: RunContent, run: RunState) -> list[str]:
    """Say what a run lacks of what it should have, or has otherwise; its status and the trial's state are not compared.

    Args:
        wanted: what it should have.
        run: what it has, with its values.
    """
    epochs = {point.step for point in wanted.points}
    lacking = {point.step for point in wanted.points if (point.name, point.step) not in run.values}
    other = [
        f"{point.name} of epoch {point.step}"
        for point in wanted.points
        if point.value not in run.values.get((point.name, point.step), {point.value})
    ]
    found = [f"MLflow lacks {len(lacking)} of {len(epochs)} epochs"] * bool(lacking)
    found += [f"MLflow has another {first}" for first in other[:1]]
    compared: tuple[tuple[str, Mapping[str, object], Mapping[str, object]], ...] = (
        ("parameter", wanted.params, run.params),
        ("tag", wanted.tags, run.tags),
        ("result", lacked(wanted.results, run.metrics), run.metrics),
    )
    for what, given, there in compared:
        missing = [name for name in given if name not in there and name != STATE_TAG]
        changed = [name for name in given if name in there and there[name] != given[name] and name != STATE_TAG]
        found += [f"MLflow lacks the {what} {', '.join(missing)}"] * bool(missing)
        found += [f"MLflow has another {what} {', '.join(changed)}"] * bool(changed)
    found += [f"MLflow calls it {run.name!r}, not {wanted.name!r}"] * (run.name != wanted.name)
    if wanted.dataset and (wanted.dataset.name, wanted.dataset.digest) not in run.datasets:
        found.append(f"MLflow lacks its data set {wanted.dataset.name}")
    return found
