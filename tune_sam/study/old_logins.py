"""Logins that earlier releases stored with the addresses in a study's records."""

import json
import logging
from typing import TYPE_CHECKING, Any

from tune_sam.errors import masked
from tune_sam.logins import without_login

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

log = logging.getLogger(__name__)

TABLES = ("study_user_attributes", "trial_user_attributes")
"""Where Optuna keeps what it is given beside its own."""


def remove_logins(storage: "RDBStorage") -> None:
    """Remove every login from the attributes in Optuna's storage, and its traces from the file of a SQLite.

    Args:
        storage: of all studies of a home.
    """
    from sqlalchemy import text

    with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        found = False
        for table in TABLES:
            key = f"{table.removesuffix('s')}_id"
            rows = connection.execute(text(f"SELECT {key}, value_json FROM {table} WHERE value_json LIKE '%://%'"))  # noqa: S608
            for row, content in rows.all():
                kept = json.dumps(_without(value := json.loads(content)))
                if kept != json.dumps(value):
                    found = True
                    what = text(f"UPDATE {table} SET value_json = :kept WHERE {key} = :row")  # noqa: S608
                    connection.execute(what, {"kept": kept, "row": row})
        if found:
            log.warning(
                "the login that an earlier release stored in %s is removed; give it by the service's own variables or "
                "files from now on, or in the address by $TUNE_SAM_TRACKING_URI.",
                masked(str(storage.engine.url)),
            )
        if found and storage.engine.dialect.name == "sqlite":
            connection.execute(text("VACUUM"))  # what was overwritten stays in the file's free space until then


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without(part) for part in value]
    # What is masked has none: the reason of a failure says `http://***@proxy`, and stays as it is.
    return without_login(value) if isinstance(value, str) and "://" in value and masked(value) != value else value
