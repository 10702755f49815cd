"""The loss along lines and over planes through the weights (Li et al. 2018, arXiv 1712.09913).

A surface for each of two models, over the same plane::

    directions = random_directions(base_model, seed=0)          # two, of a shared scale
    points = grid(2)                                            # 21 × 21 points over [-1, 1]²
    for model in (base_model, sam_model):
        surface = losses(model, loss_fn, batches, directions, points)

Each point is evaluated from the weights themselves and not from the point before, so parts of `points` may be evaluated
anywhere, in any order, and put together they are the whole, bitwise on one kind of device::

    parts = [losses(model, loss_fn, batches, directions, part) for part in np.array_split(points, 8)]
    surface = np.concatenate(parts)

Batch norms use the running statistics of the model at the centre, as in the code of Li et al.; along a line between two
minima those are interpolated too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from tune_sam.analysis.evaluation import (
    Batches,
    LossFn,
    expect_function,
    is_finite,
    mean_loss,
    move,
    named_tensors,
    same_bits,
    undisturbed,
)

Progress = Callable[[int, int], None]
"""Called with the points done and the points in all."""

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in weight space, which any model of the same architecture can go along.

    Attributes:
        tensors: by name of the parameter or buffer, on the CPU, in its shape; what is not in it does not move.
        left_out: names of the parameters that do not move.
    """

    tensors: Mapping[str, Tensor]
    left_out: tuple[str, ...]


def random_directions(reference: nn.Module, seed: int, count: int = 2) -> tuple[Direction, ...]:
    """Draw Gaussian directions d with ‖d_f‖ = ‖w_f‖ for each filter f of `reference` (Li et al. 2018, §4).

    A filter is what makes one output: w[i] of a convolution, a row of a linear layer or of an attention's projection,
    w[:, i] of a transposed convolution. Biases, norm layers and all other parameters of fewer than two dimensions are
    left out, as in the paper's code, and so are frozen parameters.

    **Shared scale.** Pass the same directions to all models that are compared, made from one of them: then a step along
    an axis is the same step in weight space for each, and the axes are comparable. Its price: a model with larger
    weights than the reference looks flatter than filter normalisation would show it. The paper's own scale, each model
    its own, is `random_directions(model, seed)` for each: the draw behind it is the same for the same seed.

    Args:
        reference: the model whose filters set the scale. Only its shapes enter the draw, not its device or dtype.
        seed: of the draw.
        count: how many directions, 1 for a line, 2 for a plane. The first is the same for any count.

    Raises:
        ValueError: `count` is below 1, or no parameter is left to move.
    """
    if count < 1:
        raise ValueError(f"count is {count}: take 1 direction for a line, 2 for a plane")
    filters = _filter_dimensions(reference)
    if not filters:
        raise ValueError("the reference has no weights but biases and norm layers: there is nothing to move")
    weights = dict(reference.named_parameters())
    left_out = tuple(name for name in weights if name not in filters)
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        Direction({name: _filter_normalised(weights[name], dim, generator) for name, dim in filters.items()}, left_out)
        for _ in range(count)
    )


def line_between(start: nn.Module, end: nn.Module) -> Direction:
    """Return the direction from one minimum to another: along it, `start` is at 0 and `end` at 1.

    All parameters take part, frozen ones, too, and running statistics of norm layers. Between the ends, interpolated
    statistics are not those of the network there, so a barrier in a network with batch norm is an upper estimate
    (Jordan et al. 2022, arXiv 2211.08403).

    Raises:
        ValueError: the two do not have the same parameters and buffers.
    """
    first, second = (
        {
            name: tensor.detach().cpu()
            for name, tensor in named_tensors(model).items()
            if tensor.is_floating_point() or tensor.is_complex()
        }
        for model in (start, end)
    )
    if odd := first.keys() ^ second.keys():
        raise ValueError(f"only one of the two models has {', '.join(sorted(odd))}: take two of one architecture")
    _check_shapes(second, first, "end")
    # A mask with −∞, which less itself is no number, stays as it is.
    moved = [name for name, tensor in first.items() if is_finite(tensor) or not same_bits(second[name], tensor)]
    return Direction({name: second[name] - first[name] for name in moved}, ())


def grid(dimensions: int, low: float = -1.0, high: float = 1.0, steps: int = 21) -> NDArray[np.float64]:
    """Space points evenly, float64 [steps ** dimensions, dimensions]; the last coordinate runs fastest.

    Args:
        dimensions: 1 for a line, 2 for a surface.
        low, high: the ends of every axis, in units of the directions. Default -1 to 1, as in the published
            study.
        steps: points of an axis. Default 21: an odd number has 0, the model itself, among them; the published study
            had 20.

    Raises:
        ValueError: an argument out of range.
    """
    if dimensions < 1:
        raise ValueError(f"dimensions is {dimensions}: take 1 for a line, 2 for a surface")
    if steps < 2 or not low < high:
        raise ValueError(f"there is no axis from {low} to {high} in {steps} steps: take low < high and 2 steps or more")
    axes = np.meshgrid(*[np.linspace(low, high, steps)] * dimensions, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def losses(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    directions: Sequence[Direction],
    points: ArrayLike,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Evaluate the mean loss at w + Σ points[:, k] · directions[k], in eval mode; restore the model afterwards.

    A loss that overflows is inf or nan, as it comes.

    Args:
        model: whose weights w are the centre.
        loss_fn: mean loss of a batch, from outputs and targets.
        batches: `(inputs, targets)`, walked twice, and once a point, on the model's device.
        directions: D of them.
        points: [P, D], or [P] along one direction; any points, such as a part of :func:`grid`.
        progress: called after each point with the points done and P.

    Returns:
        float64 [P].

    Raises:
        ValueError: points and directions do not match, a direction does not fit the model, there are no samples, or the
            loss is no function of the weights alone.
    """
    coordinates = _coordinates(points, len(directions))
    result = np.empty(len(coordinates))
    with undisturbed(model) as start:
        tensors = named_tensors(model)
        moved = [_fitted(direction, start, index) for index, direction in enumerate(directions)]
        expect_function(model, loss_fn, batches, start, mean_loss(model, loss_fn, batches)[0])
        for index, point in enumerate(coordinates.tolist()):
            move(tensors, _at(start, moved, point))
            result[index], _ = mean_loss(model, loss_fn, batches)
            if progress is not None:
                progress(index + 1, len(coordinates))
    return result


def _filter_dimensions(model: nn.Module) -> dict[str, int]:
    """Map each parameter that a random direction moves to the dimension that counts its filters."""
    found = {}
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS):
            continue
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and parameter.dim() > 1:
                found[name] = 1 if isinstance(module, _ConvTransposeNd) else 0
    # A parameter of two modules has the name by which `named_parameters` knows it.
    return {name: found[name] for name, _ in model.named_parameters() if name in found}


def _filter_normalised(weight: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Draw a Gaussian tensor like `weight`, on the CPU; its slices along `dim` have the norms of the weight's.

    Of a complex weight, real and imaginary part are drawn.
    """
    weight = weight.detach().cpu()
    real = torch.view_as_real(weight) if weight.is_complex() else weight
    drawn = torch.randn(real.shape, generator=generator).double()
    others = [d for d in range(real.dim()) if d != dim]
    wanted, has = (torch.linalg.vector_norm(t.double(), dim=others, keepdim=True) for t in (real, drawn))
    normalised: Tensor = drawn * (wanted / has)
    return (torch.view_as_complex(normalised) if weight.is_complex() else normalised).to(weight.dtype)


def _coordinates(points: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    """Return `points` as [P, D]."""
    array = np.asarray(points, dtype=np.float64)
    if array.ndim == 1 and dimensions == 1:
        array = array[:, None]
    if dimensions == 0 or array.ndim != 2 or array.shape[1] != dimensions:
        raise ValueError(
            f"points have shape {array.shape} and there are {dimensions} directions: pass [P, D] points "
            "with a coordinate for each of at least one direction"
        )
    return array


def _fitted(direction: Direction, start: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Move a direction's tensors to the devices and dtypes of the model's."""
    _check_shapes(direction.tensors, start, f"direction {index}")
    return {name: tensor.to(start[name]) for name, tensor in direction.tensors.items()}


def _check_shapes(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if name not in like or like[name].shape != tensor.shape:
            has = f"shape {tuple(like[name].shape)}" if name in like else "no such tensor"
            raise ValueError(
                f"{what} has {name} of shape {tuple(tensor.shape)} and the model has {has}: take models "
                "of one architecture"
            )


def _at(
    start: Mapping[str, Tensor], directions: Sequence[Mapping[str, Tensor]], point: Sequence[float]
) -> dict[str, Tensor]:
    """Compute the tensors at w + Σ point[k] · directions[k], without those that no direction moves."""
    there: dict[str, Tensor] = {}
    for direction, coordinate in zip(directions, point, strict=True):
        for name, tensor in direction.items():
            there[name] = there.get(name, start[name]) + coordinate * tensor
    return there
