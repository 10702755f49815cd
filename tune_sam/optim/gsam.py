"""GSAM: SAM's step without what it does to the loss itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from tune_sam.optim.sharpness_aware import SharpnessAware, gradients, projected, reals


class GSAM(SharpnessAware):
    """Surrogate gap guided SAM (Zhuang et al. 2022, Algorithm 1, arXiv 2203.08065).

    With g the gradient at w and gₚ that at SAM's w + ε̂, the base optimizer steps with

        gₚ − α g⊥,    g⊥ = g − (g·gₚ / ‖gₚ‖²) gₚ,

    so it also climbs where gₚ sees nothing: the loss at w rises towards that at w + ε̂, and the gap between them, a
    measure of sharpness, closes. The paper lets ρ fall with the learning rate; here it stays, unless you change
    `group["rho"]` between steps.

    Under `DistributedDataParallel` both passes must average their gradients, as they do by default.

    Args:
        params: parameters, named parameters, or groups of either; a group may carry its own `rho` and `alpha`.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        rho: radius ρ of SAM's ball, finite and >= 0. The authors' training of ViT-B/32 lets it fall from 0.6 to 0.1.
        alpha: α, finite and >= 0; with 0 it is SAM. Default 0.4, as in the authors' example in PyTorch; they took 0.6
            for ViT-B/32.
        **base_kwargs: options of the base optimizer, e.g. `lr`.

    Raises:
        ValueError: `rho` or `alpha` is negative or not finite, or the base optimizer has an option of that name.
    """

    def __init__(
        self,
        params: ParamsT,
        base_optimizer_class: Callable[..., Optimizer],
        rho: float,
        *,
        alpha: float = 0.4,
        **base_kwargs: Any,
    ) -> None:
        super().__init__(params, base_optimizer_class, {"rho": rho, "alpha": alpha}, base_kwargs)
        self._first: dict[Tensor, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_first": {}}

    def _note_first(self) -> None:
        self._first = self._copied()

    def _combine(self) -> None:
        first, self._first = self._first, {}
        alphas = {p: float(group["alpha"]) for group in self.param_groups for p in group["params"]}
        params = [p for p in first if p.grad is not None]
        if not params:
            return
        second = reals(gradients(params))
        across = projected(reals([first[p] for p in params]), second)
        torch._foreach_sub_(second, torch._foreach_mul(across, [alphas[p] for p in params]))
