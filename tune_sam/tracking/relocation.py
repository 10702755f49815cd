"""MLflow's database in a home that was moved or copied: its artifacts are beside it, wherever it is now.

MLflow keeps absolute places. Those of a home that is elsewhere now would be read and written there: in the original, if
it is a copy.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tune_sam.tracking.local import reading

COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""What holds places of artifacts."""

HOMES_HAVE = ("artifacts", "studies", "optuna.db")
"""Names beside MLflow's database by which a home is known."""


def relocate_artifacts(database: Path) -> None:
    """Have a database name the artifacts where they are now. Where nothing was moved, it is only read.

    Args:
        database: MLflow's. Where nothing is beside it of what a home has, nothing is done.
    """
    artifacts = database.with_name("artifacts")  # which may not be there yet
    if not (database.exists() and any(database.with_name(name).exists() for name in HOMES_HAVE)):
        return
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=60)) as connection, connection:
        for old in _elsewhere(connection, artifacts):
            for table, column in COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 (names of ours)
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (str(artifacts), len(old) + 1, old, len(old) + 1, f"{old}/"),
                )


def _elsewhere(connection: sqlite3.Connection, artifacts: Path) -> list[str]:
    """Find the places that experiments of studies have, in whatever form, if they are a home's but not this one's."""
    found = connection.execute(
        "SELECT DISTINCT artifact_location FROM experiments WHERE experiment_id IN "
        "(SELECT runs.experiment_id FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE tags.key = 'tune_sam.study')"
    )
    places = [place for (place,) in found if place]
    folders = [place for place in places if place.startswith(("/", "file:"))]
    return [
        place
        for place in folders
        if artifact_folder(place).name == artifacts.name and artifact_folder(place) != artifacts
    ]


def artifact_folder(place: str) -> Path:
    """Give the folder of artifacts that MLflow has as a path or as a `file:` URI; another URI is taken for a path."""
    return Path(unquote(urlsplit(place).path)) if place.startswith("file:") else Path(place)


def has_run(database: Path, run_id: str) -> bool:
    """Say whether one of MLflow's databases, which need not be there, has a run."""
    if not database.exists():
        return False
    with (
        suppress(sqlite3.Error),  # it is damaged or empty, which is for others to say
        closing(reading(database)) as connection,
    ):
        return bool(connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone())
    return False
