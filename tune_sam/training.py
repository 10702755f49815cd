"""One training without Ray: an epoch, an evaluation, state out, state in.

The same seed and configuration give the same losses in a notebook, in a test and under Tune, on the same CPU and with
the same number of threads; on a GPU, where sums come in any order, they are the same but for rounding. A training
carries its own random state and leaves the caller's alone.
"""

import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_map_only

from tune_sam import generators
from tune_sam.groups import grouped
from tune_sam.metrics import Metric, finite, gathering, numbers
from tune_sam.optim import SharpnessAware, random_state
from tune_sam.optimizers import Base, find_optimizer, gradients_of
from tune_sam.space import Configuration
from tune_sam.store import walk
from tune_sam.workload import Setting, Splits, Store, Workload

Batch = tuple[Any, Any]
"""The network's inputs and the targets of some samples."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = (2 << 30) - 1
"""The most that `mallopt` takes."""

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
AUTO = "auto"


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a network in eval mode on one split.

    Attributes:
        loss: mean of the workload's loss.
        scores: the workload's metrics, by name; none where the loss is not finite, for some refuse such outputs.
    """

    loss: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch.

    Attributes:
        number: epochs trained so far.
        metrics: `train/…`, `val/…`, `gap/…`, `time/epoch_s`, `compute/gradients`; empty if the training diverged.
            `train/lr` is the highest rate of any group of parameters as the epoch begins, and `compute/gradients`
            counts those of single samples that were taken so far. `val/…` has all of the workload's metrics, `train/…`
            and `gap/…` its scores alone.
        diverged: a loss or a weight is not finite.
        unperturbed: first passes so far whose gradient was zero or not finite, so that SAM had no direction to climb
            in: one a step, or with `m` one a part of its batch.
    """

    number: int
    metrics: dict[str, float]
    diverged: bool
    unperturbed: int


class Trainer:
    """One training of a workload's network with one configuration.

    Args:
        workload: for network, loss and base optimizer, which get the configuration's further hyperparameters.
        setting: of the network.
        configuration: optimizer, ρ, learning rate, batch size, seed.
        splits: to train on, and to evaluate after each epoch unless the validation split is empty. They are moved to
            `device`.
        epochs: length of the training, which also sets the schedule.
        device: by default CUDA where torch sees a GPU, else the CPU.
        threads: of torch in this process, by default 1. Sums differ with their number, so the Trainer sets it: a Ray
            worker starts with 1, a notebook with all.
        precision: of the network's passes; `bf16` on a GPU that multiplies matrices of it and `fp32` elsewhere by
            default. `bf16` runs them under autocast, with weights, gradients and losses in float32. `auto` is `bf16` on
            a CPU, too, that multiplies matrices of it, if the setting says so.
        compile: run the network through `torch.compile`, which takes a minute or more before the first batch.

    A Trainer changes its process: see :func:`prepare_process`. On CUDA, float32 products use TF32 from then on.

    Raises:
        ValueError: there is no such precision, or `m` is given to an optimizer that is no SharpnessAware.
    """

    def __init__(
        self,
        workload: Workload,
        setting: Setting,
        configuration: Configuration,
        splits: Splits,
        *,
        epochs: int,
        device: torch.device | None = None,
        threads: int = 1,
        precision: str | None = None,
        compile: bool = False,
    ) -> None:
        prepare_process(threads)
        self.workload = workload = workload.configured(configuration)
        self.setting = setting = workload.placed(setting)
        self.configuration = configuration
        self.epochs = epochs
        self.device = device or default_device()
        self.precision = _precision(precision, setting, self.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.splits = splits.to(self.device)
        self.done = 0
        self.seconds = 0.0
        self.gradients = 0
        self._passes = 0
        self._unperturbed_before = 0
        self.last: Epoch | None = None
        self._is_judged = False
        with torch.random.fork_rng(self._cuda_devices()):
            generators.seed(configuration.seed, self._cuda_devices())
            self.model = workload.build(setting).to(self.device)
            if splits.weights:
                _begin_with(self.model, splits.weights)
            self._random = random_state(self.device)
        self._network = _compiled(self.model) if compile else self.model
        self._average = _average(self.model, setting.ema) if setting.ema else None
        self.optimizer = build_optimizer(self.model, workload, configuration)
        stepping = taking_steps(self.optimizer)
        if "m" in configuration.more and stepping is self.optimizer:
            raise ValueError(f"optimizer {configuration.optimizer!r} perturbs no parts of a batch; leave m out")
        if setting.clip_norm:
            stepping.register_step_pre_hook(_clipping(self.model, setting.clip_norm))
        self._sizes = batch_sizes(len(splits.train), configuration.batch_size)
        steps = len(self._sizes) if workload.schedule.each == "step" else 1
        self.schedule = workload.schedule.make(stepping, epochs * steps)

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained, or the training diverged."""
        return self.done >= self.epochs or bool(self.last and self.last.diverged)

    def epoch(self) -> Epoch:
        """Train one epoch and evaluate. Divergence is a result, not an exception."""
        started = time.perf_counter()
        lr = float(max(self.schedule.get_last_lr()))
        self.model.train()
        with self._own_random_state():
            losses = torch.stack([self._counted(number, batch) for number, batch in enumerate(self.batches())])
        self.done += 1
        metrics = self._evaluations() if self._finite(losses) else {}
        if self.workload.schedule.each == "epoch":
            self._next_rate(metrics)
        diverged = not metrics
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if not diverged:
            metrics |= {"train/lr": lr, "time/epoch_s": seconds, "compute/gradients": float(self.gradients)}
        self.last = Epoch(self.done, {} if diverged else metrics, diverged, self._unperturbed())
        return self.last

    def rehearse(self) -> None:
        """Take one step and evaluate one batch, to measure the memory they need; the training is of no use after it."""
        self.model.train()
        with self._own_random_state():
            self.step(next(self.batches()))
        some = torch.arange(min(len(self.splits.train), self.workload.evaluation_batch), device=self.device)
        self.evaluate(self.splits.train.subset(some))

    @contextmanager
    def judged(self) -> Iterator[nn.Module]:
        """Give the network that is evaluated, in eval mode: the model, and restore its mode afterwards.

        Where the setting has a moving average, the model has its weights and buffers for the while, so that whoever
        holds the model sees these, as a loss does that reads what its last pass left. Neither a step nor the state is
        to be taken then.
        """
        if self._is_judged:
            yield self.model
            return
        training, pairs = self.model.training, _pairs(self.model, self._average.module) if self._average else []
        self._is_judged = True
        _exchange(pairs)
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.train(training)
            _exchange(pairs)
            self._is_judged = False

    def outputs(self, inputs: Any) -> Any:
        """Compute the network's outputs, of a classifier [n, classes], in float32, at this training's precision."""
        return outputs(self._network, inputs, self.precision, self.device)

    def evaluate(self, store: Store) -> Evaluation:
        """Evaluate the network on `store`, as :meth:`judged` gives it."""
        metrics = gathering(self.workload.metrics(self.setting), self.device)
        with self.judged():
            return evaluate(self.outputs, self.workload, store.to(self.device), self.device, metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a training is resumed; on a CPU it resumes bitwise."""
        return {
            "done": self.done,
            "seconds": self.seconds,
            "gradients": self.gradients,
            "last": asdict(self.last) if self.last else None,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": {"cpu": self._random.cpu, "cuda": self._random.cuda},
            **({} if self._average is None else {"average": self._average.state_dict()}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`state_dict` returned for the same workload, setting and configuration."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._random = replace(self._random, **state["random"])
        self.done, self.seconds = state["done"], state["seconds"]
        passes = gradients_of(self.configuration.optimizer)  # of a release that did not count
        self.gradients = state.get("gradients", round(self.done * len(self.splits.train) * passes))
        self.last = Epoch(**state["last"]) if state["last"] else None
        before = self.last.unperturbed if self.last else 0
        self._unperturbed_before += before - self._unperturbed()  # the optimizer counts from when it was made

    def batches(self) -> Iterator[list[list[Batch]]]:
        """Yield the epoch's batches, whose order depends on seed and epoch alone.

        Returns:
            The batch of each step as its parts, of which each has its own perturbation, and each part as the pieces
            that are passed at a time. Without `m` and `microbatch` a batch is one part of one piece. The last part or
            piece may have one sample more than `m` or `microbatch`, see :func:`batch_sizes`.
        """
        order = torch.Generator().manual_seed((self.configuration.seed << 20) + self.done)
        indices = torch.randperm(len(self.splits.train), generator=order).to(self.device)
        most = max(self._sizes)
        part, piece = int(self.configuration.more.get("m", most)), self.setting.microbatch or most
        steps = [[_cut(some, piece) for some in _cut(step, part)] for step in indices.split(self._sizes)]
        read = walk(self.splits.train, [indices for parts in steps for pieces in parts for indices in pieces])
        return ([[next(read) for _ in pieces] for pieces in parts] for parts in steps)

    def _counted(self, number: int, batch: list[list[Batch]]) -> Tensor:
        """Take the epoch's step of a number, count its gradients of single samples, and return its loss."""
        self._passes = 0
        loss = self.step(batch)
        self.gradients += self._sizes[number] * self._passes // sum(map(len, batch))
        return loss

    def step(self, batch: list[list[Batch]]) -> Tensor:
        """Take one optimizer step with a batch of :meth:`batches`, and return the loss at the weights before it.

        Where no target of the batch counts, its loss is the mean of nothing: no step is taken, and 0 is returned.
        """
        parts = [
            [(self.workload.augment(inputs, self.setting), targets) for inputs, targets in pieces] for pieces in batch
        ]
        whole = len(parts) == len(parts[0]) == 1
        parts = self._with_targets(parts)
        loss = self._taken(parts, whole) if parts else torch.zeros((), device=self.device)
        if self.workload.schedule.each == "step":
            self.schedule.step()
        return loss

    def _with_targets(self, parts: list[list[Batch]]) -> list[list[Batch]]:
        """Leave out the pieces in which no target counts, whose mean loss is of nothing."""
        kept = [[piece for piece in pieces if self.workload.count(piece[1])] for pieces in parts]
        return [pieces for pieces in kept if pieces]

    def _taken(self, parts: list[list[Batch]], whole: bool) -> Tensor:
        """Take a step with the pieces of each part, which are all of the batch if it is `whole`; give its loss."""
        counted = 0 if whole else sum(self.workload.count(targets) for pieces in parts for _, targets in pieces)
        closures = [partial(self._passed, pieces, counted) for pieces in parts]
        if isinstance(self.optimizer, SharpnessAware):
            losses = self.optimizer.step_parts(closures, self.model)
        else:
            self.optimizer.zero_grad()
            losses = [closure() for closure in closures]
            self.optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return losses[0] if whole else torch.stack(losses).sum()

    def _passed(self, pieces: list[Batch], counted: float) -> Tensor:
        """Add a part's gradient of the batch's mean loss, and return its share of that loss.

        Args:
            pieces: of the part.
            counted: what the loss of the whole batch is the mean of; 0 where the only piece is the batch.
        """
        shares = []
        for inputs, targets in pieces:
            loss = self.workload.loss(self.outputs(inputs), targets)
            if counted:
                loss = loss * (self.workload.count(targets) / counted)
            loss.backward()
            self._passes += 1
            shares.append(loss.detach())
        return shares[0] if len(shares) == 1 else torch.stack(shares).sum()

    def _next_rate(self, metrics: Mapping[str, float]) -> None:
        """Step a schedule that goes by epochs."""
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        elif metrics:
            self.schedule.step(metrics.get("val/loss", metrics["train/loss"]))

    def _finite(self, losses: Tensor) -> bool:
        return bool(losses.isfinite().all()) and all(bool(p.isfinite().all()) for p in self.model.parameters())

    def _evaluations(self) -> dict[str, float]:
        """Evaluate both splits with the same weights in eval mode, so that their gap is one of generalisation alone.

        Returns:
            The metrics; none if a loss is not finite.

        Raises:
            ValueError: a score is not finite, though both losses are.
        """
        train, judging = self.evaluate(self.splits.train), self.workload.scores
        if not math.isfinite(train.loss):
            return {}
        reached = finite({name: train.scores[name] for name in judging}, "training")
        trained = {"train/loss": train.loss, **{f"train/{name}": value for name, value in reached.items()}}
        if not len(self.splits.validation):
            return trained
        val = self.evaluate(self.splits.validation)
        if not math.isfinite(val.loss):
            return {}
        found = finite(val.scores, "validation")
        return {
            **trained,
            "val/loss": val.loss,
            **{f"val/{name}": value for name, value in found.items()},
            "gap/loss": val.loss - train.loss,
            **{f"gap/{name}": score.sign * (reached[name] - found[name]) for name, score in judging.items()},
        }

    def _unperturbed(self) -> int:
        if not isinstance(self.optimizer, SharpnessAware):
            return 0
        counted = self.optimizer.unperturbed
        return self._unperturbed_before + counted.zero + counted.nonfinite

    def _cuda_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        with torch.random.fork_rng(self._cuda_devices()):
            self._random.restore()
            yield
            self._random = random_state(self.device)


def batch_sizes(samples: int, size: int) -> list[int]:
    """Give the sizes of an epoch's batches, or of a batch's parts or their pieces; the last has what is left.

    A single sample that is left joins those before it: in training a batch norm needs two.
    """
    sizes = [size] * (samples // size) + [samples % size] * (samples % size > 0)
    if sizes[-1] == 1 < size and len(sizes) > 1:
        sizes[-2:] = [size + 1]
    return sizes


def _cut(indices: Tensor, size: int) -> list[Tensor]:
    """Cut the indices of samples, of shape (N,), as :func:`batch_sizes` has it."""
    return list(indices.split(batch_sizes(len(indices), size)))


def _precision(asked: str | None, setting: Setting, device: torch.device) -> str:
    """Choose the precision of a network's passes.

    Raises:
        ValueError: there is none of this name.
    """
    if asked not in (None, AUTO, *PRECISIONS):
        raise ValueError(f"there is no precision {asked!r}; choose from {', '.join((AUTO, *PRECISIONS))}")
    if asked and asked != AUTO:
        return asked
    if device.type == "cuda":
        return "bf16" if gpu_multiplies_bf16(device) else "fp32"
    return "bf16" if asked == AUTO and setting.bf16_on_cpu and multiplies_bf16() else "fp32"


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for products of bf16; others compute them by way of float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def gpu_multiplies_bf16(device: torch.device) -> bool:
    """Whether this GPU has instructions for products of bf16, as NVIDIA's from Ampere on; others emulate them."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def outputs(network: Callable[[Any], Any], inputs: Any, precision: str, device: torch.device) -> Any:
    """Compute the outputs of a network on `device` at a precision; those of half a precision as float32."""
    if precision == "fp32":
        return network(inputs)
    # The context ends with the forward pass: it keeps weights it has cast, and SAM's second pass has others.
    with torch.autocast(device.type, PRECISIONS[precision]):
        return tree_map_only(Tensor, _in_float32, network(inputs))


def _in_float32(output: Tensor) -> Tensor:
    """Take what autocast has made: masks, indices, complex and double numbers are the network's own."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def evaluate(
    network: Callable[[Any], Any],
    workload: Workload,
    store: Store,
    device: torch.device,
    metrics: Metric,
) -> Evaluation:
    """Compute loss and scores of the network's outputs for a store that is on `device`.

    The loss is nan, and there are no scores, where no target counts.

    Args:
        network: in eval mode.
        workload: for loss and count.
        store: the split.
        device: of network and store.
        metrics: that have seen nothing; they gather the scores.

    Raises:
        ValueError: a metric is no number.
    """
    loss = torch.zeros((), dtype=torch.float64, device=device)
    counted: float = 0
    with torch.no_grad():
        for inputs, targets in walk(store, torch.arange(len(store), device=device).split(workload.evaluation_batch)):
            outputs = network(inputs)
            metrics.update(outputs, targets)
            if count := workload.count(targets):
                loss = loss + workload.loss(outputs, targets).double() * count
                counted += count
    mean = float(loss) / counted if counted else math.nan
    return Evaluation(mean, numbers(metrics.compute()) if math.isfinite(mean) else {})


def _begin_with(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put pretrained weights into a network.

    Raises:
        ValueError: the network has no weights of some name, or of another shape.
    """
    try:
        unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    except RuntimeError as error:
        raise ValueError(f"weights(): {' '.join(str(error).split())}") from None
    if unknown:
        raise ValueError(f"weights(): the network has no {unknown[0]!r}; give those of its state dict")


def _pairs(model: nn.Module, average: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Pair parameters and buffers of a model with their averages; a buffer that a pass has made may have none."""
    named, averages = (dict([*one.named_parameters(), *one.named_buffers()]) for one in (model, average))
    return [(tensor, averages[name]) for name, tensor in named.items() if name in averages]


def _exchange(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for one, other in pairs:
        one.data, other.data = other.data, one.data


def _average(model: nn.Module, decay: float) -> AveragedModel:
    """Make the moving average of a model's weights and buffers, which begins with those after the first step.

    Buffers of whole numbers, such as indices of positions, are the model's: an average would be cut to another index.
    So is what is infinite in a buffer, as in a mask: it has no average.

    Raises:
        ValueError: a buffer is sparse.
    """
    if sparse := [name for name, buffer in model.named_buffers() if buffer.layout != torch.strided]:
        raise ValueError(f"`ema` takes no sparse buffers, as {sparse[0]!r}; leave it out, or keep the buffer dense")
    of_numbers = get_ema_multi_avg_fn(decay)

    def averaged(averages: Sequence[Tensor], values: Sequence[Tensor], steps: int | Tensor) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            of_numbers(averages, values, steps)
            for average, value in zip(averages, values, strict=True):
                if average.data_ptr() in buffers:
                    average.copy_(average.where(average.isfinite(), value))
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)

    made = AveragedModel(model, multi_avg_fn=averaged, use_buffers=True)
    buffers = {buffer.data_ptr() for buffer in made.module.buffers()}
    return made


def _clipping(model: nn.Module, norm: float) -> Callable[..., None]:
    """Make a hook of an optimizer that clips the gradient with which it takes its step."""

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), norm)

    return clip


def _compiled(model: nn.Module) -> Callable[[Any], Tensor]:
    # What earlier trainings of this process compiled would count against torch's limit of variants.
    torch.compiler.reset()
    return torch.compile(model)


def build_optimizer(model: nn.Module, workload: Workload, configuration: Configuration) -> torch.optim.Optimizer:
    """Build the optimizer that a configuration names, over the parameters of `model` that the workload trains.

    Raises:
        ValueError: there is no such optimizer, or it needs a ρ.
    """
    base = workload.base_optimizer
    make: Base = partial(base.make, lr=configuration.lr, **base.options)
    if (groups := workload.parameter_groups(model)) is not None:
        make = grouped(make, groups, configuration.lr)
    return find_optimizer(configuration.optimizer).build(model, make, configuration)


def taking_steps(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Give the optimizer that takes the steps, whose rates a schedule changes: of a sharpness-aware one its base."""
    return optimizer.base_optimizer if isinstance(optimizer, SharpnessAware) else optimizer


def prepare_process(threads: int) -> None:
    """Set the threads of torch, flush numbers below 1e-38 to zero on the CPU, and keep freed memory.

    Weight decay shrinks the weights of dead units to such numbers, with which arithmetic is many times slower. A
    training of the GCN in which 70 % of the weights are so small takes 4.1 s an epoch without this, and 0.85 s with it.
    """
    torch.set_flush_denormal(True)  # first: threads that torch starts take it over
    torch.set_num_threads(threads)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep up to 2 GiB of freed memory, where it is glibc.

    It gives large tensors' memory back to the system at once, which clears each page anew for the next ones: half of
    the time in which the GCN is evaluated in batches of 512 graphs.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, KEPT_BYTES)


def default_device() -> torch.device:
    """Choose CUDA where torch sees a GPU, else the CPU, whatever GPU fraction a scheduler has assigned."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Name a device as its maker does, such as `NVIDIA H100 80GB HBM3`; `CPU` for the CPU."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type.upper()
