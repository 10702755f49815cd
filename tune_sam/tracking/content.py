"""What MLflow has, and what it should have, of a study and of its trials."""

from dataclasses import dataclass, field

KEY_TAG = "tune_sam.key"
"""The tag of a trial's run with the trial's key."""

STATE_TAG = "tune_sam.state"
"""The tag of a trial's run with our word for how the trial ended."""

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
    """

    run_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]

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
