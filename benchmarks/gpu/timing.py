"""How many samples a training steps through in a second, and what of the device's arithmetic that is."""

import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from tune_sam.training import PRECISIONS, Trainer, default_device


def wait() -> None:
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def batches(trainer: Trainer) -> Iterator[list]:
    """Yield a training's batches without end."""
    while True:
        yield from trainer.batches()


def first_losses(trainer: Trainer, steps: int = 3) -> list[float]:
    """Take a training's first steps, and give their losses; augmentation is drawn from the process' own generators."""
    torch.manual_seed(0)
    trainer.model.train()
    return [float(trainer.step(batch)) for batch in islice(batches(trainer), steps)]


def rate(step: Callable[[], object], seconds: float, at_once: int = 10) -> float:
    """Count how often a step is taken in a second.

    Args:
        step: that has been warmed up.
        seconds: for which it is repeated, at least once.
        at_once: steps that are given to the device before it is waited for.
    """
    wait()
    begun, taken = time.perf_counter(), 0
    while True:
        for _ in range(at_once):
            step()
        wait()
        taken += at_once
        if (passed := time.perf_counter() - begun) >= seconds:
            return taken / passed


def stepping(trainer: Trainer) -> Callable[[], object]:
    """Give what takes a training's next step."""
    trainer.model.train()
    source = batches(trainer)
    return lambda: trainer.step(next(source))


def operations(trainer: Trainer) -> int:
    """Count the floating-point operations of a step in products and convolutions, forward and backward."""
    trainer.model.train()
    with FlopCounterMode(display=False) as counter:
        trainer.step(next(trainer.batches()))
    return counter.get_total_flops()


def peak(precision: str, side: int, seconds: float) -> float:
    """Measure the operations a second of a product of two square matrices, drawn from a normal distribution."""
    left, right = torch.randn(2, side, side, device=default_device()).to(PRECISIONS[precision])
    result = torch.mm(left, right)
    return 2 * side**3 * rate(lambda: torch.mm(left, right, out=result), seconds)
