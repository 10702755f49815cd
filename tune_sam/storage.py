"""Where Optuna keeps the studies, and who drives one: a SQLite file in the home, or a Postgres that many reach."""

import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from tune_sam.settings import Home, Refused, masked

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import Connection, Engine

CONNECT_SECONDS = 5
PATIENCE = 2.0
"""Seconds to wait for a study's lock: a command that looks whether a driver is at work holds it for a moment."""


def exists(home: Home) -> bool:
    """Whether the home can have studies: it has Optuna's file, or a database elsewhere."""
    return home.study_storage is not None or home.optuna_file.exists()


def open_storage(home: Home) -> "RDBStorage":
    """Optuna's storage of a home; its tables are made if there are none.

    Raises:
        Refused: the database of --study-storage cannot be used.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if home.study_storage:
        return _database(home.study_storage)
    if not home.optuna_file.exists():
        with FileLock(home.path / "optuna.lock"):
            if not home.optuna_file.exists():
                _make_file(home.optuna_file)
    # Several drivers may share the file: a busy database is waited for and not an error.
    return optuna.storages.RDBStorage(f"sqlite:///{home.optuna_file}",
                                      engine_kwargs={"connect_args": {"timeout": 60}})


@cache
def _database(url: str) -> "RDBStorage":
    """One storage for a process: each holds connections, of which a database has a hundred for all its users."""
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _locked(url, "/tables", patience=60):  # two processes that make them at once fail; no study has a slash
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "pool_size": 1,
                                                                  "connect_args": {"connect_timeout": CONNECT_SECONDS}})
    except Timeout:
        raise Refused(f"another process has been making the tables of --study-storage {masked(url)} for a minute; try "
                      "again, or look at that process.") from None
    except (SQLAlchemyError, StorageInternalError) as error:
        raise Refused(f"--study-storage {masked(url)} cannot be used for Optuna's tables "
                      f"({_reason(error.__cause__ or error)}); let this user CREATE and use tables there.") from None
    except RuntimeError as error:  # Optuna's, of a table `alembic_version` with another program's version
        raise Refused(f"--study-storage {masked(url)} has the tables of another program or of another Optuna "
                      f"({_reason(error)}); give Optuna a database of its own.") from None


@contextmanager
def driving(home: Home, name: str) -> Iterator[None]:
    """Hold a study's lock, as the one process that drives it. The system or the database frees it however it ends.

    Raises:
        Refused: another process holds it, or the database of --study-storage cannot be used.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(home, name, PATIENCE))
        except Timeout:
            raise Refused(f"study {name} is in use by another process; wait for it, or stop it.") from None
        yield


def is_going(home: Home, name: str) -> bool:
    """Whether a process drives this study now."""
    if not home.study_storage and not _lock_file(home, name).exists():
        return False
    try:
        with _lock(home, name, 0):
            return False
    except Timeout:
        return True


@contextmanager
def _lock(home: Home, name: str, patience: float) -> Iterator[None]:
    if home.study_storage:
        with _locked(home.study_storage, name, patience):
            yield
        return
    lock = _lock_file(home, name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=patience):
        yield


def _lock_file(home: Home, name: str) -> Path:
    return home.study(name) / "driver.lock"


@contextmanager
def _locked(url: str, name: str, patience: float) -> Iterator[None]:
    """Hold one of Postgres' advisory locks, which ends with the connection that took it.

    Raises:
        Timeout: another connection holds it.
        Refused: the database cannot be used.
    """
    from sqlalchemy import text

    numbers = {"ours": zlib.crc32(b"tune_sam") >> 1, "name": zlib.crc32(name.encode()) >> 1}  # int4, and not negative
    engine = _engine(url)
    try:
        with _connected(engine, url) as connection:
            until = time.monotonic() + patience
            while not connection.scalar(text("SELECT pg_try_advisory_lock(:ours, :name)"), numbers):
                if time.monotonic() > until:
                    raise Timeout(name)
                time.sleep(0.05)
            yield
    finally:
        engine.dispose()  # closes the connection, and with it frees the lock


def _engine(url: str) -> "Engine":
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        return create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": CONNECT_SECONDS})
    except ImportError as error:
        raise Refused(f"--study-storage {masked(url)} needs the package {error.name}; install tune-sam[cluster]."
                      ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise Refused(f"--study-storage {masked(url)} cannot be read ({masked(str(error))}); give "
                      "postgresql://USER@HOST/DATABASE.") from None


def _connected(engine: "Engine", url: str) -> "Connection":
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return engine.connect()
    except SQLAlchemyError as error:
        raise Refused(f"--study-storage {masked(url)} cannot be used ({_reason(error)}); mend the database or the "
                      "address.") from None


def _reason(error: BaseException) -> str:
    """What the database says, in one line and without a password."""
    said = str(getattr(error, "orig", error)).strip().splitlines()
    return masked(next((line for line in said if "FATAL" in line), said[0] if said else type(error).__name__))


def _make_file(file: Path) -> None:
    """Optuna makes its tables one by one, and two processes at once fail: so under another name first."""
    import optuna

    half = file.with_suffix(".part")
    half.unlink(missing_ok=True)  # of a process that was killed
    made = optuna.storages.RDBStorage(f"sqlite:///{half}")
    made.remove_session()
    made.engine.dispose()
    half.rename(file)


def try_out(home: Home) -> None:
    """Write a study to the storage, read it back and delete it.

    Raises:
        Refused: the database cannot be used.
    """
    from optuna.exceptions import StorageInternalError
    from optuna.study import StudyDirection

    storage = open_storage(home)
    name, content = f"tune_sam-{secrets.token_hex(4)}.check", secrets.token_hex(8)
    try:
        study = storage.create_new_study([StudyDirection.MAXIMIZE], name)
        try:
            storage.set_study_user_attr(study, "content", content)
            if open_storage(home).get_study_user_attrs(study) != {"content": content}:
                raise Refused("what is read from Optuna's storage is not what was written; look at the database.")
        finally:
            storage.delete_study(study)
    except StorageInternalError as error:
        where = masked(home.study_storage) if home.study_storage else home.optuna_file
        raise Refused(f"the studies in {where} cannot be written to ({_reason(error.__cause__ or error)}); mend the "
                      "database.") from None
