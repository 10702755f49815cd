"""SAM, and ASAM in both its forms: balls that differ in their scale alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from tune_sam.optim.sharpness_aware import Group, SharpnessAware, Tensors


class SAM(SharpnessAware):
    """Sharpness-aware minimization, T = 1 (Foret et al. 2021, Algorithm 1): ε̂ = ρ g / ‖g‖₂.

    Args:
        params: parameters, named parameters, or groups of either; a group may carry its own `rho`.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        rho: radius ρ, the Euclidean length of ε̂ in units of the weights, finite and >= 0. With 0 it is the
            base optimizer at twice the cost. Foret et al. searched 0.01 to 0.5.
        **base_kwargs: options of the base optimizer, e.g. `lr`.

    Raises:
        ValueError: `rho` is negative or not finite, or the base optimizer has a `rho` of its own.
    """

    def __init__(
        self, params: ParamsT, base_optimizer_class: Callable[..., Optimizer], rho: float, **base_kwargs: Any
    ) -> None:
        super().__init__(params, base_optimizer_class, {"rho": rho}, base_kwargs)


class ASAM(SharpnessAware):
    """Adaptive SAM in its authors' form (Kwon et al. 2021): ε̂ = ρ T² g / ‖T g‖₂.

    T = |w| + η on parameters whose name contains "weight" (also a norm's gain and `in_proj_weight`), T = 1 on
    all others, as in the code published with the paper.

    Args:
        named_parameters: `model.named_parameters()`, or groups of (name, parameter) tuples; a group may carry
            its own `rho` and `eta`.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        rho: radius ρ, the length of ε̂ / T, finite and >= 0. Relative to the weights, hence larger than
            `SAM`'s: Kwon et al. used 0.5 and 1.
        eta: η in units of the weights, finite and >= 0, lets a weight of 0 move. Default 0.01, as in the
            paper.
        **base_kwargs: options of the base optimizer, e.g. `lr`.

    Raises:
        ValueError: the parameters have no names; `rho` or `eta` is negative or not finite, or the base
            optimizer has an option of that name.
    """

    def __init__(
        self,
        named_parameters: ParamsT,
        base_optimizer_class: Callable[..., Optimizer],
        rho: float,
        *,
        eta: float = 0.01,
        **base_kwargs: Any,
    ) -> None:
        super().__init__(named_parameters, base_optimizer_class, {"rho": rho, "eta": eta}, base_kwargs)
        if any("param_names" not in group for group in self.param_groups):
            raise ValueError("ASAM scales by name and got parameters without: pass model.named_parameters()")

    def _scale(self, group: Group, params: list[Tensor]) -> Tensors:
        named = zip(group["param_names"], group["params"], strict=True)
        is_weight = ["weight" in name for name, p in named if p.grad is not None]
        scale = torch._foreach_abs(params)
        torch._foreach_mul_(scale, [float(w) for w in is_weight])
        torch._foreach_add_(scale, [float(group["eta"]) if w else 1.0 for w in is_weight])
        return scale


class ASAMAll(SharpnessAware):
    """Adaptive SAM in its popular form: ε̂ = ρ w² g / ‖w g‖₂.

    T = |w| on every parameter, biases and norms too. A weight that is exactly 0, such as a fresh bias, does
    not move.

    Args:
        params: parameters, named parameters, or groups of either; a group may carry its own `rho`.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        rho: radius ρ, the length of ε̂ / |w|, without unit, finite and >= 0. For a network where `ASAM` needs
            0.5, this form was used with 2.
        **base_kwargs: options of the base optimizer, e.g. `lr`.

    Raises:
        ValueError: `rho` is negative or not finite, or the base optimizer has a `rho` of its own.
    """

    def __init__(
        self, params: ParamsT, base_optimizer_class: Callable[..., Optimizer], rho: float, **base_kwargs: Any
    ) -> None:
        super().__init__(params, base_optimizer_class, {"rho": rho}, base_kwargs)

    def _scale(self, group: Group, params: list[Tensor]) -> Tensors:
        return torch._foreach_abs(params)
