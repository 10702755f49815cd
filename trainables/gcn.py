"""The graph network: GraphConv layers on molecules (Mutagenicity), or on handwritten digits as grid graphs."""

from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.extras import need
from tune_sam.space import LogRange
from tune_sam.trainables.data import mutagenicity
from tune_sam.workload import AS_PUBLISHED, BaseOptimizer, DataSet, Preset, Setting, Splits, Workload

if TYPE_CHECKING:
    from torch import nn

    from tune_sam.trainables.data.graphs import GraphStore
    from tune_sam.trainables.data.split import Indices


def _molecules(layers: int, bf16_on_cpu: bool = True) -> Setting:
    """Make the published study's setting, with any number of layers of width 128 after the first.

    In bf16 an epoch takes two thirds of the time (benchmarks/README.md), and no difference in loss or accuracy is shown
    over five seeds of Adam and SAM, of four layers at one rate and batch size (results/README.md).
    """
    network = {
        "features": 14,
        "widths": (64,) + (128,) * (layers - 1),
        "hidden": 64,
        "classes": 2,
        "pool": "mean",
        "dropout": 0.8,
    }
    return Setting(network, epochs=200, batch_size=64, lr=0.01, classes=mutagenicity.CLASSES, bf16_on_cpu=bf16_on_cpu)


class GCN(Workload):
    """A graph network of five GraphConv layers.

    The published study declared five layers and called four. The preset `report` has those four and trains the study's
    values of ρ; `report-network` has them, too, and is searched like any other setting.

    Ranges of ρ: public results support 0.001 to 0.1 for `asam-all` with Adam on graph networks. There are none for
    `sam` and `asam` on graphs, so their range is wide and unproven.
    """

    name = "gcn"
    datasets = {
        "mutagenicity": DataSet(train=2602, validation=433, test=1302, classes=2, by_seed=True),
        "digits": DataSet(train=1078, validation=179, test=540, classes=10, by_seed=True),
    }
    settings = {
        "mutagenicity": _molecules(layers=5),
        "digits": Setting(
            {"features": 17, "widths": (32, 32, 32), "hidden": 64, "classes": 10, "pool": "max", "dropout": 0.1},
            epochs=10,
            batch_size=64,
            lr=0.01,
        ),
    }
    presets = {
        "report": Preset(_molecules(layers=4, bf16_on_cpu=False), AS_PUBLISHED),
        "report-network": Preset(_molecules(layers=4)),
    }
    base_optimizer = BaseOptimizer("Adam", {"weight_decay": 5e-4})
    rho = {"sam": LogRange(0.001, 1), "asam": LogRange(0.001, 1), "asam-all": LogRange(0.001, 0.1)}
    published = Path(__file__).with_name("published.yaml")
    published_rho = (0.005, 0.01, 0.05, 0.1)
    lr = LogRange(1e-4, 1e-1)
    batch_size = (32, 64, 128)
    gpus_per_trial = 0.1

    def network(self, setting: Setting) -> "nn.Module":
        from tune_sam.trainables.networks.gcn import GraphClassifier

        return GraphClassifier(**setting.network)

    def fetch(self, dataset: str, root: Path) -> None:
        if dataset == "mutagenicity" and not mutagenicity.raw_folder(root).exists():
            mutagenicity.download(root)

    def check_data(self, dataset: str, root: Path) -> None:
        need("torch_geometric", "graphs")  # which the network is made of, whatever the data
        if dataset == "mutagenicity":
            mutagenicity.check(root)

    def splits(self, dataset: str, root: Path) -> Splits:
        import torch

        graphs, indices = _graphs(dataset, root, self.split_seed)
        return Splits(*(graphs.subset(torch.from_numpy(part)) for part in (indices.train, indices.validation)))

    def test_split(self, dataset: str, root: Path) -> "GraphStore":
        import torch

        graphs, indices = _graphs(dataset, root, self.split_seed)
        return graphs.subset(torch.from_numpy(indices.test))


def _graphs(dataset: str, root: Path, split_seed: int) -> "tuple[GraphStore, Indices]":
    """Read all graphs of a data set, and split them by a seed."""
    from tune_sam.trainables.data import digits
    from tune_sam.trainables.data.split import stratified

    graphs = mutagenicity.load(root) if dataset == "mutagenicity" else digits.grid_graphs()
    if dataset == "mutagenicity" and (len(graphs), graphs.x.shape[1]) != (mutagenicity.GRAPHS, mutagenicity.ATOMS):
        raise Refused(
            f"the files in {mutagenicity.raw_folder(root)} hold {len(graphs)} graphs with {graphs.x.shape[1]} types of "
            f"atoms in place of {mutagenicity.GRAPHS} with {mutagenicity.ATOMS}; train on fewer with --train-subset, "
            "or make a workload of your own, as docs/own-workload.md says."
        )
    return graphs, stratified(graphs.y.numpy(), split_seed)
