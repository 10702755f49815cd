"""Who drives a study: one process at a time."""

import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.study.postgres import connect, engine_of

PATIENCE = 2.0
"""Seconds to wait for a study's lock: a command that looks whether a driver is at work holds it for a moment."""


@contextmanager
def study_lock(home: Home, name: str) -> Iterator[None]:
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
        with advisory_lock(home.study_storage, name, patience):
            yield
        return
    lock = _lock_file(home, name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=patience):
        yield


def _lock_file(home: Home, name: str) -> Path:
    return home.study(name) / "driver.lock"


@contextmanager
def advisory_lock(url: str, name: str, patience: float) -> Iterator[None]:
    """Hold one of Postgres' advisory locks, which ends with the connection that took it.

    Raises:
        Timeout: another connection holds it.
        Refused: the database cannot be used.
    """
    from sqlalchemy import text

    numbers = {"ours": zlib.crc32(b"tune_sam") >> 1, "name": zlib.crc32(name.encode()) >> 1}  # int4, and not negative
    engine = engine_of(url)
    try:
        with connect(engine, url) as connection:
            until = time.monotonic() + patience
            while not connection.scalar(text("SELECT pg_try_advisory_lock(:ours, :name)"), numbers):
                if time.monotonic() > until:
                    raise Timeout(name)
                time.sleep(0.05)
            yield
    finally:
        engine.dispose()  # closes the connection, and with it frees the lock
