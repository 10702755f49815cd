"""Connections to Postgres, and what it says when there are none."""

from typing import TYPE_CHECKING

from tune_sam.errors import Refused, masked

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


CONNECT_SECONDS = 5


def engine_of(url: str) -> "Engine":
    """Make an engine for a database; nothing is connected yet.

    Raises:
        Refused: the address cannot be read, or its driver is not installed.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        return create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": CONNECT_SECONDS})
    except ImportError as error:
        raise Refused(
            f"--study-storage {masked(url)} needs the package {error.name}; install tune-sam[cluster]."
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise Refused(
            f"--study-storage {masked(url)} cannot be read ({masked(str(error))}); give "
            "postgresql://USER@HOST/DATABASE."
        ) from None


def connect(engine: "Engine", url: str) -> "Connection":
    """Connect to a database.

    Raises:
        Refused: it does not answer, or refuses.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return engine.connect()
    except SQLAlchemyError as error:
        raise Refused(
            f"--study-storage {masked(url)} cannot be used ({reason_of(error)}); mend the database or the address."
        ) from None


def reason_of(error: BaseException) -> str:
    """Give what the database says, in one line and without a password."""
    said = str(getattr(error, "orig", error)).strip().splitlines()
    return masked(next((line for line in said if "FATAL" in line), said[0] if said else type(error).__name__))
