"""Kill a whole study again and again, at random moments, and compare what comes of it with a run that nothing broke.

The same command is started after each kill, until it ends by itself. A driver, a worker and the raylet are killed in
turn, with `kill -9`. When a run is done before all kills are, another one begins. `make test-crash` runs it; it is no
part of the tests that are collected.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
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
WORKING = ("ray::_Inner", "ray::_capped")
"""How the titles of workers begin that do something; Ray's own agents have such titles, too."""
LIMIT = 900
"""Seconds that one start of the command may take."""


SEEDS, SAMPLE = 2, 32
SHARE = 1 / 8
"""Of the unbroken run's time: within so much of it comes a kill."""
EARLY = 1 / 5
"""Of the kills of drivers: those that come from a start on. The others come when the command has said its first word: a
start takes long where the machine has other work. One of a worker waits for a moment in which one works."""


@dataclass(frozen=True)
class Kill:
    """What was killed, in which stage of the command, and how many seconds after its last start."""

    victim: str
    stage: str
    seconds: float


@dataclass
class Run:
    """A whole study in a home of its own, by one command that may be started again.

    Attributes:
        home: of the study; it is made.
        kills: so far.
        gave_up: the last lines of starts that ended, with another status than 0, though nothing but workers was killed.
    """

    home: Path
    kills: list[Kill] = field(default_factory=list)
    gave_up: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home.mkdir(exist_ok=True)  # an unbroken run of an earlier sweep is taken again
        self.log = self.home / "log"
        (self.home / "options.yaml").write_text(OPTIONS)

    def start(self) -> subprocess.Popen[bytes]:
        words = ["run", "gcn", "--config", self.home / "options.yaml", "--name", NAME]
        more = ["--seeds", str(SEEDS), "--sample", str(SAMPLE), "--home", self.home]
        self._before = self.log.stat().st_size if self.log.exists() else 0
        self._begun = time.monotonic()
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", MAIN, *words, *more],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def lines(self) -> list[str]:
        """Give what the last start has printed."""
        return self.log.read_bytes()[self._before :].decode(errors="replace").splitlines()

    def stage(self) -> str:
        """Say what the last start is at."""
        begun = [line.removeprefix("== ") for line in self.lines() if line.startswith("== ")]
        return begun[-1] if begun else "search" if self.lines() else "start"

    def finish(self) -> float:
        """Start the command, and wait until it is done; give the seconds that it took."""
        status = self.start().wait(LIMIT)
        assert status == 0, f"exit status {status}; see {self.log}"
        return time.monotonic() - self._begun

    def kill(self, process: subprocess.Popen[bytes], victim: str, chance: random.Random) -> str:
        """Kill a part of a run; give what it was, which is the driver where there is no other."""
        found = victims_in(process, victim)
        chosen, victim = (chance.choice(found), victim) if found else (psutil.Process(process.pid), "driver")
        self.kills.append(Kill(victim, self.stage(), time.monotonic() - self._begun))
        with suppress(psutil.NoSuchProcess):
            chosen.kill()
        return victim


def victims_in(process: subprocess.Popen[bytes], victim: str) -> list[psutil.Process]:
    """List the processes of a run that are such a part of it, other than the driver."""
    with suppress(psutil.NoSuchProcess):
        return [one for one in psutil.Process(process.pid).children(recursive=True) if _is_a(victim, one)]
    return []


def _is_a(victim: str, process: psutil.Process) -> bool:
    """Whether a process is the raylet, or a worker that trains, tests or measures."""
    with suppress(psutil.Error, IndexError):
        title = process.cmdline()[0]
        return {"raylet": process.name() == "raylet", "worker": title.startswith(WORKING)}.get(victim, False)
    return False


def broken(run: Run, kills: int, span: float, victims: "cycle[str]", chance: random.Random) -> None:
    """Run a study, with kills until it is done or there were enough.

    Args:
        run: that was not begun.
        kills: at most.
        span: seconds after a start, or after the last kill, before which a kill comes.
        victims: whose turn it is.
        chance: for the moments.
    """
    process = run.start()
    while len(run.kills) < kills:
        victim = next(victims)
        status = _moment(run, process, victim, span, chance)
        if status == 0:
            return
        if status is None:
            victim = run.kill(process, victim, chance)
            print(f"{run.home.name}: {run.kills[-1]}", flush=True)
            if victim == "worker":  # the driver goes on
                continue
            process.wait(LIMIT)
        else:
            run.gave_up.append(f"status {status}: {' / '.join(run.lines()[-2:])}")
            print(f"{run.home.name}: {run.gave_up[-1]}", flush=True)
        process = run.start()
    if process.wait(LIMIT) != 0:
        run.finish()


def _moment(run: Run, process: subprocess.Popen[bytes], victim: str, span: float, chance: random.Random) -> int | None:
    """Wait for the moment of the next kill; give the status of a command that ends before."""
    until = time.monotonic() + chance.uniform(0, span) if victim == "driver" and chance.random() < EARLY else math.inf
    while (status := process.poll()) is None:
        if until == math.inf and run.lines():
            until = time.monotonic() + chance.uniform(0, span)
        if time.monotonic() >= until and (victim == "driver" or victims_in(process, victim)):
            return None
        time.sleep(0.1)
    return status


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
        budget = study.settings.trials_in_all
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


def table(kills: list[Kill]) -> str:
    """Count kills by what was killed, and in which stage."""
    counts = Counter((kill.stage, kill.victim) for kill in kills)
    stages = list(dict.fromkeys(kill.stage for kill in kills))
    rows = [(stage, *(str(counts[stage, victim]) for victim in VICTIMS)) for stage in stages]
    total = ("all", *(str(sum(kill.victim == victim for kill in kills)) for victim in VICTIMS))
    return "\n".join(
        f"{row[0]:<40}" + "".join(f"{cell:>8}" for cell in row[1:]) for row in (("", *VICTIMS), *rows, total)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--span", type=float, help="seconds within which a kill comes; a part of the unbroken run")
    parser.add_argument("--folder", type=Path, help="for the homes, which stay; by default one that goes")
    given = parser.parse_args()
    chance, victims = random.Random(given.seed), cycle(VICTIMS)
    with tempfile.TemporaryDirectory(prefix="sweep-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        unbroken = Run(folder / "unbroken")
        whole = unbroken.finish()
        print(f"unbroken: {whole:.0f} s", flush=True)
        span = given.span or whole * SHARE
        expected = results(unbroken.home)
        ill = faults(unbroken.home, expected)
        kills: list[Kill] = []
        while len(kills) < given.kills and not ill:
            run = Run(folder / f"broken-{len(kills):03}")
            broken(run, given.kills - len(kills), span, victims, chance)
            kills += run.kills
            ill = faults(run.home, expected)
            print(f"{run.home.name}: {len(run.kills)} kills, {len(expected)} results, {len(ill)} faults", flush=True)
        print(table(kills))
        print(f"{len(kills)} kills in {(time.monotonic() - begun) / 60:.0f} minutes", flush=True)
        print("\n".join(ill) if ill else "everything is as in the unbroken run")
        sys.exit(bool(ill))


if __name__ == "__main__":
    main()
