"""Who drives a study: one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from tune_sam.errors import Refused
from tune_sam.files import identity
from tune_sam.home import Home, taken
from tune_sam.study.patience import patiently
from tune_sam.study.postgres import AdvisoryLock

PATIENCE = 2.0
"""Seconds to wait for a study's lock: a command that looks whether a driver is at work holds it for a moment."""


class Lock(Protocol):
    """What one process at a time holds. The system or the database frees it however the process ends."""

    def acquire(self, patience: float) -> None:
        """Take it; raise Timeout where another process holds it for all of `patience` seconds."""
        ...

    def confirm(self, patience: float) -> None:
        """Make sure that it is still held; raise Timeout where it was lost, and another process has it now."""
        ...

    def release(self) -> None:
        """Free it."""
        ...


_held: dict[tuple[str, str], Lock] = {}  # of the studies that this process drives, by place and name


@contextmanager
def study_lock(home: Home, name: str) -> Iterator[None]:
    """Hold a study's lock, as the one process that drives it.

    A database frees the lock of a machine that is gone within a minute, which is waited for.

    Raises:
        Refused: another process holds it, the database of --study-storage cannot be used, its file is another
            person's, or a link in the study's folder leads out of it.
    """
    home.refuse_links(name)
    lock = _lock(home, name)
    busy = f"study {name} is in use by another process"
    try:
        patiently(
            partial(lock.acquire, PATIENCE),
            lambda error: isinstance(error, Timeout) and home.study_storage is not None,
            f"{busy}, or by one whose machine is gone",
        )
    except Timeout:
        raise Refused(f"{busy}; wait for it, or stop it.") from None
    _held[_place(home), name] = lock
    try:
        yield
    finally:
        del _held[_place(home), name]
        lock.release()


def is_going(home: Home, name: str) -> bool:
    """Whether a process drives this study now. Nothing is written for it, for the home may only be readable."""
    if not home.study_storage:
        return _is_locked(_lock_file(home, name))
    lock = _lock(home, name)
    try:
        lock.acquire(0)
    except Timeout:
        return True
    lock.release()
    return False


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


def confirm_locks(home: Home) -> None:
    """Make sure that this process still drives the studies of a home that it drove; called before it writes there.

    A lock is lost with a database that is restarted, or with a file that somebody removes.

    Raises:
        Refused: another process drives one of them now, or the database of --study-storage cannot be used.
    """
    for (place, name), lock in list(_held.items()):
        if place == _place(home):
            try:
                lock.confirm(PATIENCE)
            except Timeout:
                raise Refused(
                    f"study {name} was taken over by another process when this one lost its lock; let that one go on."
                ) from None


class _FileLock:
    """A lock on a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def acquire(self, patience: float) -> None:
        lock = FileLock(self._file, timeout=patience)
        taken(lock)
        self._lock, self._identity = lock, identity(self._file)

    def confirm(self, patience: float) -> None:
        if identity(self._file) != self._identity:
            lost = self._lock
            self.acquire(patience)
            lost.release()

    def release(self) -> None:
        self._lock.release()


def _lock(home: Home, name: str) -> Lock:
    return AdvisoryLock(home.study_storage, name) if home.study_storage else _FileLock(_lock_file(home, name))


def _lock_file(home: Home, name: str) -> Path:
    return home.study(name) / "driver.lock"


def _place(home: Home) -> str:
    return home.study_storage or str(home.path)


@contextmanager
def page_lock(home: Home, name: str) -> Iterator[None]:
    """Wait until no other process writes a study's page, which may be written while the study is driven.

    Raises:
        Refused: a link in the study's folder leads out of it, or its file is another person's.
    """
    home.refuse_links(name)
    with taken(FileLock(home.study(name) / "report.lock")):
        yield
