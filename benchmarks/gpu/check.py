"""Whether a GPU computes what it should: the tests that need CUDA, checkpoints, and trainings that share its memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from math import isclose, isfinite
from pathlib import Path
from typing import Any

import torch

from tune_sam.checkpoint import Checkpoint
from tune_sam.config import TrialConfig
from tune_sam.training import Trainer, default_device

from .cases import NETWORKS, Case
from .processes import Job, together
from .report import first_line, give, line
from .timing import first_losses

ROOT = Path(__file__).parents[2]

TESTS = (
    "tests/test_optim.py",
    "tests/test_optim_variants.py",
    "tests/trainables/test_graphs.py",
    "tests/trainables/test_images.py",
    "tests/analysis/test_hessian.py",
    "tests/analysis/test_odd_models.py",
)
"""Files with tests that need CUDA, and neither Ray nor what else such a machine lacks."""

NEED_CUDA = "cuda or waits_for_the_device or without_cudnn"
"""What of their names says that they need it."""

TRAININGS = 4
"""That share a GPU, a quarter of its memory each."""


def check(
    *,
    output: Path,
    tests: Sequence[str] = TESTS,
    named: str = NEED_CUDA,
    trainings: int = TRAININGS,
    seconds: float = 8,
    tiny: bool = False,
) -> list[dict[str, Any]]:
    """Check everything, and give the table; a check that fails does not keep the next from being made.

    Args:
        output: folder of the JSON.
        tests: files of tests.
        named: which of their tests, in pytest's words.
        trainings: that share the GPU.
        seconds: that they are stepped for.
        tiny: small networks, for a machine without a GPU.
    """
    checks: dict[str, Callable[[], str]] = {
        f"{name}: {what}": lambda name=name, function=function: function(name, tiny)
        for name in NETWORKS
        for what, function in (("losses are those of the CPU", as_on_the_cpu), ("a training resumes", resumes))
    }
    checks |= {
        f"{trainings} trainings, each with 1/{trainings}": lambda: all_fit(trainings, seconds, tiny),
        "one is out of memory, the others go on": lambda: neighbours_go_on(trainings, seconds, tiny),
        "tests that need CUDA": lambda: tests_pass(tests, named, output),
    }
    rows = []
    for what, function in checks.items():
        begun = time.monotonic()
        try:
            found, passed = function(), True
        except Exception as error:  # the table says which failed, and the last line that some did
            found, passed = first_line(error), False
        rows.append({"check": what, "passed": passed, "seconds": time.monotonic() - begun, "found": found})
        print(line(rows[-1]), flush=True)
    give("check", rows, output)
    return rows


def as_on_the_cpu(network: str, tiny: bool) -> str:
    """Compare the first losses on the device with those on the CPU, in float32: in eval mode, for dropout differs."""
    case = Case.of(network, tiny=tiny)
    device = case.trainer("base", precision="fp32")
    model = case.workload.build(case.setting)
    model.load_state_dict({name: value.cpu() for name, value in device.model.state_dict().items()})
    [[(inputs, targets)]] = next(device.batches())
    some = case.splits.train.batch(_order(device))
    rounding = case.trainer("base", precision="bf16")
    with torch.no_grad():
        expected = float(case.workload.loss(model.eval()(some[0]), some[1]))
        device.model.eval()
        found = float(case.workload.loss(device.outputs(inputs), targets))
        rounding.model.eval()
        rounded = float(case.workload.loss(rounding.outputs(inputs), targets))
    _expect(isclose(found, expected, rel_tol=1e-2), f"the loss is {found:.6g}, and {expected:.6g} on the CPU")
    _expect(
        isclose(rounded, expected, rel_tol=0.1), f"in bf16 the loss is {rounded:.6g}, and {expected:.6g} on the CPU"
    )
    return f"{found:.6g}, on the CPU {expected:.6g}"


def _order(trainer: Trainer) -> torch.Tensor:
    """Give the samples of a training's first batch."""
    order = torch.Generator().manual_seed(trainer.configuration.seed << 20)
    return torch.randperm(len(trainer.splits.train), generator=order)[: trainer.configuration.batch_size]


def resumes(network: str, tiny: bool) -> str:
    """Write a training's checkpoint, read it into another, and compare their next losses."""
    case = Case.of(network, tiny=tiny)
    one, other = case.trainer("sam"), case.trainer("sam")
    first_losses(one)
    one.epoch()
    trial = TrialConfig(dataset=case.workload.default_dataset, epochs=one.epochs, configuration=one.configuration)
    with tempfile.TemporaryDirectory() as folder:
        Checkpoint.of(one, trial).save(folder)
        other.load_state_dict(Checkpoint.read(folder).training)
    # Convolutions and sums of a GPU are not made in one order, so that the last digits differ.
    (loss, again) = (one.epoch().metrics["train/loss"], other.epoch().metrics["train/loss"])
    _expect(isclose(loss, again, rel_tol=0.05), f"the next epoch's loss is {again:.6g}, not {loss:.6g}")
    return f"{again:.6g} and {loss:.6g}"


def all_fit(trainings: int, seconds: float, tiny: bool) -> str:
    """Train at the same time, each with its part of the memory."""
    job = Job("wideresnet", "asam", seconds, 1 / trainings, tiny=tiny)
    done = together([job] * trainings)
    for one in done:
        _expect(not one.error and isfinite(one.loss), f"a training ended with {one.error or one.loss}")
        _expect(_part(one.reserved) <= job.fraction, f"a training had {_part(one.reserved):.3g} of the GPU")
    return f"{sum(one.rate for one in done):,.0f} images/s in all, {max(_part(one.reserved) for one in done):.3g} each"


def neighbours_go_on(trainings: int, seconds: float, tiny: bool) -> str:
    """Train at the same time as a process that asks for all the memory that there is, and gets its fraction."""
    job = Job("wideresnet", "asam", seconds, 1 / trainings, tiny=tiny)
    greedy, *others = together([Job("gcn", fraction=1 / trainings, greedy=True, tiny=tiny), *[job] * (trainings - 1)])
    _expect("OutOfMemoryError" in greedy.error, f"the greedy one ended with {greedy.error or 'no error'}")
    _expect(_part(greedy.reserved) <= job.fraction, f"the greedy one had {_part(greedy.reserved):.3g} of the GPU")
    for one in others:
        _expect(not one.error and isfinite(one.loss), f"a neighbour ended with {one.error or one.loss}")
    rates = sum(one.rate for one in others)
    return f"out of memory at {_part(greedy.reserved):.3g}; {len(others)} went on at {rates:,.0f} images/s in all"


def tests_pass(tests: Sequence[str], named: str, output: Path) -> str:
    """Run tests in a process of their own, without what tests of whole studies share, which needs Ray and MLflow."""
    command = [sys.executable, "-m", "pytest", "--noconftest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "not slow and not data", "-k", named, *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    *_, last = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    _expect(done.returncode == 0, f"{last}; see {output / 'tests.log'}")
    return last


def _part(memory: int) -> float:
    """Give the part of the GPU's memory that some bytes are; 0 without a GPU."""
    device = default_device()
    return memory / torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0.0


def _expect(holds: bool, otherwise: str) -> None:
    """Raise unless it holds.

    Raises:
        ValueError: it does not.
    """
    if not holds:
        raise ValueError(otherwise)
