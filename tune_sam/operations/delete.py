"""Deletion of a study with all that belongs to it, also of one whose record cannot be read or was never finished.

What goes is found by the study's name alone, in places that are the home's or that the person names: a record, which
may be damaged or anybody's, is asked for nothing but the names of its refits and what stays elsewhere.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_sam.errors import Refused, masked
from tune_sam.home import Home, Place
from tune_sam.logins import with_login
from tune_sam.settings import is_name
from tune_sam.study.lock import study_lock
from tune_sam.study.optuna_internals import attributes_of_studies
from tune_sam.study.records import open_study
from tune_sam.study.storage import exists, open_storage
from tune_sam.tracking.local import file_of
from tune_sam.tracking.runs import delete_runs, find_study_runs


@dataclass(frozen=True)
class Belongings:
    """What belongs to a study, and goes with it.

    Attributes:
        studies: its name and those of its refits.
        trials: in the ledger, those of its refits too.
        folders: with results, tests, analyses and pages.
        size: of the files in them, in bytes.
        runs: in MLflow, by its URI.
        stays: what is elsewhere and is left there, a sentence each.
    """

    studies: tuple[str, ...]
    trials: int
    folders: tuple[Path, ...]
    size: int
    runs: dict[str, tuple[str, ...]]
    stays: tuple[str, ...]


def delete(name: str, *, home: Place = None) -> Belongings:
    """Delete a study with its refits, controls and analyses: from the ledger, from MLflow, and its folders.

    Nothing outside of the home is removed but runs in an MLflow that the person names. Nothing is asked.

    Args:
        name: the study's, whose record need not be readable; a refit's alone deletes that refit.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Returns:
        What was deleted, and what stays.

    Raises:
        Refused: there is nothing of that name, a process uses it or a refit of it, or a link leads out of its folder.
    """
    place = Home.at(home)
    with ExitStack() as locks:
        for one in belongings(name, home=place).studies:
            locks.enter_context(study_lock(place, one))
        found = belongings(name, home=place)  # as it is now that nobody drives it
        for uri, runs in found.runs.items():
            delete_runs(uri, runs)
        if exists(place):
            storage = open_storage(place)
            # The search at the end: an interrupted deletion is found again by its name, and its refits by its record.
            for one in reversed(found.studies):
                for full_name in _optuna_studies(place, one):
                    storage.delete_study(storage.get_study_id_from_name(full_name))
        for folder in found.folders:  # after the ledger, which is written under the lock that is in there
            shutil.rmtree(folder)
    return found


def belongings(name: str, *, home: Place = None) -> Belongings:
    """Find what :func:`delete` would delete.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Raises:
        Refused: there is nothing of that name.
    """
    place = Home.at(home)
    if not is_name(name) or not (_optuna_studies(place, name) or place.study(name).is_dir()):
        open_study(name, place)  # which says what there is
    names = (name, *_refits(place, name))
    place.refuse_links(name)
    folders = tuple(folder for one in names if (folder := place.study(one)).is_dir())
    runs, stays = _runs(place, names)
    return Belongings(
        names,
        _trials(place, names),
        folders,
        sum(file.lstat().st_size for folder in folders for file in folder.rglob("*") if file.is_file()),
        runs,
        (*stays, *_elsewhere(place, names)),
    )


def _attributes(place: Home) -> dict[str, Any]:
    return attributes_of_studies(open_storage(place)) if exists(place) else {}


def _optuna_studies(place: Home, name: str) -> list[str]:
    return [full_name for full_name in _attributes(place) if full_name.rpartition("/")[0] == name]


def _refits(place: Home, name: str) -> list[str]:
    """Name the studies whose records say that they are refits of one."""
    found = {
        full_name.rpartition("/")[0]
        for full_name, attributes in _attributes(place).items()
        if _settings(attributes).get("refit_of") == name
    }
    return sorted(one for one in found if is_name(one) and one != name)


def _record(attributes: Any) -> dict[str, Any]:
    record = attributes.get("record") if isinstance(attributes, dict) else None
    return record if isinstance(record, dict) else {}


def _settings(attributes: Any) -> dict[str, Any]:
    settings = _record(attributes).get("settings")
    return settings if isinstance(settings, dict) else {}


def _trials(place: Home, names: tuple[str, ...]) -> int:
    if not exists(place):
        return 0
    storage = open_storage(place)
    return sum(
        storage.get_n_trials(storage.get_study_id_from_name(full_name))
        for one in names
        for full_name in _optuna_studies(place, one)
    )


def _runs(place: Home, names: tuple[str, ...]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Find the runs in the home's own MLflow and in one that the person names, and why one cannot be asked."""
    named = place.named_tracking_uri
    homes = {with_login(named): place.identity} if named else {}
    runs, stays = {}, []
    for uri, identity in {**homes, place.tracking_uri: None}.items():
        try:
            if (file := file_of(uri)) and not file.exists():
                continue
            if found := find_study_runs(uri, names, identity):
                runs[uri] = tuple(found)
            elif identity and named and named in map(place.found, _named_in(place, names, "tracking_uri")):
                stays.append(
                    f"MLflow at {masked(uri)} has no run of it by the name of this home, {identity}; runs that it made "
                    "by another stay, as of a home that was moved."
                )
        except Refused as error:
            stays.append(f"what MLflow has of it stays, for {str(error).rstrip('.')}.")
    return runs, stays


def _elsewhere(place: Home, names: tuple[str, ...]) -> Iterator[str]:
    """Say what the records name outside of the home."""
    for storage in _named_in(place, names, "storage"):
        if place.found(storage) != place.storage:
            yield f"Ray's results in {masked(storage)} stay, for they are outside of the home."
    for server in _named_in(place, names, "tracking_uri"):
        if place.found(server) not in (place.tracking_uri, place.named_tracking_uri):
            yield f"runs in MLflow at {masked(server)} stay; give --tracking-uri {masked(server)} to delete them, too."


def _named_in(place: Home, names: tuple[str, ...], field: str) -> list[str]:
    """List what the records of some studies name as a place, each once."""
    records = (
        _record(attributes)
        for full_name, attributes in _attributes(place).items()
        if full_name.rpartition("/")[0] in names
    )
    return sorted({str(record[field]) for record in records if field in record})
