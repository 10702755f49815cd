"""Kill a whole study again and again, at random moments, and compare what comes of it with a run that nothing broke.

The same command is started after each kill, until it ends by itself. A driver, a worker and the raylet are killed in
turn, with `kill -9`. When a run is done before all kills are, another one begins. `make test-crash` runs it; it takes
about a quarter of a minute a kill on two cores, and is no part of the tests that are collected.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import psutil
import torch
from mlflow import MlflowClient

from tune_sam.operations.doctor import diagnose
from tune_sam.study.records import Study, open_study, refits_of

MAIN = "from tune_sam.cli.main import main; main()"
NAME = "swept"
OPTIONS = """\
dataset: digits
optimizers: [base, sam, asam]
trials: 2
epochs: 3
train_subset: 128
max_concurrent: 1
"""
"""One trial at a time: with more, what is pruned and suggested depends on which ends first, killed or not."""
VICTIMS = ("driver", "worker", "raylet")
LIMIT = 900
"""Seconds that one start of the command may take."""


class Run:
    """A whole study in a home of its own, by one command that may be started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir()
        self.config = home / "options.yaml"
        self.config.write_text(OPTIONS)

    def start(self) -> subprocess.Popen[bytes]:
        words = ["run", "gcn", "--config", self.config, "--name", NAME, "--seeds", "2", "--sample", "64"]
        with (self.home / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", MAIN, *words, "--home", self.home],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def finish(self) -> float:
        """Start the command, and wait until it is done; give the seconds that it took."""
        begun = time.monotonic()
        status = self.start().wait(LIMIT)
        assert status == 0, f"exit status {status}; see {self.home}/log"
        return time.monotonic() - begun


def killed(process: subprocess.Popen[bytes], victim: str, chance: random.Random) -> str:
    """Kill a part of a run; give what it was, which is the driver where there is no other."""
    family = psutil.Process(process.pid).children(recursive=True)
    named = {"worker": "ray::", "raylet": "raylet"}.get(victim)
    found = [one for one in family if named and _title(one).startswith(named)]
    chosen = chance.choice(found) if found else psutil.Process(process.pid)
    with suppress(psutil.NoSuchProcess):
        chosen.kill()
    return victim if found else "driver"


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()[:1]) if process.name() != "raylet" else "raylet"
    return ""


def broken(home: Path, kills: int, span: float, victims: "cycle[str]", chance: random.Random) -> tuple[Run, int]:
    """Run a study, with kills until it is done or there were `kills`; give how many there were.

    Args:
        home: to make.
        kills: at most.
        span: seconds after a start, or after the last kill, before which a kill comes.
        victims: whose turn it is.
        chance: for the moments.
    """
    run, done = Run(home), 0
    process = run.start()
    while done < kills:
        try:
            status = process.wait(chance.uniform(0, span))
        except subprocess.TimeoutExpired:
            victim = killed(process, next(victims), chance)
            done += 1
            print(f"kill {done}: {victim}", flush=True)
            if victim == "worker":  # the driver goes on
                continue
            status = process.wait(LIMIT)
            assert status != 0 or victim == "raylet", "a driver that was killed has a status of its own"
        if status == 0:
            return run, done
        process = run.start()
    status = process.wait(LIMIT)
    if status != 0:
        run.finish()
    return run, done


def studies(home: Path) -> list[Study]:
    study = open_study(NAME, home)
    return [study, *refits_of(study)]


def results(home: Path) -> dict[str, object]:
    """What a run came to, by what it is, without times, processes and places."""
    found: dict[str, object] = {}
    for study in studies(home):
        for trial in study.records():
            record = (trial.config, trial.state, trial.reason, trial.value, trial.epochs, timeless(trial.metrics))
            found[trial.key] = record
            found[f"epochs of {trial.key}"] = {
                epoch: timeless(metrics) for epoch, metrics in study.history(trial).items()
            }
            found[f"weights of {trial.key}"] = trial.load_model().state_dict()
        folder = study.home.study(study.name)
        for file in sorted(folder.rglob("*.json")):
            with suppress(ValueError, TypeError, KeyError):
                found[str(file.relative_to(home))] = timeless(json.loads(file.read_text())["result"])
    return found


def timeless(metrics: object) -> object:
    """Leave out what takes another time each time."""
    if isinstance(metrics, dict):
        return {
            name: timeless(value)
            for name, value in metrics.items()
            if not str(name).startswith("time/") and name != "seconds"
        }
    return [timeless(one) for one in metrics] if isinstance(metrics, list) else metrics


def same(ours: object, theirs: object) -> bool:
    """Whether two results are bitwise the same; NaN, of what could not be measured, is itself."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(value, theirs[name]) for name, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs)
    return ours == theirs or (ours != ours and theirs != theirs)


def faults(home: Path, expected: dict[str, object]) -> list[str]:
    """Everything in which a home differs from the unbroken one, or its records from each other."""
    found = [f"doctor on {one.key}: {one.trouble}" for one in diagnose(NAME, home=home) if one.trouble]
    ours = results(home)
    found += [f"{what} is missing" for what in expected.keys() - ours.keys()]
    found += [f"{what} is too much" for what in ours.keys() - expected.keys()]
    found += [f"{what} is another" for what in ours.keys() & expected.keys() if not same(ours[what], expected[what])]
    for study in studies(home):
        budget = sum(study.settings.budget(optimizer) for optimizer in study.settings.optimizers)
        trials = study.records()
        found += [f"{study.name} has {len(trials)} trials of {budget}"] * (len(trials) != budget)
        client = MlflowClient(study.tracking_uri)
        for trial in trials:
            steps = [point.step for point in client.get_metric_history(trial.mlflow_run_id, "train/loss")]
            if sorted(steps) != list(study.history(trial)):
                found.append(f"MLflow has epochs {sorted(steps)} of {trial.key}")
    if not (home / "studies" / NAME / "report" / "index.html").exists():
        found.append("there is no page")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for the homes, which stay; by default one that goes")
    given = parser.parse_args()
    chance, victims = random.Random(given.seed), cycle(VICTIMS)
    with tempfile.TemporaryDirectory(prefix="sweep-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        unbroken = Run(folder / "unbroken")
        whole = unbroken.finish()
        print(f"unbroken: {whole:.0f} s", flush=True)
        expected, left = results(unbroken.home), given.kills
        ill = faults(unbroken.home, expected)
        while left and not ill:
            home = folder / f"broken-{given.kills - left}"
            # Half of a run, so that kills fall into its beginning as well as into what comes late.
            run, done = broken(home, left, whole / 2, victims, chance)
            left -= done
            ill = faults(run.home, expected)
            print(f"{home.name}: {done} kills, {len(expected)} results, {len(ill)} faults", flush=True)
        print("\n".join(ill) if ill else f"{given.kills} kills: everything is as in the unbroken run")
        sys.exit(bool(ill))


if __name__ == "__main__":
    main()
