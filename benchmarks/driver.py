"""What the driver of a search costs a result and a trial, beside plain Ray Tune with OptunaSearch.

All run trials that train nothing (benchmarks/replay.py): two at a time in Ray's workers, reused, with a checkpoint an
epoch, and ASHA. `ours` is `tune_sam.search` as it is, with its ledger in a file and MLflow's runs in another; `durable`
is Tune and OptunaSearch with Optuna's storage in a file; `memory` is the same without. Tune's own loggers are off on
all sides. Each search has a Python of its own, in turns. Measured is that process alone: its CPU seconds, by the clock
of the process, and its memory, from the first result on. All must end all trials, and find a best accuracy within 0.05.

    python benchmarks/driver.py
    python benchmarks/driver.py --trials 1000 --repeats 1 --output driver.json
    python benchmarks/driver.py --inline     # without Ray and the loop of Tune, which all have alike
    python benchmarks/driver.py --scale 10000 --csv scale.csv     # ours alone, without Ray: curves, and the parts
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

SIDES = ("durable", "memory", "ours")
EPOCHS = 4
MARK = "points "


class Parts:
    """CPU seconds and calls of some of our methods, each on the thread that calls it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def take(self, kind: type, name: str, what: str) -> None:
        """Measure a method from now on."""
        method: Callable[..., Any] = getattr(kind, name)

        @wraps(method)
        def measured(*args: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return method(*args, **options)
            finally:
                self.seconds[what] += time.thread_time() - begun
                self.calls[what] += 1

        setattr(kind, name, measured)


def parts_of_the_driver() -> Parts:
    """Measure the ledger's transactions and what MLflow is given."""
    from tune_sam.tracking.delivery import Delivery
    from tune_sam.tuning.delivery import Content
    from tune_sam.tuning.ledger import Ledger

    parts = Parts()
    parts.take(Ledger, "suggest", "ledger: a trial's start")
    parts.take(Ledger, "report", "ledger: an epoch")
    parts.take(Ledger, "note_checkpoint", "ledger: a checkpoint")
    parts.take(Ledger, "end", "ledger: a trial's end")
    parts.take(Content, "__call__", "MLflow: what the ledger has")
    parts.take(Delivery, "_send", "MLflow: what is sent")
    return parts


def ours(folder: str, trials: int, inline: bool, every: int) -> None:
    """Search with tune_sam."""
    from replay import Meter, Replay

    import tune_sam
    from tune_sam.cluster.executor import InlineExecutor, RayExecutor, Trainings
    from tune_sam.tuning.listener import SearchListener

    meter = Meter(every)
    parts = parts_of_the_driver() if inline else Parts()

    class Replaying(InlineExecutor if inline else RayExecutor):  # type: ignore[misc]
        """Runs other trainings."""

        def train(self, trainings: Trainings) -> None:
            super().train(replace(trainings, trainable=Replay))

    class Counts(SearchListener):
        """Counts results and trials."""

        trials = 0

        def started(self, optimizer: str, number: int) -> None:
            self.trials += 1

        def epoch(self, optimizer: str, number: int, epoch: int) -> None:
            meter.result(self.trials)

    study = tune_sam.search(
        "gcn", dataset="digits", train_subset=256, optimizers=["sam"], trials=trials, epochs=EPOCHS, name="study",
        home=folder, executor=Replaying(), listener=Counts(), sampler="tpe", scheduler="asha",
    )  # fmt: skip
    ended = sum(trial.has_ended for trial in study.records())
    taken = {what: [seconds, parts.calls[what]] for what, seconds in parts.seconds.items()}
    size = Path(folder, "optuna.db").stat().st_size, Path(folder, "mlflow.db").stat().st_size
    best = study.best().value
    print(MARK + json.dumps({"points": meter.points, "ended": ended, "best": best, "parts": taken, "bytes": size}))


def plain(folder: str, trials: int, durable: bool, every: int) -> None:
    """Search with Tune and OptunaSearch."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch
    from replay import Meter, Replay

    meter = Meter(every)

    class Counts(tune.Callback):
        """Counts results and trials."""

        def on_trial_result(self, iteration: int, trials: list[Any], *_: Any, **__: Any) -> None:
            meter.result(len(trials))

    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db") if durable else None
    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=os.cpu_count())
    results = tune.Tuner(
        Replay,
        param_space={
            "rho": tune.loguniform(0.001, 1),
            "lr": tune.loguniform(1e-4, 1e-1),
            "batch_size": tune.choice([32, 64, 128]),
            "epochs": EPOCHS,
        },
        tune_config=tune.TuneConfig(
            metric="val/accuracy", mode="max", num_samples=trials, max_concurrent_trials=os.cpu_count(),
            search_alg=OptunaSearch(seed=0, storage=storage, study_name="study"),
            scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=2, reduction_factor=2), reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=folder, callbacks=[Counts()], verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True),
        ),
    ).fit()  # fmt: skip
    best = results.get_best_result(scope="all").metrics["val/accuracy"]
    print(MARK + json.dumps({"points": meter.points, "ended": len(results) - results.num_errors, "best": best}))


def plain_inline(folder: str, trials: int, durable: bool, every: int) -> None:
    """Ask OptunaSearch and ASHA in this process what Tune would, trial after trial, and nothing else."""
    import optuna
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler
    from ray.tune.search.optuna import OptunaSearch
    from replay import Meter, Replay

    meter = Meter(every)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db") if durable else None
    space = {
        "rho": optuna.distributions.FloatDistribution(0.001, 1, log=True),
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "batch_size": optuna.distributions.CategoricalDistribution((32, 64, 128)),
    }
    search = OptunaSearch(
        space,
        metric="val/accuracy", mode="max", seed=0, storage=storage, study_name="study",
    )  # fmt: skip
    scheduler: Any = ASHAScheduler(max_t=EPOCHS, grace_period=2, reduction_factor=2)
    scheduler.set_search_properties("val/accuracy", "max")
    best = 0.0
    for number in range(trials):
        trial: Any = SimpleNamespace(trial_id=f"{number:05}")
        config: Any = search.suggest(trial.trial_id)
        scheduler.on_trial_add(None, trial)
        training = Replay({**config, "epochs": EPOCHS})
        decision = TrialScheduler.CONTINUE
        while decision == TrialScheduler.CONTINUE:
            result = training.train()
            place = Path(folder, trial.trial_id, str(training.done))
            place.mkdir(parents=True)
            training.save_checkpoint(str(place))
            decision = TrialScheduler.STOP if result["done"] else scheduler.on_trial_result(None, trial, result)
            if decision == TrialScheduler.CONTINUE:
                search.on_trial_result(trial.trial_id, result)
            meter.result(number + 1)
            best = max(best, result["val/accuracy"])
        scheduler.on_trial_complete(None, trial, result)
        search.on_trial_complete(trial.trial_id, result)
        training.stop()
    print(MARK + json.dumps({"points": meter.points, "ended": trials, "best": best}))


@dataclass(frozen=True)
class Run:
    """One search: what was used after so many results, the best accuracy; of ours the parts, and bytes of its files."""

    points: list[dict[str, float]]
    best: float
    parts: dict[str, tuple[float, int]]
    bytes: tuple[int, int]

    def cpu(self, begin: float = 0.0, end: float = 1.0) -> float:
        """Give CPU seconds for 100 results, in a part of the search."""
        first, *_, last = self.points[int(begin * (len(self.points) - 1)) : int(end * (len(self.points) - 1)) + 1]
        return 100 * (last["cpu"] - first["cpu"]) / (last["results"] - first["results"])

    def cpu_of_a_trial(self) -> float:
        """Give CPU seconds for a trial."""
        first, last = self.points[0], self.points[-1]
        return (last["cpu"] - first["cpu"]) / (last["trials"] - first["trials"])


def searched(side: str, trials: int, *, inline: bool = False, every: int = 25) -> Run:
    """Run one side in a Python of its own, and check that it has ended all trials."""
    with tempfile.TemporaryDirectory(prefix="driver-") as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--side", side, folder, str(trials), str(int(inline)), str(every)],
            capture_output=True,
            text=True,
        )
    said = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not said:
        raise SystemExit(f"{side} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    found = json.loads(said[0])
    if found["ended"] != trials:
        raise SystemExit(f"{side} ended {found['ended']} of {trials} trials")
    return Run(found["points"], found["best"], found.get("parts", {}), found.get("bytes", (0, 0)))


def scaled(trials: int, place: Path | None) -> None:
    """Run ours in one process without Ray, and write its curves."""
    run = searched("ours", trials, inline=True, every=100)
    rows = []
    for before, after in zip(run.points, run.points[1:], strict=False):
        begun = max(after["trials"] - before["trials"], 1)
        rows.append({
            "trials": int(after["trials"]), "results": int(after["results"]),
            "seconds_per_trial": (after["wall"] - before["wall"]) / begun,
            "cpu_seconds_per_trial": (after["cpu"] - before["cpu"]) / begun, "driver_mib": after["memory"],
        })  # fmt: skip
    if place:
        with place.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    for row in rows[:: max(1, len(rows) // 20)]:
        print({name: round(value, 4) for name, value in row.items()})
    for what, (seconds, calls) in run.parts.items():
        print(f"{what:28}{1000 * seconds / trials:8.2f} ms a trial, {calls} calls of {1000 * seconds / calls:.2f} ms")
    print("KiB a trial: optuna.db {:.1f}, mlflow.db {:.1f}".format(*(size / 1024 / trials for size in run.bytes)))


def main() -> None:
    """Measure all sides in turns; print medians, ratios and spreads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--inline", action="store_true", help="all sides in one process each, without Ray and Tune's loop"
    )
    parser.add_argument("--scale", type=int, help="run ours alone, with so many trials, in one process")
    parser.add_argument("--csv", type=Path, help="a file for the curves of --scale")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--side", nargs=5, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        side, folder, trials, inline, every = chosen.side
        if side == "ours":
            ours(folder, int(trials), bool(int(inline)), int(every))
        else:
            (plain_inline if int(inline) else plain)(folder, int(trials), side == "durable", int(every))
        return
    if chosen.scale:
        scaled(chosen.scale, chosen.csv)
        return
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for _ in range(chosen.repeats):
        for side, found in runs.items():
            found.append(run := searched(side, chosen.trials, inline=chosen.inline))
            print(f"{side:8} {run.cpu():.2f} CPU s for 100 results, best {run.best:.3f}", flush=True)
    bests = {side: median(run.best for run in found) for side, found in runs.items()}
    if max(bests.values()) - min(bests.values()) > 0.05:
        raise SystemExit(f"the searches do not find the same: {bests}")
    print(f"\n{chosen.trials} trials of up to {EPOCHS} epochs; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    figures = {
        "CPU s for 100 results": Run.cpu,
        "of the first half": lambda run: run.cpu(0, 0.5),
        "of the second half": lambda run: run.cpu(0.5, 1),
        "CPU s for a trial": Run.cpu_of_a_trial,
        "MiB at the end": lambda run: run.points[-1]["memory"],
    }
    table: dict[str, Any] = {}
    for what, figure in figures.items():
        row = {side: [figure(run) for run in found] for side, found in runs.items()}
        table[what] = row
        print(f"{what:24}" + "".join(f"{side} {median(values):.3f}  " for side, values in row.items()))
        for side in SIDES[:2]:
            ratios = sorted(mine / other for mine, other in zip(row["ours"], row[side], strict=True))
            ratio = median(row["ours"]) / median(row[side])
            print(f"{'':24}ours to {side} {ratio:.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}")
    if chosen.output:
        points = {side: [run.points for run in found] for side, found in runs.items()}
        chosen.output.write_text(json.dumps({"table": table, "points": points}, indent=1) + "\n")


if __name__ == "__main__":
    main()
