"""An epoch of the graph network on Mutagenicity with LookSAM and with SAM, beside one with the base optimizer.

The network, rate, batch size and ρ are those of results/gcn-rho: four layers, Adam, 0.001, 64, 0.03; 2,602 graphs
train, and both splits are evaluated, on one thread. What the networks are worth is in results/README.md, too.

    python benchmarks/look_sam.py --data ~/data
"""

from pathlib import Path

import torch
from turns import Row, in_turns, parser, report

from tune_sam.space import Configuration
from tune_sam.training import Trainer
from tune_sam.workload import find_workload

GCN = find_workload("gcn")
RHO = {"base": None, "look-sam": 0.03, "sam": 0.03}


def main() -> None:
    """Measure an epoch of each in turns, and print the table."""
    command = parser(__doc__, repeats=5)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds Mutagenicity")
    chosen = command.parse_args()
    splits, setting = GCN.splits("mutagenicity", chosen.data), GCN.presets["report-network"].setting
    sides = {
        name: Trainer(
            GCN,
            setting,
            Configuration(optimizer=name, rho=rho, lr=0.001, batch_size=64, seed=0),
            splits,
            epochs=1000,
            device=torch.device("cpu"),
        ).epoch
        for name, rho in RHO.items()
    }
    taken = in_turns(sides, chosen.repeats)
    rows = [
        Row("GCN epoch, look-sam against base", taken["base"], taken["look-sam"], 1.3),
        Row("GCN epoch, sam against base", taken["base"], taken["sam"], 2.02),
    ]
    report(rows, chosen.output)


if __name__ == "__main__":
    main()
