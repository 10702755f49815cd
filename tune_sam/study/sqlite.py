"""Connections to Optuna's file in a home, and what is wrong with it when it cannot be used."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from tune_sam.files import identity, replaced_file
from tune_sam.study import patience

BUSY_SECONDS = 1.0
"""That SQLite waits on its own, in silence."""

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_RESTORED = "was removed while it was in use, and is there again with all that it held; leave it there"

_REMOVED = "was removed or replaced while it was in use; put it back, or a copy of it"

_put_back: dict[tuple[int, int] | None, tuple[int, int] | None] = {}
"""Of files that were removed, those that this process wrote in their place: its other connections learn of it here."""

# By SQLite's primary codes: what is wrong, if SQLite's own words do not say it, and the way out.
_TROUBLES = {
    sqlite3.SQLITE_CORRUPT: "is damaged ({said}); put back a copy, or save what can be read with `sqlite3 {file} "
    ".recover | sqlite3 NEW.db`",
    sqlite3.SQLITE_NOTADB: "is damaged ({said}); put back a copy of it",
    sqlite3.SQLITE_ERROR: "lacks what Optuna keeps there ({said}); put back a copy of it",
    sqlite3.SQLITE_FULL: "cannot grow ({said}); make room on its disk",
    sqlite3.SQLITE_READONLY: "cannot be written ({said}); let this user write to it and to its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened ({said}); let this user read and write it and its folder",
}


class _Gone(sqlite3.OperationalError):
    """A file is not the one that was opened. Its text says what is left of it."""


class PatientConnection(sqlite3.Connection):
    """A connection that waits for other processes aloud, and notices when its file is removed.

    SQLite would wait in silence, and go on writing to a file that has no name any more.
    """

    def __init__(self, database: str, *options: Any, **more: Any) -> None:
        super().__init__(database, *options, **more)
        self.file = Path(unquote(urlsplit(database).path))
        self._identity = identity(self.file)

    def cursor(self, *_: Any) -> "PatientCursor":  # type: ignore[override]
        """Give a cursor that waits."""
        return super().cursor(PatientCursor)

    def commit(self) -> None:
        """Commit, once no other process is reading or writing."""
        self.patiently(super().commit)

    def patiently(self, attempt: Callable[[], Any]) -> Any:
        """Do something as soon as other processes let it."""
        if not self.in_transaction and identity(self.file) != self._identity:
            raise _Gone(self._restored())
        return patience.patiently(attempt, _is_busy, f"Optuna's file {self.file} is locked by another process")

    def _restored(self) -> str:
        """Write what is still open to where it was, unless there is something; say what came of it."""
        with suppress(OSError, sqlite3.Error), FileLock(self.file.with_name("optuna.lock")):
            if not self.file.exists():
                with replaced_file(self.file) as unfinished:
                    unfinished.unlink(missing_ok=True)  # of a process that was killed
                    with closing(sqlite3.connect(unfinished)) as copy:
                        self.backup(copy)
                _put_back[self._identity] = identity(self.file)
            if _put_back.get(self._identity) == identity(self.file):
                return _RESTORED
        return _REMOVED


class PatientCursor(sqlite3.Cursor):
    """A cursor of :class:`PatientConnection`."""

    connection: PatientConnection

    def execute(self, *statement: Any) -> "PatientCursor":
        """Execute a statement, once no other process is in its way."""
        self.connection.patiently(partial(super().execute, *statement))
        return self

    def executemany(self, *statement: Any) -> "PatientCursor":
        """Execute a statement for each of some parameters, once no other process is in its way."""
        self.connection.patiently(partial(super().executemany, *statement))
        return self


def connect(file: Path) -> PatientConnection:
    """Connect to a file that is there; none is made where it is not."""
    # SQLAlchemy hands a connection from one thread to the next.
    return sqlite3.connect(
        f"{file.as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
        factory=PatientConnection,
    )


def trouble_of(error: BaseException, file: Path) -> str:
    """Say in one sentence what is wrong with Optuna's file, and the way out.

    Args:
        error: SQLite's.
        file: that it is about.
    """
    said = " ".join(str(error).split())
    code = getattr(error, "sqlite_errorcode", None) or 0
    if isinstance(error, _Gone):
        what = said
    elif not file.exists():
        what = _REMOVED
    elif not file.stat().st_size:
        what = "is empty; put back a copy of it, or remove it if no study was in it"
    elif _is_busy(error):
        what = (
            f"has been locked by another process for {patience.PATIENCE:.0f} s; end that process, which "
            f"`fuser {file}` names"
        )
    else:
        other = "cannot be used ({said}); look at its disk, or put back a copy of it"
        what = _TROUBLES.get(code & 0xFF, other).format(said=said, file=file)
    return f"Optuna's file {file} {what}."


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in _BUSY
