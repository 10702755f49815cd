"""One training without Ray: an epoch, an evaluation, state out, state in.

The same seed and configuration give the same losses in a notebook, in a test and under Tune, on the same device and
with the same number of threads. A training carries its own random state and leaves the caller's alone.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_sam.optim import ASAM, SAM, ASAMAll, SharpnessAware, random_state
from tune_sam.space import OPTIMIZERS, Configuration
from tune_sam.workload import BaseOptimizer, Setting, Splits, Store, Workload, milestones

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a network in eval mode on one split.

    Attributes:
        loss: mean of the workload's loss.
        cross_entropy: mean cross-entropy without smoothing, in nats.
        accuracy: fraction of samples whose largest output is the target's, 0 to 1.
        f1: F1 score of each class, 0 to 1; None for a class that no sample has.
        samples: number of samples.
    """

    loss: float
    cross_entropy: float
    accuracy: float
    f1: tuple[float | None, ...]
    samples: int

    @property
    def macro_f1(self) -> float:
        """The unweighted mean of the F1 scores of the classes that some sample has.

        Which classes these are depends on the data alone, so no prediction changes the denominator.
        """
        return fmean(score for score in self.f1 if score is not None)


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch.

    Attributes:
        number: epochs trained so far.
        metrics: `train/…`, `val/…`, `gap/…`, `time/epoch_s`; empty if the training diverged. `train/lr` is the rate in
            this epoch. `val/f1/CLASS` where the setting names its classes.
        diverged: a loss or a weight is not finite.
        unperturbed: steps so far whose gradient was zero or not finite, so that SAM had no direction to climb in.
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
        precision: of the network's passes; `bf16` on CUDA and `fp32` on the CPU by default. `bf16` runs them under
            autocast, with weights, gradients and losses in float32.
        compile: run the network through `torch.compile`, which takes a minute or more before the first batch.

    A Trainer changes its process: see :func:`prepare_process`. On CUDA, float32 products use TF32 from then on.

    Raises:
        ValueError: there is no such precision.
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
        self.precision = precision or ("bf16" if self.device.type == "cuda" else "fp32")
        if self.precision not in PRECISIONS:
            raise ValueError(f"there is no precision {precision!r}; choose from {', '.join(PRECISIONS)}")
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.splits = splits.to(self.device)
        self.done = 0
        self.seconds = 0.0
        self.last: Epoch | None = None
        with torch.random.fork_rng(self._cuda_devices()):
            torch.manual_seed(configuration.seed)
            self.model = workload.network(setting).to(self.device)
            self._random = random_state(self.device)
        self._network = _compiled(self.model) if compile else self.model
        self.optimizer = build_optimizer(self.model, workload.base_optimizer, configuration)
        stepping = self.optimizer.base_optimizer if isinstance(self.optimizer, SharpnessAware) else self.optimizer
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(stepping, milestones(epochs), gamma=0.2)

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained, or the training diverged."""
        return self.done >= self.epochs or bool(self.last and self.last.diverged)

    def epoch(self) -> Epoch:
        """Train one epoch and evaluate. Divergence is a result, not an exception."""
        started = time.perf_counter()
        lr = float(self.schedule.get_last_lr()[0])
        self.model.train()
        with self._own_random_state():
            losses = torch.stack([self.step(batch) for batch in self.batches()])
        self.schedule.step()
        self.done += 1
        metrics = self._evaluations() if self._finite(losses) else {}
        diverged = not all(math.isfinite(value) for value in metrics.values()) or not metrics
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if not diverged:
            metrics |= {"train/lr": lr, "time/epoch_s": seconds}
        self.last = Epoch(self.done, {} if diverged else metrics, diverged, self._unperturbed())
        return self.last

    def rehearse(self) -> None:
        """Take one step and evaluate one batch, to measure the memory they need; the training is of no use after it."""
        self.model.train()
        with self._own_random_state():
            self.step(next(self.batches()))
        some = torch.arange(min(len(self.splits.train), self.workload.evaluation_batch), device=self.device)
        self.evaluate(self.splits.train.subset(some))

    def outputs(self, inputs: Any) -> Tensor:
        """Compute the network's outputs [n, classes] in float32, at this training's precision."""
        return outputs(self._network, inputs, self.precision, self.device)

    def evaluate(self, store: Store) -> Evaluation:
        """Evaluate the model on `store` in eval mode, and restore its mode afterwards."""
        training = self.model.training
        self.model.eval()
        try:
            return evaluate(self.outputs, self.workload, store.to(self.device), self.device)
        finally:
            self.model.train(training)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which a training is resumed; on a CPU it resumes bitwise."""
        return {
            "done": self.done,
            "seconds": self.seconds,
            "last": asdict(self.last) if self.last else None,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": {"cpu": self._random.cpu, "cuda": self._random.cuda},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what :meth:`state_dict` returned for the same workload, setting and configuration."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._random = replace(self._random, **state["random"])
        self.done, self.seconds = state["done"], state["seconds"]
        self.last = Epoch(**state["last"]) if state["last"] else None

    def batches(self) -> Iterator[tuple[Any, Tensor]]:
        """Yield the epoch's batches. Their order depends on seed and epoch alone."""
        order = torch.Generator().manual_seed((self.configuration.seed << 20) + self.done)
        indices = torch.randperm(len(self.splits.train), generator=order).to(self.device)
        return (self.splits.train.batch(part) for part in indices.split(self.configuration.batch_size))

    def step(self, batch: tuple[Any, Tensor]) -> Tensor:
        """Take one optimizer step, and return the loss at the weights before it."""
        inputs, targets = batch
        inputs = self.workload.augment(inputs, self.setting)

        def closure() -> Tensor:
            loss = self.workload.loss(self.outputs(inputs), targets)
            loss.backward()
            return loss.detach()

        self.optimizer.zero_grad()
        if isinstance(self.optimizer, SharpnessAware):
            return self.optimizer.step_parts([closure], self.model)[0]
        loss = closure()
        self.optimizer.step()
        return loss

    def _finite(self, losses: Tensor) -> bool:
        return bool(losses.isfinite().all()) and all(bool(p.isfinite().all()) for p in self.model.parameters())

    def _evaluations(self) -> dict[str, float]:
        """Evaluate both splits with the same weights in eval mode, so that their gap is one of generalisation alone."""
        train = self.evaluate(self.splits.train)
        if not len(self.splits.validation):
            return {"train/loss": train.loss, "train/accuracy": train.accuracy}
        val = self.evaluate(self.splits.validation)
        classes = (
            {
                f"val/f1/{name}": score
                for name, score in zip(self.setting.classes, val.f1, strict=True)
                if score is not None
            }
            if self.setting.classes
            else {}
        )
        return {
            "train/loss": train.loss,
            "train/accuracy": train.accuracy,
            "val/loss": val.loss,
            "val/accuracy": val.accuracy,
            "val/macro_f1": val.macro_f1,
            **classes,
            "gap/loss": val.loss - train.loss,
            "gap/accuracy": train.accuracy - val.accuracy,
        }

    def _unperturbed(self) -> int:
        if not isinstance(self.optimizer, SharpnessAware):
            return 0
        counted = self.optimizer.unperturbed
        return counted.zero + counted.nonfinite

    def _cuda_devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        with torch.random.fork_rng(self._cuda_devices()):
            self._random.restore()
            yield
            self._random = random_state(self.device)


def outputs(network: Callable[[Any], Tensor], inputs: Any, precision: str, device: torch.device) -> Tensor:
    """Compute the outputs of a network on `device` at a precision, as float32."""
    if precision == "fp32":
        return network(inputs)
    # The context ends with the forward pass: it keeps weights it has cast, and SAM's second pass has others.
    with torch.autocast(device.type, PRECISIONS[precision]):
        return network(inputs).float()


def evaluate(network: Callable[[Any], Tensor], workload: Workload, store: Store, device: torch.device) -> Evaluation:
    """Compute loss, accuracy and F1 of the network's outputs for a store that is on `device`."""
    loss = cross_entropy = torch.zeros((), dtype=torch.float64, device=device)
    confusion = torch.zeros((), dtype=torch.int64, device=device)
    with torch.no_grad():
        for indices in torch.arange(len(store), device=device).split(workload.evaluation_batch):
            inputs, targets = store.batch(indices)
            outputs = network(inputs)
            loss = loss + workload.loss(outputs, targets).double() * len(targets)
            cross_entropy = cross_entropy + F.cross_entropy(outputs, targets, reduction="sum").double()
            confusion = confusion + _confusion(outputs.argmax(1), targets, outputs.shape[1])
    hits, predicted, there = (counts.tolist() for counts in (confusion.diag(), confusion.sum(0), confusion.sum(1)))
    f1 = tuple(
        2 * hit / (taken + real) if real else None for hit, taken, real in zip(hits, predicted, there, strict=True)
    )
    return Evaluation(
        float(loss) / len(store), float(cross_entropy) / len(store), sum(hits) / len(store), f1, len(store)
    )


CALIBRATION_BINS = 15
"""Bins of the confidence, of equal width, as in Guo et al. 2017."""


def calibration_error(outputs: Tensor, targets: Tensor) -> float:
    """Compute the expected calibration error, 0 to 1: how far a network's confidence is from its accuracy.

    The samples are put into :data:`CALIBRATION_BINS` by the probability of the predicted class. The result is the mean
    over the samples of the distance between mean confidence and accuracy of their bin (Guo et al. 2017, equation 3).
    `torchmetrics` has the same and takes seconds to import, which every worker would pay for.

    Args:
        outputs: logits [n, classes].
        targets: int64 [n].
    """
    confidence, predicted = outputs.softmax(1).max(1)
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    excess = confidence.double() - (predicted == targets).double()
    sums = torch.zeros(CALIBRATION_BINS, dtype=torch.float64, device=outputs.device).index_add(0, bins, excess)
    return float(sums.abs().sum()) / len(targets)


def _confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Count how often each class (row) was taken for each class (column), int64 [classes, classes]."""
    return torch.bincount(targets * classes + predicted, minlength=classes**2).reshape(classes, classes)


def _compiled(model: nn.Module) -> Callable[[Any], Tensor]:
    # What earlier trainings of this process compiled would count against torch's limit of variants.
    torch.compiler.reset()
    return torch.compile(model)


def build_optimizer(model: nn.Module, base: BaseOptimizer, configuration: Configuration) -> torch.optim.Optimizer:
    """Build the optimizer that a configuration names, over all parameters of `model`.

    Raises:
        ValueError: there is no such optimizer, or it needs a ρ.
    """
    base_class: type[torch.optim.Optimizer] = getattr(torch.optim, base.name)
    options = {"lr": configuration.lr, **base.options}
    if configuration.optimizer == "base":
        return base_class(model.parameters(), **options)
    if configuration.rho is None:
        raise ValueError(f"optimizer {configuration.optimizer!r} needs a ρ, got None")
    match configuration.optimizer:
        case "sam":
            return SAM(model.parameters(), base_class, configuration.rho, **options)
        case "asam":
            return ASAM(model.named_parameters(), base_class, configuration.rho, **options)
        case "asam-all":
            return ASAMAll(model.parameters(), base_class, configuration.rho, **options)
    raise ValueError(f"there is no optimizer {configuration.optimizer!r}; choose from {', '.join(OPTIMIZERS)}")


def prepare_process(threads: int) -> None:
    """Set the threads of torch, and flush numbers below 1e-38 to zero on the CPU.

    Weight decay shrinks the weights of dead units to such numbers, with which arithmetic is many times slower. A
    training of the GCN in which 70 % of the weights are so small takes 4.1 s an epoch without this, and 0.85 s with it.
    """
    torch.set_flush_denormal(True)  # first: threads that torch starts take it over
    torch.set_num_threads(threads)


def default_device() -> torch.device:
    """Choose CUDA where torch sees a GPU, else the CPU, whatever GPU fraction a scheduler has assigned."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Name a device as its maker does, such as `NVIDIA H100 80GB HBM3`; `CPU` for the CPU."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type.upper()
