"""What a shell is offered for the word that is being typed. It is asked for at each Tab, so nothing heavy loads."""

import sqlite3
from contextlib import closing

import typer

from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.optimizers import optimizer_names
from tune_sam.workload import workload_names


def workloads_like(incomplete: str) -> list[str]:
    """Complete the name of an installed workload."""
    return _beginning(workload_names(), incomplete)


def optimizers_like(incomplete: str) -> list[str]:
    """Complete the name of an optimizer."""
    return _beginning(optimizer_names(), incomplete)


def studies_like(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the name of a study in Optuna's file, the newest first; a database elsewhere is not waited for."""
    try:
        place = Home.at(context.params.get("home"), context.params.get("study_storage"))
    except Refused:
        return []
    return [] if place.study_storage else _beginning(_names(place), incomplete)


def _names(place: Home) -> list[str]:
    """Read the names as Optuna keeps them, STUDY/OPTIMIZER; Optuna itself takes a second to import."""
    try:
        with closing(sqlite3.connect(f"file:{place.optuna_file}?mode=ro", uri=True, timeout=0.2)) as file:
            found = file.execute("SELECT study_name FROM studies ORDER BY study_id DESC").fetchall()
    except sqlite3.Error:  # there is no file, or it is in use: then there is nothing to offer
        return []
    return list(dict.fromkeys(name.rpartition("/")[0] for (name,) in found))


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
