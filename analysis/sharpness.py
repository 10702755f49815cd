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

Parameters that are frozen, or that the loss does not depend on, stay where they are and are named in `left_out`.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tune_sam.analysis.evaluation import Batches, LossFn, mean_gradient, mean_loss, move, named_tensors, undisturbed

Scale = Literal["one", "rms", "adaptive", "asam"]

ETA = 0.01
"""η of ASAM in its authors' form (Kwon et al. 2021, §5)."""

GROWTH = 1.2
"""Factor of γ after a rise. On quadratics of either curvature, 1 gets stuck and 2 oscillates; 1.2 came closest."""

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
        error: how much of it the second half of the steps added, or the rounding of the loss if that is more: an
            indication that the ascent had not ended, no bound on what it missed. After one step it is the whole value.
        rho: radius ρ of the ball.
        scale: what ρ is measured in, see the module.
        loss: L(w).
        samples: over which L is the mean.
        steps: of the ascent that were taken; fewer than requested if the gradient vanished or was not finite.
        ascent: L(w + ε) - L(w) at ε = 0 and after each step, as it came: a step that went too far may be below 0.
        left_out: names of the parameters that stayed where they are.
    """

    value: float
    error: float
    rho: float
    scale: Scale
    loss: float
    samples: int
    steps: int
    ascent: tuple[float, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class AverageCase(_Measured):
    """Average-case sharpness.

    Attributes:
        value: mean of L(w + δ) - L(w) over the draws, in units of the loss; may be below 0.
        error: its standard error over the pairs of draws, or the rounding of the loss if that is more.
        sigma: standard deviation σ of δ / T.
        scale: what σ is measured in, see the module.
        loss: L(w).
        samples: over which L is the mean.
        draws: perturbations, two a pair.
        left_out: names of the parameters that stayed where they are.
    """

    value: float
    error: float
    sigma: float
    scale: Scale
    loss: float
    samples: int
    draws: int
    left_out: tuple[str, ...]


def worst_case(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    rho: float,
    *,
    steps: int = 20,
    scale: Scale = "one",
    seed: int = 0,
) -> WorstCase:
    """Find the highest rise of the loss in the ball ‖ε / T‖₂ <= ρ by gradient ascent, a lower bound of the maximum.

    In u = ε / T, each step goes from the best point so far towards the ball's highest point for the linearised loss,

        u ← u + γ (ρ T g / ‖T g‖₂ - u),        g the gradient at w + T u,

    which is normalised gradient ascent that never leaves the ball (conditional gradients, Frank & Wolfe 1956). γ = 1
    first, so one step is SAM's or ASAM's own ε̂; a step that brings no rise is taken back and γ halved, and after a rise
    it grows by a fifth, up to 1. Near a minimum this is a power iteration for the largest eigenvalue of T H T. A step
    costs one gradient over the sample.

    Args:
        model: a network; afterwards it is as before.
        loss_fn: mean loss of a batch, from outputs and targets.
        batches: `(inputs, targets)`, walked `steps` + 1 times, on the model's device.
        rho: radius ρ > 0: a trial's own, or a common one. Under `one` a length in units of the weights.
        steps: of the ascent, at least 1. Default 20, as in Andriushchenko et al. 2023.
        scale: T, see the module.
        seed: of the direction that is climbed first where the gradient at w is exactly 0.

    Raises:
        ValueError: an argument out of range, no samples, or a loss at w that is not finite.
    """
    _check_positive("rho", rho)
    if steps < 1:
        raise ValueError(f"steps is {steps}: take at least 1")
    with undisturbed(model) as start:
        names, left_out, loss, gradient, samples = _at_w(model, loss_fn, batches)
        tensors = named_tensors(model)
        scales = _scales(scale, names, start)
        if _norm(_times(scales, gradient)) == 0:
            gradient = _gaussian([start[name] for name in names], torch.Generator().manual_seed(seed))
        best, best_value, share = [torch.zeros_like(start[name]) for name in names], loss, 1.0
        rises, highest = [0.0], [0.0]
        for _ in range(steps):
            uphill = _times(scales, gradient)
            length = _norm(uphill)
            if length == 0 or not math.isfinite(length):
                break
            point = [u + share * (rho / length * up - u) for u, up in zip(best, uphill, strict=True)]
            offsets = _times(scales, point)
            move(tensors, {name: start[name] + off for name, off in zip(names, offsets, strict=True)})
            value, new, _ = mean_gradient(model, loss_fn, batches, [tensors[name] for name in names])
            rises.append(value - loss)
            if value > best_value:
                best, best_value, share = point, value, min(1.0, GROWTH * share)
                gradient = [torch.zeros_like(u) if g is None else g for u, g in zip(point, new, strict=True)]
            else:
                share /= 2
            highest.append(best_value - loss)
    value = highest[-1]
    error = max(value - highest[(len(highest) - 1) // 2], _rounding(loss, start, names))
    return WorstCase(value, error, rho, scale, loss, samples, len(rises) - 1, tuple(rises), left_out)


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
        names, left_out, *_ = _at_w(model, loss_fn, batches)
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
    model: nn.Module, loss_fn: LossFn, batches: Batches
) -> tuple[list[str], tuple[str, ...], float, list[Tensor], int]:
    """Evaluate at the weights.

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
            rms = _norm(chosen) / math.sqrt(sum(w.numel() for w in chosen))
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
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def _gaussian(like: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Draw standard normal numbers on the CPU in float32, for the shapes, devices and dtypes of `like`."""
    return [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in like]


def _rounding(loss: float, weights: dict[str, Tensor], names: list[str]) -> float:
    """Return the size of one rounding of L(w) in the weights' dtype: no difference of losses is more exact."""
    return max(torch.finfo(weights[name].dtype).eps for name in names) * abs(loss)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}: it is a finite number above 0")
