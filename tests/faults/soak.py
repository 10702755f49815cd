"""Let one home grow to 300 trials, and measure what grows: time, the driver's memory, every query, every file.

The machine's other work changes how long something takes, and hardly the processor time, so both are given: of the
driver for a trial, and of a query. Queries are made by a process of their own, each twice, and the second counts.
`make test-soak` runs it; it is no part of the tests that are collected.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil

import tune_sam
from tune_sam.cluster.executor import InlineExecutor, RayExecutor
from tune_sam.home import Home
from tune_sam.operations.doctor import diagnose
from tune_sam.operations.status import status
from tune_sam.study.lock import confirm_locks, study_lock
from tune_sam.tuning.delivery import sync

NAME = "soaked"
OPTIONS: dict[str, Any] = {
    "dataset": "digits", "optimizers": ["base", "sam"], "epochs": 2, "train_subset": 128, "scheduler": "none",
}  # fmt: skip
STAGES = 6
CONFIRMATIONS = 1000


def queries(home: Path, page: Path) -> dict[str, Callable[[], object]]:
    return {
        "studies": lambda: tune_sam.studies(home),
        "best": lambda: tune_sam.open_study(NAME, home).best(),
        "trials": lambda: tune_sam.open_study(NAME, home).trials(),
        "status": lambda: status(NAME, home=home),
        "doctor": lambda: diagnose(NAME, home=home),
        "sync": lambda: sync(NAME, home=home),
        "report": lambda: tune_sam.report(NAME, home=home, output=page),
    }


def measured(query: Callable[[], object]) -> dict[str, float]:
    """Make a query twice; give the seconds of the second, by the clock and of the processor."""
    query()
    wall, cpu = time.perf_counter(), time.process_time()
    query()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def asked(home: Path) -> dict[str, dict[str, float]]:
    """Measure all queries in a process of their own."""
    done = subprocess.run([sys.executable, "-m", "faults.soak", "--queries", home], stdout=subprocess.PIPE, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def sizes(home: Path) -> dict[str, int]:
    """Give the bytes of a home's files, by what they are."""
    found = {"optuna.db": 0, "mlflow.db": 0, "checkpoints": 0, "logs": 0, "data": 0, "rest": 0}
    for file in filter(Path.is_file, home.rglob("*")):
        kind = (
            file.name if file.name in found
            else "checkpoints" if file.parent.name.startswith("checkpoint_")
            else "logs" if file.suffix == ".log"
            else "data" if "data" in file.parts
            else "rest"
        )  # fmt: skip
        found[kind] += file.stat().st_size
    return found


def confirmation(home: Home) -> float:
    """Give the seconds that it takes to confirm a lock, which is done before each commit."""
    with study_lock(home, "confirmed"):
        begun = time.perf_counter()
        for _ in range(CONFIRMATIONS):
            confirm_locks(home)
        return (time.perf_counter() - begun) / CONFIRMATIONS


def confirmations(folder: Path) -> dict[str, float]:
    """Confirm a lock on a file, and in a Postgres if there is one."""
    found = {"file": confirmation(Home.at(folder / "locks"))}
    try:
        from services import postgres

        with postgres(folder) as server:
            found["Postgres"] = confirmation(Home.at(folder / "locks", server.create("locks")))
    except ImportError:
        print("without the wheel of Postgres, its lock is not measured")
    return found


def soaked(home: Path, trials: int, inline: bool) -> list[dict[str, Any]]:
    """Search a study in stages, by one driver, and measure after each."""
    executor = InlineExecutor() if inline else RayExecutor(max_concurrent=2)
    driver, found = psutil.Process(), []
    with nullcontext() if inline else executor.opened():
        for total in range(trials // STAGES, trials + 1, trials // STAGES):
            wall, cpu = time.perf_counter(), time.process_time()
            each = total // len(OPTIONS["optimizers"])
            tune_sam.search("gcn", name=NAME, home=home, trials=each, executor=executor, **OPTIONS)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            new = total - (found[-1]["trials"] if found else 0)
            assert len(tune_sam.open_study(NAME, home).complete()) == total
            stage = {
                "trials": total,
                "trial": {"wall": wall / new, "cpu": cpu / new},
                "memory": driver.memory_info().rss,
                "queries": asked(home),
                "sizes": sizes(home),
            }
            print(in_words(stage), flush=True)
            found.append(stage)
    return found


def in_words(stage: dict[str, Any]) -> str:
    """Give a row of the table: times as seconds of the processor, by the clock in brackets."""
    times = {"trial": stage["trial"], **stage["queries"]}
    bytes_of = {name: f"{size / 2**20:.2f}" for name, size in stage["sizes"].items()}
    return (
        f"{stage['trials']:>4} trials, driver {stage['memory'] / 2**20:.0f} MiB; "
        + ", ".join(f"{name} {one['cpu']:.2f} ({one['wall']:.2f})" for name, one in times.items())
        + "; MiB: "
        + ", ".join(f"{name} {size}" for name, size in bytes_of.items())
    )


def growth(stages: list[dict[str, Any]]) -> str:
    """Say how much of what a trial adds, between the first stage and the last."""
    first, last = stages[0], stages[-1]
    new = last["trials"] - first["trials"]
    times = {name: last["queries"][name]["cpu"] - first["queries"][name]["cpu"] for name in last["queries"]}
    return (
        f"a trial adds: {(last['memory'] - first['memory']) / new / 1024:.0f} KiB of the driver's memory; "
        + ", ".join(f"{1000 * more / new:.2f} ms of {name}" for name, more in times.items())
        + "; "
        + ", ".join(
            f"{(last['sizes'][name] - first['sizes'][name]) / new / 1024:.1f} KiB of {name}" for name in last["sizes"]
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=300, help=f"in the end, in {STAGES} stages")
    parser.add_argument("--inline", action="store_true", help="train in the driver's own process, without Ray")
    parser.add_argument("--json", type=Path, help="file for all that is measured")
    parser.add_argument("--queries", type=Path, help="a home: measure its queries, and nothing else")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        if given.queries:
            found = {name: measured(query) for name, query in queries(given.queries, Path(folder, "page")).items()}
            print(json.dumps(found))
            return
        begun = time.monotonic()
        stages = soaked(Path(folder, "home"), given.trials, given.inline)
        print(growth(stages))
        locks = confirmations(Path(folder))
        print("a lock is confirmed in " + ", ".join(f"{1e6 * one:.0f} µs ({what})" for what, one in locks.items()))
        print(f"{(time.monotonic() - begun) / 60:.0f} minutes")
        if given.json:
            given.json.write_text(json.dumps({"stages": stages, "confirmations": locks}, indent=2))


if __name__ == "__main__":
    main()
