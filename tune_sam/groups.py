"""Groups of parameters with options of their own: no weight decay on norms, layer-wise rates, frozen layers."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Group = dict[str, Any]
"""Parameters as `params`, and options of the base optimizer that hold for them."""


def without_decay(network: "nn.Module") -> list[Group]:
    """Leave norms, biases and embeddings out of the weight decay, as transformers are usually trained.

    Parameters that need no gradient are left out.

    Returns:
        Those with weight decay, as the optimizer has it, and those without.
    """
    from torch import nn

    plain = {
        id(parameter)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if "bias" in name or isinstance(module, nn.Embedding | nn.EmbeddingBag) or _is_norm(module)
    }
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[Group] = [
        {"params": [parameter for parameter in trained if id(parameter) not in plain]},
        {"params": [parameter for parameter in trained if id(parameter) in plain], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_norm(module: "nn.Module") -> bool:
    return "norm" in type(module).__name__.lower()


def freeze_others(network: "nn.Module", groups: Iterable[Mapping[str, Any]]) -> None:
    """Take no gradients of the parameters that are in none of the groups."""
    kept = {id(parameter) for group in groups for parameter in _parameters(group)}
    for parameter in network.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def grouped(
    make: "Callable[[Any], Optimizer]", groups: Iterable[Mapping[str, Any]], lr: float
) -> "Callable[[Any], Optimizer]":
    """Let an optimizer have groups, whatever parameters it is made of.

    Args:
        make: makes an optimizer of parameters, of named ones, or of groups of either.
        groups: with `params`, and with options; `lr_scale` is a factor of `lr`.
        lr: the training's learning rate.

    Raises:
        ValueError: a parameter is in two groups.
    """
    place: dict[int, int] = {}
    listed = list(groups)
    for index, group in enumerate(listed):
        for parameter in _parameters(group):
            if place.setdefault(id(parameter), index) != index:
                raise ValueError("parameter_groups(): a parameter is in two groups; put it into one")
    options = [_options(group, lr) for group in listed]

    def make_grouped(given: Any) -> "Optimizer":
        items = list(given)
        outer = items if items and isinstance(items[0], dict) else [{"params": items}]
        made = []
        for group in outer:
            parts: dict[int, list[Any]] = {}
            for item in group["params"]:
                parameter = item[1] if isinstance(item, tuple) else item
                if id(parameter) in place:
                    parts.setdefault(place[id(parameter)], []).append(item)
            made += [group | options[index] | {"params": parts[index]} for index in sorted(parts)]
        return make(made)

    return make_grouped


def _parameters(group: Mapping[str, Any]) -> "Iterable[nn.Parameter]":
    """List a group's parameters, which may be one alone, as torch takes it."""
    given = group["params"]
    return [given] if hasattr(given, "requires_grad_") else given


def _options(group: Mapping[str, Any], lr: float) -> dict[str, Any]:
    scaled = {"lr": lr * group["lr_scale"]} if "lr_scale" in group else {}
    return {name: value for name, value in group.items() if name not in ("params", "lr_scale")} | scaled
