"""The optimizers that can be searched, and how others join them.

An optimizer here is a workload's own, or something around it that looks at a batch more than once. Each is described by
an :class:`OptimizerEntry`, whose data are plain: listing them must not import torch, so that every command answers at
once. Its method `build` imports what it needs.

Ours are always there. A package of somebody else's adds its own by an entry point of the group
:data:`ENTRY_POINTS`, and `package.module:Class` names one that is not installed.
"""

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from tune_sam import plugins
from tune_sam.errors import Refused
from tune_sam.space import Configuration, LogRange

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.optimizer import ParamsT

    from tune_sam.analysis.sharpness import Scale

ENTRY_POINTS = "tune_sam.optimizers"

NEEDED = ("name", "label", "description", "source", "rho", "gradients")
"""What every entry sets."""

Base = Callable[["ParamsT"], "Optimizer"]
"""Makes the workload's own optimizer of parameters, of named ones, or of groups of either; its options are in it."""


class OptimizerEntry(ABC):
    """What the system knows of an optimizer. A subclass sets the attributes without a default, and `build`.

    Attributes:
        name: by which a person chooses it.
        label: what pages and figures call it.
        description: what it does, in one line.
        source: who published it, and where.
        rho: range of ρ where a workload gives none; None for an optimizer without a ρ.
        rho_source: where that range comes from; empty for an optimizer without a ρ.
        gradients: gradients of a batch that a step takes, on average: 2 for SAM. Time that is left is estimated by it;
            what a training has really taken is counted.
        scale: T of its ball ‖ε/T‖ ≤ ρ, in which flatness measures the worst case at its own ρ; see
            :mod:`tune_sam.analysis.sharpness`. None, the default, for an optimizer with another neighbourhood.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    description: ClassVar[str]
    source: ClassVar[str]
    rho: ClassVar[LogRange | None]
    rho_source: ClassVar[str] = ""
    gradients: ClassVar[float]
    scale: "ClassVar[Scale | None]" = None

    @abstractmethod
    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        """Build the optimizer over all parameters of a network.

        A :class:`tune_sam.optim.SharpnessAware` is stepped by `step_parts`. Another one is stepped as torch's are,
        after one backward pass.

        Args:
            network: on the device where it is trained.
            base: makes the workload's own optimizer of what it is given.
            configuration: of the training. Its ρ is a number if this optimizer has one.
        """

    def to_json(self) -> dict[str, Any]:
        """Describe the optimizer as plain data."""
        return {
            "name": self.name,
            "label": self.label,
            "description": self.description,
            "source": self.source,
            "rho": self.rho.to_json() if self.rho else None,
            "rho_source": self.rho_source,
            "gradients": self.gradients,
        }


class _Base(OptimizerEntry):
    name = "base"
    label = "base"
    description = "the workload's own optimizer, which the others wrap"
    source = "the workload"
    rho = None
    gradients = 1

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        return base(network.parameters())


class _SAM(OptimizerEntry):
    name = "sam"
    label = "SAM"
    description = "the gradient at the highest point of a ball of radius ρ"
    source = "Foret et al. 2021, arXiv 2010.01412"
    rho = LogRange(0.01, 0.5)
    rho_source = "searched by Foret et al."
    gradients = 2
    scale = "one"

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        from tune_sam.optim import SAM

        return SAM(network.parameters(), base, _rho(configuration))


class _ASAM(OptimizerEntry):
    name = "asam"
    label = "ASAM"
    description = "SAM in a ball that is scaled by |w| + η on weights, in its authors' form"
    source = "Kwon et al. 2021, arXiv 2102.11600"
    rho = LogRange(0.05, 2)
    rho_source = "around the 0.5 and 1 that Kwon et al. used"
    gradients = 2
    scale = "asam"

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        from tune_sam.optim import ASAM

        return ASAM(network.named_parameters(), base, _rho(configuration))


class _ASAMAll(OptimizerEntry):
    name = "asam-all"
    label = "ASAM (all)"
    description = "SAM in a ball that is scaled by |w| on every parameter, in its popular form"
    source = "Kwon et al. 2021, as in github.com/davda54/sam"
    rho = LogRange(0.1, 5)
    rho_source = "around the 0.5 to 5 that Kwon tried, of which 2 was best"
    gradients = 2
    scale = "adaptive"

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        from tune_sam.optim import ASAMAll

        return ASAMAll(network.parameters(), base, _rho(configuration))


class _GSAM(OptimizerEntry):
    name = "gsam"
    label = "GSAM"
    description = "SAM that also steps against the gap between the loss there and here"
    source = "Zhuang et al. 2022, arXiv 2203.08065"
    rho = LogRange(0.01, 0.6)
    rho_source = "SAM's, up to the 0.6 with which the authors' training of ViT-B/32 begins"
    gradients = 2
    scale = "one"

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        from tune_sam.optim import GSAM

        return GSAM(network.parameters(), base, _rho(configuration))


class _SAMON(OptimizerEntry):
    name = "sam-on"
    label = "SAM-ON"
    description = "SAM that perturbs normalization layers only"
    source = "Müller et al. 2023, arXiv 2306.04226"
    rho = LogRange(0.1, 10)
    rho_source = "ten times SAM's, as its authors advise"
    gradients = 2

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        from tune_sam.optim import SAMON, norm_parameters

        return SAMON(network.parameters(), base, _rho(configuration), only=norm_parameters(network))


class _LookSAM(OptimizerEntry):
    name = "look-sam"
    label = "LookSAM"
    description = "SAM in every fifth step, which remembers its direction in the four between"
    source = "Liu et al. 2022, arXiv 2203.02714"
    rho = LogRange(0.01, 0.5)
    rho_source = "SAM's; public code takes 0.1"
    gradients = 1 + 1 / 5
    scale = "one"

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        from tune_sam.optim import LookSAM

        return LookSAM(network.parameters(), base, _rho(configuration), k=5)


class _FisherSAM(OptimizerEntry):
    name = "fisher-sam"
    label = "Fisher SAM"
    description = "SAM in an ellipsoid of the Fisher information, from the batch's gradient"
    source = "Kim et al. 2022, arXiv 2206.04920"
    rho = LogRange(0.01, 1)
    rho_source = "a decade to both sides of the 0.1 of public code"
    gradients = 2

    def build(self, network: "nn.Module", base: Base, configuration: Configuration) -> "Optimizer":
        from tune_sam.optim import FisherSAM

        return FisherSAM(network.parameters(), base, _rho(configuration))


_OURS = (_Base(), _SAM(), _ASAM(), _ASAMAll(), _GSAM(), _SAMON(), _LookSAM(), _FisherSAM())
OURS: dict[str, OptimizerEntry] = {entry.name: entry for entry in _OURS}
"""The members that are always there. `base` is what the others are compared with."""


def is_optimizer(name: str) -> bool:
    """Whether a text can name an optimizer, in keys, files and metrics too: a word, or package.module:Class."""
    return re.fullmatch(r"\w[\w.-]*(:\w+)?", name) is not None


def optimizer_names() -> list[str]:
    """List the names of ours, then those of the installed others, sorted; nothing is imported."""
    return [*OURS, *(name for name in plugins.installed(ENTRY_POINTS) if name not in OURS and is_optimizer(name))]


def optimizers() -> list[OptimizerEntry]:
    """List all that are there: ours, then the installed others."""
    return [find_optimizer(name) for name in optimizer_names()]


@cache
def find_optimizer(name: str) -> OptimizerEntry:
    """Find the optimizer of this name, or the class at `package.module:Class`.

    Raises:
        Refused: there is no such optimizer, or the class cannot be imported or is no complete entry.
    """
    if name in OURS:
        return OURS[name]
    path = plugins.find(name, ENTRY_POINTS) if is_optimizer(name) else None
    if path is None:
        raise Refused(
            f"there is no optimizer {name!r}; choose from {', '.join(optimizer_names())}, "
            "or give your own as package.module:Class."
        )
    found: OptimizerEntry = plugins.make(path, OptimizerEntry, "optimizer", NEEDED)  # type: ignore[type-abstract]
    if not (found.rho is None or isinstance(found.rho, LogRange)):
        raise Refused(f"the optimizer {path!r} has {found.rho!r} as its `rho`; give it a LogRange, or None.")
    if not (isinstance(found.gradients, (int, float)) and 0 < found.gradients < math.inf):
        raise Refused(f"the optimizer {path!r} has {found.gradients!r} as its `gradients`; give it a number above 0.")
    return found


def known_optimizer(name: str) -> OptimizerEntry:
    """Find the optimizer that a study's record names. Its code is never run for the record's sake.

    Args:
        name: of one of ours or of an installed one, or `package.module:Class` of a module that is imported already, as
            by :func:`find_optimizer` where a person names it.

    Raises:
        Refused: there is no such optimizer, or its module is not imported.
    """
    plugins.refuse_unnamed(name, "optimizer")
    return find_optimizer(name)


def label_of(name: str) -> str:
    """Say what pages call the optimizer that a record names: itself, where it is not known here."""
    entry = _described(name)
    return entry.label if entry else name


def distinct_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Add its name to the label of each optimizer that has it with another: SAM (sam), SAM (mine:SAM).

    Args:
        labels: by the optimizers' names.
    """
    counts = Counter(labels.values())
    return {name: f"{label} ({name})" if counts[label] > 1 else label for name, label in labels.items()}


def gradients_of(name: str) -> float:
    """Say how many gradients a step takes on average, of an optimizer that a record names; 2 if it is unknown here."""
    entry = _described(name)
    return entry.gradients if entry else 2


def climbs(name: str) -> bool:
    """Whether the optimizer that a record names has a ρ, and with it an ascent; one that is not known here has."""
    entry = _described(name)
    return entry is None or entry.rho is not None


def scale_of(name: str) -> "Scale | None":
    """Give the scale of its own ball, of an optimizer that a record names; None if it is not known here."""
    entry = _described(name)
    return entry.scale if entry else None


def _described(name: str) -> OptimizerEntry | None:
    try:
        return known_optimizer(name)
    except Refused:  # a record can be read without the code that trained it
        return None


def _rho(configuration: Configuration) -> float:
    if configuration.rho is None:
        raise ValueError(f"optimizer {configuration.optimizer!r} needs a ρ, got None")
    return configuration.rho
