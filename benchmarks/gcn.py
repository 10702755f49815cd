"""An epoch of the graph network on Mutagenicity, and a step of SAM, beside PyG's DataLoader and its tutorial's network.

Both train the network of 125,442 parameters with Adam in batches of 64 and evaluate train and validation split after
it, on one thread. The peer is PyG's tutorial of graph classification: a list of `Data`, DataLoaders, GraphConv layers
called one after another, a mean over the nodes, and a loop in float32. Both must compute the same outputs.

    python benchmarks/gcn.py --data ~/data
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GraphConv, global_mean_pool
from turns import Row, in_turns, parser, report

from tune_sam.space import Configuration
from tune_sam.training import Trainer
from tune_sam.workload import find_workload

GCN = find_workload("gcn")
SETTING = GCN.settings["mutagenicity"]
BATCH = 64


class Tutorial(nn.Module):
    """The network as the tutorial writes it, with the parameters' names of ours."""

    def __init__(self, features: int, widths: tuple[int, ...], hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            GraphConv(inputs, outputs) for inputs, outputs in zip((features, *widths), widths, strict=False)
        )
        self.dropout = dropout
        self.head = nn.ModuleDict({"1": nn.Linear(widths[-1], hidden), "3": nn.Linear(hidden, classes)})

    def forward(self, batch: Batch) -> Tensor:
        """Compute logits [graphs, classes]."""
        x = batch.x
        for convolution in self.convolutions[:-1]:
            x = convolution(x, batch.edge_index).relu()
        x = global_mean_pool(self.convolutions[-1](x, batch.edge_index), batch.batch)
        x = self.head["1"](F.dropout(x, p=self.dropout, training=self.training))
        logits: Tensor = self.head["3"](F.dropout(x, p=self.dropout, training=self.training))
        return logits


def as_list(store: object) -> list[Data]:
    """Take the graphs of a store apart."""
    graphs = []
    for index in range(len(store)):
        batch, target = store.batch(torch.tensor([index]))
        graphs.append(Data(x=batch.x, edge_index=batch.edge_index, y=target))
    return graphs


class Peer:
    """The tutorial's loop over DataLoaders."""

    def __init__(self, model: nn.Module, train: object, validation: object) -> None:
        network = {key: SETTING.network[key] for key in ("features", "widths", "hidden", "classes", "dropout")}
        self.model = Tutorial(**network)
        self.model.load_state_dict(model.state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, weight_decay=5e-4)
        graphs = as_list(train), as_list(validation)
        self.train = DataLoader(graphs[0], batch_size=BATCH, shuffle=True)
        self.evaluated = [DataLoader(part, batch_size=BATCH) for part in graphs]

    def epoch(self) -> None:
        """Train, then evaluate both splits."""
        self.model.train()
        for batch in self.train:
            self.optimizer.zero_grad()
            GCN.loss(self.model(batch), batch.y).backward()
            self.optimizer.step()
        self.model.eval()
        for loader in self.evaluated:
            loss, right = 0.0, 0
            for batch in loader:
                with torch.no_grad():
                    out = self.model(batch)
                    loss += float(GCN.loss(out, batch.y)) * batch.num_graphs
                    right += int((out.argmax(dim=1) == batch.y).sum())


def main() -> None:
    """Check that both sides compute the same, measure them in turns, and print the table."""
    command = parser(__doc__, repeats=5)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds Mutagenicity")
    chosen = command.parse_args()
    splits = GCN.splits("mutagenicity", chosen.data)
    configuration = Configuration(optimizer="base", rho=None, lr=0.01, batch_size=BATCH, seed=0)
    trainers = {
        precision: Trainer(
            GCN, SETTING, configuration, splits, epochs=1000, device=torch.device("cpu"), precision=precision
        )
        for precision in ("fp32", "bf16")
    }
    peer = Peer(trainers["fp32"].model, splits.train, splits.validation)
    graphs = next(iter(peer.evaluated[1]))
    outputs = peer.model.eval()(graphs)
    for precision, close in (("fp32", 1e-5), ("bf16", 3e-2)):
        trainer = trainers[precision]
        trainer.model.eval()
        torch.testing.assert_close(trainer.outputs(graphs), outputs, rtol=close, atol=close)
    sides = {"peer": peer.epoch, **{precision: trainer.epoch for precision, trainer in trainers.items()}}
    taken = in_turns(sides, chosen.repeats)
    rows = [
        Row("GCN epoch, fp32", taken["peer"], taken["fp32"], 0.72),
        Row("GCN epoch, bf16 against fp32", taken["peer"], taken["bf16"], 0.58),
    ]
    report(rows, chosen.output)


if __name__ == "__main__":
    main()
