"""The three networks with data that are drawn, not read: how fast a step is does not depend on what is in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from tune_sam.space import Configuration
from tune_sam.store import TensorStore
from tune_sam.trainables.attention import Attention
from tune_sam.trainables.data.cifar10 import MEAN, STD
from tune_sam.trainables.data.graphs import GraphStore
from tune_sam.trainables.data.images import ImageStore
from tune_sam.trainables.gcn import GCN
from tune_sam.trainables.wideresnet import WideResNet
from tune_sam.training import Trainer
from tune_sam.workload import Setting, Splits, Store, Workload

NETWORKS = ("wideresnet", "attention", "gcn")

RHO = {"base": None, "sam": 0.05, "asam": 0.5, "asam-all": 0.1}
"""By optimizer; how long a step takes does not depend on it."""

TINY: Mapping[str, Mapping[str, Any]] = {
    "wideresnet": {"depth": 10, "width": 1},
    "attention": {"width": 8, "feedforward": 8, "head": (8,)},
    "gcn": {"widths": (8, 8), "hidden": 8},
}
"""What of each network is smaller where there is no GPU."""


@dataclass(frozen=True)
class Case:
    """A network as a search trains it, and samples of the published size.

    Attributes:
        name: of the network, one of :data:`NETWORKS`.
        workload: what it is of.
        setting: its own.
        splits: to train on; nothing validates.
    """

    name: str
    workload: Workload
    setting: Setting
    splits: Splits

    @classmethod
    def of(cls, name: str, *, tiny: bool = False) -> "Case":
        """Make the case of a network, or one that a CPU trains in a moment."""
        workload: Workload = {"wideresnet": WideResNet, "attention": Attention, "gcn": GCN}[name]()
        setting = workload.setting(workload.default_dataset)
        if tiny:
            setting = replace(setting, network={**setting.network, **TINY[name]}, batch_size=8)
        # Whole batches alone: a last one of another size would be compiled, too.
        samples = setting.batch_size * (4 if tiny else 100)
        draw = torch.Generator().manual_seed(0)
        train = DRAWN[name](samples, draw)
        return cls(name, workload, setting, Splits(train, train.subset(torch.arange(0))))

    @property
    def without_dropout(self) -> "Case":
        """The case of a network that drops nothing: a compiled one draws what it drops otherwise."""
        none = {name: 0.0 for name in self.setting.network if name == "dropout"}
        return replace(self, setting=replace(self.setting, network={**self.setting.network, **none}))

    def trainer(self, optimizer: str, *, seed: int = 0, compile: bool = False, precision: str | None = None) -> Trainer:
        """Begin a training with an optimizer."""
        configuration = Configuration(optimizer, RHO[optimizer], self.setting.lr, self.setting.batch_size, seed)
        epochs = 1_000  # of which nobody trains the last
        return Trainer(
            self.workload,
            self.setting,
            configuration,
            self.splits,
            epochs=epochs,
            compile=compile,
            precision=precision,
        )


def _images(samples: int, draw: torch.Generator) -> Store:
    pixels = torch.randint(256, (samples, 32, 32, 3), dtype=torch.uint8, generator=draw)
    return ImageStore(pixels, torch.randint(10, (samples,), generator=draw), MEAN, STD)


def _beats(samples: int, draw: torch.Generator) -> Store:
    return TensorStore(torch.rand(samples, 187, generator=draw), torch.randint(5, (samples,), generator=draw))


def _molecules(samples: int, draw: torch.Generator) -> Store:
    """Draw graphs of as many atoms and bonds as those of Mutagenicity have: 30.3 and, both ways, 61.5 on average."""
    nodes = torch.randint(15, 46, (samples,), generator=draw)
    edges = 2 * nodes
    ends = [torch.randint(int(n), (2, int(e)), generator=draw) for n, e in zip(nodes, edges, strict=True)]
    kinds = torch.randint(14, (int(nodes.sum()),), generator=draw)
    return GraphStore(
        x=F.one_hot(kinds, 14).float(),
        edge_index=torch.cat(ends, dim=1),
        node_start=F.pad(nodes.cumsum(0), (1, 0)),
        edge_start=F.pad(edges.cumsum(0), (1, 0)),
        y=torch.randint(2, (samples,), generator=draw),
    )


DRAWN = {"wideresnet": _images, "attention": _beats, "gcn": _molecules}
