"""torch's random generators: to seed those that are one's own."""

from collections.abc import Iterable

import torch


def seed(number: int, devices: Iterable[torch.device] = ()) -> None:
    """Seed the CPU's generator and those of some CUDA devices, by default of none.

    `torch.manual_seed` seeds those of all devices, of which :func:`torch.random.fork_rng` may put back fewer.
    """
    torch.default_generator.manual_seed(number)
    for device in devices:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
