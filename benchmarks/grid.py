"""Epochs of training until a search has found the validation accuracy that the plain grid over ρ ends with.

The grid trains SAM at the four values of ρ of the workload, each to its end. The search begins with the same four,
under ASHA, and goes on with TPE over ρ, learning rate and batch size. Both train one trial after another in this
process, so that their epochs can be counted in order: to a search are counted all that it trained until the first trial
ended that is at least as good as the grid's best, those of stopped trials too. A search that never is counts with all.

    python benchmarks/grid.py --data DIR
    python benchmarks/grid.py --data DIR --epochs 30 --trials 20 --seeds 0 1 --output grid.json
"""

import argparse
import json
import tempfile
from pathlib import Path

import tune_sam
from tune_sam import Study
from tune_sam.cluster.executor import InlineExecutor


def searched(home: Path, data: Path, seed: int, epochs: int, **options: object) -> Study:
    """Search SAM for the graph network on Mutagenicity in this process."""
    return tune_sam.search(
        "gcn",
        dataset="mutagenicity",
        data=data,
        optimizers=["sam"],
        epochs=epochs,
        precision="fp32",  # whatever the CPU
        seed=seed,
        home=home,
        executor=InlineExecutor(),
        **options,
    )


def epochs_to(study: Study, level: float) -> tuple[int, bool]:
    """Count the epochs until a complete trial is at least as good as `level`, and say whether one is."""
    total = 0
    for trial in sorted(study.records(), key=lambda trial: trial.ended):
        total += trial.epochs
        if trial.state == "complete" and trial.value >= level:
            return total, True
    return total, False


def main() -> None:
    """Search by the grid and freely with each seed; print both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds Mutagenicity")
    parser.add_argument("--epochs", type=int, default=30, help="of a training (default 30)")
    parser.add_argument("--trials", type=int, default=20, help="of a search (default 20)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of searches (default 0 1 2)")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args()
    rows = []
    print(
        f"{'seed':>4}{'best of the grid':>18}{'its epochs':>12}{'best of the search':>20}{'epochs to match':>17}  ratio"
    )
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory(prefix="grid-") as folder:
            asked = (Path(folder), chosen.data, seed, chosen.epochs)
            grid = searched(*asked, name="grid", sampler="grid", scheduler="none")
            free = searched(*asked, name="free", trials=chosen.trials)
            best, theirs = grid.best("sam").value, sum(trial.epochs for trial in grid.records())
            mine, matched = epochs_to(free, best)
            rows.append(
                {
                    "seed": seed,
                    "grid": best,
                    "grid_epochs": theirs,
                    "search": free.best("sam").value,
                    "epochs": mine,
                    "matched": matched,
                    "trials": [[trial.state, trial.epochs, trial.value] for trial in free.records()],
                }
            )
        found = f"{mine:,}" + ("" if matched else ", not matched")
        print(f"{seed:4}{best:18.4f}{theirs:12,}{rows[-1]['search']:20.4f}{found:>17}  {mine / theirs:.2f}", flush=True)
    if chosen.output:
        chosen.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
