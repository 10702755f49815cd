"""Fisher SAM: SAM in an ellipsoid of the Fisher information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from tune_sam.optim.sharpness_aware import Group, SharpnessAware, Tensors, gradients


class FisherSAM(SharpnessAware):
    """Fisher SAM (Kim et al. 2022, arXiv 2206.04920): ε̂ = ρ F⁻¹ g / √(gᵀ F⁻¹ g).

    F is diagonal and comes from the batch's own gradient, F = 1 + η g², which is ε̂ = ρ T² g / ‖T g‖₂ with
    T = 1 / √(1 + η g²): weights on which the predictions depend most are perturbed least. g is small where it is the
    mean of many samples, and then this is nearly SAM.

    Unlike the others' ε̂, this one depends on the gradient's scale. Let a `torch.amp.GradScaler` divide it out before
    `first_step`, and mind that a part of `step_parts` has the gradient of its contribution to the loss.

    Args:
        params: parameters, named parameters, or groups of either; a group may carry its own `rho` and `eta`.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        rho: radius ρ, which the paper calls γ, finite and >= 0. Public code takes 0.1.
        eta: η, finite and >= 0; with 0 it is SAM. Default 1, as in public code.
        **base_kwargs: options of the base optimizer, e.g. `lr`.

    Raises:
        ValueError: `rho` or `eta` is negative or not finite, or the base optimizer has an option of that name.
    """

    def __init__(
        self,
        params: ParamsT,
        base_optimizer_class: Callable[..., Optimizer],
        rho: float,
        *,
        eta: float = 1.0,
        **base_kwargs: Any,
    ) -> None:
        super().__init__(params, base_optimizer_class, {"rho": rho, "eta": eta}, base_kwargs)

    def _scale(self, group: Group, params: list[Tensor]) -> Tensors:
        sizes = torch._foreach_abs(gradients(params))
        fisher = torch._foreach_mul(sizes, sizes)
        torch._foreach_mul_(fisher, float(group["eta"]))
        torch._foreach_add_(fisher, 1.0)
        return torch._foreach_rsqrt(fisher)
