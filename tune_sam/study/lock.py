"""Who drives a study: one process at a time."""

import fcntl
import os
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
        Refused: another process holds it, the database of --study-storage cannot be used, or a link in the study's
            folder leads out of it.
    """
    home.refuse_links(name)
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(home, name, PATIENCE))
        except Timeout:
            raise Refused(f"study {name} is in use by another process; wait for it, or stop it.") from None
        yield


def is_going(home: Home, name: str) -> bool:
    """Whether a process drives this study now. Nothing is written for it, for the home may only be readable."""
    if not home.study_storage:
        return _is_locked(_lock_file(home, name))
    try:
        with _lock(home, name, 0):
            return False
    except Timeout:
        return True


def _is_locked(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # nobody has driven it yet; or the file is not the reader's to open
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


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


@contextmanager
def page_lock(home: Home, name: str) -> Iterator[None]:
    """Wait until no other process writes a study's page, which may be written while the study is driven.

    Raises:
        Refused: a link in the study's folder leads out of it.
    """
    home.refuse_links(name)
    with FileLock(home.study(name) / "report.lock"):
        yield
