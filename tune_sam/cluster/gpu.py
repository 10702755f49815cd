"""How much of a GPU a trial needs, and keeping it to that."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tune_sam.config import TrialConfig
from tune_sam.shortages import gpu_ran_out
from tune_sam.workload import Workload

if TYPE_CHECKING:
    import torch

    from tune_sam.cluster.sharing import Shared

log = logging.getLogger(__name__)

MARGIN = 1.2
"""What a training may need beyond its first step: the allocator's fragments, and the larger graphs of later batches."""


@dataclass(frozen=True)
class Need:
    """What one training took of a GPU that it had to itself.

    Attributes:
        peak: bytes that torch's allocator held at most, over a step and a batch of evaluation, the data included.
        context: bytes that the process held beyond them, for CUDA itself.
        total: the GPU's.
    """

    peak: int
    context: int
    total: int

    @property
    def fraction(self) -> float:
        """The part of a GPU for such a trial, with the :data:`MARGIN`: 1/n, so that n of them fill it."""
        wanted = (self.peak * MARGIN + self.context) / self.total
        return 1 / max(1, int(1 / wanted))


def gpu_fraction(workload: Workload, asked: float | None) -> float:
    """Say how many GPUs one trial has: those asked for, else the workload's fraction if the connected cluster has any.

    Args:
        workload: that is trained.
        asked: GPUs, or the fraction of one; None to leave it to the workload.
    """
    import ray

    if asked is not None:
        return asked
    return workload.gpus_per_trial if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) else 0


def trial_device(workload: Workload, asked: float | None) -> "torch.device":
    """Choose where a trial computes: on the CPU if it is to have no GPU, else where torch can.

    Ray hides no GPU from a process that asked for none, and what it calls a GPU may be none that torch sees.

    Args:
        workload: that is trained.
        asked: GPUs, or the fraction of one; None for the workload's.
    """
    import torch

    from tune_sam.training import default_device

    gpus = workload.gpus_per_trial if asked is None else asked
    return default_device() if gpus else torch.device("cpu")


def cap_gpu_memory(fraction: float) -> None:
    """Keep this process to its fraction of a GPU's memory, so that an out-of-memory is its own and not its neighbours'.

    Ray only counts fractions. What CUDA itself takes in each process is not in the cap: torch limits its allocator.
    """
    import torch

    if torch.cuda.is_available() and 0 < fraction < 1:
        torch.cuda.set_per_process_memory_fraction(fraction)


def measured_fractions(
    workload: Workload, trial: TrialConfig, batch_sizes: Sequence[int], data: "Shared"
) -> dict[int, float]:
    """Measure the fraction of a GPU that trials of each batch size need, on one of the connected cluster's.

    Args:
        workload: what is trained.
        trial: one of the trials; its ρ and learning rate change nothing in what a step takes.
        batch_sizes: to measure.
        data: that trials train on.

    Returns:
        The fraction by batch size; nothing where no GPU can be measured, so that the workload's own fraction holds: the
        cluster has none, or one that torch does not see.
    """
    import ray

    if not (ray.is_initialized() and ray.cluster_resources().get("GPU", 0)):
        return {}
    task: Any = ray.remote(num_gpus=1, max_retries=0)(_needs)
    needs = ray.get(task.remote(workload, trial, tuple(batch_sizes), data))
    if needs is None:
        log.warning(
            "torch sees no GPU on a node that has one for Ray, so --gpus-per-trial auto takes the workload's "
            "fraction, %g.",
            workload.gpus_per_trial,
        )
        return {}
    for size, need in needs.items():
        log.info(
            "batch size %d of %s takes %.2f GiB of %.1f: a fraction of %.3g",
            size,
            trial.configuration.optimizer,
            need.peak / 2**30,
            need.total / 2**30,
            need.fraction,
        )
    return {size: need.fraction for size, need in needs.items()}


def _needs(
    workload: Workload, trial: TrialConfig, batch_sizes: tuple[int, ...], data: "Shared"
) -> dict[int, Need] | None:
    """Measure what each batch size takes of this process' GPU; None if torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return {
        size: _need(workload, replace(trial, configuration=replace(trial.configuration, batch_size=size)), data)
        for size in batch_sizes
    }


def _need(workload: Workload, trial: TrialConfig, data: "Shared") -> Need:
    import torch

    from tune_sam.training import Trainer

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        trainer = Trainer(
            workload,
            workload.setting(trial.dataset, trial.preset),
            trial.configuration,
            data.splits(),
            epochs=trial.epochs,
            precision=trial.precision,
            compile=trial.compile,
        )
        trainer.rehearse()
    except RuntimeError as error:
        if not gpu_ran_out(error):
            raise
        return Need(total, 0, total)  # the whole GPU, and still too little: trials of this size will say so
    free, _ = torch.cuda.mem_get_info()
    return Need(torch.cuda.max_memory_reserved(), max(0, total - free - torch.cuda.memory_reserved()), total)
