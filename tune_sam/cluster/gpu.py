"""How much of a GPU a trial needs, and keeping it to that."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune_sam.space import Configuration
from tune_sam.workload import Workload

if TYPE_CHECKING:
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
    def share(self) -> float:
        """The part of a GPU for such a trial, with the :data:`MARGIN`: 1/n, so that n of them fill it."""
        wanted = (self.peak * MARGIN + self.context) / self.total
        return 1 / max(1, int(1 / wanted))


def gpu_share(workload: Workload, config: dict[str, Any]) -> float:
    """The GPUs of one trial: what was asked for, else the workload's share if the connected cluster has any."""
    import ray

    asked = config.get("gpus_per_trial")
    if asked is not None:
        return asked
    return workload.gpus_per_trial if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) else 0


def cap_gpu_memory(share: float) -> None:
    """Keep this process to its share of a GPU's memory, so that an out-of-memory is its own and not its neighbours'.

    Ray only counts shares.
    """
    import torch

    if torch.cuda.is_available() and 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def measured_shares(
    workload: Workload,
    config: dict[str, Any],
    optimizer: str,
    rho: float | None,
    lr: float,
    batch_sizes: Sequence[int],
    data: "Shared",
) -> dict[int, float]:
    """The share of a GPU that trials of each batch size need, measured on one of the connected cluster's.

    Args:
        workload: what is trained.
        config: of all trials, as :class:`tune_sam.trainable.SAMTrainable` has it.
        optimizer, rho, lr: what a step is done with; the values change nothing in what it takes.
        batch_sizes: to measure.
        data: that trials train on.

    Returns:
        The share by batch size; nothing where no GPU can be measured, so that the workload's own share holds: the
        cluster has none, or one that torch does not see.
    """
    import ray

    if not (ray.is_initialized() and ray.cluster_resources().get("GPU", 0)):
        return {}
    task: Any = ray.remote(num_gpus=1, max_retries=0)(_needs)
    needs = ray.get(task.remote(workload, config, optimizer, rho, lr, tuple(batch_sizes), data))
    if needs is None:
        log.warning(
            "torch sees no GPU on a node that has one for Ray, so --gpus-per-trial auto takes the workload's "
            "share, %g.",
            workload.gpus_per_trial,
        )
        return {}
    for size, need in needs.items():
        log.info(
            "batch size %d of %s takes %.2f GiB of %.1f: a share of %.3g",
            size,
            optimizer,
            need.peak / 2**30,
            need.total / 2**30,
            need.share,
        )
    return {size: need.share for size, need in needs.items()}


def _needs(
    workload: Workload,
    config: dict[str, Any],
    optimizer: str,
    rho: float | None,
    lr: float,
    batch_sizes: tuple[int, ...],
    data: "Shared",
) -> dict[int, Need] | None:
    """What each batch size takes on this process' GPU; None if torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return {size: _need(workload, config, Configuration(optimizer, rho, lr, size, 0), data) for size in batch_sizes}


def _need(workload: Workload, config: dict[str, Any], configuration: Configuration, data: "Shared") -> Need:
    import torch

    from tune_sam.training import Trainer

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        trainer = Trainer(
            workload,
            workload.setting(config["dataset"], config["preset"]),
            configuration,
            data.splits(),
            epochs=config["epochs"],
            precision=config["precision"],
            compile=config["compile"],
        )
        trainer.rehearse()
    except torch.OutOfMemoryError:
        return Need(total, 0, total)  # the whole GPU, and still too little: trials of this size will say so
    free, _ = torch.cuda.mem_get_info()
    return Need(torch.cuda.max_memory_reserved(), max(0, total - free - torch.cuda.memory_reserved()), total)
