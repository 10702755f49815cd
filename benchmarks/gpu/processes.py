"""Trainings in processes of their own on one GPU, as a study has them."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

import torch

from tune_sam.cluster.gpu import cap_gpu_memory
from tune_sam.training import default_device

from .cases import Case
from .report import first_line
from .timing import rate, stepping

PATIENCE = 240
"""Seconds that a process waits for the others to be ready."""


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        network: one of :data:`.cases.NETWORKS`.
        optimizer: that steps it.
        seconds: that it is stepped for.
        fraction: of the GPU's memory that its process may have.
        greedy: whether it asks for memory until there is none, in place of stepping.
        tiny: whether the network is small.
    """

    network: str
    optimizer: str = "base"
    seconds: float = 8
    fraction: float = 1
    greedy: bool = False
    tiny: bool = False


@dataclass(frozen=True)
class Done:
    """What came of a training.

    Attributes:
        rate: samples a second.
        loss: of its last step.
        reserved: bytes of GPU memory that its process had at most; 0 without a GPU.
        error: why it ended early; empty otherwise.
    """

    rate: float = 0
    loss: float = float("nan")
    reserved: int = 0
    error: str = ""


def together(jobs: Sequence[Job]) -> list[Done]:
    """Run trainings at the same time, which begin to count when all are ready."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(len(jobs))
    with ProcessPoolExecutor(len(jobs), context, _prepare, (ready,)) as pool:
        return [_result(future) for future in [pool.submit(_run, job) for job in jobs]]


def _prepare(ready: "Barrier") -> None:
    """Keep what a process waits at; a process pool hands it over only as it starts one."""
    global _READY
    _READY = ready


_READY: "Barrier | None" = None


def _result(future: "Future[Done]") -> Done:
    try:
        return future.result()
    except Exception as error:  # its process died
        return Done(error=first_line(error))


def _run(job: Job) -> Done:
    assert _READY is not None  # the process has begun
    try:
        cap_gpu_memory(job.fraction)
        case = Case.of(job.network, tiny=job.tiny)
        trainer = case.trainer(job.optimizer)
        step = stepping(trainer)
        for _ in range(5):
            step()
    except BaseException:
        _READY.abort()  # the others need not wait for it
        raise
    _READY.wait(PATIENCE)
    try:
        if job.greedy:
            take_all()
        steps = rate(step, job.seconds)
        loss = float(trainer.step(next(trainer.batches())))
    except torch.OutOfMemoryError as error:
        return Done(reserved=reserved(), error=first_line(error))
    return Done(rate=steps * case.setting.batch_size, loss=loss, reserved=reserved())


def take_all() -> None:
    """Ask for memory until there is none.

    Raises:
        torch.OutOfMemoryError: always; at once without a GPU, whose memory nothing limits.
    """
    taken = []
    while torch.cuda.is_available():
        taken.append(torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda"))
    raise torch.OutOfMemoryError("there is no GPU")


def reserved() -> int:
    """Give the bytes that this process has held of its GPU at most."""
    return torch.cuda.max_memory_reserved() if default_device().type == "cuda" else 0
