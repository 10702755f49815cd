"""A step of SAM on the graph network, beside two of the base optimizer, pytorch_optimizer's SAM and davda54/sam.

One batch of 64 graphs of Mutagenicity, SGD with momentum, one thread, no dropout, for the peers' second pass would draw
another mask. All sides of SAM must come to the same weights.

    python benchmarks/steps.py --data ~/data
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytorch_optimizer
import torch
from gcn import GCN, SETTING
from torch import Tensor, nn
from turns import Row, in_turns, parser, report

from tune_sam import SAM
from tune_sam.training import prepare_process

RHO, STEPS = 0.05, 5
BASE = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}


class Davda54(torch.optim.Optimizer):
    """The popular implementation (github.com/davda54/sam), in its own steps."""

    def __init__(self, params: object, base_optimizer: Callable[..., torch.optim.Optimizer], rho: float) -> None:
        super().__init__(params, {"rho": rho, **BASE})
        self.base_optimizer = base_optimizer(self.param_groups, **BASE)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        """Climb."""
        norm = torch.norm(
            torch.stack(
                [p.grad.norm(p=2) for group in self.param_groups for p in group["params"] if p.grad is not None]
            ),
            p=2,
        )
        for group in self.param_groups:
            scale = group["rho"] / (norm + 1e-12)
            for p in group["params"]:
                if p.grad is None:
                    continue
                self.state[p]["old_p"] = p.data.clone()
                p.add_(p.grad * scale.to(p))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        """Go back, and take the base optimizer's step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data = self.state[p]["old_p"]
        self.base_optimizer.step()
        self.zero_grad()


def main() -> None:
    """Check that all sides take the same steps, measure them in turns, and print the table."""
    command = parser(__doc__, repeats=15)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds Mutagenicity")
    chosen = command.parse_args()
    prepare_process(threads=1)
    graphs, classes = GCN.splits("mutagenicity", chosen.data).train.batch(torch.arange(64))

    def network() -> nn.Module:
        torch.manual_seed(0)
        return GCN.network(SETTING).eval()

    def passed(model: nn.Module) -> Tensor:
        loss = GCN.loss(model(graphs), classes)
        loss.backward()
        return loss

    models = {side: network() for side in ("base", "ours", "pytorch_optimizer", "davda54")}
    base = torch.optim.SGD(models["base"].parameters(), **BASE)
    ours = SAM(models["ours"].parameters(), torch.optim.SGD, rho=RHO, **BASE)
    other = pytorch_optimizer.SAM(models["pytorch_optimizer"].parameters(), torch.optim.SGD, rho=RHO, **BASE)
    popular = Davda54(models["davda54"].parameters(), torch.optim.SGD, RHO)

    def of_base() -> None:
        base.zero_grad()
        passed(models["base"])
        base.step()

    def of_ours() -> None:
        ours.step_parts([partial(passed, models["ours"])], models["ours"])

    def of_other() -> None:
        passed(models["pytorch_optimizer"])
        other.first_step(zero_grad=True)
        passed(models["pytorch_optimizer"])
        other.second_step(zero_grad=True)

    def of_popular() -> None:
        passed(models["davda54"])
        popular.first_step()
        passed(models["davda54"])
        popular.second_step()

    one = {"base": of_base, "ours": of_ours, "pytorch_optimizer": of_other, "davda54": of_popular}
    for side in one:
        one[side]()
    for side in ("pytorch_optimizer", "davda54"):
        for mine, theirs in zip(models["ours"].parameters(), models[side].parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    sides = {side: partial(repeated, step) for side, step in one.items()}
    taken = in_turns(sides, chosen.repeats)
    rows = [Row(f"{STEPS} steps of SAM / base", taken["base"], taken["ours"], 2.02)]
    rows += [Row(f"{STEPS} steps of SAM / {side}'s", taken[side], taken["ours"], 1.0) for side in list(one)[2:]]
    report(rows, chosen.output)


def repeated(step: Callable[[], None]) -> None:
    """Take some steps."""
    for _ in range(STEPS):
        step()


if __name__ == "__main__":
    main()
