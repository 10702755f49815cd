"""Results that are found out part by part: each by one Ray task with a trial's resources, each kept in a file."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.cluster.connection import concurrency, connected
from tune_sam.cluster.signals import terminate_as_interrupt
from tune_sam.errors import Refused
from tune_sam.files import write_whole
from tune_sam.provenance import versions
from tune_sam.study.records import Study
from tune_sam.workload import find_workload

if TYPE_CHECKING:
    import torch

    from tune_sam.cluster.sharing import Shared

Progress = Callable[[str, int, int], None]
"""Called when a part is done, with its name, how many are done, and how many there are."""


@dataclass(frozen=True)
class Task:
    """Something that one task finds out.

    Attributes:
        what: its name, for people.
        file: where it is kept, with what made it; a part whose file is there is not found out again.
        task: a function of the arguments and the shared data; it runs in a worker and returns what JSON holds.
        arguments: of the task.
    """

    what: str
    file: Path
    task: Callable[..., Any]
    arguments: tuple[Any, ...]


def run_tasks(
    study: Study,
    parts: Sequence[Task],
    data: "Callable[[bool], AbstractContextManager[Shared]]",
    address: str | None,
    progress: Progress,
) -> dict[str, str]:
    """Find out the parts whose files are missing, as many at a time as fit. Interrupted, it keeps what is done.

    Args:
        study: whose; call this inside its :func:`tune_sam.study.lock.study_lock`.
        parts: all that are needed.
        data: opens what the tasks are given; told whether they may run on other nodes.
        address: Ray cluster to use; one is started here by default.
        progress: called as parts are done.

    Returns:
        Why parts cannot be found out, by `what` they are.
    """
    missing = [part for part in parts if not part.file.exists()]
    failed: dict[str, str] = {}
    if not missing:
        return failed
    made = versions()
    # Ray takes the signals' handlers when it starts, so ours come after.
    with connected(address) as other_nodes, terminate_as_interrupt(), data(other_nodes) as shared:
        task = _task_of(study)
        pending = {task(part.task).remote(*part.arguments, shared): part for part in missing}
        for done, (part, outcome) in enumerate(_as_they_come(pending), start=len(parts) - len(missing) + 1):
            if isinstance(outcome, Failure):
                failed[part.what] = outcome.reason
            else:
                write_whole(part.file, json.dumps({"made": made, "result": outcome}))
            progress(part.what, done, len(parts))
    return failed


def result_of(file: Path) -> Any:
    """What a part's task returned."""
    return json.loads(file.read_text())["result"]


def made_by(file: Path) -> dict[str, str]:
    """The versions that a part was found out with."""
    return json.loads(file.read_text())["made"]


def prepare_worker(study: Study) -> "torch.device":
    """Set up the process of a task as that of a trial; its device."""
    import ray

    from tune_sam.cluster.gpu import cap_gpu_memory
    from tune_sam.training import default_device, prepare_process

    cap_gpu_memory(ray.get_runtime_context().get_assigned_resources().get("GPU", 0))
    prepare_process(study.settings.cpus_per_trial)
    return default_device()


def _task_of(study: Study) -> Callable[[Callable[..., Any]], Any]:
    """What makes a Ray task of a function, with the resources of one of the study's trials."""
    import ray

    from tune_sam.cluster.gpu import gpu_share

    settings = study.settings
    share = gpu_share(find_workload(settings.workload), {"gpus_per_trial": settings.share_said})
    concurrency(settings.cpus_per_trial, share, None)
    # A function that fails on its data fails again, so only a lost worker is worth another try; that is Ray's default.
    return lambda function: ray.remote(num_cpus=settings.cpus_per_trial, num_gpus=share)(function)


@dataclass(frozen=True)
class Failure:
    """Why a part cannot be found out."""

    reason: str


def _as_they_come(pending: dict[Any, Task]) -> Iterator[tuple[Task, Any]]:
    """Each part with its result, or with its failure."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    from tune_sam.analysis.memory import is_shortage

    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        part = pending.pop(ready)
        try:
            outcome = ray.get(ready)
        except RayTaskError as error:
            if is_shortage(error.cause):
                outcome = Failure("memory ran out; use a machine, or a share of a GPU, with more")
            elif isinstance(error.cause, (ValueError, Refused)):
                outcome = Failure(str(error.cause))
            else:
                raise
        except RayError as error:  # its worker was killed, for want of memory mostly
            reason = str(error).strip().splitlines()[0]
            outcome = Failure(f"its worker was lost ({reason}); run the same command again")
        yield part, outcome
