"""Another's measurement of the same Hessian: PyHessian's (Yao et al. 2020), on one batch.

PyHessian 0.1 takes tensors as inputs, which it moves, needs a gradient of every parameter and does not know that
attention's fused kernels and cuDNN's recurrent ones have no second derivative. Here it is given what it needs, and
measures any model.
"""

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tune_sam import generators
from tune_sam.analysis.curvature import spectrum
from tune_sam.analysis.evaluation import cuda_devices, undisturbed
from tune_sam.trees import rows

ITERATIONS = 1000
"""Steps of PyHessian's power iteration at most: by default it takes 100, which close eigenvalues need more than."""

TOLERANCE = 1e-6
"""Between two steps at which it ends; by default 0.001, at which it is up to some per cent below the eigenvalue."""

DRAWS = 100
"""Vectors of its estimate of the trace, which is its default."""


@dataclass(frozen=True)
class Placed:
    """Any inputs or targets, on the model's device, with the methods of a tensor that PyHessian calls."""

    value: Any
    samples: int

    def size(self, dim: int) -> int:
        """Return the number of samples."""
        return self.samples

    def to(self, device: torch.device) -> "Placed":
        """Stay on the device."""
        return self


class Unwrapped(nn.Module):
    """A model that takes :class:`Placed` inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Placed) -> Any:
        """Call the model with the wrapped inputs."""
        return self.model(inputs.value)


def peer(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batches: Iterable[tuple[Any, Any]]) -> Any:
    """Make a PyHessian of one batch, whose gradient graph it keeps, or of several, in dataloader mode.

    Args:
        model: with a gradient of every parameter that requires one, on the device of the batches.
        loss_fn: the mean loss of a batch, from outputs and targets.
        batches: of inputs and targets.
    """
    pyhessian = importlib.import_module("pyhessian.hessian")  # its package's attribute of the same name is the class
    wrapped = [(Placed(inputs, rows(targets)), Placed(targets, rows(targets))) for inputs, targets in batches]
    data = {"data": wrapped[0]} if len(wrapped) == 1 else {"dataloader": wrapped}

    def loss(outputs: Any, targets: Placed) -> Tensor:
        return loss_fn(outputs, targets.value)

    found = pyhessian.hessian(Unwrapped(model), loss, cuda=False, **data)  # else it moves the batch, as if a tensor
    found.device = next(model.parameters()).device  # of the vectors that it draws
    return found


@dataclass(frozen=True)
class CrossCheck:
    """What this package and PyHessian say about one batch.

    Attributes:
        samples: of the batch.
        largest, largest_peer: the eigenvalue of the largest magnitude, which is λ_max unless -λ_min is larger: power
            iteration, which PyHessian does, finds that one.
        trace, trace_error: ours, and its standard error.
        trace_peer, trace_peer_error: PyHessian's, and its standard error.
    """

    samples: int
    largest: float
    largest_peer: float
    trace: float
    trace_error: float
    trace_peer: float
    trace_peer_error: float

    @property
    def difference(self) -> float:
        """By how much our eigenvalue is above PyHessian's, as a fraction of it."""
        return self.largest / self.largest_peer - 1

    @property
    def trace_difference(self) -> float:
        """By how many standard errors of the difference our trace is above PyHessian's."""
        return (self.trace - self.trace_peer) / math.hypot(self.trace_error, self.trace_peer_error)

    def to_json(self) -> dict[str, float]:
        """Return both sides, and their differences, as plain data."""
        return {**asdict(self), "difference": self.difference, "trace_difference": self.trace_difference}


def cross_check(model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], batch: tuple[Any, Any]) -> CrossCheck:
    """Measure the Hessian of one batch with this package, and with PyHessian.

    Args:
        model: a trained network, on the device of the batch, which is left as it is.
        loss_fn: the mean loss of a batch, from outputs and targets, which does not know the model.
        batch: inputs and targets.

    Raises:
        ValueError: there is nothing to measure, or something is not finite; see :func:`spectrum`.
    """
    ours = spectrum(model, loss_fn, [batch])
    network = copy.deepcopy(model)  # PyHessian leaves gradients and eval mode behind
    for name, weight in network.named_parameters():
        weight.requires_grad_(weight.requires_grad and name not in ours.unused)
    with undisturbed(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # backward(create_graph=True) keeps memory in a cycle, which is cut here
        generators.seed(0, cuda_devices(network))
        theirs = peer(network, loss_fn, [batch])
        (largest,), _ = theirs.eigenvalues(maxIter=ITERATIONS, tol=TOLERANCE)
        traces = torch.tensor(theirs.trace(maxIter=DRAWS, tol=0), dtype=torch.float64)
        network.zero_grad()
    return CrossCheck(
        samples=rows(batch[1]),
        largest=max(float(ours.lambda_max), float(ours.lambda_min), key=abs),
        largest_peer=largest,
        trace=float(ours.trace),
        trace_error=ours.trace.error,
        trace_peer=float(traces.mean()),
        trace_peer_error=float(traces.std() / len(traces) ** 0.5),
    )
