"""Two forward passes of one batch that see the same network: random state, dropout masks and batch norms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook


@dataclass(frozen=True, eq=False)
class RandomState:
    """State of torch's generators before a first pass, which `random_state` records and `second_pass` replays.

    Attributes:
        cpu: state of the CPU generator, a uint8 tensor.
        device: the CUDA device whose generator was recorded too, or None.
        cuda: state of that device's generator, a uint8 tensor on the CPU, or None.
    """

    cpu: Tensor
    device: torch.device | None = None
    cuda: Tensor | None = None

    def restore(self) -> None:
        """Set the recorded generators back to the recorded states."""
        torch.set_rng_state(self.cpu)
        if self.device is not None and self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def random_state(device: torch.device | str) -> RandomState:
    """Record torch's CPU generator and, if `device` is a CUDA device, that device's. Does not synchronise.

    Python's and NumPy's generators are not recorded: draw from them outside the closure.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return RandomState(torch.get_rng_state())
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    state = torch.cuda.get_rng_state(device)
    # cuDNN has a state of its own for the dropout between recurrent layers, and begins it anew only after the
    # generator's was set: the first pass would continue the old one, and the second, after `restore`, begin another.
    torch.cuda.set_rng_state(state, device)
    return RandomState(torch.get_rng_state(), device, state)


@contextmanager
def second_pass(model: nn.Module, rng: RandomState) -> Iterator[None]:
    """Let a second forward pass see the network of the first one, and leave no trace of itself.

    Inside, the random state `rng` is replayed (the same dropout masks) and the running statistics of batch
    norms (`running_mean`, `running_var`, `num_batches_tracked`) stand still, while batches are still
    normalised by their own statistics: running statistics move once per step, with the first pass, as in
    Foret et al.'s code. On exit, also by an exception, the generators are as they were on entry. Contexts may
    be nested.

    The means is `track_running_stats = False`. torch's `_BatchNorm` and `SyncBatchNorm` read that flag in
    training mode only, where it stops the counter and passes no buffers to the kernel; so modules in eval
    mode behave as ever, and `momentum`, a number or None, is not touched. Instance norm reads the flag
    otherwise and is left alone.

    Args:
        model: the module, or any module containing it, whose batch norms are to stand still.
        rng: what `random_state` returned just before the first forward pass.
    """
    tracking = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    devices = [] if rng.device is None else [rng.device]
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        rng.restore()
        try:
            for module in tracking:
                module.track_running_stats = False
            yield
        finally:
            for module in tracking:
                module.track_running_stats = True


@contextmanager
def modules_called() -> Iterator[dict[nn.Module, None]]:
    """Collect the modules that this thread calls inside the context, in order."""
    called: dict[nn.Module, None] = {}
    thread = threading.get_ident()

    def record(module: nn.Module, _: tuple[Any, ...]) -> None:
        # Dynamo inlines hooks and stumbles over this one; the OptimizedModule around a graph is recorded, and
        # has the modules inside. The hook is global: another thread may be training another model.
        if not torch.compiler.is_compiling() and threading.get_ident() == thread:
            called[module] = None

    handle = register_module_forward_pre_hook(record)
    try:
        yield called
    finally:
        handle.remove()
