"""The share of a search's slots that train, over several optimizers: nobody waits for an optimizer's last trial.

Three optimizers of eight trials each share four slots of a Ray of its own. Each batch of a training waits, so that the
processor is free, and a trial's seconds are those that it was given. Busy is the share of the slots' seconds, from the
first trial's beginning to when the fourth last trial began, in which a trial ran, its start and its end included.

    python benchmarks/slots.py
    python benchmarks/slots.py --trials 8 --epochs 10 --output slots.json
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import odd_workload
import ray

import tune_sam

SLOTS = 4


def main() -> None:
    """Search, and print the share of the slots' seconds in which trials ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8, help="of each of three optimizers (default 8)")
    parser.add_argument("--epochs", type=int, default=10, help="of a training, a second or two each (default 10)")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args()
    os.environ["PYTHONPATH"] = odd_workload.PYTHONPATH
    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="slots-") as folder:
        study = tune_sam.search(
            "odd_workload:Slow",
            dataset="digits",
            optimizers=["base", "sam", "asam"],
            trials=chosen.trials,
            epochs=chosen.epochs,
            batch_size=[64],
            train_subset=640,
            name="slots",
            home=folder,
        )
        spans = sorted(
            (datetime.fromisoformat(trial.started).timestamp(), datetime.fromisoformat(trial.ended).timestamp())
            for trial in study.records()
        )
    begun, last = spans[0][0], spans[-SLOTS][0]
    ran = sum(min(end, last) - min(start, last) for start, end in spans)
    share = ran / (SLOTS * (last - begun))
    print(f"{len(spans)} trials on {SLOTS} slots: {last - begun:.1f} s until the fourth last began, busy {share:.2f}")
    if chosen.output:
        chosen.output.write_text(json.dumps({"busy": share, "spans": spans}, indent=1) + "\n")


if __name__ == "__main__":
    main()
