"""What a question to a home costs, beside Optuna's command line on the same file.

A study of two optimizers is searched in one process, without training (benchmarks/replay.py). Then each command runs in
turns with `optuna best-trial` and `optuna trials` on its file. Measured are seconds and CPU seconds of the command, its
imports included; `doctor`, which reads MLflow and every checkpoint, has no peer. Both must name the same best value.

    python benchmarks/queries.py
    python benchmarks/queries.py --trials 100 --repeats 7 --output queries.json
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

BEST = "optuna best-trial"
PEERS = {"best": BEST, "trials": "optuna trials", "studies": BEST, "status": BEST, "doctor": None}
"""Beside which of Optuna's commands each of ours is put."""

BIN = Path(sys.executable).parent


def searched(home: Path, trials: int) -> None:
    """Make the study."""
    from replay import Replay

    import tune_sam
    from tune_sam.cluster.executor import InlineExecutor, Trainings

    class Replaying(InlineExecutor):
        """Runs other trainings."""

        def train(self, trainings: Trainings) -> None:
            super().train(replace(trainings, trainable=Replay))

    tune_sam.search(
        "gcn", dataset="digits", train_subset=256, optimizers=["sam", "asam"], trials=trials, epochs=4, name="one",
        home=home, executor=Replaying(),
    )  # fmt: skip


def commands(home: Path) -> Mapping[str, Sequence[str | Path]]:
    """Give the command lines of both sides."""
    of_file = ("--storage", f"sqlite:///{home / 'optuna.db'}", "--study-name", "one/sam")
    own = {name: (BIN / "tune-sam", name, *(() if name == "studies" else ("one",)), "--home", home) for name in PEERS}
    return {
        BEST: (BIN / "optuna", "best-trial", *of_file),
        "optuna trials": (BIN / "optuna", "trials", *of_file),
        **own,
    }


def measured(command: Sequence[str | Path]) -> tuple[float, float]:
    """Run a command; give its seconds and its CPU seconds."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def check(home: Path) -> None:
    """Compare what both say of the best trial."""
    both = commands(home)
    theirs = json.loads(subprocess.run([*both[BEST], "-f", "json"], capture_output=True, check=True).stdout)
    asked = [*both["best"], "--optimizer", "sam", "--json"]
    ours = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    if (theirs["number"], [*theirs["value"].values()]) != (ours["number"], [ours["value"]]):
        raise SystemExit(f"the best trials differ: {theirs['number']} and {ours['number']}")


def main() -> None:
    """Measure all commands in turns, after one round that does not count; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="of each of two optimizers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="queries-") as place:
        home = Path(place)
        searched(home, chosen.trials)
        check(home)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands(home)}
        for repeat in range(chosen.repeats + 1):
            for name, command in commands(home).items():
                figures = measured(command)
                if repeat:
                    found[name].append(figures)
    print(f"2 x {chosen.trials} trials; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{'':18}{'seconds':>9}{'CPU s':>8}   ratio of CPU s, lowest to highest")
    table = {}
    for name, runs in found.items():
        wall, cpu = (median(run[at] for run in runs) for at in (0, 1))
        peer = PEERS.get(name)
        table[name] = {"seconds": wall, "cpu": cpu, "peer": peer, "runs": runs}
        line = f"{name:18}{wall:9.2f}{cpu:8.2f}"
        if peer:
            ratios = sorted(own[1] / other[1] for own, other in zip(runs, found[peer], strict=True))
            line += f"   {cpu / median(run[1] for run in found[peer]):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(line)
    if chosen.output:
        chosen.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
