"""Where Optuna keeps the studies, and who drives one: a SQLite file in the home, or a Postgres that many reach."""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tune_sam.errors import Refused, masked
from tune_sam.files import identity, replaced_file
from tune_sam.home import Home, taken
from tune_sam.logins import with_driver
from tune_sam.study import sqlite
from tune_sam.study.lock import confirm_locks
from tune_sam.study.optuna_internals import close, opened
from tune_sam.study.postgres import CONNECTING, advisory_lock, reason_of, trouble_of, until_there

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


def exists(home: Home) -> bool:
    """Whether the home can have studies: it has Optuna's file, or a database elsewhere."""
    return home.study_storage is not None or home.optuna_file.exists()


def open_storage(home: Home) -> "RDBStorage":
    """Optuna's storage of a home; its tables are made if there are none.

    What goes wrong with it later is a refusal, too. Before this process writes, it makes sure that it still drives the
    studies that it drove.

    Raises:
        Refused: Optuna's file or the database of --study-storage cannot be used.
    """
    _keep_quiet()
    if home.study_storage:
        return _database(home.study_storage)
    file = home.optuna_file
    if not file.exists():
        with taken(FileLock(home.path / "optuna.lock")):
            if not file.exists():
                _make_file(file)
    return _file(file, identity(file), os.getpid())


@cache
def _keep_quiet() -> None:
    """Leave out Optuna's lines on each trial. Once, for that looks through all loggers of the process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


@lru_cache(maxsize=4)
def _file(file: Path, identity: tuple[int, int] | None, process: int) -> "RDBStorage":
    """Open a file of Optuna's. Its tables must be there: one that lacks them has lost its studies.

    One storage for a process and a file, for each compiles all SQL anew. Another file of this name is another file, and
    a fork another process, which must not use its parent's connections.
    """
    connect = partial(sqlite.connect, file)
    with _in_a_sentence(partial(sqlite.trouble_of, file=file), f"Optuna's file {file}", f"sqlite:///{file}"):
        # One of another release, Optuna refuses with what is wrong.
        storage = opened(f"sqlite:///{file}", connect) or _storage(file, connect, skip_table_creation=True)
    return _watched(storage, partial(sqlite.trouble_of, file=file), Home(file.parent))


def _storage(file: Path, connect: Callable[[], sqlite3.Connection], **options: Any) -> "RDBStorage":
    import optuna

    return optuna.storages.RDBStorage(
        f"sqlite:///{file}".replace("{", "{{").replace("}", "}}"),  # Optuna fills braces in
        engine_kwargs={"creator": connect},
        **options,
    )


@cache
def _database(url: str) -> "RDBStorage":
    """One storage for a process: each holds connections, of which a database has a hundred for all its users."""
    import optuna
    from sqlalchemy import event

    where = f"--study-storage {masked(url)}"
    try:
        # Two processes that make the tables at once fail; no study has a slash.
        with advisory_lock(url, "/tables", patience=60), _in_a_sentence(_untrusted(url), where, masked(url)):
            storage = optuna.storages.RDBStorage(
                with_driver(url),
                engine_kwargs={"pool_pre_ping": True, "pool_size": 1, "connect_args": CONNECTING},
            )
    except Timeout:
        raise Refused(
            f"another process has been making the tables of {where} for a minute; try again, or look at that process."
        ) from None

    @event.listens_for(storage.engine, "do_connect")
    def connect(dialect: Any, _: Any, words: Any, options: Any) -> Any:
        """Connect again to a database that is restarted."""
        return until_there(lambda: dialect.connect(*words, **options), url)

    return _watched(storage, partial(trouble_of, url=url), Home(Path(), url))


def _untrusted(url: str) -> Callable[[BaseException], str]:
    """Explain the errors of a database that is connected to for the first time."""
    return lambda error: (
        f"--study-storage {masked(url)} cannot be used for Optuna's tables ({reason_of(error)}); let this user CREATE "
        "and use tables there."
    )


def _watched(storage: "RDBStorage", trouble: Callable[[BaseException], str], home: Home) -> "RDBStorage":
    """Have a storage refuse in a sentence, and confirm the locks of its home before it writes."""
    from sqlalchemy import event
    from sqlalchemy.exc import IntegrityError

    @event.listens_for(storage.engine, "handle_error")
    def explain(context: Any) -> Refused | None:
        # The first is none of the database's, such as an interrupt. Optuna handles the second, and SQLAlchemy the last:
        # it connects again.
        error = context.sqlalchemy_exception
        if error is None or isinstance(error, IntegrityError) or context.is_pre_ping:
            return None
        _file.cache_clear()  # the next one that opens it connects anew, and sees what a person has mended
        return Refused(trouble(context.original_exception))

    @event.listens_for(storage.engine, "commit")
    def confirm(_: Any) -> None:
        confirm_locks(home)

    return storage


@contextmanager
def _in_a_sentence(trouble: Callable[[BaseException], str], where: str, address: str) -> Iterator[None]:
    """Refuse in a sentence what goes wrong while a storage is opened."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise Refused(trouble(getattr(cause, "orig", None) or cause or error)) from None
    except RuntimeError as error:  # Optuna's, of another version in its table `alembic_version`
        if "storage upgrade" in str(error):
            raise Refused(
                f"{where} was made by an earlier Optuna; keep a copy of it, and upgrade it with "
                f"`optuna storage upgrade --storage {address}`."
            ) from None
        raise Refused(
            f"{where} has the tables of another program or of a later Optuna ({reason_of(error)}); give Optuna a "
            "database of its own, or install that Optuna."
        ) from None


def _make_file(file: Path) -> None:
    """Optuna makes its tables one by one, and two processes at once fail: so under another name first."""
    with replaced_file(file) as unfinished:
        unfinished.unlink(missing_ok=True)  # of a process that was killed
        close(_storage(unfinished, partial(sqlite3.connect, unfinished, check_same_thread=False)))


def try_out(home: Home) -> None:
    """Write a study to the storage, read it back and delete it.

    Raises:
        Refused: the database cannot be used.
    """
    from optuna.study import StudyDirection

    storage = open_storage(home)
    name, content = f"tune_sam-{secrets.token_hex(4)}.check", secrets.token_hex(8)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], name)
    try:
        storage.set_study_user_attr(study, "content", content)
        _file.cache_clear()  # to read it by another connection
        if open_storage(home).get_study_user_attrs(study) != {"content": content}:
            raise Refused("what is read from Optuna's storage is not what was written; look at the database.")
    finally:
        storage.delete_study(study)
