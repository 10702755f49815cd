"""PyHessian 0.1 on torch 2, with counted products: the peer of benchmarks and tests."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# The package's attribute of the same name is the class.
pyhessian = importlib.import_module("pyhessian.hessian")


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
