"""Records of earlier releases, read as those of this one."""

import re
from pathlib import Path
from typing import Any

from tune_sam.errors import Refused
from tune_sam.home import HERE, Home, moved
from tune_sam.tracking.relocation import has_run

FORMAT = 2
"""Of a study's record. Format 1, of tune_sam 0.1, had absolute paths, and the kind of a study in its name."""


def upgraded(record: dict[str, Any], name: str, home: Home) -> dict[str, Any]:
    """Give a study's record in this release's format.

    Args:
        record: as it is in Optuna's storage.
        name: the study's.
        home: where the record was found.

    Raises:
        Refused: it is of a later release.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if (written := record.get("format", 1)) > FORMAT:
        raise Refused(
            f"study {name} is of a later release of tune_sam, its record has format {written} and this one reads "
            f"{FORMAT}; upgrade tune_sam."
        )
    if written == FORMAT:
        return record
    settings = {**record["settings"], "kind": _kind(record["settings"].get("refit_of"), name)}
    old = _old_home(record, name, home)

    def kept(place: str | None) -> str | None:
        return moved(place, old, HERE) if place and old else place

    return {
        **record,
        "format": FORMAT,
        "settings": {**settings, "data": kept(settings["data"])},
        "tracking_uri": kept(record["tracking_uri"]),
        "storage": kept(record["storage"]),
        "versions": {},
    }


def _kind(refit_of: str | None, name: str) -> str:
    if refit_of is None:
        return "search"
    return "equal-compute" if re.fullmatch(re.escape(refit_of) + r"\.twice\d*", name) else "refit"


def _old_home(record: dict[str, Any], name: str, home: Home) -> str | None:
    """Find the folder that the home had when the record was made, by what of the study is in it now; None by nothing.

    Ray's results or MLflow's database may have been elsewhere then, and are there still.
    """
    storage, database = Path(record["storage"]), Path(record["tracking_uri"].partition("sqlite:///")[2])
    run = record["mlflow_run_id"]
    if home.study_storage:
        return None
    if storage.name == "studies" and (home.study(name) / f"ray-{run[:8]}").is_dir():
        return str(storage.parent)
    if database.name == home.tracking_file.name and has_run(home.tracking_file, run):
        return str(database.parent)
    return None
