"""How the learning rate changes in the course of a training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Schedule:
    """Makes the scheduler of a training; any of `torch.optim.lr_scheduler` will do.

    For example `OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps)`, for each
    step: a number in place of the groups' own rates would put the searched learning rate out of force.

    Attributes:
        make: from the optimizer that takes the steps, with the configuration's learning rate, and the number of times
            that the scheduler will be stepped in the training.
        each: whether it is stepped after each `epoch` or after each `step` of the optimizer. `ReduceLROnPlateau` goes
            by epochs, and is given the validation loss, or the training loss in a refit, which has no other.
    """

    make: "Callable[[Optimizer, int], LRScheduler]"
    each: Literal["epoch", "step"] = "epoch"


MILESTONES = (0.3, 0.6, 0.8)
"""Fractions of the epochs after which the learning rate is multiplied by 0.2, as in the published study."""


def milestones(epochs: int) -> list[int]:
    """List the epochs after which the learning rate falls, without those before the end of the first epoch."""
    return [epoch for epoch in (int(fraction * epochs) for fraction in MILESTONES) if epoch]


def _in_steps(optimizer: "Optimizer", epochs: int) -> "LRScheduler":
    from torch.optim.lr_scheduler import MultiStepLR

    return MultiStepLR(optimizer, milestones(epochs), gamma=0.2)


IN_STEPS = Schedule(_in_steps)
"""A fifth of the rate after 30, 60 and 80 % of the epochs: the published study's."""


def _constant(optimizer: "Optimizer", epochs: int) -> "LRScheduler":
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, lambda _: 1.0)


CONSTANT = Schedule(_constant)
"""The same rate throughout."""


def cosine(warmup: float = 0.05, floor: float = 0.0) -> Schedule:
    """Make the schedule that rises linearly and then falls as half a cosine, step by step (Loshchilov & Hutter 2017).

    Args:
        warmup: fraction of the steps in which the rate rises; 0 for none.
        floor: fraction of the rate that is left at the end.

    Raises:
        ValueError: one is no fraction.
    """
    for name, value in (("warmup", warmup), ("floor", floor)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} {value} is no fraction; give a number from 0 up to 1")

    def make(optimizer: "Optimizer", steps: int) -> "LRScheduler":
        from torch.optim.lr_scheduler import LambdaLR

        rising = round(warmup * steps)

        def factor(step: int) -> float:
            if step < rising:
                return (step + 1) / (rising + 1)
            done = (step - rising) / max(steps - rising, 1)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

        return LambdaLR(optimizer, factor)

    return Schedule(make, each="step")
