"""Records of earlier releases, read as those of this one."""

import re
from pathlib import Path
from typing import Any

from tune_sam.home import HERE, Home, moved

FORMAT = 2
"""Of a study's record. Format 1, of tune_sam 0.1, had absolute paths, and the kind of a study in its name."""


def upgraded(record: dict[str, Any], name: str, home: Home) -> dict[str, Any]:
    """Give a study's record in this release's format.

    Args:
        record: as it is in Optuna's storage.
        name: the study's.
        home: where the record was found.
    """
    if record.get("format", 1) >= FORMAT:
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
    """Find the folder that the home had when the record was made; None where its results were elsewhere."""
    storage = Path(record["storage"])
    own = home.path / "studies" / name / f"ray-{record['mlflow_run_id'][:8]}"
    if home.study_storage or storage.name != "studies" or not (storage.parent == home.path or own.is_dir()):
        return None
    return str(storage.parent)
