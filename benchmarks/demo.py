"""The demo, by the clock, beside the seconds that its own trainings and measurements take on the machine's cores.

Runs the command of `make demo` in a home of its own, then adds up what each training and each measurement of a network
took, as their records say, over the number of cores. Surfaces and figures say no seconds, so that the sum is a little
too small and the ratio too large.

    python benchmarks/demo.py
    python benchmarks/demo.py --repeats 3 --output demo.json
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import tune_sam
from tune_sam.study.records import refits_of

MAKEFILE = Path(__file__).parents[1] / "Makefile"
(COMMAND,) = re.findall(r"^\t\$\(BIN\)/tune-sam (run .*)$", MAKEFILE.read_text(), re.MULTILINE)


def demo(home: Path) -> dict[str, float]:
    """Run it; its seconds by the clock, of trainings, and of measurements."""
    begun = time.perf_counter()
    words = [Path(sys.executable).with_name("tune-sam"), *shlex.split(COMMAND), "--home", home]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - begun
    study = tune_sam.open_study("demo", home)
    trained = sum(trial.seconds or 0 for one in (study, *refits_of(study)) for trial in one.records())
    parts = [json.loads(file.read_text())["result"] for file in home.glob("studies/*/flatness/parts/*/*.json")]
    measured = sum(part["seconds"] for part in parts if isinstance(part, dict) and "seconds" in part)
    return {"wall": wall, "trained": trained, "measured": measured}


def main() -> None:
    """Run the demo several times; print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    chosen = parser.parse_args()
    cores, runs = os.cpu_count() or 1, []
    for _ in range(chosen.repeats):
        with tempfile.TemporaryDirectory(prefix="demo-") as folder:
            runs.append(demo(Path(folder) / "home"))
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in runs[-1].items()), flush=True)
    ratio = median(run["wall"] / ((run["trained"] + run["measured"]) / cores) for run in runs)
    print(
        f"the demo takes {median(run['wall'] for run in runs):.0f} s, {ratio:.2f} times its own work on {cores} cores"
    )
    if chosen.output:
        chosen.output.write_text(json.dumps({"cores": cores, "runs": runs, "ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main()
