"""PyHessian 0.1 on torch 2, with graph batches and counted products: the peer of benchmarks and tests."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# The package's attribute of the same name is the class.
pyhessian = importlib.import_module("pyhessian.hessian")


class Inputs:
    """Any inputs of a model, with the two methods of a tensor that PyHessian calls."""

    def __init__(self, inputs: Any, samples: int) -> None:
        self.inputs, self.samples = inputs, samples

    def size(self, dim: int) -> int:
        """Return the number of samples."""
        return self.samples

    def to(self, device: str) -> "Inputs":
        """Stay on the device."""
        return self


class Unwrapped(nn.Module):
    """A model that takes :class:`Inputs`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        """Call the model with the wrapped inputs."""
        return self.model(inputs.inputs)


def peer(model: nn.Module, loss_fn: Callable[[Any, Tensor], Tensor], batches: Iterable[tuple[Any, Tensor]]) -> Any:
    """Make a PyHessian on the CPU, of one batch, whose gradient graph it keeps, or of several, in dataloader mode."""
    wrapped = [(Inputs(inputs, len(targets)), targets) for inputs, targets in batches]
    data = {"data": wrapped[0]} if len(wrapped) == 1 else {"dataloader": wrapped}
    return pyhessian.hessian(Unwrapped(model), loss_fn, cuda=False, **data)


@contextmanager
def eig_is_back() -> Iterator[None]:
    """Restore `torch.eig` for symmetric matrices, which torch removed and PyHessian's density() calls."""

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    torch.eig = eig
    try:
        yield
    finally:
        del torch.eig


@contextmanager
def counted_products() -> Iterator[list[int]]:
    """Count PyHessian's products with the Hessian, in the one entry of a list."""
    count = [0]
    names = ((pyhessian, "hessian_vector_product"), (pyhessian.hessian, "dataloader_hv_product"))
    originals = [getattr(owner, name) for owner, name in names]

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def product(*args: Any) -> Any:
            count[0] += 1
            return original(*args)

        return product

    for (owner, name), original in zip(names, originals, strict=True):
        setattr(owner, name, counting(original))
    try:
        yield count
    finally:
        for (owner, name), original in zip(names, originals, strict=True):
            setattr(owner, name, original)
