"""Sides that are measured in turns in one process, after a run of each that does not count."""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch


@dataclass(frozen=True)
class Row:
    """CPU seconds of a peer and of ours for one piece of work, in turns, and the ratio that is to be reached.

    Single-threaded work is given in CPU seconds, which other work on the machine disturbs less than the clock's.
    """

    what: str
    peer: list[float]
    ours: list[float]
    bar: float

    @property
    def ratios(self) -> list[float]:
        """The ratio of ours to the peer's in each turn, ascending."""
        return sorted(own / other for own, other in zip(self.ours, self.peer, strict=True))

    @property
    def ratio(self) -> float:
        """The ratio of the medians."""
        return median(self.ours) / median(self.peer)


def timed(run: Callable[[], object]) -> float:
    """Take the CPU seconds of a call."""
    gc.collect()
    begun = time.process_time()
    run()
    return time.process_time() - begun


def in_turns(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Take the CPU seconds of each side, `repeats` times in turns, after one call of each that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            seconds = timed(run)
            if repeat:
                taken[name].append(seconds)
    return taken


def apart_in_turns(sides: Mapping[str, Callable[[], Callable[[], object]]], repeats: int) -> dict[str, list[float]]:
    """Do as :func:`in_turns`, each side in a fork of this process, where its function prepares it.

    A :class:`tune_sam.training.Trainer` changes its process, so that a peer's own process is what its users have.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    context = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        pools = {name: stack.enter_context(context.Pool(1, _prepare, (make,))) for name, make in sides.items()}
        for repeat in range(repeats + 1):
            for name, pool in pools.items():
                seconds = pool.apply(_prepared)
                if repeat:
                    taken[name].append(seconds)
    return taken


_run: Callable[[], object]


def _prepare(make: Callable[[], Callable[[], object]]) -> None:
    global _run
    _run = make()


def _prepared() -> float:
    return timed(_run)


def parser(about: str | None, repeats: int) -> argparse.ArgumentParser:
    """Make a command line with the options that all programs have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=repeats, help=f"turns (default {repeats})")
    made.add_argument("--output", type=Path, help="a JSON file for the figures")
    return made


def report(rows: list[Row], output: Path | None) -> None:
    """Print medians, ratios, their spreads and bars, and write all figures to a JSON file."""
    print(f"torch {torch.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; CPU seconds, medians")
    print(f"{'':44}{'peer':>9}{'ours':>9}{'ratio':>8}   lowest to highest   bar")
    for row in rows:
        spread = f"{row.ratios[0]:.2f} to {row.ratios[-1]:.2f}"
        print(
            f"{row.what:44}{median(row.peer):9.3f}{median(row.ours):9.3f}{row.ratio:8.3f}   {spread:17} {row.bar:6.2f}"
        )
    if output:
        machine = {"torch": torch.__version__, "python": platform.python_version(), "cpus": os.cpu_count()}
        table = {row.what: {**vars(row), "ratio": row.ratio, "ratios": row.ratios} for row in rows}
        output.write_text(json.dumps({"machine": machine, "rows": table}, indent=1) + "\n")
