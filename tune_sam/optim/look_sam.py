"""LookSAM: SAM that looks for the sharp direction in one step of k, and remembers it in the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from tune_sam.optim.sharpness_aware import SharpnessAware, gradients, projected, reals

R = TypeVar("R")


class LookSAM(SharpnessAware):
    """LookSAM (Liu et al. 2022, Algorithm 1, arXiv 2203.02714): one pass in k − 1 of k steps.

    In every k-th step, the first included, it is SAM, with g the gradient at w and gₛ that at w + ε̂; and it keeps the
    direction of

        gᵥ = gₛ − (gₛ·g / ‖g‖²) g,

    which changes slowly. In the steps between, the base optimizer steps with g + α ‖g‖ gᵥ / ‖gᵥ‖. A batch in parts
    is one step: g and gₛ are then the sums over the parts.

    By hand, a step that looks has two passes, and another one has one; `bend` ends the passes of both. With a
    `torch.amp.GradScaler` it comes before `unscale_`::

        optimizer = LookSAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)
        scaler.scale(loss_of(batch)).backward()
        if optimizer.looks:
            rng = random_state(device)
            optimizer.first_step(zero_grad=True)
            try:
                with second_pass(model, rng):
                    scaler.scale(loss_of(batch)).backward()
            finally:
                optimizer.restore()
        optimizer.bend()
        scaler.step(optimizer.base_optimizer)
        scaler.update()
        optimizer.zero_grad()

    Under `DistributedDataParallel` both passes must average their gradients, as they do by default.

    Args:
        params: parameters, named parameters, or groups of either; a group may carry its own `rho` and `alpha`.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        rho: radius ρ of SAM's ball, finite and >= 0.
        k: steps from one look to the next, 1 or more. Default 5, as in public code; with 1 it is SAM.
        alpha: α, finite and >= 0. Default 0.7, as in public code.
        **base_kwargs: options of the base optimizer, e.g. `lr`.

    Raises:
        ValueError: `rho` or `alpha` is negative or not finite, `k` is no whole number above 0, or the base optimizer
            has an option named `rho` or `alpha`.
    """

    _kept: ClassVar[tuple[str, ...]] = (*SharpnessAware._kept, "k", "_steps", "_direction")

    def __init__(
        self,
        params: ParamsT,
        base_optimizer_class: Callable[..., Optimizer],
        rho: float,
        *,
        k: int = 5,
        alpha: float = 0.7,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a whole number above 0, got {k!r}")
        super().__init__(params, base_optimizer_class, {"rho": rho, "alpha": alpha}, base_kwargs)
        self.k = k
        self._steps = 0
        self._direction: dict[Tensor, Tensor] = {}
        self._first: dict[Tensor, Tensor] = {}  # of one pass
        self._firsts: dict[Tensor, Tensor] = {}  # of all parts

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_first": {}, "_firsts": {}}

    @property
    def looks(self) -> bool:
        """Whether the step that comes has two passes."""
        return self._steps % self.k == 0

    # --- the direction and the number of steps are state, too ---

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state dict, and under `look_sam` the number of steps and the direction."""
        params = [p for group in self.param_groups for p in group["params"]]
        own = {"steps": self._steps, "direction": [self._direction.get(p) for p in params]}
        return super().state_dict() | {"look_sam": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a bare base optimizer's: then the next step looks."""
        super().load_state_dict(state_dict)
        own = state_dict.get("look_sam", {"steps": 0, "direction": []})
        params = [p for group in self.param_groups for p in group["params"]]
        self._steps = own["steps"]
        self._direction = {
            p: kept.to(device=p.device, dtype=p.dtype, copy=True)
            for p, kept in zip(params, own["direction"], strict=False)
            if kept is not None
        }

    # --- passes ---

    def first_step(self, zero_grad: bool = False) -> None:
        """Climb, in a step that looks; see `SharpnessAware.first_step`.

        Raises:
            RuntimeError: this step does not look, or the weights are already at w + ε̂.
            ValueError: a gradient is sparse, or a parameter sharded.
        """
        if not self.looks:
            raise RuntimeError("first_step() is for a step that looks, and this one has one pass: call bend()")
        super().first_step(zero_grad)

    def step_parts(self, closures: Iterable[Callable[[], R]], model: nn.Module | None = None) -> list[R]:
        """Take one step on a batch in parts, each called twice if the step looks, else once.

        See `SharpnessAware.step_parts`.
        """
        self._firsts = {}
        try:
            return super().step_parts(closures, model)
        finally:
            self._firsts = {}

    @torch.no_grad()
    def bend(self) -> None:
        """End the passes of a step: keep the direction if it looks, else turn the gradients towards the one kept.

        A direction that is not finite is not kept: the steps up to the next look are then the base optimizer's.
        `step`, `step_parts` and `second_step` call this.

        Raises:
            RuntimeError: the weights are at w + ε̂.
        """
        self._expect_at_w("bend()")
        if self.looks:
            self._keep_direction()
        else:
            self._follow_direction()
        self._steps += 1

    def _keep_direction(self) -> None:
        first, self._first = self._firsts or self._first, {}
        params = [p for p in first if p.grad is not None]
        if not params:
            return
        across = projected(reals(gradients(params)), reals([first[p] for p in params]))
        norm = get_total_norm(across)
        usable = norm.isfinite() & (norm > 0)
        unit = [torch.where(usable, part / norm, 0.0) for part in across]
        self._direction = {
            p: torch.view_as_complex(part) if p.is_complex() else part for p, part in zip(params, unit, strict=True)
        }

    def _follow_direction(self) -> None:
        live = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        params = [p for p in live if p in self._direction]
        if not params:
            return
        norm = get_total_norm(reals(gradients(live)))
        alphas = {p: float(group["alpha"]) for group in self.param_groups for p in group["params"]}
        towards = torch._foreach_mul([self._direction[p] for p in params], [alphas[p] for p in params])
        torch._foreach_add_(gradients(params), torch._foreach_mul(towards, norm))

    def _note_first(self) -> None:
        self._first = self._copied()

    def _two_passes(self, closure: Callable[[], R], model: nn.Module | None) -> R:
        if self.looks:
            result = super()._two_passes(closure, model)
            for p, g in self._first.items():
                self._firsts[p] = self._firsts[p] + g if p in self._firsts else g
            return result
        with torch.enable_grad():
            return closure()

    def _descend(self) -> None:
        self.bend()
        super()._descend()
