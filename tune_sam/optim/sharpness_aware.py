"""The two passes around a base optimizer, which all optimizers of this package have in common."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from tune_sam.optim.passes import modules_called, random_state, second_pass

R = TypeVar("R")
Group = dict[str, Any]
Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch._foreach_* functions take


@dataclass(frozen=True)
class Unperturbed:
    """Numbers of first passes that had no usable gradient norm ‖T g‖₂, so that ε̂ was 0.

    Attributes:
        zero: passes whose norm was exactly 0.
        nonfinite: passes whose norm was inf or nan.
    """

    zero: int
    nonfinite: int


def _check_nonnegative(name: str, value: object) -> None:
    if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def gradients(params: Iterable[Tensor]) -> list[Tensor]:
    """List the gradients of those that have one."""
    return [p.grad for p in params if p.grad is not None]


def _expect_dense(params: Iterable[Tensor]) -> None:
    for p in params:
        if hasattr(p, "device_mesh"):
            raise ValueError("SAM needs whole parameters and got a sharded one: use DistributedDataParallel, not FSDP2")
        if p.grad is not None and p.grad.layout != torch.strided:
            raise ValueError(
                f"SAM needs dense gradients and got one of layout {p.grad.layout}, for a parameter of shape "
                f"{tuple(p.shape)}: leave out sparse=True where the model makes its nn.Embedding"
            )


def reals(tensors: list[Tensor]) -> list[Tensor]:
    """View complex numbers as two real ones each."""
    return [torch.view_as_real(t) if t.is_complex() else t for t in tensors]


def _like_reals(scale: Tensors | None, params: list[Tensor]) -> Tensors | None:
    """Give both parts of a complex number its T."""
    if scale is None:
        return None
    return [t.unsqueeze(-1).expand(*t.shape, 2) if p.is_complex() else t for t, p in zip(scale, params, strict=True)]


def _times(scale: Tensors | None, tensors: Tensors) -> Tensors:
    """Multiply each tensor by T; return the tensors themselves for T = 1."""
    return tensors if scale is None else torch._foreach_mul(tensors, scale)


def projected(tensors: Tensors, onto: Tensors) -> tuple[Tensor, ...]:
    """Split off from a vector, given as real tensors, its part along another one; what is left is orthogonal to that.

    Where the other one is 0 or too long for a number, everything is left; where both are the same, exactly nothing, not
    the rounding of a norm, which LookSAM would take for a direction. Nothing waits for the device.
    """
    norm = get_total_norm(onto)
    unit = torch._foreach_mul(onto, torch.where(norm == 0, 0.0, 1 / norm))  # whose products do not overflow
    wide = torch.promote_types(norm.dtype, torch.float32)

    def along(of: Tensors) -> Tensor:
        return torch.stack([part.sum(dtype=wide) for part in torch._foreach_mul(of, unit)]).sum()

    share = torch.where((norm == 0) | ~norm.isfinite(), 0.0, along(tensors) / along(onto))
    return torch._foreach_sub(tensors, torch._foreach_mul(onto, share.to(norm.dtype)))


class SharpnessAware(Optimizer):
    """The two passes around a base optimizer; a subclass says what differs from it.

    It gives the elementwise scale T, and, where it needs to, which parameters climb, what becomes of the gradients of
    both passes, and what goes before the base optimizer's step.

    The base optimizer owns the parameter groups and the state: `param_groups` and `state` here are the very
    same objects, so a learning-rate scheduler over either optimizer acts on the base. Each group holds its
    own radius in `group["rho"]`, which may be changed between steps. Step and state-dict hooks belong on
    `base_optimizer`.

    Args:
        params: what a torch optimizer takes: parameters, named parameters, or groups (dicts) of either.
        base_optimizer_class: class of the optimizer that takes the step, e.g. `torch.optim.SGD`.
        own: defaults of the options that this class adds to every group, all finite and >= 0.
        base_kwargs: options of the base optimizer, e.g. `lr`.

    Attributes:
        base_optimizer: the optimizer that takes the step.

    Raises:
        ValueError: an own option is negative or not finite, or the base optimizer has an option of that name
            (`Adadelta` has a `rho`), or its step needs a closure (`LBFGS`).
    """

    _kept: ClassVar[tuple[str, ...]] = ("defaults", "base_optimizer", "_own", "_counts")
    """Attributes that a copy or a pickle has; the others live in one step."""

    def __init__(
        self,
        params: ParamsT,
        base_optimizer_class: Callable[..., Optimizer],
        own: dict[str, float],
        base_kwargs: dict[str, Any],
    ) -> None:
        for name, value in own.items():
            _check_nonnegative(name, value)
        self.base_optimizer = base_optimizer_class(params, **base_kwargs)
        us, base = type(self).__name__, type(self.base_optimizer).__name__
        if clash := own.keys() & self.base_optimizer.defaults.keys():
            raise ValueError(f"{us} cannot wrap {base}: both have an option named {min(clash)!r}")
        closure = inspect.signature(type(self.base_optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(f"{us} cannot wrap {base}: its step() needs a closure; choose an optimizer whose does not")
        self._own = own
        for group in self.param_groups:
            self._complete(group)
        self._saved: dict[Tensor, Tensor] = {}
        self._climbed: list[Tensor] | None = None
        self._counts: Tensor | None = None
        # Optimizer.__init__ would make groups and state of its own; this makes the rest, as when unpickling.
        super().__setstate__({"defaults": self.base_optimizer.defaults | own})

    # --- parameter groups and state are the base optimizer's ---

    @property
    def param_groups(self) -> list[Group]:  # type: ignore[override]
        """The base optimizer's groups, each with its `rho`."""
        return self.base_optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimizer's state; nothing is added to it."""
        return self.base_optimizer.state

    def add_param_group(self, param_group: Group) -> None:
        """Add a group to the base optimizer; its `rho` is the constructor's unless it carries its own.

        Raises:
            ValueError: its `rho` is negative or not finite, or torch refuses the group.
        """
        self._complete(param_group)
        self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state dict, whose groups include each `rho`."""
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or a bare base optimizer's: then each group keeps its `rho`."""
        kept = [{name: group[name] for name in self._own} for group in self.param_groups]
        self.base_optimizer.load_state_dict(state_dict)
        for group, own in zip(self.param_groups, kept, strict=True):
            for name, value in own.items():
                group.setdefault(name, value)

    def _complete(self, group: Group) -> None:
        for name, default in self._own.items():
            _check_nonnegative(name, group.setdefault(name, default))

    def __getstate__(self) -> dict[str, Any]:
        self._expect_at_w("copying or pickling the optimizer")
        return {name: self.__dict__[name] for name in self._kept} | {"_saved": {}, "_climbed": None}

    # --- the two passes ---

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Climb from w to w + ε̂ with the gradients of the first pass, keeping an exact copy of w.

        Parameters whose gradient is None are left alone. If ‖T g‖₂ is 0, inf or nan, then ε̂ = 0, and
        `unperturbed` counts it. Nothing here waits for the device. Whatever raises, the weights are w.

        Args:
            zero_grad: set all gradients to None afterwards.

        Raises:
            RuntimeError: the weights are already at w + ε̂.
            ValueError: a gradient is sparse, or a parameter sharded.
        """
        self._expect_at_w("first_step()")
        # All that can run out of memory comes before the first weight moves.
        params, ascent = self._ascent()
        self._save(params)
        self._note_first()
        self._climbed = params
        try:
            if params:
                torch._foreach_add_(reals(params), ascent)
        except BaseException:
            self.restore()
            raise
        # Inside torch.autocast the second pass would otherwise reuse the low-precision copies of w.
        torch.clear_autocast_cache()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Copy w back, bitwise and in place; the gradients are then those that the base optimizer steps with.

        Raises:
            RuntimeError: no `first_step` came before.
        """
        self._expect_climbed("restore()")
        climbed, self._climbed = self._climbed, None
        if climbed:
            torch._foreach_copy_(climbed, [self._saved[p] for p in climbed])
        torch.clear_autocast_cache()
        self._combine()

    def second_step(self, zero_grad: bool = False) -> None:
        """Copy w back, then take the base optimizer's step with the gradients at w + ε̂.

        Args:
            zero_grad: set all gradients to None afterwards.

        Raises:
            RuntimeError: no `first_step` came before.
        """
        self._expect_climbed("second_step()")
        self.restore()
        self._descend()
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], R] | None = None) -> R:
        """Take one whole step on one batch: two calls of `closure`, then the base optimizer's step.

        The second call is inside `second_pass` for every module that the first one called. Finding those takes a hook
        on all modules, at which a network compiled by `torch.compile` is compiled anew; `step_parts([closure], model)`
        needs none.

        Args:
            closure: runs forward and backward of the batch and returns the loss. All gradients are None when
                it is called, so it need not zero them.

        Returns:
            What the closure returned in the first pass: the loss at w.

        Raises:
            RuntimeError: there is no closure, or the weights are at w + ε̂. An exception of the closure
                passes through and finds the weights at w.
        """
        if closure is None:
            raise RuntimeError("step() needs a closure that runs forward and backward: it makes two passes")
        return self.step_parts([closure])[0]

    def step_parts(self, closures: Iterable[Callable[[], R]], model: nn.Module | None = None) -> list[R]:
        """Take one step on a batch that is perturbed in disjoint parts: m-sharpness (Foret et al. 2021, §4.1).

        Each part of m samples has its own ε̂ from its own gradient. The parts' gradients, each at its own w +
        ε̂, add up, and the base optimizer takes one step with the sum. So a part backpropagates its
        contribution to the batch's mean loss, which is its own mean times its fraction of the samples::

            def part(x: Tensor, y: Tensor) -> Tensor:
                loss = criterion(model(x), y) * len(x) / batch_size
                loss.backward()
                return loss

            losses = optimizer.step_parts(partial(part, *xy) for xy in zip(x.split(m), y.split(m)))

        Running statistics of batch norms move once per part, with its first pass.

        Args:
            closures: one per part, each called exactly twice; see `step`.
            model: whose batch norms stand still in the second passes. Default: all modules that the closure
                calls in its first pass. They stay hidden in a function under `torch.compile` and after
                `Module.compile()`: pass the model there.

        Returns:
            What each closure returned in its first pass.

        Raises:
            RuntimeError: the weights are at w + ε̂.
            ValueError: there is no closure.
        """
        self._expect_at_w("step()")
        self.zero_grad()
        results: list[R] = []
        total: dict[Tensor, Tensor] = {}
        for closure in closures:
            results.append(self._two_passes(closure, model))
            self._move_gradients(total)
        if not results:
            raise ValueError("step_parts() needs at least one closure, got none")
        for param, gradient in total.items():
            param.grad = gradient
        self._descend()
        return results

    @property
    def unperturbed(self) -> Unperturbed:
        """First passes without a perturbation since this object was made. Reading it waits for the device."""
        return Unperturbed(0, 0) if self._counts is None else Unperturbed(*self._counts.tolist())

    # --- what a subclass says ---

    def _scale(self, group: Group, params: list[Tensor]) -> Tensors | None:
        """Return T for `params`, those of the group that have a gradient, real, in their shapes; None, for T = 1."""
        return None

    def _climbing(self, group: Group) -> list[Tensor]:
        """Choose the parameters of a group that climb; all that have a gradient by default."""
        return [p for p in group["params"] if p.grad is not None]

    def _copied(self) -> dict[Tensor, Tensor]:
        """Copy the gradients that climb: whoever holds them may write the second pass's into the same memory."""
        params = [p for group in self.param_groups for p in self._climbing(group)]
        return {p: g.clone() for p, g in zip(params, gradients(params), strict=True)}

    def _note_first(self) -> None:
        """Keep what is needed later of the gradients of the first pass, before the climb; by default nothing is."""

    def _combine(self) -> None:
        """Make the gradients of the second pass those that the base optimizer steps with; by default they are.

        The weights are at w. After a pass that failed, gradients may be missing.
        """

    # --- their parts ---

    def _ascent(self) -> tuple[list[Tensor], list[Tensor]]:
        """Collect the parameters that have a gradient, and compute ε̂ for each in its shape."""
        groups = [(group, self._climbing(group)) for group in self.param_groups]
        groups = [(group, params) for group, params in groups if params]
        _expect_dense(chain.from_iterable(params for _, params in groups))
        scales = [_like_reals(self._scale(group, params), params) for group, params in groups]
        grads = [reals(gradients(params)) for _, params in groups]
        scaled = [_times(scale, g) for scale, g in zip(scales, grads, strict=True)]
        norm = get_total_norm(chain.from_iterable(scaled))
        unusable = self._count_unusable(norm)
        ascent: list[Tensor] = []
        for (group, params), scale, first in zip(groups, scales, scaled, strict=True):
            # Flat, to be masked in one kernel without asking the device: no product turns an inf into 0.
            flat = torch.cat([t.reshape(-1) for t in _times(scale, first)])
            # ‖T g‖ / ρ is inf for ρ = 0, which is right, while ρ / ‖T g‖ may overflow.
            flat.div_(norm / group["rho"]).masked_fill_(unusable, 0.0)
            if group.get("maximize", False):
                flat.neg_()
            real = reals(params)
            pieces = torch.split(flat, [p.numel() for p in real])
            ascent += [piece.view_as(p) for piece, p in zip(pieces, real, strict=True)]
        return [p for _, params in groups for p in params], ascent

    def _count_unusable(self, norm: Tensor) -> Tensor:
        """Decide whether ε̂ must be 0, a bool of shape (), for `norm` of shape (); count on the device."""
        zero, nonfinite = norm == 0, ~norm.isfinite()
        if self._counts is None:
            self._counts = torch.zeros(2, dtype=torch.int64, device=norm.device)
        self._counts = self._counts.to(norm.device) + torch.stack((zero, nonfinite))
        return zero | nonfinite

    def _save(self, params: list[Tensor]) -> None:
        """Copy the parameters into buffers that live as long as the optimizer."""
        for p in params:
            buffer = self._saved.get(p)
            # The model may have been moved or cast since the last step.
            if buffer is None or (buffer.device, buffer.dtype) != (p.device, p.dtype):
                self._saved[p] = torch.empty_like(p, requires_grad=False)
        if params:
            torch._foreach_copy_([self._saved[p] for p in params], params)

    def _two_passes(self, closure: Callable[[], R], model: nn.Module | None) -> R:
        """Leave the gradient at w + ε̂ in `.grad`, and the weights at w."""
        rng = random_state(next(p.device for group in self.param_groups for p in group["params"]))
        # Not where the model is known: torch.compile would compile anew for each hook that it sees registered.
        modules: AbstractContextManager[Iterable[nn.Module]]
        modules = modules_called() if model is None else nullcontext([model])
        with torch.enable_grad(), modules as called:
            result = closure()
        try:
            self.first_step(zero_grad=True)
            with torch.enable_grad(), second_pass(nn.ModuleList(called), rng):
                closure()
        finally:
            if self._climbed is not None:
                self.restore()
        return result

    @torch.no_grad()
    def _move_gradients(self, total: dict[Tensor, Tensor]) -> None:
        """Add all gradients to `total`, a parameter's first one without a copy, and set them to None."""
        live = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if again := [p for p in live if p in total]:
            torch._foreach_add_([total[p] for p in again], gradients(again))
        new = [p for p in live if p not in total]
        total.update(zip(new, gradients(new), strict=True))
        self.zero_grad()

    def _descend(self) -> None:
        self.base_optimizer.step()
        # A scheduler over this optimizer warns unless it finds this, which only step() would set.
        self._opt_called = True

    def _expect_at_w(self, what: str) -> None:
        if self._climbed is not None:
            raise RuntimeError(f"{what} found the weights at w + ε̂: call second_step() or restore() first")

    def _expect_climbed(self, what: str) -> None:
        if self._climbed is None:
            raise RuntimeError(f"{what} found the weights at w: call first_step() first")
