"""What a new database costs, once for all databases of the tests in a process that imports this.

Alembic reads and compiles all that the tables of Optuna and MLflow ever were for each storage that is opened; MLflow
makes its tables by all of its migrations. Neither ever changes.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import optuna
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory
from mlflow.store.db import utils

TABLES = "TESTS_TABLES_OF_MLFLOW"
"""The variable that names a database of MLflow's with nothing in it, which new ones in files are copies of."""

PLACES = (
    Path(optuna.__file__).parent / "storages" / "_rdb" / "alembic",
    Path(mlflow.__file__).parent / "store" / "db_migrations",
)

_read, _found = ScriptDirectory.from_config, {}


def _read_once(config):
    place = config.get_main_option("script_location")
    if place not in _found:
        _found[place] = _read(config)
    return _found[place]


ScriptDirectory.from_config = _read_once
for place in PLACES:
    config = Config()
    config.set_main_option("script_location", str(place))
    ScriptDirectory.from_config(config).get_heads()

_make = utils._initialize_tables


def make_tables(file):
    """Make a database of MLflow's as MLflow does."""
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    _make(engine)
    engine.dispose()


def _copied(engine):
    made, file = os.environ.get(TABLES), engine.url.database
    if not made or not file or engine.url.drivername != "sqlite" or sqlalchemy.inspect(engine).get_table_names():
        _make(engine)
        return
    with closing(sqlite3.connect(made)) as ours, closing(sqlite3.connect(file)) as new:
        ours.backup(new)


utils._initialize_tables = _copied
