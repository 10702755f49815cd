"""How flat one trained network is: every measure of `tune_sam.analysis` in one record."""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from tune_sam.analysis import spectrum
from tune_sam.analysis.evaluation import LossFn, count
from tune_sam.analysis.sharpness import WorstCase, average_case, worst_case
from tune_sam.measures import SPECTRUM, SUFFIXES
from tune_sam.optimizers import scale_of
from tune_sam.space import Configuration
from tune_sam.store import walk
from tune_sam.training import Trainer
from tune_sam.trees import rows
from tune_sam.workload import Store, Workload

COMMON_RHO = 0.05
"""Radius at which all networks are compared, in the ball of SAM and in that of |w|; Foret et al. 2021 have it, too."""

SIGMA = 0.05
"""Relative noise of the average case: 5 % of each weight, or of the root mean square of all weights."""


@dataclass(frozen=True)
class Measure:
    """One number of a network.

    Attributes:
        value: the number.
        error: a residual, a standard error, or what a search still added; see the measure in `tune_sam.analysis`.
        resolved: False if the number had not converged; nothing should be read off it then.
        lower_bound: whether the true number lies above the value, by what the error does not bound.
    """

    value: float
    error: float
    resolved: bool
    lower_bound: bool = False

    def __str__(self) -> str:
        """Return four digits at most, and the error where it shows in them; that of a lower bound is what was added."""
        if not self.resolved:
            return "unresolved"
        size = max(abs(self.value), self.error)
        if not 0 < self.error < math.inf or self.error < 5e-4 * size:
            return f"{self.value:.4g}"
        decimals = max(0, -math.floor(math.log10(self.error)))
        value, error = (f"{number:.{decimals}f}" for number in (self.value, self.error))
        return f"{value} (+{error} late)" if self.lower_bound else f"{value} ± {error}"


@dataclass(frozen=True)
class Flatness:
    """What was measured of one trial's network.

    Attributes:
        key: of the trial.
        samples, loss: number of training samples that were used, and their mean loss.
        size: number of parameters that were differentiated.
        unused: names of the parameters without a gradient.
        measures: by name.
        eigenvalues, density: points of the spectral density's curve.
        products: number of products with the Hessian of all batches.
        seconds: duration.
        device: where it was measured.
    """

    key: str
    samples: int
    loss: float
    size: int
    unused: tuple[str, ...]
    measures: dict[str, Measure]
    eigenvalues: tuple[float, ...]
    density: tuple[float, ...]
    products: int
    seconds: float
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Flatness":
        """Read what :meth:`to_json` returned."""
        measures = {name: Measure(**measure) for name, measure in data["measures"].items()}
        lists = {name: tuple(data[name]) for name in ("unused", "eigenvalues", "density")}
        return cls(**{**data, **lists, "measures": measures})

    def metrics(self) -> dict[str, float]:
        """List the metrics for MLflow: each value, nan where it is unresolved, and each error.

        An unresolved value is nan rather than left out, so that no earlier value stands beside a new error.
        """
        return {
            name: number
            for key, measure in self.measures.items()
            for name, number in (
                (key, measure.value if measure.resolved else math.nan),
                (f"{key}_error", measure.error),
            )
        }


def columns(found: Iterable[Flatness]) -> pd.DataFrame:
    """Tabulate a row for each network: `key`, `samples`, and each measure with its `…_error` and `…_resolved`."""
    return pd.DataFrame(
        [
            {"key": one.key, "samples": one.samples}
            | {
                f"{name}{suffix}": part
                for name, measure in one.measures.items()
                for suffix, part in zip(SUFFIXES, (measure.value, measure.error, measure.resolved), strict=True)
            }
            for one in found
        ]
    )


def batch_size(workload: Workload) -> int:
    """Choose the batch size: gradients of gradients need several times the memory of an evaluation.

    Of all results, only the spread of λ_max over single batches depends on it.
    """
    return max(workload.evaluation_batch // 2, 1)


def batches_of(store: Store, size: int, device: torch.device) -> list[tuple[Any, Tensor]]:
    """Cut a store that is on `device` into batches that can be walked again and again."""
    return list(walk(store, torch.arange(len(store), device=device).split(size)))


def measure(
    key: str,
    model: nn.Module,
    loss: LossFn,
    batches: list[tuple[Any, Tensor]],
    configuration: Configuration,
    *,
    cheap: bool = False,
) -> Flatness:
    """Take every measure: the spectrum from three probes, the worst case, the average case, and both adaptive.

    Args:
        key: of the trial.
        model: a trained network, on the device of the batches.
        loss: the mean loss of a batch, from outputs and targets.
        batches: of training samples.
        configuration: of the trial, for its own ρ.
        cheap: take the spectrum from one probe and the worst case alone, as for many trials.

    Raises:
        ValueError: there is nothing to measure, or something is not finite.
    """
    begun = time.perf_counter()
    # First, for there is more that it refuses.
    found = spectrum(model, loss, batches, probes=1 if cheap else 3)
    measures: dict[str, Any] = {name: getattr(found, name) for name in SPECTRUM}
    measures["worst_case"] = worst_case(model, loss, batches, COMMON_RHO)
    if not cheap:
        measures["worst_case_adaptive"] = worst_case(model, loss, batches, COMMON_RHO, scale="adaptive")
        measures["average_case"] = average_case(model, loss, batches, SIGMA, scale="rms")
        measures["average_case_adaptive"] = average_case(model, loss, batches, SIGMA, scale="adaptive")
        scale = scale_of(configuration.optimizer)
        if configuration.rho is not None and scale is not None:
            measures["worst_case_own_rho"] = worst_case(model, loss, batches, configuration.rho, scale=scale)
    sizes = [rows(targets) for _, targets in batches if count(loss, targets)]  # the others have no λ_max
    of_batches = [one for one, size in zip(found.batch_lambda_max.values, sizes, strict=True) if size == max(sizes)]
    values = torch.tensor([one.value for one in of_batches], dtype=torch.float64)
    std = float(values.std()) if len(values) > 1 else math.nan
    over_batches = Measure(float(values.mean()), std, all(one.resolved for one in of_batches))
    device = next(model.parameters()).device
    return Flatness(
        key=key,
        samples=sum(rows(targets) for _, targets in batches),
        loss=found.loss,
        size=found.size,
        unused=found.unused,
        measures={
            name: Measure(part.value, part.error, part.resolved, isinstance(part, WorstCase))
            for name, part in measures.items()
        }
        | {"batch_lambda_max": over_batches},
        eigenvalues=tuple(found.density.grid.tolist()),
        density=tuple(found.density.values.tolist()),
        products=found.products,
        seconds=time.perf_counter() - begun,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )


def quick(trainer: Trainer) -> float:
    """Measure the sharpness by which a search can judge a network, in nats: at least 0, and less is flatter.

    It is the worst rise of the validation loss within ρ = 0.05 (:data:`COMMON_RHO`) that
    :func:`tune_sam.analysis.sharpness.worst_case` finds in five steps of one ascent, in float32. It
    costs six gradients of the validation split and an evaluation.

    Raises:
        ValueError: the validation split is empty.
    """
    batches = batches_of(trainer.splits.validation, batch_size(trainer.workload), trainer.device)
    with trainer.judged() as network:
        return worst_case(network, trainer.workload.criterion, batches, COMMON_RHO, steps=5, restarts=0).value
