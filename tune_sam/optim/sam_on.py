"""SAM-ON: SAM that perturbs normalization layers alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from tune_sam.optim.sharpness_aware import Group, SharpnessAware

_NORM = re.compile(r"Norm(alization)?(\d+d)?$")


def norm_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the gains and biases of the normalization layers in a model.

    A normalization layer is one whose class, or a class that it is derived from, is called so: `BatchNorm2d`,
    `LayerNorm`, `GraphNorm`, `LlamaRMSNorm`.
    """
    return [
        parameter
        for module in model.modules()
        if any(_NORM.search(kind.__name__) for kind in type(module).__mro__)
        for parameter in module.parameters(recurse=False)
    ]


class SAMON(SharpnessAware):
    """SAM on the normalization layers only (Müller et al. 2023, arXiv 2306.04226): ε̂ = ρ g / ‖g‖₂ over those.

    All other parameters stay at w in the second pass; the base optimizer steps with the gradient of all.

    Args:
        params: parameters, named parameters, or groups of either; a group may carry its own `rho`.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        rho: radius ρ, finite and >= 0. The authors take about ten times SAM's.
        only: the parameters that are perturbed: `norm_parameters(model)`.
        **base_kwargs: options of the base optimizer, e.g. `lr`.

    Raises:
        ValueError: there is nothing to perturb, `rho` is negative or not finite, or the base optimizer has a `rho` of
            its own.
    """

    _kept: ClassVar[tuple[str, ...]] = (*SharpnessAware._kept, "_only")

    def __init__(
        self,
        params: ParamsT,
        base_optimizer_class: Callable[..., Optimizer],
        rho: float,
        *,
        only: Iterable[Tensor],
        **base_kwargs: Any,
    ) -> None:
        super().__init__(params, base_optimizer_class, {"rho": rho}, base_kwargs)
        self._only = dict.fromkeys(only)
        if not self._only:
            raise ValueError(
                "SAM-ON perturbs normalization layers, and the network has none with parameters: take another"
            )

    def _climbing(self, group: Group) -> list[Tensor]:
        return [p for p in super()._climbing(group) if p in self._only]
