"""Where Optuna keeps the studies, and who drives one: a SQLite file in the home, or a Postgres that many reach."""

import secrets
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from tune_sam.errors import Refused, masked
from tune_sam.files import replaced_file
from tune_sam.home import Home
from tune_sam.study.lock import advisory_lock
from tune_sam.study.optuna_internals import close
from tune_sam.study.postgres import CONNECT_SECONDS, reason_of

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


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
    return optuna.storages.RDBStorage(f"sqlite:///{home.optuna_file}", engine_kwargs={"connect_args": {"timeout": 60}})


@cache
def _database(url: str) -> "RDBStorage":
    """One storage for a process: each holds connections, of which a database has a hundred for all its users."""
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with advisory_lock(
            url, "/tables", patience=60
        ):  # two processes that make them at once fail; no study has a slash
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs={
                    "pool_pre_ping": True,
                    "pool_size": 1,
                    "connect_args": {"connect_timeout": CONNECT_SECONDS},
                },
            )
    except Timeout:
        raise Refused(
            f"another process has been making the tables of --study-storage {masked(url)} for a minute; try "
            "again, or look at that process."
        ) from None
    except (SQLAlchemyError, StorageInternalError) as error:
        raise Refused(
            f"--study-storage {masked(url)} cannot be used for Optuna's tables "
            f"({reason_of(error.__cause__ or error)}); let this user CREATE and use tables there."
        ) from None
    except RuntimeError as error:  # Optuna's, of a table `alembic_version` with another program's version
        raise Refused(
            f"--study-storage {masked(url)} has the tables of another program or of another Optuna "
            f"({reason_of(error)}); give Optuna a database of its own."
        ) from None


def _make_file(file: Path) -> None:
    """Optuna makes its tables one by one, and two processes at once fail: so under another name first."""
    import optuna

    with replaced_file(file) as unfinished:
        unfinished.unlink(missing_ok=True)  # of a process that was killed
        close(optuna.storages.RDBStorage(f"sqlite:///{unfinished}"))


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
        raise Refused(
            f"the studies in {where} cannot be written to ({reason_of(error.__cause__ or error)}); mend the database."
        ) from None
