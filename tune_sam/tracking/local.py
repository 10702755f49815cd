"""MLflow's database in a file: what is wrong with it, and putting it out of the way of a new one."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

GONE, EMPTY = "is gone", "is empty"
"""How a database is lost."""

_BESIDE = ("-journal", "-wal", "-shm")  # what SQLite may have beside a file, and reads with it


def file_of(uri: str) -> Path | None:
    """Give the file of a tracking URI; None of another database or a server."""
    return Path(uri.partition(":///")[2].partition("?")[0]) if uri.startswith("sqlite:///") else None


def ailment_of(file: Path, *, every_page: bool = False) -> str:
    """Say why a file is no database that was MLflow's; nothing if it is.

    Args:
        file: of the database.
        every_page: look at all of it.
    """
    try:
        if not file.stat().st_size:
            return EMPTY
    except PermissionError:  # it may not be looked at: nothing is known of it
        return ""
    except (OSError, ValueError):  # no file can have that path
        return GONE
    try:
        with closing(reading(file)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
                return EMPTY
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0] if every_page else "ok"
    except sqlite3.OperationalError:  # it is locked, or may not be read: nothing is known of it
        return ""
    except sqlite3.DatabaseError as error:
        said = str(error)
    return "" if said == "ok" else f"is damaged ({' '.join(said.split())})"


def schema_of(file: Path) -> str:
    """Give the version of the schema that a database has; nothing if it says none."""
    with closing(reading(file)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


def reading(file: Path) -> sqlite3.Connection:
    """Connect to a database that is there.

    As one who may write: whoever may not is refused all of it after a process was killed in the middle of a commit,
    which has to be undone first. Where this user may not write to the file, SQLite reads it all the same.
    """
    return sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=20)


def set_aside(file: Path, put: Callable[[Path, Path], object] = Path.rename) -> Path:
    """Rename a database, so that there is room for a new one, or copy it; give its new place.

    Args:
        file: of the database.
        put: renames one of its files, or copies it, as :func:`shutil.copy2`.
    """
    aside = file.with_name(f"{file.name}.aside-{datetime.now(UTC):%Y-%m-%dT%H%M%S.%f}")
    for ending in ("", *_BESIDE):
        if (part := file.with_name(file.name + ending)).exists():
            put(part, aside.with_name(aside.name + ending))
    return aside
