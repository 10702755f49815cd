"""Compare `tune_sam.analysis.spectrum` with PyHessian 0.1, on the GCN and Mutagenicity, in turns in one process.

PyHessian computes what its users compute: `eigenvalues()`, `trace()` and `density()`, each with its defaults.
`density()` is repaired, because it calls `torch.eig`, which torch has removed. Graph batches are wrapped. Two cases:

a. one batch of 512 graphs, where PyHessian keeps the gradient's graph, too;
b. the whole training split in batches of 512, PyHessian in its dataloader mode.

Seconds are medians over the repeats, of wall-clock time and of CPU time, which other work on the machine disturbs less.
In each repeat all contestants run once, in an order that rotates. PyHessian's trace stops by chance, so the
number of its products differs between repeats.

    python benchmarks/curvature.py --data ~/data                      # case a
    python benchmarks/curvature.py --data ~/data --case both --repeats 5 --weights gcn.pt
"""

import argparse
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyhessian_peer import counted_products, eig_is_back
from torch import Tensor, nn

from tune_sam.analysis import spectrum
from tune_sam.analysis.peer import peer
from tune_sam.space import Configuration
from tune_sam.trainables.data import mutagenicity
from tune_sam.training import Trainer
from tune_sam.workload import Splits, find_workload

BATCH = 512
GCN = find_workload("gcn")
Batches = list[tuple[Any, Tensor]]


@dataclass
class Result:
    """The result of one run of one contestant; nan is what a contestant does not compute.

    Attributes:
        products: number of products with the Hessian.
        lambda_max, lambda_min: largest and smallest eigenvalue.
        trace, error: trace of the Hessian, and its standard error.
        resolved: whether both ends had converged; None if the contestant does not say.
        seconds, cpu: wall-clock and CPU time.
    """

    products: int
    lambda_max: float
    lambda_min: float
    trace: float
    error: float
    resolved: bool | None = None
    seconds: float = float("nan")
    cpu: float = float("nan")


@dataclass
class Contestant:
    """A way to measure curvature, and its results so far. `run` takes a seed."""

    name: str
    run: Callable[[int], Result]
    results: list[Result] = field(default_factory=list)

    def median(self, name: str) -> float:
        """Take the median of a field over the results."""
        return statistics.median(getattr(result, name) for result in self.results)


def ours(model: nn.Module, batches: Batches, probes: int) -> Contestant:
    """Make a contestant of `tune_sam.analysis.spectrum`."""

    def run(seed: int) -> Result:
        found = spectrum(model, GCN.loss, batches, probes=probes, seed=seed)
        return Result(
            found.products,
            found.lambda_max.value,
            found.lambda_min.value,
            found.trace.value,
            found.trace.error,
            found.ratio.resolved,
        )

    return Contestant(f"spectrum(probes={probes})", run)


def theirs(model: nn.Module, batches: Batches) -> Contestant:
    """Make a contestant of PyHessian."""

    def run(seed: int) -> Result:
        torch.manual_seed(seed)
        with counted_products() as products, eig_is_back(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # backward(create_graph=True) keeps memory in a cycle
            reference = peer(model, GCN.loss, batches)
            (top,), _ = reference.eigenvalues()
            traces = reference.trace()
            reference.density()
        error = float(np.std(traces, ddof=1)) / len(traces) ** 0.5 if len(traces) > 1 else float("nan")
        return Result(products[0], top, float("nan"), float(np.mean(traces)), error)

    return Contestant("PyHessian", run)


def compete(contestants: list[Contestant], model: nn.Module, repeats: int) -> None:
    """Run the contestants in turns; garbage of the others is collected before a clock starts."""
    for repeat in range(repeats):
        for contestant in contestants[repeat % len(contestants) :] + contestants[: repeat % len(contestants)]:
            model.zero_grad()
            gc.collect()
            started, cpu = time.perf_counter(), time.process_time()
            result = contestant.run(repeat)
            result.seconds, result.cpu = time.perf_counter() - started, time.process_time() - cpu
            contestant.results.append(result)
            print(f"  {repeat + 1}/{repeats} {contestant.name}: {result.seconds:.1f} s", file=sys.stderr, flush=True)


def table(title: str, contestants: list[Contestant]) -> str:
    """Tabulate medians with their ratios to PyHessian's, and say how far the results agree."""
    reference = next(c for c in contestants if c.name == "PyHessian")
    lines = [
        title,
        f"{'':20} {'seconds':>8} {'ratio':>6} {'CPU s':>8} {'ratio':>6} {'products':>8} {'λ_max':>9} "
        f"{'λ_min':>9}  trace",
    ]
    for one in contestants:
        last = one.results[-1]
        times = "".join(
            f"{one.median(name):8.1f} {one.median(name) / reference.median(name):6.3f} " for name in ("seconds", "cpu")
        )
        lowest = "–" if last.resolved is None else f"{last.lambda_min:.5f}" if last.resolved else "unresolved"
        lines.append(
            f"{one.name:20} {times}{one.median('products'):8.0f} {last.lambda_max:9.4f} {lowest:>9}  "
            f"{last.trace:.1f} ± {last.error:.1f}"
        )
    for one in contestants:
        if one is not reference:
            tops = max(
                abs(a.lambda_max / b.lambda_max - 1) for a, b in zip(one.results, reference.results, strict=True)
            )
            traces = max(
                abs(a.trace - b.trace) / (a.error**2 + b.error**2) ** 0.5
                for a, b in zip(one.results, reference.results, strict=True)
            )
            lines.append(
                f"{one.name}: λ_max within {tops:.1e} of PyHessian's, traces within {traces:.1f} standard "
                f"errors; both ends resolved in {sum(bool(r.resolved) for r in one.results)} of "
                f"{len(one.results)} repeats"
            )
    return "\n".join(lines)


def trained(splits: Splits, epochs: int, weights: Path | None) -> nn.Module:
    """Train a GCN for some epochs of Adam, or read the weights if the file exists; else write them to it."""
    setting = GCN.settings["mutagenicity"]
    if weights and weights.exists():
        model = GCN.network(setting)
        model.load_state_dict(torch.load(weights, weights_only=True))
        return model
    configuration = Configuration(optimizer="base", rho=None, lr=0.002, batch_size=64, seed=0)
    trainer = Trainer(
        GCN, setting, configuration, splits, epochs=epochs, device=torch.device("cpu"), threads=torch.get_num_threads()
    )
    while not trainer.finished:
        epoch = trainer.epoch()
        print(f"  epoch {epoch.number}/{epochs}: {epoch.metrics}", file=sys.stderr, flush=True)
    if weights:
        torch.save(trainer.model.state_dict(), weights)
    return trainer.model


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder that holds Mutagenicity")
    parser.add_argument("--case", choices=("a", "b", "both"), default="a")
    parser.add_argument("--repeats", type=int, default=1, help="of case a (default 1)")
    parser.add_argument("--repeats-b", type=int, default=1, help="of case b, a quarter of an hour each (default 1)")
    parser.add_argument("--epochs", type=int, default=20, help="of training before (default 20)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="trained weights: read, or written if absent")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--output", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    if not mutagenicity.raw_folder(options.data).is_dir():
        parser.error(f"--data {options.data} holds no Mutagenicity; name the folder above Mutagenicity/raw")
    return options


def main() -> None:
    """Run the cases and print their tables."""
    options = arguments()
    torch.set_num_threads(options.threads)
    splits = GCN.splits("mutagenicity", options.data)
    model = trained(splits, options.epochs, options.weights)
    train = splits.train
    print(
        f"torch {torch.__version__}, PyHessian {version('pyhessian')}, {options.threads} threads, CPU; GCN with "
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
    )
    whole = [train.batch(part) for part in torch.arange(len(train)).split(BATCH)]
    cases = {
        "a": (f"\na. one batch of {BATCH} graphs", whole[:1], options.repeats),
        "b": (f"\nb. the whole training split, {len(train)} graphs", whole, options.repeats_b),
    }
    results: dict[str, list[Contestant]] = {}
    for case in cases if options.case == "both" else options.case:
        title, batches, repeats = cases[case]
        contestants = results[case] = [theirs(model, batches), ours(model, batches, 1), ours(model, batches, 3)]
        compete(contestants, model, repeats)
        print(table(f"{title}, median of {repeats}", contestants), flush=True)
    if options.output:
        written = {
            case: {one.name: [asdict(result) for result in one.results] for one in found}
            for case, found in results.items()
        }
        options.output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
