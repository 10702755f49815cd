"""Tasks of a study: each runs with a trial's resources, and its result is kept in a file."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tune_sam.cluster.executor import Executor, Failure
from tune_sam.cluster.signals import interruptible
from tune_sam.files import write_whole
from tune_sam.provenance import versions
from tune_sam.study.reading import reading
from tune_sam.study.records import Study, Trial
from tune_sam.workload import Workload

if TYPE_CHECKING:
    import torch

    from tune_sam.cluster.sharing import Shared


class Listener(Protocol):
    """Told how tasks go."""

    def stage(self, text: str) -> None:
        """Note what begins now and may take a while."""
        ...

    def task(self, what: str, done: int, total: int) -> None:
        """Note that a task is done, how many are, and how many there are."""
        ...


@dataclass(frozen=True)
class Task:
    """Something to find out.

    Attributes:
        what: its name, for people.
        trial: the training that it is about.
        file: where it is kept, with what made it; a task whose result is there is not run again.
        function: of the arguments, the study's workload and the shared data; it may run elsewhere, and returns what
            JSON holds.
        arguments: of the function.
    """

    what: str
    trial: Trial
    file: Path
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def run_tasks(
    study: Study,
    tasks: Sequence[Task],
    data: "Callable[[bool], AbstractContextManager[Shared]]",
    executor: Executor,
    listener: Listener,
    stage: str,
) -> dict[str, str]:
    """Run the tasks whose results are missing, as many at a time as fit. Interrupted, it keeps what is done.

    Args:
        study: whose; call this inside its :func:`tune_sam.study.lock.study_lock`.
        tasks: all whose results are needed.
        data: opens what the tasks are given; told whether they may run on other nodes.
        executor: runs them, each with the resources of one of the study's trials.
        listener: is told as tasks begin and are done.
        stage: what they are, for people, such as `Reading the test set`.

    Returns:
        Why tasks have no result, by `what` they are.
    """
    missing = [task for task in tasks if not has_result(task.file, task.trial)]
    failed: dict[str, str] = {}
    if not missing:
        return failed
    made = versions()
    # Ray takes the signals' handlers when it starts, so ours come after.
    with ExitStack() as stack:
        other_nodes = stack.enter_context(executor.opened(listener.stage))
        stack.enter_context(interruptible())
        listener.stage("Preparing the data")
        shared = stack.enter_context(data(other_nodes))
        listener.stage(stage)
        # With the workload itself, a worker has its module, whose name in a record would not be imported there.
        calls = [partial(task.function, *task.arguments, study.workload, shared) for task in missing]
        settings = study.settings
        found = executor.call(calls, settings.cpus_per_trial, _gpus(study), settings.stall_timeout)
        for done, (index, outcome) in enumerate(found, start=len(tasks) - len(missing) + 1):
            task = missing[index]
            if isinstance(outcome, Failure):
                failed[task.what] = outcome.reason
            else:
                write_result(task.file, task.trial.started, outcome, made)
            listener.task(task.what, done, len(tasks))
    return failed


def write_result(file: Path, started: str | None, result: Any, made: dict[str, str]) -> None:
    """Keep what a task returned about a training, with the versions of the packages that it ran with.

    Args:
        file: where.
        started: when the training began, by which it is known again.
        result, made: as :class:`Task` and :func:`made_by` have them.
    """
    write_whole(file, json.dumps({"of": started, "made": made, "result": result}))


def has_result(file: Path, trial: Trial) -> bool:
    """Whether a file keeps what a task returned about this very training.

    A home may still have the files of a study whose name another has now, whose trainings began at other times. What an
    earlier release kept does not say of which it is.

    Raises:
        Refused: the file is damaged.
    """
    return file.exists() and _kept(file).get("of", trial.started) == trial.started


def result_of(file: Path) -> Any:
    """Read what a task returned.

    Raises:
        Refused: the file is damaged.
    """
    return _kept(file)["result"]


def made_by(file: Path) -> dict[str, str]:
    """Read the versions of the packages that a task ran with.

    Raises:
        Refused: the file is damaged.
    """
    made: dict[str, str] = _kept(file)["made"]
    return made


def _kept(file: Path) -> dict[str, Any]:
    with reading(f"the result {file}", "remove it, and the command that found it out does so again"):
        kept: dict[str, Any] = json.loads(file.read_text())
        if missing := {"made", "result"} - kept.keys():
            raise ValueError(f"it lacks {missing.pop()!r}")
        return kept


def prepare_worker(study: Study, workload: Workload) -> "torch.device":
    """Set up the process of a task as that of a trial, and give its device.

    Args:
        study: whose.
        workload: the study's, which a worker may know from its task alone.
    """
    from tune_sam.cluster.gpu import trial_device
    from tune_sam.training import prepare_process

    prepare_process(study.settings.threads)
    return trial_device(workload, study.settings.gpu_fraction)


def _gpus(study: Study) -> float:
    """Give the GPUs of one of the study's trials."""
    from tune_sam.cluster.gpu import gpu_fraction

    return gpu_fraction(study.workload, study.settings.gpu_fraction)
