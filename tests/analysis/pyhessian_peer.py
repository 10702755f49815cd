"""PyHessian 0.1 on torch 2, made to take graph batches: the reference, for tests and benchmarks."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from pyhessian import hessian as PyHessian
from torch import Tensor, nn


class Inputs:
    """Whatever a model takes, with the two methods of a tensor that PyHessian calls."""

    def __init__(self, inputs: Any, samples: int) -> None:
        self.inputs, self.samples = inputs, samples

    def size(self, dim: int) -> int:
        return self.samples

    def to(self, device: str) -> "Inputs":
        return self


class Unwrapped(nn.Module):
    """The model, called with `Inputs`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        return self.model(inputs.inputs)


def peer(model: nn.Module, loss_fn: Callable[[Any, Tensor], Tensor], batches: Iterable[tuple[Any, Tensor]]) -> Any:
    """PyHessian over one batch, whose gradient graph it keeps, or over several, in its dataloader mode; on the CPU."""
    wrapped = [(Inputs(inputs, len(targets)), targets) for inputs, targets in batches]
    data = {"data": wrapped[0]} if len(wrapped) == 1 else {"dataloader": wrapped}
    return PyHessian(Unwrapped(model), loss_fn, cuda=False, **data)


@contextmanager
def eig_is_back():
    """`torch.eig`, which torch removed and PyHessian's density() calls, for the symmetric matrices it is given."""
    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    torch.eig = eig
    try:
        yield
    finally:
        del torch.eig
