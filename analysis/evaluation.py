"""The loss of a model over a stated sample, and its gradient, with the model left as it was.

A sample is an iterable of `(inputs, targets)` that can be walked again and again, such as a list or a data loader. Its
batches count by what their losses are means of, so that it does not matter how the sample was cut: see :func:`count`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tune_sam import generators
from tune_sam.trees import rows

Batches = Iterable[tuple[Any, Tensor]]
LossFn = Callable[[Any, Tensor], Tensor]
"""From a model's outputs and the targets to the batch's mean loss, of shape (). It may have a method `count`."""


def count(loss_fn: LossFn, targets: Any) -> float:
    """Count what a batch's loss is the mean of: `loss_fn.count(targets)`, or the targets' rows without such a method.

    A loss that leaves targets out, such as the padding of sequences, is a mean over fewer than a batch has rows.
    """
    counting: Callable[[Any], float] = getattr(loss_fn, "count", rows)
    return counting(targets)


@contextmanager
def as_before(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Put the model into eval mode; restore it afterwards, also after an exception.

    Restored bitwise and in place are parameters, buffers of any layout, and each module's mode.

    Yields:
        Copies of all parameters and buffers by name, to be read only.
    """
    modules = list(model.modules())
    held = [(module.training, dict(module._buffers)) for module in modules]
    tensors = named_tensors(model)
    start = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        model.eval()
        yield start
    finally:
        for module, (training, buffers) in zip(modules, held, strict=True):
            module.training = training
            module._buffers.clear()
            module._buffers.update(buffers)
        for name, tensor in tensors.items():
            # Only what has changed: writing bumps the version that other graphs check.
            if not same_bits(tensor, start[name]):
                _put_back(tensor, start[name])


@torch.no_grad()
def same_bits(tensor: Tensor, other: Tensor) -> bool:
    """Say whether two tensors of one kind are equal, and zeros in their signs, too; nan equals nothing."""
    return all(
        torch.equal(one, two) and (not one.is_floating_point() or torch.equal(one.signbit(), two.signbit()))
        for one, two in zip(_strided(tensor), _strided(other), strict=True)
    )


@torch.no_grad()
def is_finite(tensor: Tensor) -> bool:
    """Say whether all numbers of a tensor of any layout are finite."""
    return all(bool(part.isfinite().all()) for part in _strided(tensor))


def has_nan(tensor: Tensor) -> bool:
    """Say whether a tensor of any layout holds what is no number; it may hold infinities."""
    return any(bool(part.isnan().any()) for part in _strided(tensor))


def _strided(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return real, strided tensors that hold all of one of any layout, without a copy."""
    tensor = tensor.detach()
    if tensor.layout == torch.strided:
        return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor,)
    parts: tuple[Tensor, ...]
    if tensor.layout == torch.sparse_coo:
        parts = tensor._indices(), tensor._values()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = tensor.crow_indices(), tensor.col_indices(), tensor.values()
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    else:
        raise ValueError(f"a tensor of the model has the layout {tensor.layout}: convert it with .to_dense()")
    return tuple(piece for part in parts for piece in _strided(part))


@torch.no_grad()
def _put_back(tensor: Tensor, value: Tensor) -> None:
    """Copy `value` into `tensor` in place, where the tensor may be sparse or expanded."""
    parts = list(zip(_strided(tensor), _strided(value), strict=True))
    if any(part.shape != other.shape for part, other in parts):  # sparse, and of another pattern now
        tensor.copy_(value)
        return
    for part, other in parts:
        for dim, (size, stride) in enumerate(zip(part.shape, part.stride(), strict=True)):
            if stride == 0 and size > 1:  # the same number in memory again and again, which torch refuses to write to
                part, other = part.narrow(dim, 0, 1), other.narrow(dim, 0, 1)
        part.copy_(other)


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Turn off kernels without a second derivative.

    These are cuDNN's of recurrent networks, which have no gradient in eval mode either, and the fused ones of
    attention. torch's fast path for attention is off as well: it serves evaluations without gradients only, whose sums
    may then differ in the last digits, and those of padded positions altogether, which would be taken for a difference
    between two losses.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with (
        torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


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

    Restored are what :func:`as_before` restores, and torch's random state on the CPU and on the model's devices.
    Nothing here touches `.grad` or `requires_grad`.

    Yields:
        Copies of all parameters and buffers by name, to be read only: the weights that are put back.
    """
    with ExitStack() as stack:
        devices = {tensor.device for tensor in named_tensors(model).values()}
        stack.enter_context(torch.random.fork_rng(cuda_devices(model)))
        for kind in {"cpu"} | {device.type for device in devices}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(full_precision())
        stack.enter_context(differentiable(model))
        yield stack.enter_context(as_before(model))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Collect all parameters and buffers by name, also buffers that a state dict leaves out; a shared one once."""
    return dict(chain(model.named_parameters(), model.named_buffers()))


@torch.no_grad()
def move(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Copy `values` into those `tensors` of the same names, in place."""
    for name, value in values.items():
        tensors[name].copy_(value)


def mean_loss(model: nn.Module, loss_fn: LossFn, batches: Batches, seed: int = 0) -> tuple[float, float]:
    """Average the loss over all samples, in float64; call it inside :func:`undisturbed`.

    Args:
        model: the network.
        loss_fn: the mean loss of a batch.
        batches: the sample.
        seed: of torch's generators: whatever draws from them, in the model or in the batches, draws the same each time.

    Returns:
        The mean loss, and the number of samples.

    Raises:
        ValueError: the sample is empty or can be walked once only, or the loss is not of shape ().
    """
    with torch.no_grad():
        total: Tensor | None = None
        samples: float = 0
        for loss, count in _losses(model, loss_fn, batches, seed):
            weighted = loss.double() * count
            total = weighted if total is None else total + weighted
            samples += count
    return _mean(total, samples), samples


def mean_gradient(
    model: nn.Module, loss_fn: LossFn, batches: Batches, params: Sequence[Tensor]
) -> tuple[float, list[Tensor | None], float]:
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
    samples: float = 0
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


def expect_function(
    model: nn.Module, loss_fn: LossFn, batches: Batches, start: Mapping[str, Tensor], loss: float
) -> None:
    """Expect a loss that is a function of the weights alone; call it at the weights, inside :func:`undisturbed`.

    Args:
        model, loss_fn, batches: as for :func:`mean_loss`.
        start: copies of the weights, by name.
        loss: that was found at them.

    Raises:
        ValueError: another evaluation finds another loss, or the weights were written to by one.
    """
    params = dict(model.named_parameters())
    versions = [parameter._version for parameter in params.values()]
    again, _ = mean_loss(model, loss_fn, batches, seed=1)
    written = [parameter._version for parameter in params.values()] != versions
    expect_same_loss(loss, again, next(iter(params.values())).dtype)
    expect_same_weights(params, start, written)


def expect_same_loss(one: float, two: float, dtype: torch.dtype) -> None:
    """Expect two evaluations at the same weights to differ by rounding at most.

    Kernels that sum in another order differ by some 10 roundings, and by one of a number near 1 where the loss is
    nearly 0.

    Raises:
        ValueError: they differ by more.
    """
    eps = torch.finfo(dtype).eps
    if math.isfinite(one) and math.isfinite(two) and abs(one - two) > 1000 * eps * abs(one) + 8 * eps:
        raise ValueError(
            f"two evaluations of the loss at the same weights gave {one:.9g} and {two:.9g}, so it is no function of "
            "the weights alone: turn off what is random in eval mode, too, such as augmentation or a dropout that is "
            "always on"
        )


def expect_same_weights(params: Mapping[str, Tensor], start: Mapping[str, Tensor], written: bool = False) -> None:
    """Expect that an evaluation has left the weights alone.

    Args:
        params: by name.
        start: copies from before.
        written: whether something was written to them, be it what was there.

    Raises:
        ValueError: it has not.
    """
    changed = [name for name, parameter in params.items() if not same_bits(parameter, start[name])]
    if written or changed:
        name = f" {changed[0]!r}" if changed else "s"
        raise ValueError(
            f"the model writes to its parameter{name} when it is evaluated, so there is no loss at given weights: turn "
            "that off, for an nn.Embedding by max_norm = None"
        )


def _losses(model: nn.Module, loss_fn: LossFn, batches: Batches, seed: int = 0) -> Iterator[tuple[Tensor, float]]:
    """Yield each batch's mean loss and what it is the mean of, unless that is nothing."""
    if isinstance(batches, Iterator):
        raise ValueError(f"the batches can be walked once only, got a {type(batches).__name__}: pass list(batches)")
    generators.seed(seed, cuda_devices(model))
    for inputs, targets in batches:
        if not (counted := count(loss_fn, targets)):
            continue
        loss = loss_fn(model(inputs), targets)
        if loss.shape != ():
            raise ValueError(f"the loss of a batch has shape {tuple(loss.shape)}: return the batch's mean, of shape ()")
        if loss.is_complex():
            raise ValueError(f"the loss of a batch is {loss.dtype}: return a real number, such as its .abs()")
        yield loss, counted


def _mean(total: Tensor | None, samples: float) -> float:
    if total is None or samples == 0:
        raise ValueError("there are no samples: pass at least one batch with at least one target")
    return float(total) / samples


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """List the CUDA devices of a model, whose generators :func:`undisturbed` puts back."""
    return sorted({tensor.device for tensor in named_tensors(model).values() if tensor.is_cuda}, key=str)
