"""The loss surface of the graph network on Mutagenicity beside one evaluation after another through a DataLoader.

Both evaluate the mean loss over the training split at each point of a plane through the weights, in batches of 256, on
one thread. The peer is a plain script: PyG's tutorial network, its DataLoader, and the weights set point by point. Both
must find the same losses. A whole surface has 21 × 21 points, and the seconds of each point are the same; by default 3
× 3 are taken.

    python benchmarks/surface.py --data ~/data
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from gcn import GCN, SETTING, Tutorial, as_list
from numpy.typing import NDArray
from torch import nn
from torch_geometric.loader import DataLoader
from turns import Row, in_turns, parser, report

from tune_sam.analysis.landscape import Direction, grid, losses, random_directions
from tune_sam.training import prepare_process

BATCH = 256


def one_after_another(
    model: nn.Module, loader: DataLoader, directions: tuple[Direction, ...], points: NDArray[np.float64]
) -> list[float]:
    """Evaluate the loss at each point, as a plain script does."""
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = []
    with torch.no_grad():
        for point in points.tolist():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name])
                for step, direction in zip(point, directions, strict=True):
                    if name in direction.tensors:
                        parameter.add_(direction.tensors[name], alpha=step)
            total = sum(float(GCN.loss(model(batch), batch.y)) * batch.num_graphs for batch in loader)
            found.append(total / len(loader.dataset))
        for name, parameter in model.named_parameters():
            parameter.copy_(start[name])
    return found


def main() -> None:
    """Check that both sides find the same, measure them in turns, and print the table."""
    command = parser(__doc__, repeats=3)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds Mutagenicity")
    command.add_argument("--steps", type=int, default=3, help="points of an axis (default 3)")
    chosen = command.parse_args()
    prepare_process(threads=1)
    train = GCN.splits("mutagenicity", chosen.data).train
    torch.manual_seed(0)
    model = GCN.network(SETTING).eval()
    network = {key: SETTING.network[key] for key in ("features", "widths", "hidden", "classes", "dropout")}
    peer = Tutorial(**network).eval()
    peer.load_state_dict(model.state_dict())
    directions, points = random_directions(model, seed=0), grid(2, steps=chosen.steps)
    batches = [train.batch(part) for part in torch.arange(len(train)).split(BATCH)]
    loader = DataLoader(as_list(train), batch_size=BATCH)
    ours = partial(losses, model, GCN.loss, batches, directions, points)
    theirs = partial(one_after_another, peer, loader, directions, points)
    np.testing.assert_allclose(ours(), theirs(), rtol=1e-5)
    taken = in_turns({"peer": theirs, "ours": ours}, chosen.repeats)
    report([Row(f"{chosen.steps} × {chosen.steps} surface", taken["peer"], taken["ours"], 0.5)], chosen.output)


if __name__ == "__main__":
    main()
