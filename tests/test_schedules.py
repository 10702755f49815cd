"""The course of the learning rate."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from tune_sam.schedules import CONSTANT, IN_STEPS, Schedule, cosine


def rates(schedule, steps, metrics=None):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler = schedule.make(optimizer, steps)
    found = []
    for step in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step(*([metrics[step]] if metrics else []))
    return found


def test_the_published_steps_fall_to_a_fifth_three_times():
    assert rates(IN_STEPS, 10) == pytest.approx([2] * 3 + [0.4] * 3 + [0.08] * 2 + [0.016] * 2)


def test_a_constant_rate_stays():
    assert rates(CONSTANT, 4) == [2.0] * 4


def test_the_cosine_rises_and_falls_to_its_floor():
    found = rates(cosine(warmup=0.2, floor=0.1), 20)
    assert found[:4] == pytest.approx([2 * (step + 1) / 5 for step in range(4)])
    expected = [2 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 16)) / 2) for step in range(16)]
    assert found[4:] == pytest.approx(expected)
    assert rates(cosine(warmup=0), 2) == pytest.approx([2.0, 1.0])


def test_schedulers_of_torch_fit():
    def one_cycle(optimizer, steps):  # as the documentation of `Schedule` has it
        return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps)

    assert max(rates(Schedule(one_cycle, each="step"), 10)) == pytest.approx(2.0), "the configuration's"
    plateau = Schedule(lambda optimizer, _: ReduceLROnPlateau(optimizer, factor=0.5, patience=0))
    assert rates(plateau, 4, metrics=[1, 1, 1, 1]) == pytest.approx([2.0, 2.0, 1.0, 0.5])


@pytest.mark.parametrize("wrong", [{"warmup": 1.0}, {"floor": -0.1}])
def test_what_is_no_fraction_is_refused(wrong):
    with pytest.raises(ValueError, match="is no fraction; give a number from 0 up to 1"):
        cosine(**wrong)
