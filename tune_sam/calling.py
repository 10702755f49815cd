"""Networks that take several arguments, called with the inputs of a batch as the one thing that they are elsewhere."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def taking_batches(network: nn.Module) -> nn.Module:
    """Let a network of several arguments be called with the inputs of a batch alone.

    A mapping is then spread over the arguments of its names and a tuple over the arguments in their order. Other calls,
    and networks that take one argument, stay as they are. Of an output with `logits`, as Hugging Face's models have it,
    these are given. The hooks that do it are no part of the state dict.

    Returns:
        The same network.
    """
    if takes_several(network):
        network.register_forward_pre_hook(_spread, with_kwargs=True)
    network.register_forward_hook(_logits)
    return network


def takes_several(network: nn.Module) -> bool:
    """Whether a network takes several arguments, over which a mapping or a tuple is spread."""
    return len(_arguments(network)) > 1 or _takes_any_name(network)


def lacking(network: nn.Module, inputs: Any) -> str | None:
    """Name the first of the inputs that a network of several arguments has none for; None if there is no such."""
    names = _arguments(network)
    if not isinstance(inputs, Mapping) or len(names) < 2 or _takes_any_name(network):
        return None
    return next((str(name) for name in inputs if name not in names), None)


def _spread(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> "tuple[Any, dict[str, Any]] | None":
    if len(given) != 1 or named:
        return None
    inputs, arguments = given[0], _arguments(network)
    if isinstance(inputs, Mapping) and (_takes_any_name(network) or set(inputs) <= set(arguments)):
        return (), dict(inputs)
    if type(inputs) is tuple and len(inputs) <= len(arguments):
        return inputs, {}
    return None


def _logits(network: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, Mapping):
        return output.get("logits", output)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(network.forward).parameters.values())


def _arguments(network: nn.Module) -> list[str]:
    """List the names of a network's arguments."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in _parameters(network) if one.kind not in variable]


def _takes_any_name(network: nn.Module) -> bool:
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in _parameters(network))
