"""How much higher the loss gets near the weights: in the worst case of a ball, and on average over Gaussian noise.

With L the mean loss over the stated sample and T an elementwise scale,

    worst case      max over ‖ε / T‖₂ <= ρ of  L(w + ε) - L(w)
    average case    E over δ ~ N(0, σ² diag(T²)) of  L(w + δ) - L(w)

These are S_max with p = 2 and S_avg of Andriushchenko et al. 2023 (arXiv 2302.07011, §3), whose c is our T, and whose
adaptive forms have T = |w|. There the maximum is taken batch by batch and then averaged (m-sharpness); here all batches
are one loss, so that the values of two models do not depend on how the sample was cut. For m-sharpness, average over
calls with one batch each.

For small radii, with H the Hessian at a minimum, they are ρ²/2 λ_max(T H T) and σ²/2 tr(T H T): compare the curvature.

======== ================================== ===========================================================
`scale`  T                                  the ball of
======== ================================== ===========================================================
one      1                                  SAM (Foret et al. 2021, arXiv 2010.01412)
rms      root mean square of all weights    SAM, in units of the weights' size
adaptive |w|                                ASAM in its popular form (`asam-all`); adaptive sharpness
asam     |w| + η on parameters named        ASAM in its authors' form (Kwon et al. 2021, arXiv 2102.11600);
         *weight*, 1 on others              η = 0.01, as there
======== ================================== ===========================================================

Scaling a layer of a ReLU network up and the next one down leaves the network's function as it is, and the adaptive
values too, but not those with another scale. A ρ or σ means something else under each scale, so compare models at a
common one.

Parameters that are frozen, or that the loss does not depend on, stay where they are and are named in `left_out`. Of a
complex weight, real and imaginary part move; |w| is its modulus.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tune_sam.analysis.evaluation import (
    Batches,
    LossFn,
    expect_function,
    mean_gradient,
    mean_loss,
    move,
    named_tensors,
    undisturbed,
)

Scale = Literal["one", "rms", "adaptive", "asam"]

ETA = 0.01
"""η of ASAM in its authors' form (Kwon et al. 2021, §5)."""

GROWTH = 1.2
"""Factor of γ after a rise. On quadratics of either curvature, 1 gets stuck and 2 oscillates; 1.2 came closest."""

RESTARTS = 3
"""Ascents beside the first, each as long: one alone may end below a higher point of the ball."""

RESOLVED = 0.1
"""A value is resolved if its error is at most this fraction of it."""


class _Measured:
    """What both kinds of sharpness have in common."""

    value: float
    error: float

    @property
    def resolved(self) -> bool:
        """Whether the error is at most a tenth of the value's size."""
        return math.isfinite(self.value) and self.error <= RESOLVED * abs(self.value)


@dataclass(frozen=True)
class WorstCase(_Measured):
    """Worst-case sharpness: a lower bound, because an ascent need not find the highest point of the ball.

    Attributes:
        value: the highest L(w + ε) - L(w) seen, in units of the loss; never below 0, which ε = 0 gives.
        error: how much of it the second half of the best ascent's steps added, or all restarts together, or the
            rounding of the loss, whichever is most. It indicates that the search had not ended and bounds nothing: the
            maximum lies above the value, by an unknown amount. After one step it is the whole value.
        rho: radius ρ of the ball.
        scale: what ρ is measured in, see the module.
        loss: L(w).
        samples: over which L is the mean; what the loss counts, see :func:`tune_sam.analysis.evaluation.count`.
        steps: of the first ascent that were taken; fewer than requested if the gradient vanished or was not finite.
        ascent: L(w + ε) - L(w) at ε = 0 and after each step of the first ascent, as it came: a step that went too far
            may be below 0.
        tops: the highest rise of each ascent, the first one's first.
        left_out: names of the parameters that stayed where they are.
    """

    value: float
    error: float
    rho: float
    scale: Scale
    loss: float
    samples: float
    steps: int
    ascent: tuple[float, ...]
    left_out: tuple[str, ...]
    tops: tuple[float, ...] = ()


@dataclass(frozen=True)
class AverageCase(_Measured):
    """Average-case sharpness.

    Attributes:
        value: mean of L(w + δ) - L(w) over the draws, in units of the loss; may be below 0.
        error: its standard error over the pairs of draws, or the rounding of the loss if that is more.
        sigma: standard deviation σ of δ / T.
        scale: what σ is measured in, see the module.
        loss: L(w).
        samples: over which L is the mean; what the loss counts, see :func:`tune_sam.analysis.evaluation.count`.
        draws: perturbations, two a pair.
        left_out: names of the parameters that stayed where they are.
    """

    value: float
    error: float
    sigma: float
    scale: Scale
    loss: float
    samples: float
    draws: int
    left_out: tuple[str, ...]


def worst_case(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    rho: float,
    *,
    steps: int = 20,
    restarts: int = RESTARTS,
    scale: Scale = "one",
    seed: int = 0,
) -> WorstCase:
    """Find the highest rise of the loss in the ball ‖ε / T‖₂ <= ρ by gradient ascents, a lower bound of the maximum.

    The first ascent begins at w, each other one at a random point of the ball's surface. In u = ε / T, each step goes
    from the best point so far towards the ball's highest point for the linearised loss,

        u ← u + γ (ρ T g / ‖T g‖₂ - u),        g the gradient at w + T u,

    which is normalised gradient ascent that never leaves the ball (conditional gradients, Frank & Wolfe 1956). γ = 1
    first, so one step is SAM's or ASAM's own ε̂; a step that brings no rise is taken back and γ halved, and after a rise
    it grows by a fifth, up to 1. Near a minimum this is a power iteration for the largest eigenvalue of T H T. A step
    costs one gradient over the sample.

    Args:
        model: a network; afterwards it is as before.
        loss_fn: mean loss of a batch, from outputs and targets.
        batches: `(inputs, targets)`, walked (`steps` + 1) (`restarts` + 1) + 1 times, on the model's device.
        rho: radius ρ > 0: a trial's own, or a common one. Under `one` a length in units of the weights.
        steps: of each ascent, at least 1. Default 20, as in Andriushchenko et al. 2023.
        restarts: further ascents, 0 or more; by default :data:`RESTARTS`.
        scale: T, see the module.
        seed: of the points where further ascents begin, and of the direction that is climbed first where the gradient
            at w is exactly 0.

    Raises:
        ValueError: an argument out of range, no samples, or a loss at w that is not finite.
    """
    _check_positive("rho", rho)
    if steps < 1:
        raise ValueError(f"steps is {steps}: take at least 1")
    if restarts < 0:
        raise ValueError(f"restarts is {restarts}: take 0 or more")
    with undisturbed(model) as start:
        names, left_out, loss, gradient, samples = _at_w(model, loss_fn, batches, start)
        tensors = named_tensors(model)
        generator = torch.Generator().manual_seed(seed)
        weights = [start[name] for name in names]
        scales = _scales(scale, names, start)
        if _norm(_times(scales, gradient)) == 0:
            gradient = _gaussian(weights, generator)

        def at(point: list[Tensor]) -> tuple[float, list[Tensor]]:
            offsets = _times(scales, point)
            move(tensors, {name: w + off for name, w, off in zip(names, weights, offsets, strict=True)})
            value, found, _ = mean_gradient(model, loss_fn, batches, [tensors[name] for name in names])
            return value, [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]

        first = _ascend(at, rho, steps, scales, [torch.zeros_like(w) for w in weights], loss, gradient)
        ascents = [first]
        for _ in range(restarts if len(first) > 1 else 0):
            direction = _gaussian(weights, generator)
            length = _norm(direction)
            point = [rho / length * z for z in direction]
            ascents.append(_ascend(at, rho, steps, scales, point, *at(point)))
    tops = [max([0.0, *(value - loss for value in ascent if not math.isnan(value))]) for ascent in ascents]
    best = ascents[tops.index(max(tops))]
    half = max([0.0, *(value - loss for value in best[: (len(best) - 1) // 2 + 1] if not math.isnan(value))])
    value = max(tops)
    # Both are infinite at the top of a loss that overflows, where nothing is known.
    late, restarted = (math.inf if math.isinf(value) else value - earlier for earlier in (half, tops[0]))
    return WorstCase(
        value,
        max(late, restarted, _rounding(loss, start, names)),
        rho,
        scale,
        loss,
        samples,
        len(first) - 1,
        tuple(value - loss for value in first),
        left_out,
        tuple(tops),
    )


def _ascend(
    at: Callable[[list[Tensor]], tuple[float, list[Tensor]]],
    rho: float,
    steps: int,
    scales: list[Tensor],
    best: list[Tensor],
    value: float,
    gradient: list[Tensor],
) -> list[float]:
    """Climb from the point `best`, whose loss and gradient are given; return the loss there and after each step.

    Args:
        at: the loss and its gradient by w at a point u.
        rho, steps: as for :func:`worst_case`.
        scales: T.
        best: the u to begin with.
        value, gradient: what `at` gives there.
    """
    values, share = [value], 1.0
    for _ in range(steps):
        uphill = _times(scales, gradient)
        length = _norm(uphill)
        if length == 0 or not math.isfinite(length):
            break
        point = [u + share * (rho / length * up - u) for u, up in zip(best, uphill, strict=True)]
        there, found = at(point)
        values.append(there)
        if there > value:
            best, value, gradient, share = point, there, found, min(1.0, GROWTH * share)
        else:
            share /= 2
    return values


def average_case(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    sigma: float,
    *,
    pairs: int = 50,
    scale: Scale = "one",
    seed: int = 0,
) -> AverageCase:
    """Average the rise of the loss under Gaussian noise δ ~ N(0, σ² diag(T²)) on the weights.

    Each draw is used with both signs: the mean is the same, and the slope at w, which is no sharpness, falls out of its
    error. Draws depend on `seed` and the shapes of the parameters alone, not on the device, so two models of one
    architecture meet the same noise.

    Args:
        model: a network; afterwards it is as before.
        loss_fn: mean loss of a batch, from outputs and targets.
        batches: `(inputs, targets)`, walked 2 · `pairs` + 2 times, on the model's device.
        sigma: σ > 0. Relative to the weights under `adaptive` and `rms`, a length in their units under `one`.
        pairs: of draws, at least 2. Default 50: 100 draws, as in the code of Andriushchenko et al. 2023.
        scale: T, see the module.
        seed: of the draws.

    Raises:
        ValueError: an argument out of range, no samples, or a loss at w that is not finite.
    """
    _check_positive("sigma", sigma)
    if pairs < 2:
        raise ValueError(f"pairs is {pairs}: take at least 2, because one has no standard error")
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(model) as start:
        names, left_out, *_ = _at_w(model, loss_fn, batches, start)
        loss, samples = mean_loss(model, loss_fn, batches)
        tensors = named_tensors(model)
        scales = _scales(scale, names, start)
        rises = []
        for _ in range(pairs):
            noise = _times(scales, _gaussian([start[name] for name in names], generator))
            both = []
            for signed in (sigma, -sigma):
                move(tensors, {name: start[name] + signed * z for name, z in zip(names, noise, strict=True)})
                both.append(mean_loss(model, loss_fn, batches)[0] - loss)
            rises.append(sum(both) / 2)
    spread = torch.tensor(rises, dtype=torch.float64)
    error = max(float(spread.std()) / math.sqrt(pairs), _rounding(loss, start, names))
    return AverageCase(float(spread.mean()), error, sigma, scale, loss, samples, 2 * pairs, left_out)


def _at_w(
    model: nn.Module, loss_fn: LossFn, batches: Batches, start: dict[str, Tensor]
) -> tuple[list[str], tuple[str, ...], float, list[Tensor], float]:
    """Evaluate at the weights, of which `start` has copies.

    Returns:
        The names of the parameters that the loss depends on, those left out, the loss, its gradient by each of the
        former, and the number of samples.
    """
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("no parameter requires gradients, so there is no ball to look at: unfreeze one")
    loss, gradients, samples = mean_gradient(model, loss_fn, batches, list(params.values()))
    if not math.isfinite(loss):
        raise ValueError(f"the loss at the weights is {loss}: sharpness is that of a model whose loss is finite")
    expect_function(model, loss_fn, batches, start, loss)
    found = {name: g for name, g in zip(params, gradients, strict=True) if g is not None}
    left_out = tuple(name for name, _ in model.named_parameters() if name not in found)
    return list(found), left_out, loss, list(found.values()), samples


def _scales(scale: Scale, names: list[str], weights: dict[str, Tensor]) -> list[Tensor]:
    """Return T for each parameter, in its shape or of shape ()."""
    chosen = [weights[name] for name in names]
    match scale:
        case "one":
            return [w.new_ones(()) for w in chosen]
        case "rms":
            rms = _norm(chosen) / math.sqrt(sum(_real(w).numel() for w in chosen))
            return [w.new_full((), rms) for w in chosen]
        case "adaptive":
            return [w.abs() for w in chosen]
        case "asam":
            return [
                w.abs() + ETA if "weight" in name else w.new_ones(()) for name, w in zip(names, chosen, strict=True)
            ]
    raise ValueError(f"there is no scale {scale!r}: choose from {', '.join(get_args(Scale))}")


def _times(scales: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
    return [scale * tensor for scale, tensor in zip(scales, tensors, strict=True)]


def _norm(tensors: list[Tensor]) -> float:
    """Take the Euclidean norm of all tensors together, from float64 sums."""
    return math.sqrt(sum(float(_real(tensor).double().square().sum()) for tensor in tensors))


def _real(tensor: Tensor) -> Tensor:
    """View a complex number as two real ones: a complex weight moves in two dimensions."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _gaussian(like: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Draw standard normal numbers on the CPU in float32, for the shapes, devices and dtypes of `like`."""
    drawn = [torch.randn(_real(tensor).shape, generator=generator) for tensor in like]
    return [
        (torch.view_as_complex(z) if tensor.is_complex() else z).to(tensor)
        for z, tensor in zip(drawn, like, strict=True)
    ]


def _rounding(loss: float, weights: dict[str, Tensor], names: list[str]) -> float:
    """Return the size of one rounding of L(w) in the weights' dtype: no difference of losses is more exact."""
    return max(torch.finfo(weights[name].dtype).eps for name in names) * abs(loss)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}: it is a finite number above 0")
