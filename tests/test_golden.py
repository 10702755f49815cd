"""No change of the house changes a number: losses recorded before the rooms were built, and the same ones now.

Record them anew, after a change that is meant to change numbers, with `python tests/test_golden.py`.
"""

import json
from pathlib import Path

import pytest
import torch

from tune_sam.space import Configuration
from tune_sam.training import Trainer
from tune_sam.workload import find_workload

RECORDED = Path(__file__).with_name("golden_losses.json")
WORKLOADS = ("attention", "gcn", "wideresnet")
EPOCHS = 3
SAMPLES = 256
ROUNDING = {("wideresnet", "asam"): 1e-2}
"""What other processors' order of adding changes at most, relative: 1e-6 with kernels for SSE4 in place of AVX-512, but
4e-3 where a step at the middle of ρ's range is large."""


OPTIMIZERS = ("base", "sam", "asam", "asam-all")
QUICK = ("base", "asam-all")
"""The other two differ from the second in how a gradient is scaled, which the tests of the optimizers hold."""


def losses(workload: str, optimizer: str) -> list[list[float]]:
    """Training and validation loss of each of three epochs on the digits: float32, one thread, seed 0."""
    found = find_workload(workload)
    setting = found.setting("digits")
    splits = found.splits("digits", Path())
    few = type(splits)(splits.train.subset(torch.arange(SAMPLES)), splits.validation)
    rho = found.rho[optimizer].spread(1)[0] if optimizer in found.rho else None
    trainer = Trainer(
        found,
        setting,
        Configuration(optimizer, rho, setting.lr, setting.batch_size, seed=0),
        few,
        epochs=EPOCHS,
        device=torch.device("cpu"),
        threads=1,
        precision="fp32",
    )
    epochs = [trainer.epoch().metrics for _ in range(EPOCHS)]
    return [[metrics["train/loss"], metrics["val/loss"]] for metrics in epochs]


@pytest.mark.parametrize(
    "optimizer", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_losses_are_those_recorded(workload, optimizer):
    recorded = json.loads(RECORDED.read_text())[workload][optimizer]
    for ours, theirs in zip(losses(workload, optimizer), recorded, strict=True):
        assert ours == pytest.approx(theirs, rel=ROUNDING.get((workload, optimizer), 1e-5))


if __name__ == "__main__":
    found = {workload: {optimizer: losses(workload, optimizer) for optimizer in OPTIMIZERS} for workload in WORKLOADS}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")
