"""Results that are found out part by part: each by one Ray task with a trial's resources, each kept in a file."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.cluster import concurrency, connected
from tune_sam.settings import Refused
from tune_sam.study import Study
from tune_sam.workload import find_workload

if TYPE_CHECKING:
    import torch

    from tune_sam.sharing import Shared

Progress = Callable[[str, int, int], None]
"""Called when a part is done, with its name, how many are done, and how many there are."""


@dataclass(frozen=True)
class Part:
    """Something that one task finds out.

    Attributes:
        what: its name, for people.
        file: where it is kept, as JSON; a part whose file is there is not found out again.
        task: a function of the arguments and the shared data; it runs in a worker and returns what JSON holds.
        arguments: of the task.
    """

    what: str
    file: Path
    task: Callable[..., Any]
    arguments: tuple[Any, ...]


def find_out(study: Study, parts: Sequence[Part], data: "Callable[[bool], AbstractContextManager[Shared]]",
             address: str | None, progress: Progress) -> None:
    """Find out the parts whose files are missing, as many at a time as fit.

    Args:
        study: whose; call this inside its :func:`tune_sam.launch.only_driver`.
        parts: all that are needed.
        data: opens what the tasks are given; told whether they may run on other nodes.
        address: Ray cluster to use; one is started here by default.
        progress: called as parts are done.

    Raises:
        Refused: a part cannot be found out; those that were done before are kept.
    """
    missing = [part for part in parts if not part.file.exists()]
    if not missing:
        return
    with connected(address) as other_nodes, data(other_nodes) as shared:
        task = _task_of(study)
        pending = {task(part.task).remote(*part.arguments, shared): part for part in missing}
        for done, (part, result) in enumerate(_as_they_come(pending), start=len(parts) - len(missing) + 1):
            part.file.parent.mkdir(parents=True, exist_ok=True)
            write(part.file, json.dumps(result))
            progress(part.what, done, len(parts))


def write(file: Path, text: str) -> None:
    """Whole or not at all. One process at a time, which the study's lock sees to."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(file)


def prepare_worker(study: Study) -> "torch.device":
    """Set up the process of a task as that of a trial; its device."""
    import ray

    from tune_sam.cluster import cap_gpu_memory
    from tune_sam.training import default_device, prepare_process

    cap_gpu_memory(ray.get_runtime_context().get_assigned_resources().get("GPU", 0))
    prepare_process(study.settings.cpus_per_trial)
    return default_device()


def _task_of(study: Study) -> Callable[[Callable[..., Any]], Any]:
    """What makes a Ray task of a function, with the resources of one of the study's trials."""
    import ray

    from tune_sam.trainable import gpu_share

    settings = study.settings
    share = gpu_share(find_workload(settings.workload), {"gpus_per_trial": settings.gpus_per_trial})
    concurrency(settings.cpus_per_trial, share, None)
    # A function that fails on its data fails again, so only a lost worker is worth another try; that is Ray's default.
    return lambda function: ray.remote(num_cpus=settings.cpus_per_trial, num_gpus=share)(function)


def _as_they_come(pending: dict[Any, Part]) -> Iterator[tuple[Part, Any]]:
    """Each part with its result."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        part = pending.pop(ready)
        try:
            result = ray.get(ready)
        except RayTaskError as error:
            if not isinstance(error.cause, (ValueError, Refused)):
                raise
            raise Refused(f"{part.what} cannot be measured: {error.cause}") from None
        except RayError as error:  # its worker was killed, for want of memory mostly
            reason = str(error).strip().splitlines()[0]
            raise Refused(f"{part.what} was not measured, its worker was lost ({reason}); run the same command again, "
                          "with a smaller sample if memory was short.") from None
        yield part, result
