"""Samples a second of each network: base, SAM and ASAM; as it is, compiled, and compiled with CUDA graphs."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tune_sam.training import default_device

from .cases import NETWORKS, Case
from .report import first_line, give, line
from .timing import first_losses, operations, peak, rate, stepping

OPTIMIZERS = ("base", "sam", "asam")

CLOSE = 0.05
"""By which part the first losses of a way may differ from those of the network as it is: bf16 rounds to 1/256."""


@dataclass(frozen=True)
class Way:
    """How a network is run.

    Attributes:
        name: of the way.
        compile: whether through torch.compile.
        graphs: whether what is compiled is replayed as CUDA graphs.
    """

    name: str
    compile: bool = False
    graphs: bool = False

    def chosen(self) -> AbstractContextManager[Any]:
        """Hold torch's compiler to the way: it compiles with the first batches, not with the call that asks for it."""
        if not self.graphs:
            return nullcontext()
        from torch._inductor import config

        return config.patch({"triton.cudagraphs": True})  # which mode="reduce-overhead" sets


WAYS = (Way("as it is"), Way("compiled", compile=True), Way("with CUDA graphs", compile=True, graphs=True))


def throughput(
    networks: Sequence[str] = NETWORKS,
    *,
    output: Path,
    ways: Sequence[Way] = WAYS,
    optimizers: Sequence[str] = OPTIMIZERS,
    seconds: float = 4,
    minutes: float = 8,
    tiny: bool = False,
) -> list[dict[str, Any]]:
    """Measure and give the table.

    Args:
        networks: to measure, in this order.
        output: folder of the JSON.
        ways: how each is run; its losses must be those of the first.
        optimizers: that step each; the others are compared with the first.
        seconds: that each is repeated for.
        minutes: after which nothing more is begun; what is left out is said.
        tiny: small networks, for a machine without a GPU.
    """
    end = time.monotonic() + 60 * minutes
    precision = "bf16" if default_device().type == "cuda" else "fp32"
    most = peak(precision, 64 if tiny else 8192, seconds)
    print(f"a product of matrices in {precision}: {most / 1e12:,.3g} TFLOP/s", flush=True)
    rows = []
    for name in networks:
        case = Case.of(name, tiny=tiny)
        for row in _measured(case, ways, optimizers, seconds, most, end):
            print(line(row), flush=True)
            rows.append(row)
    give("throughput", rows, output, precision=precision, peak=most)
    return rows


def _measured(
    case: Case, ways: Sequence[Way], optimizers: Sequence[str], seconds: float, most: float, end: float
) -> Iterator[dict[str, Any]]:
    """Measure a network, way by way."""
    expected: dict[str, list[float]] = {}
    costs = {optimizer: operations(case.trainer(optimizer)) for optimizer in optimizers}
    for way in ways:
        base = None
        for optimizer in optimizers:
            row: dict[str, Any] = {"network": case.name, "optimizer": optimizer, "way": way.name}
            if time.monotonic() > end:
                yield row | {"held": True, "check": "not measured: no time was left"}
                continue
            try:
                with way.chosen():
                    losses = first_losses(case.without_dropout.trainer(optimizer, compile=way.compile))
                    wrong = difference(losses, expected.setdefault(optimizer, losses))
                    trainer = case.trainer(optimizer, compile=way.compile)
                    step = stepping(trainer)
                    for _ in range(3):  # a graph is recorded with a shape's second batch
                        step()
                    steps = rate(step, seconds)
            except Exception as error:  # of one way, on a device that nobody has tried it on
                yield row | {"held": False, "check": f"failed: {first_line(error)}"}
                continue
            finally:
                trainer = step = None
                gc.collect()
                torch.cuda.empty_cache()
            samples = steps * case.setting.batch_size
            base = samples if optimizer == optimizers[0] else base
            yield row | {
                "samples/s": samples,
                "of the peak": costs[optimizer] * steps / most,
                **({"× base": base / samples} if base else {}),
                "held": not wrong,
                "check": wrong or "same losses",
            }


def difference(losses: Sequence[float], expected: Sequence[float]) -> str:
    """Say where losses are not those expected; nothing where they are close."""
    for step, (one, other) in enumerate(zip(losses, expected, strict=True), start=1):
        if not abs(one - other) <= CLOSE * abs(other):
            return f"step {step} has the loss {one:.4g}, not {other:.4g}"
    return ""
