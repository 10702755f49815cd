"""Connections to Postgres, its advisory locks, and what it says when it cannot be used."""

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from filelock import Timeout

from tune_sam.errors import Refused, masked
from tune_sam.logins import lacking, with_driver
from tune_sam.study.patience import patiently

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

# A server that went without a word is noticed within a minute, and so is a client by the server, which else looks after
# two hours, and keeps the lock of a driver whose machine is gone for as long.
CONNECTING = {
    "connect_timeout": 5,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 50_000,
}
"""What connections are made with: seconds, and milliseconds for the last."""

KEEPALIVES = ("keepalives_idle", "keepalives_interval", "keepalives_count")
"""Which of them the server is told, too, for the connection that holds a lock."""

Result = TypeVar("Result")


def engine_of(url: str) -> "Engine":
    """Make an engine for a database; nothing is connected yet.

    Raises:
        Refused: the address cannot be read, or its driver is not installed.
    """
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        # A connection that is closed is closed, and not kept for the next, which would get one that was lost.
        named = with_driver(url)
        return create_engine(named, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=CONNECTING)
    except ImportError as error:
        raise Refused(
            f"--study-storage {masked(url)} needs the package {lacking(error)}; install tune-sam[cluster]."
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise Refused(
            f"--study-storage {masked(url)} cannot be read ({masked(str(error))}); give "
            "postgresql://USER@HOST/DATABASE."
        ) from None


def until_there(attempt: Callable[[], Result], url: str) -> Result:
    """Attempt to connect to a database that was there before, until it is again; for a minute at most."""
    return patiently(attempt, lambda _: True, f"--study-storage {masked(url)} is away")


def trouble_of(error: BaseException, url: str) -> str:
    """Say in one sentence that a database cannot be used, why, and the way out."""
    return f"--study-storage {masked(url)} cannot be used ({reason_of(error)}); mend the database or the address."


def reason_of(error: BaseException) -> str:
    """Give what the database says, in one line and without a password."""
    said = str(getattr(error, "orig", error)).strip().splitlines()
    return masked(next((line for line in said if "FATAL" in line), said[0] if said else type(error).__name__))


class AdvisoryLock:
    """One of Postgres' advisory locks, which ends with the connection that took it.

    Args:
        url: of the database.
        name: of the lock.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        # int4, and not negative
        self._numbers = {"ours": zlib.crc32(b"tune_sam") >> 1, "name": zlib.crc32(name.encode()) >> 1}
        self._engine = engine_of(url)
        self._turn = threading.Lock()
        self._connection: Connection | None = None

    def acquire(self, patience: float) -> None:
        """Take the lock.

        Raises:
            Timeout: another connection holds it, for all of `patience` seconds.
            Refused: the database cannot be used.
        """
        self._connection = self._connected()
        try:
            self._take(self._connection, patience)
        except BaseException:
            self.release()
            raise

    def confirm(self, patience: float) -> None:
        """Make sure that the lock is held, and take it again if its connection was lost; safe from several threads.

        Raises:
            Timeout: another connection has taken it meanwhile.
            Refused: the database cannot be used.
        """
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        with self._turn:
            assert self._connection is not None  # it was acquired
            with suppress(SQLAlchemyError):
                self._connection.scalar(text("SELECT 1"))  # which is there has its locks
                return
            self._close()
            self._connection = until_there(self._connected, self._url)
            # The server may not know yet that the old connection is lost.
            self._connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = :pid AND backend_start = :of"),
                self._session,
            )
            self._take(self._connection, patience)

    def release(self) -> None:
        """Free the lock."""
        self._close()
        self._engine.dispose()

    def _connected(self) -> "Connection":
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        told = ", ".join(f"set_config('tcp_{name}', '{CONNECTING[name]}', false)" for name in KEEPALIVES)
        try:
            connection = self._engine.connect()
            connection.execute(text(f"SELECT {told}"))
            return connection
        except SQLAlchemyError as error:
            raise Refused(trouble_of(error, self._url)) from None

    def _take(self, connection: "Connection", patience: float) -> None:
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        until = time.monotonic() + patience
        try:
            while not connection.scalar(text("SELECT pg_try_advisory_lock(:ours, :name)"), self._numbers):
                if time.monotonic() > until:
                    raise Timeout(self._name)
                time.sleep(0.05)
            pid, begin = connection.execute(
                text("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
            ).one()
            self._session = {"pid": pid, "of": begin}
        except SQLAlchemyError as error:
            raise Refused(trouble_of(error, self._url)) from None

    def _close(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()


@contextmanager
def advisory_lock(url: str, name: str, patience: float) -> Iterator[None]:
    """Hold one of Postgres' advisory locks.

    Raises:
        Timeout: another connection holds it.
        Refused: the database cannot be used.
    """
    lock = AdvisoryLock(url, name)
    lock.acquire(patience)
    try:
        yield
    finally:
        lock.release()
