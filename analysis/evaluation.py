"""The loss of a model over a stated sample, and its gradient, with the model left as it was.

A sample is an iterable of `(inputs, targets)` that can be walked again and again, such as a list or a data loader. Its
batches count by their numbers of targets, so that it does not matter how the sample was cut.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

Batches = Iterable[tuple[Any, Tensor]]
LossFn = Callable[[Any, Tensor], Tensor]
"""From a model's outputs and the targets to the batch's mean loss, of shape ()."""


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode; restore each module's mode and buffers afterwards, also after an exception."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [
        (dict(module._buffers), {name: None if b is None else b.clone() for name, b in module._buffers.items()})
        for module in modules
    ]
    model.eval()
    try:
        yield
    finally:
        for module, training, (held, values) in zip(modules, modes, buffers, strict=True):
            module.training = training
            module._buffers.update(held)
            for name, value in values.items():
                buffer = held[name]
                # Only what a forward pass has changed: writing bumps the version that other graphs check.
                if buffer is not None and value is not None and not torch.equal(buffer, value):
                    with torch.no_grad():
                        buffer.copy_(value)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products and convolutions in float32 on CUDA, too, where a training may have chosen TF32."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Evaluate in eval mode without autocast and TF32, and restore everything afterwards, also after an exception.

    Restored bitwise and in place are parameters, buffers, each module's training mode, and torch's random state on the
    CPU and on the model's devices. Nothing here touches `.grad` or `requires_grad`.

    torch's fast path for attention is off inside: it serves evaluations without gradients only, and its sums may differ
    in the last digits, which would be taken for a difference between two losses.

    Yields:
        Copies of all parameters and buffers by name, to be read only: the weights that are put back.
    """
    tensors = named_tensors(model)
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(_cuda_devices(tensors.values())))
        for kind in {"cpu"} | {tensor.device.type for tensor in tensors.values()}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(full_precision())
        stack.enter_context(as_before(model))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield start
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            move(tensors, start)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Collect all parameters and buffers by name, also buffers that a state dict leaves out; a shared one once."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


@torch.no_grad()
def move(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copy `values` into those `tensors` of the same names, in place."""
    for name, value in values.items():
        tensors[name].copy_(value)


def mean_loss(model: nn.Module, loss_fn: LossFn, batches: Batches) -> tuple[float, int]:
    """Average the loss over all samples, in float64; call it inside :func:`undisturbed`.

    Whatever draws from torch's generators, in the model or in the batches, draws the same each time.

    Returns:
        The mean loss, and the number of samples.

    Raises:
        ValueError: the sample is empty or can be walked once only, or the loss is not of shape ().
    """
    with torch.no_grad():
        total, samples = None, 0
        for loss, count in _losses(model, loss_fn, batches):
            weighted = loss.double() * count
            total = weighted if total is None else total + weighted
            samples += count
    return _mean(total, samples), samples


def mean_gradient(
    model: nn.Module, loss_fn: LossFn, batches: Batches, params: Sequence[Tensor]
) -> tuple[float, list[Tensor | None], int]:
    """Average the loss over all samples and its gradient, as :func:`mean_loss` does; leave `.grad` alone.

    Args:
        model, loss_fn, batches: as for :func:`mean_loss`.
        params: to differentiate by; all of them require gradients.

    Returns:
        The loss; for each parameter its gradient in its shape and dtype, or None if no batch's loss depends on it; the
        number of samples.

    Raises:
        ValueError: as in :func:`mean_loss`, or the loss depends on no parameter.
    """
    total: Tensor | None = None
    gradients: list[Tensor | None] = [None] * len(params)
    samples = 0
    with torch.enable_grad():
        for loss, count in _losses(model, loss_fn, batches):
            if not loss.requires_grad:
                raise ValueError("the loss depends on no parameter that requires gradients: unfreeze one")
            parts = torch.autograd.grad(loss, params, allow_unused=True)
            weighted = loss.detach().double() * count
            total = weighted if total is None else total + weighted
            samples += count
            for index, part in enumerate(parts):
                if part is not None:
                    before = gradients[index]
                    gradients[index] = part * count if before is None else before.add_(part, alpha=count)
    value = _mean(total, samples)
    return value, [None if gradient is None else gradient.div_(samples) for gradient in gradients], samples


def _losses(model: nn.Module, loss_fn: LossFn, batches: Batches) -> Iterator[tuple[Tensor, int]]:
    """Yield each batch's mean loss and its number of targets."""
    if isinstance(batches, Iterator):
        raise ValueError(f"the batches can be walked once only, got a {type(batches).__name__}: pass list(batches)")
    _seed(_cuda_devices(named_tensors(model).values()))
    for inputs, targets in batches:
        loss = loss_fn(model(inputs), targets)
        if loss.shape != ():
            raise ValueError(f"the loss of a batch has shape {tuple(loss.shape)}: return the batch's mean, of shape ()")
        yield loss, len(targets)


def _mean(total: Tensor | None, samples: int) -> float:
    if total is None or samples == 0:
        raise ValueError("there are no samples: pass at least one batch with at least one target")
    return float(total) / samples


def _seed(devices: list[torch.device]) -> None:
    """Seed the generators that :func:`undisturbed` puts back, and no others."""
    torch.default_generator.manual_seed(0)
    for device in devices:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(0)


def _cuda_devices(tensors: Iterable[Tensor]) -> list[torch.device]:
    return sorted({tensor.device for tensor in tensors if tensor.is_cuda}, key=str)
