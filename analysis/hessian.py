"""The Hessian of a model's mean loss over a sample, known by its products with vectors.

With L_b the mean loss of batch b and n_b its targets, the sample's mean loss is L = Σ n_b L_b / Σ n_b, and

    H v = Σ (n_b / Σ n_b) ∇(∇L_b · v),

each batch by a second backward pass through its gradient (Pearlmutter 1994, doi 10.1162/neco.1994.6.1.147). The graph
of that gradient is the same for every v. If it is kept, a product costs a third to a half of one that builds it anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tune_sam.analysis.evaluation import (
    Batches,
    LossFn,
    count,
    expect_same_loss,
    expect_same_weights,
    has_nan,
    is_finite,
    undisturbed,
)
from tune_sam.analysis.memory import available, saved_tensors, shortage_told, storages

__all__ = ["GRAPH_BYTES", "Hessian"]

Product = Callable[[Tensor], Tensor]

GRAPH_BYTES = 2 << 30
"""Default limit on kept gradient graphs: 2 GiB, eleven batches of 512 molecules in the GCN of 125,442 parameters."""

_LOSS_AGAIN = 1e-3
_LOSS_ROUNDING = 1e-6
"""How far a batch's loss may be from its first value, as a fraction and in addition, to count as the same batch.

In float32, kernels that sum in another order differ by 1e-5 at most, and by some 1e-7 where the loss is nearly 0;
another batch differs by 1e-2 or more."""


class _BatchGradient:
    """The gradient of one batch's mean loss, with the graph that made it.

    Attributes:
        samples: n_b.
        loss: L_b.
        parts: ∂L_b/∂w for each parameter, or None for one that L_b does not depend on.
    """

    def __init__(self, samples: float, loss: Tensor, params: Sequence[Tensor], graph: bool) -> None:
        self.samples = samples
        self.loss = float(loss.detach())
        self.parts = torch.autograd.grad(loss, params, create_graph=graph, allow_unused=True)

    def add_product(
        self, pieces: Sequence[Tensor | None], params: Sequence[Tensor], totals: Sequence[Tensor], weight: float
    ) -> None:
        """Add weight · H_b v to `totals`; `pieces` is v for the parameters of `parts`, the others are for `params`."""
        # A part without a graph does not depend on the weights: its row of the Hessian is 0.
        rows = [
            (part, piece)
            for part, piece in zip(self.parts, pieces, strict=True)
            if part is not None and piece is not None and part.requires_grad
        ]
        if not rows:
            return
        parts, vector = zip(*rows, strict=True)
        columns = torch.autograd.grad(parts, params, vector, retain_graph=True, allow_unused=True)
        for total, column in zip(totals, columns, strict=True):
            if column is not None:
                total.add_(column, alpha=weight)


class Hessian:
    """The Hessian of the mean loss over all batches, as an operator on flat vectors.

    Use it in a `with` block::

        with Hessian(model, loss_fn, batches) as hessian:
            image = hessian.product(torch.randn(hessian.size, device=hessian.device))

    Inside the block the model is in eval mode (batch norm uses its running statistics, dropout is off), gradients are
    recorded, and autocast is off, as are the kernels that have no second derivative: fused attention, and cuDNN's
    recurrent ones. Afterwards, also after an exception, all that is as it was before, as are the model's parameters,
    buffers, `.grad`, `requires_grad` and torch's random state, and no graph is kept.

    Vectors hold the parameters in the order of `names`, each flattened. Parameters that need gradients but get none
    from any batch are left out and named in `unused`; parameters that need none are left out.

    Args:
        model: called as `model(inputs)`; its parameters are float32 or float64, on one device.
        loss_fn: `loss_fn(outputs, targets)`, the mean over a batch.
        batches: pairs (inputs, targets), the same and in the same order on every walk. Inputs are what the model
            takes, a tensor or a PyG `Batch`, on its device; batches weigh by
            :func:`tune_sam.analysis.evaluation.count`, empty ones do not count.
        graph_bytes: limit on the gradient graphs that are kept between products, by default `GRAPH_BYTES`, 2 GiB; it is
            never more than a quarter of what the device has left. The first batches are kept until one does not fit;
            that one and all later ones are rebuilt for each product, one at a time, on top of the limit. The numbers do
            not depend on it.

    Attributes:
        names: of the parameters in a vector.
        unused: names of parameters that need gradients but get none.
        size: length n of a vector.
        dtype, device: of the parameters.
        samples: Σ n_b, whole where the counts are.
        loss: the mean loss over all batches.
        batches_kept: batches whose graph is kept.
        largest_graph: bytes of the largest graph among those kept and the first that was not.
        products: calls of :meth:`product` so far.

    Raises:
        ValueError: on entering: there is nothing to differentiate, no sample, weights or a loss that are not finite,
            a loss that is no function of the weights alone, `batches` that can be walked only once, or memory runs out.
    """

    names: tuple[str, ...]
    unused: tuple[str, ...]
    size: int
    dtype: torch.dtype
    device: torch.device
    samples: float
    loss: float
    batches_kept: int
    largest_graph: int

    def __init__(self, model: nn.Module, loss_fn: LossFn, batches: Batches, *, graph_bytes: int = GRAPH_BYTES) -> None:
        if isinstance(batches, Iterator):
            raise ValueError(
                f"batches are walked again and again, but {type(batches).__name__} can be walked only "
                "once; give a list of them"
            )
        if isinstance(batches, Sequence) and batches and isinstance(batches[0], Tensor):
            raise ValueError(
                f"batches are pairs (inputs, targets), and this is a {type(batches).__name__} of tensors; give a list "
                "of pairs, of one batch [(inputs, targets)]"
            )
        if graph_bytes < 0:
            raise ValueError(f"graph_bytes must be >= 0, got {graph_bytes}")
        self._model = model
        self._loss_fn = loss_fn
        self._batches = batches
        self._graph_bytes = graph_bytes
        self._kept: list[_BatchGradient] = []
        self.products = 0

    def __enter__(self) -> "Hessian":
        named = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._candidates = list(named.values())
        self.dtype, self.device = _one_kind(named)
        _check_finite(self._model)
        with ExitStack() as stack:
            stack.callback(self._forget)
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            self._first_walk(stack.enter_context(undisturbed(self._model)))
            self._lay_out(named)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def product(self, v: Tensor) -> Tensor:
        """Multiply the Hessian with v [n], in float32 or float64; the result has the dtype of v.

        The model computes in its own dtype; sums over batches are in float64.

        Raises:
            ValueError: a batch is not what it was on the first walk, or memory runs out.
        """
        total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        pieces, totals = self._pieces(v), self._views(total)
        for batch in self._gradients():
            with _advice():
                batch.add_product(pieces, self._params, totals, batch.samples / self.samples)
        self.products += 1
        return total.to(v.dtype)

    def batch_products(self) -> Iterator[Product]:
        """Yield the product with each single batch's Hessian, as a function of v that lives until the next batch."""
        for batch in self._gradients():

            def product(v: Tensor, batch: _BatchGradient = batch) -> Tensor:
                total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
                with _advice():
                    batch.add_product(self._pieces(v), self._params, self._views(total), 1.0)
                return total.to(v.dtype)

            yield product

    @property
    def batches(self) -> int:
        """The number of batches that hold samples."""
        return len(self._losses)

    # --- the walks ---

    def _walk(self) -> Iterator[tuple[Any, Tensor]]:
        return ((inputs, targets) for inputs, targets in self._batches if count(self._loss_fn, targets))

    def _gradient(self, inputs: Any, targets: Tensor, graph: bool) -> _BatchGradient:
        loss = self._loss_fn(self._model(inputs), targets)
        if loss.numel() != 1:
            raise ValueError(f"loss_fn must return one number, the batch's mean, got a tensor of {list(loss.shape)}")
        if loss.is_complex():
            raise ValueError(f"the loss of a batch is {loss.dtype}: return a real number, such as its .abs()")
        if not loss.requires_grad:
            raise ValueError("the loss depends on no parameter that needs gradients; set requires_grad on some")
        if not loss.isfinite():
            raise ValueError(f"the loss of a batch is {float(loss.detach())}; leave that batch out or mend the model")
        return _BatchGradient(count(self._loss_fn, targets), loss, self._candidates, graph)

    def _first_walk(self, start: Mapping[str, Tensor]) -> None:
        """Find the parameters that are used and the losses, and keep as many graphs as fit.

        Each batch is evaluated once more: random numbers, as those of a dropout that is always on, are then others.
        """
        params = dict(self._model.named_parameters())
        self._used: set[int] = set()
        self._losses: list[float] = []
        counts: list[float] = []
        known = storages(self._model.parameters())
        self.largest_graph = 0
        room = available(self.device)
        left = self._graph_bytes if room is None else min(self._graph_bytes, room // 4)
        keep = left > 0
        for inputs, targets in self._walk():
            versions = [parameter._version for parameter in params.values()]
            with _advice():
                batch = self._gradient(inputs, targets, graph=keep)
                with torch.no_grad():
                    again = float(self._loss_fn(self._model(inputs), targets))
            expect_same_weights(params, start, versions != [parameter._version for parameter in params.values()])
            expect_same_loss(batch.loss, again, self.dtype)
            self._used |= {i for i, part in enumerate(batch.parts) if part is not None}
            self._losses.append(batch.loss)
            counts.append(batch.samples)
            if keep:
                new = storages(saved_tensors(part for part in batch.parts if part is not None))
                size = sum(size for address, size in new.items() if address not in known)
                self.largest_graph = max(self.largest_graph, size)
                left -= size
                keep = left >= 0
            if keep:
                self._kept.append(batch)
                known |= new
        if not counts:
            raise ValueError("the sample is empty: batches hold no targets; give at least one sample")
        self.samples, self.batches_kept = sum(counts), len(self._kept)
        self.loss = sum(n * loss for n, loss in zip(counts, self._losses, strict=True)) / self.samples

    def _gradients(self) -> Iterator[_BatchGradient]:
        """Yield each batch's gradient: kept, or built for this walk."""
        yield from self._kept
        if len(self._kept) == len(self._losses):
            return
        index = -1
        for index, (inputs, targets) in enumerate(self._walk()):
            if index >= len(self._losses):
                raise ValueError(_CHANGED)
            if index >= len(self._kept):
                with _advice():
                    batch = self._gradient(inputs, targets, graph=True)
                expected = self._losses[index]
                if abs(batch.loss - expected) > _LOSS_AGAIN * abs(expected) + _LOSS_ROUNDING:
                    raise ValueError(_CHANGED)
                yield batch
        if index + 1 < len(self._losses):
            raise ValueError(_CHANGED)

    # --- vectors ---

    def _lay_out(self, named: Mapping[str, Tensor]) -> None:
        self.names = tuple(name for i, name in enumerate(named) if i in self._used)
        self.unused = tuple(name for i, name in enumerate(named) if i not in self._used)
        self._params = [p for i, p in enumerate(self._candidates) if i in self._used]
        self._sizes = [p.numel() for p in self._params]
        self.size = sum(self._sizes)

    def _views(self, flat: Tensor) -> list[Tensor]:
        return [piece.view(p.shape) for piece, p in zip(flat.split(self._sizes), self._params, strict=True)]

    def _pieces(self, v: Tensor) -> list[Tensor | None]:
        """Cut v into a piece for each candidate parameter, None where it is unused."""
        if v.shape != (self.size,):
            raise ValueError(f"expected a vector of {self.size} numbers, one per used parameter, got {list(v.shape)}")
        views = iter(self._views(v.to(self.dtype)))
        return [next(views) if i in self._used else None for i in range(len(self._candidates))]

    def _forget(self) -> None:
        self._kept.clear()
        self._candidates = self._params = []


_CHANGED = (
    "batches are not the same on every walk; give them in a fixed order, for example a DataLoader with "
    "shuffle=False and without random augmentation"
)


def _advice() -> Any:
    return shortage_told("one batch's gradient graph does not fit; give smaller batches or a smaller graph_bytes")


def _one_kind(named: Mapping[str, Tensor]) -> tuple[torch.dtype, torch.device]:
    """Return the dtype and the device that all parameters share which need gradients."""
    if not named:
        raise ValueError("the model has no parameter that needs gradients; set requires_grad on some")
    for name, p in named.items():
        if p.is_complex():
            raise ValueError(
                f"curvature is that of real parameters, and {name!r} is {p.dtype}: let the model keep its real and "
                "imaginary part, torch.view_as_real of it, and put it together in forward"
            )
    kinds = {(p.dtype, p.device) for p in named.values()}
    if len(kinds) > 1:
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(f"parameters must share one dtype and device, got {found}; convert the model with .to(...)")
    dtype, device = kinds.pop()
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"curvature needs float32 or float64 parameters, got {dtype}; convert the model with .float()")
    return dtype, device


def _check_finite(model: nn.Module) -> None:
    """Expect finite weights, and buffers that are numbers: a mask may have infinite ones."""
    wrong = [f"weights {name!r}" for name, weight in model.named_parameters() if not is_finite(weight)]
    wrong += [f"buffer {name!r}" for name, buffer in model.named_buffers() if has_nan(buffer)]
    if wrong:
        raise ValueError(f"the {wrong[0]} is not finite, so there is no curvature; did training diverge?")
