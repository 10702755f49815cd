"""The largest eigenvalue of the graph network's Hessian, beside hessian-eigenthings and curvlinops with eigsh.

The mean loss over 256 graphs of Mutagenicity in two batches, at weights of some epochs, to one tolerance: a residual of
at most 1e-3 of the eigenvalue. The peers have PyG's tutorial network, one thread, and their defaults: power iteration
(hessian-eigenthings), and ARPACK's Lanczos (scipy's eigsh with curvlinops' operator). All must find the same value.
Without both, `hessian-eigenthings` and `curvlinops-for-pytorch` of PyPI, nothing is measured.

    python benchmarks/lambda_max.py --data ~/data
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from gcn import GCN, SETTING, Tutorial
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch_geometric.data import Batch
from turns import Row, in_turns, parser, report

from tune_sam.analysis import top_eigenvalues
from tune_sam.space import Configuration
from tune_sam.training import Trainer
from tune_sam.workload import Splits

TOL, GRAPHS, BATCH, EPOCHS = 1e-3, 256, 128, 20


class OfMapping(nn.Module):
    """The network on the mappings of tensors that curvlinops takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, graphs: dict[str, Tensor]) -> Tensor:
        """Compute logits."""
        return self.model(Batch(x=graphs["x"], edge_index=graphs["edge_index"], batch=graphs["batch"]))


class Loss(nn.Module):
    """The workload's loss as the module that curvlinops takes."""

    reduction = "mean"

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean."""
        return GCN.loss(outputs, targets)


def main() -> None:
    """Check that all find the same value, measure them in turns, and print the table."""
    command = parser(__doc__, repeats=2)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds Mutagenicity")
    chosen = command.parse_args()
    if missing := [name for name in ("hessian_eigenthings", "curvlinops") if not find_spec(name)]:
        print(f"{' and '.join(missing)} are not installed, see the extra `bench` of setup.cfg: nothing is measured")
        return
    from curvlinops import HessianLinearOperator
    from hessian_eigenthings import HessianOperator, power_iteration_one

    few = GCN.splits("mutagenicity", chosen.data).train.subset(torch.arange(GRAPHS))
    configuration = Configuration(optimizer="base", rho=None, lr=0.002, batch_size=64, seed=0)
    splits = Splits(few, few.subset(torch.arange(0)))
    trainer = Trainer(GCN, SETTING, configuration, splits, epochs=EPOCHS, device=torch.device("cpu"))
    while not trainer.finished:
        trainer.epoch()
    model = trainer.model.eval()
    network = {key: SETTING.network[key] for key in ("features", "widths", "hidden", "classes", "dropout")}
    tutorial = Tutorial(**network).eval()
    tutorial.load_state_dict(model.state_dict())
    batches = [few.batch(part) for part in torch.arange(GRAPHS).split(BATCH)]

    products = {}

    def ours() -> float:
        found = top_eigenvalues(model, GCN.loss, batches, 1, tol=TOL)
        products["ours"] = found.products
        return float(found.values[0])

    def eigenthings() -> float:
        operator = HessianOperator(tutorial, batches, lambda model, batch: GCN.loss(model(batch[0]), batch[1]))
        value, _, _, products["eigenthings"], converged = power_iteration_one(operator, max_iter=1000, tol=TOL, seed=0)
        assert converged
        return value

    mappings = [({"x": b.x, "edge_index": b.edge_index, "batch": b.batch}, y) for b, y in batches]
    wrapped = OfMapping(tutorial)

    def curvlinops() -> float:
        operator = HessianLinearOperator(
            wrapped,
            Loss(),
            [parameter for parameter in wrapped.parameters() if parameter.requires_grad],
            mappings,
            check_deterministic=False,
            num_data=GRAPHS,
            batch_size_fn=lambda graphs: int(graphs["batch"].max()) + 1,
        )
        return float(eigsh(operator.to_scipy(), k=1, which="LA", tol=TOL, return_eigenvectors=False)[0])

    sides: dict[str, Callable[[], float]] = {"eigenthings": eigenthings, "curvlinops": curvlinops, "ours": ours}
    found = {side: run() for side, run in sides.items()}
    print("λ_max:", ", ".join(f"{value:.5g} ({side})" for side, value in found.items()), flush=True)
    print("products with the Hessian:", products, flush=True)
    for value in found.values():
        assert abs(value / found["ours"] - 1) < 2 * TOL
    taken = in_turns(sides, chosen.repeats)
    rows = [
        Row("λ_max, of hessian-eigenthings", taken["eigenthings"], taken["ours"], 0.5),
        Row("λ_max, of curvlinops with eigsh", taken["curvlinops"], taken["ours"], 0.3),
    ]
    report(rows, chosen.output)


if __name__ == "__main__":
    main()
