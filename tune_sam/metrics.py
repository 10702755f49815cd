"""The scores of a network on a split, which are gathered batch by batch.

A workload's metrics may be of `torchmetrics`, a function of a split's outputs and targets, or what is here: a
classifier's accuracy and F1, which need no import that a worker would wait seconds for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tune_sam.loss import counted
from tune_sam.trees import joined


class Metric(Protocol):
    """Something that is told of batches and gives a number, or several by name, as those of `torchmetrics` do."""

    def update(self, outputs: Any, targets: Any, /) -> Any:
        """Take a batch into account."""
        ...

    def compute(self) -> Any:
        """Give the number, or a mapping of them, over all batches."""
        ...


Metrics = Metric | Mapping[str, "Metric | Callable[[Any, Any], Any]"]
"""What a workload may return as its metrics: one that gives several by name, or several by name. A function is called
once with the outputs and the targets of the whole split."""


class Classification:
    """Accuracy and F1 scores of a classifier with outputs [n, …, classes] and targets int64 [n, …].

    Args:
        classes: names of the outputs, of which each then has its F1 score reported.
        ignored: value of targets that do not count; all do by default.
    """

    def __init__(self, classes: Sequence[str] = (), ignored: int | None = None) -> None:
        self._classes, self._ignored = classes, ignored
        self._confusion: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch: how often each class was taken for each other one.

        Raises:
            ValueError: the targets are no classes.
        """
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or targets.is_floating_point():
            raise ValueError(
                "the default metrics are a classifier's, of outputs [n, …, classes] and whole numbers as targets; give "
                "metrics() and `scores` of your own"
            )
        classes = outputs.shape[-1]
        outputs, targets = counted(outputs, targets, self._ignored)
        # Row: the target; column: the prediction.
        cells = targets.long() * classes + outputs.argmax(1)  # labels of a byte would be cut to one
        found = torch.bincount(cells, minlength=classes**2).reshape(classes, classes)
        self._confusion = found if self._confusion is None else self._confusion + found

    def compute(self) -> dict[str, float]:
        """Give `accuracy`, `macro_f1` and, of classes that some sample has and that have names, `f1/NAME`; 0 to 1.

        `macro_f1` is the unweighted mean of the F1 scores of the classes that some sample has. Which classes these are
        depends on the data alone, so no prediction changes the denominator.

        Raises:
            ValueError: there are other numbers of names and of outputs.
        """
        counts = self._confusion
        assert counts is not None, "compute() comes after update()"
        hits, predicted, there = (found.tolist() for found in (counts.diag(), counts.sum(0), counts.sum(1)))
        f1 = [
            2 * hit / (taken + real) if real else None for hit, taken, real in zip(hits, predicted, there, strict=True)
        ]
        if self._classes and len(self._classes) != len(f1):
            raise ValueError(
                f"the setting's `classes` names {len(self._classes)}, and the network has {len(f1)} outputs; "
                "name each, or none"
            )
        named = zip(self._classes, f1, strict=True) if self._classes else ()
        return {
            "accuracy": sum(hits) / sum(there),
            "macro_f1": fmean(score for score in f1 if score is not None),
            **{f"f1/{name}": score for name, score in named if score is not None},
        }


CALIBRATION_BINS = 15
"""Bins of the confidence, of equal width, as in Guo et al. 2017."""


class Calibration:
    """How far a classifier's probabilities can be trusted, from outputs [n, …, classes] and targets [n, …].

    Targets are whole numbers. Outputs are logits, logarithms of probabilities, or probabilities, which are told by
    their sums.

    `torchmetrics` has the same and takes seconds to import, which every worker would pay for.

    Args:
        ignored: value of targets that do not count; all do by default.
    """

    def __init__(self, ignored: int | None = None) -> None:
        self._ignored = ignored
        self._nll = torch.zeros((), dtype=torch.float64)
        self._excess = torch.zeros(CALIBRATION_BINS, dtype=torch.float64)
        self._samples = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        outputs, targets = counted(outputs, targets, self._ignored)
        targets, logs = targets.long(), _log_probabilities(outputs)
        confidence, predicted = logs.exp().max(1)
        bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
        excess = confidence.double() - (predicted == targets).double()
        self._nll = self._nll.to(outputs.device) + F.nll_loss(logs, targets, reduction="sum").double()
        self._excess = self._excess.to(outputs.device).index_add(0, bins, excess)
        self._samples += len(targets)

    def compute(self) -> dict[str, float]:
        """Give the negative log-likelihood and the expected calibration error.

        Returns:
            `nll`, the mean cross-entropy in nats without any smoothing; `ece`, 0 to 1: the mean over the samples of the
            distance between mean confidence and accuracy of those of like confidence (Guo et al. 2017, equation 3).
        """
        return {
            "nll": float(self._nll) / self._samples,
            "ece": float(self._excess.abs().sum()) / self._samples,
        }


def _log_probabilities(outputs: Tensor) -> Tensor:
    """Give the logarithms of the probabilities that outputs [n, classes] stand for, or are."""
    are_shares = bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())
    return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log() if are_shares else outputs.log_softmax(1)


@dataclass
class _WholeSplit:
    """A function of all outputs and targets of a split, each a tensor or a tree of tensors, as a metric."""

    function: Callable[[Any, Any], Any]
    _batches: list[tuple[Any, Any]] = field(default_factory=list)

    def update(self, outputs: Any, targets: Any) -> None:
        self._batches.append(tree_map_only(Tensor, Tensor.cpu, (outputs, targets)))

    def compute(self) -> Any:
        try:
            outputs, targets = joined(self._batches)
        except RuntimeError:
            raise ValueError(
                "metrics(): a function is given all outputs and targets of a split as one, and those of two batches "
                "differ in shape; pad all to one length, or give a metric with update() and compute()"
            ) from None
        return self.function(outputs, targets)


@dataclass
class _Named:
    """Several metrics by name, as one."""

    parts: Mapping[str, Metric]

    def update(self, outputs: Any, targets: Any) -> None:
        for part in self.parts.values():
            part.update(outputs, targets)

    def compute(self) -> dict[str, Any]:
        return {name: part.compute() for name, part in self.parts.items()}


@dataclass
class Merged:
    """Metrics that each give several numbers by name, as one."""

    parts: Sequence[Metric]

    def update(self, outputs: Any, targets: Any) -> None:
        """Take a batch into account."""
        for part in self.parts:
            part.update(outputs, targets)

    def compute(self) -> dict[str, Any]:
        """Give the numbers of all."""
        return {name: value for part in self.parts for name, value in part.compute().items()}


def gathering(metrics: Metrics, device: torch.device) -> Metric:
    """Make what a workload gives as its metrics one metric that computes several by name, on `device`.

    Raises:
        TypeError: it is none of what is possible.
    """
    if isinstance(metrics, Mapping):
        return _Named({name: _one(name, metric, device) for name, metric in metrics.items()})
    return _one("it", metrics, device)


def _one(name: str, metric: Any, device: torch.device) -> Metric:
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        made: Metric = metric.to(device) if hasattr(metric, "to") else metric
        return made
    if callable(metric):
        return _WholeSplit(metric)
    raise TypeError(f"metrics(): {name} is a {type(metric).__name__}; give a metric of torchmetrics, or a function")


def numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """Give computed metrics as numbers.

    Raises:
        ValueError: one is no single number, is called `loss`, whose place it would take, or is an accuracy, which is
            written in percent, and no share.
    """
    if "loss" in found:
        raise ValueError("metrics(): 'loss' is what loss() gives; give that metric another name")
    given = {name: _number(name, value) for name, value in found.items()}
    accuracy = given.get("accuracy", 0)
    if accuracy < 0 or accuracy > 1 + ROUNDING:
        raise ValueError(f"metrics(): accuracy is {accuracy:.4g}; give the share of hits, from 0 to 1, not percent")
    return given


ROUNDING = 1e-6
"""By how much an accuracy may be above 1: that of sums in single precision."""


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"metrics(): {name} is not one number; average it, or name its parts") from None


def finite(scores: Mapping[str, float], split: str) -> dict[str, float]:
    """Give the scores of a network whose loss is finite.

    Raises:
        ValueError: one of them is not; it cannot be compared.
    """
    for name, score in scores.items():
        if not math.isfinite(score):
            raise ValueError(
                f"the metric {name} of the {split} split is {score}, though its loss is finite; make it a number for "
                "every network"
            )
    return dict(scores)
