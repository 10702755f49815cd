"""A whole small search, and the seconds to its first result, beside the recipe of Ray's documentation.

Both search SAM's ρ, the learning rate and the batch size of the graph network on the digits, with Optuna's TPE and
ASHA, and log every epoch to an MLflow server over HTTP: `tune_sam.search`, and benchmarks/recipe.py. Each runs in a
Python of its own, in turns. Measured are wall-clock seconds and CPU seconds of each with all its processes, those of
MLflow's server left out, and the seconds until the first result of a trial. Both must end all trials, and find a best
validation accuracy within 0.1 of each other's median.

    python benchmarks/search.py
    python benchmarks/search.py --repeats 5 --output search.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from recipe import FIRST
from services import mlflow_server

OURS = f"""
import sys, time
begun = time.time()
import tune_sam
from tune_sam.tuning.listener import SearchListener

class First(SearchListener):
    told = False

    def epoch(self, *_):
        if not self.told:
            print({FIRST!r}, time.time() - begun, flush=True)
            self.told = True

folder, uri, trials, epochs = sys.argv[1:]
study = tune_sam.search(
    "gcn", dataset="digits", optimizers=["sam"], trials=int(trials), epochs=int(epochs), name="study",
    home=folder, tracking_uri=uri, listener=First(),
)
trials = study.records("sam")
failed = sum(trial.state == "failed" for trial in trials)
print("trials", len(trials), "errors", failed, "best", study.best("sam").value)
"""


@dataclass(frozen=True)
class Run:
    """One search: seconds until its end and its first result, CPU seconds of all its processes, and what it found."""

    wall: float
    first: float
    cpu: float
    best: float


def searched(side: str, uri: str, trials: int, epochs: int) -> Run:
    """Run one side in a Python of its own, and check that it has ended all trials."""
    program = ["-c", OURS] if side == "ours" else [str(Path(__file__).with_name("recipe.py"))]
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        begun = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *program, folder, uri, str(trials), str(epochs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            cpu: dict[int, float] = {}
            while process.poll() is None:
                cpu |= dict(_cpu(process.pid))
                time.sleep(0.05)
            wall = time.perf_counter() - begun
            out, error = process.communicate()
    lines = {line.rpartition(" ")[0]: line for line in out.splitlines()}
    if process.returncode or FIRST not in lines:
        raise SystemExit(f"{side} ended with {process.returncode}:\n{out}\n{error[-3000:]}")
    _, ended, _, errors, _, best = out.splitlines()[-1].split()
    if (int(ended), int(errors)) != (trials, 0):
        raise SystemExit(f"{side} ended {ended} of {trials} trials, {errors} with an error")
    return Run(wall, float(lines[FIRST].rpartition(" ")[2]), sum(cpu.values()), float(best))


def _cpu(pid: int) -> Iterator[tuple[int, float]]:
    """CPU seconds of a process and of each that it has started."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        yield one.pid, times.user + times.system


def main() -> None:
    """Measure both in turns, after one of each that does not count; print medians, their ratios and spreads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args()
    runs: dict[str, list[Run]] = {"recipe": [], "ours": []}
    with (
        tempfile.TemporaryDirectory(prefix="mlflow-") as place,
        mlflow_server(f"sqlite:///{place}/mlflow.db", Path(place), artifacts=f"{place}/artifacts") as server,
    ):
        for repeat in range(chosen.repeats + 1):
            for side in runs:
                run = searched(side, server.uri, chosen.trials, chosen.epochs)
                print(f"{side:7} {asdict(run)}" + ("" if repeat else ", which does not count"), flush=True)
                if repeat:
                    runs[side].append(run)
    bests = {side: median(run.best for run in found) for side, found in runs.items()}
    if abs(bests["ours"] - bests["recipe"]) > 0.1:
        raise SystemExit(f"the two searches do not find the same: {bests}")
    print(f"\n{chosen.trials} trials of {chosen.epochs} epochs; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{'':24}{'recipe':>9}{'ours':>9}{'ratio':>8}   lowest to highest ratio")
    figures = {
        "seconds": lambda run: run.wall,
        "CPU seconds": lambda run: run.cpu,
        "to the first result": lambda run: run.first,
        "after the first result": lambda run: run.wall - run.first,
    }
    table = {}
    for what, figure in figures.items():
        theirs, mine = ([figure(run) for run in runs[side]] for side in ("recipe", "ours"))
        ratios = sorted(own / other for own, other in zip(mine, theirs, strict=True))
        table[what] = {"recipe": median(theirs), "ours": median(mine), "ratios": ratios}
        ratio = median(mine) / median(theirs)
        print(f"{what:24}{median(theirs):9.1f}{median(mine):9.1f}{ratio:8.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}")
    if chosen.output:
        found = {side: [asdict(run) for run in one] for side, one in runs.items()}
        chosen.output.write_text(json.dumps({"runs": found, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
