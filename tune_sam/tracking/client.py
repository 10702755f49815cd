"""The one module that touches MLflow's private API: its stores, which take and give what MLflow's client does too.

MLflow's client prints, reads the active model of the fluent API and asks for whole runs to change their status; and it
cannot be told to give up within seconds. A store does what it is told. MLflow is imported inside functions, so that
importing this module costs nothing.
"""

from __future__ import annotations

import getpass
import importlib.util
import json
import logging
import os
import secrets
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tune_sam.errors import Refused, masked
from tune_sam.files import link_below, nearest
from tune_sam.logins import lacking, with_driver
from tune_sam.tracking.content import KEY_TAG, DataSetInput, Point, RunState, renamed
from tune_sam.tracking.local import EMPTY, GONE, ailment_of, file_of, schema_of, set_aside
from tune_sam.tracking.relocation import artifact_folder, relocate_artifacts

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.store.tracking.abstract_store import AbstractStore

    Store = AbstractStore


log = logging.getLogger("tune_sam")

STUDY_TAG = "tune_sam.study"

HOME_TAG = "tune_sam.home"

PARENT_TAG = "mlflow.parentRunId"

_SERVER = ("http", "https")

_AWAY = (401, 403, 408, 429, 502, 503, 504)  # statuses of a server that is not there or does not know the login

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

_CONNECT_SECONDS = 5

# Longer than the 20 s that MLflow waits for a locked SQLite file: giving up on a request that still succeeds later
# is what could make a second run for one trial.
_ANSWER_SECONDS = 30


@dataclass(frozen=True)
class StudyRun:
    """The parent run of a study: where the runs of its trials belong.

    Attributes:
        experiment_id, run_id: MLflow's.
        artifacts: the folder in which alone its artifacts may be; None where MLflow's word is taken for their place.
    """

    experiment_id: str
    run_id: str
    artifacts: Path | None = None


class Away(Refused):
    """A refusal for a server that does not answer now, and may later."""


def check(uri: str) -> None:
    """Refuse a tracking URI that cannot work, before a search starts and without importing MLflow.

    It takes milliseconds where something answers or refuses, 5 s where nothing does. A server is asked one cheap
    question of MLflow's API: `/health` is exempt from the server's check of the Host header.

    Args:
        uri: `http(s)://…` of an MLflow server, `sqlite:////absolute/path.db`, or a URI of a `postgresql`, `mysql`
            or `mssql` database.

    Raises:
        Refused: one sentence with the URI (user and password masked) and the way out; :class:`Away` where nothing
            answers.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in _SERVER:
        _check_server(uri)
    elif scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in _PORTS:
        _check_database(uri, _PORTS[scheme])
    else:
        raise Refused(
            f"tracking URI {masked(uri)!r} is neither a server nor a database (MLflow's file store is "
            "retired); give http://HOST:PORT of an MLflow server or sqlite:////ABSOLUTE/PATH.db."
        )


def _check_server(uri: str) -> None:
    import requests

    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    certificate = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    try:
        answer = requests.get(
            uri.rstrip("/") + "/api/2.0/mlflow/experiments/search",
            params={"max_results": 1},
            timeout=_CONNECT_SECONDS,
            verify=not insecure and (certificate or True),
            cert=os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
        )
    except (requests.RequestException, OSError, ValueError) as error:
        slow = isinstance(error, requests.Timeout)
        reason = f"no answer within {_CONNECT_SECONDS} s" if slow else str(_root(error))
        raise Away(_unreachable(uri, reason, "start `mlflow server` there")) from error
    of_host = answer.text.lstrip().startswith("Invalid Host header")
    brings = any(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("TOKEN", "USERNAME"))
    if answer.status_code == 401 or (answer.status_code == 403 and brings and not of_host):
        return  # alive; MLflow's own client brings the login that this question did not
    if answer.status_code == 403:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        raise Refused(
            f"MLflow at {masked(uri)} answered 403, which is how its host check refuses the Host header "
            f"{host!r}; start it with `mlflow server --allowed-hosts {host}`."
        )
    if answer.status_code != 200 or not answer.text.lstrip().startswith("{"):
        raise Refused(
            f"{masked(uri)} answered {answer.status_code} to a question of MLflow's API; "
            "give the address of an MLflow tracking server."
        )


def _check_sqlite(uri: str) -> None:
    path = Path(uri.partition(":///")[2].partition("?")[0])
    if not path.is_absolute():
        raise Refused(
            f"tracking URI {uri!r} means another file in each process's working directory; "
            "give the absolute path with four slashes, sqlite:////ABSOLUTE/PATH.db."
        )
    try:
        there = nearest(path)
    except (OSError, ValueError) as error:  # a path that is too long, or may not be looked at
        raise Refused(f"tracking URI {uri!r} cannot be used ({error}); choose a file of your own.") from None
    if path.is_dir():
        raise Refused(f"tracking URI {uri!r} names a folder; give that of a file, sqlite:////ABSOLUTE/PATH.db.")
    folder = path.parent if there == path else there
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise Refused(f"tracking URI {uri!r} cannot be written because of {folder}; choose a folder of your own.")


def _with_driver(uri: str) -> str:
    """Name the driver that [cluster] brings where the address names none, and SQLAlchemy's own is not there."""
    return uri if importlib.util.find_spec("psycopg2") else with_driver(uri)


def _check_database(uri: str, port: int) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(_with_driver(uri)).get_dialect().import_dbapi()
    except ImportError as error:
        raise Refused(
            f"tracking URI {masked(uri)} needs the package {lacking(error)}; install it, or name a driver that is here "
            "in the URI."
        ) from None
    except (SQLAlchemyError, ValueError) as error:
        raise Refused(
            f"tracking URI {masked(uri)} cannot be read ({masked(str(error))}); give DIALECT://USER@HOST/DATABASE."
        ) from None
    try:
        parts = urlsplit(uri)
        if parts.hostname:  # otherwise a local socket
            socket.create_connection((parts.hostname, parts.port or port), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise Away(_unreachable(uri, str(error), "start the database")) from error


def _unreachable(uri: str, reason: str, way_out: str) -> str:
    return f"MLflow at {masked(uri)} cannot be reached ({masked(reason)}); {way_out} or give another tracking URI."


def _root(error: BaseException) -> BaseException:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def connect(uri: str, artifact_root: str | None = None) -> Store:
    """Open the store below MLflow's client.

    Raises:
        Refused: see :func:`check`. That comes first because MLflow takes minutes to give up on a database.
    """
    check(uri)
    _quieten()
    if uri.partition(":")[0] in _SERVER:
        return _server_store(uri)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if file := file_of(uri):
        _expect_usable(file)
        relocate_artifacts(file)
        _let_go_of(uri)
    return SqlAlchemyStore(_with_driver(uri), artifact_root or "./mlruns")


def import_store(uri: str) -> None:
    """Import what :func:`connect` needs, which takes a second or two, where there is time for it."""
    _quieten()
    if uri.partition(":")[0] in _SERVER:
        from mlflow.store.tracking import rest_store  # noqa: F401
    else:
        from mlflow.store.tracking import sqlalchemy_store  # noqa: F401


def connect_to_read(uri: str) -> Store:
    """Open the store below MLflow's client, and leave a file of SQLite as it is: it may be somebody else's.

    MLflow writes nothing to one that has its tables; where the artifacts are, nobody asks.

    Raises:
        Refused: see :func:`check`; or the file is gone.
    """
    file = file_of(uri)
    if file is None:
        return connect(uri)
    expect_there(uri)
    _quieten()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _expect_usable(file)
    _let_go_of(uri)
    return SqlAlchemyStore(uri, "./mlruns")


def _let_go_of(uri: str) -> None:
    """Close the connections to a file that MLflow keeps while the process lives: another may have taken its place."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore._get_or_create_engine(uri).dispose()


def _quieten() -> None:
    import mlflow  # noqa: F401  it sets its loggers up while it is imported, so they can be quietened only now

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of every pickle; docs/mlflow.md says what loading one means.
    logging.getLogger("mlflow.pytorch").setLevel(logging.ERROR)
    # It writes a traceback at every attempt on a locked or absent database; we say that once.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _server_store(uri: str) -> Store:
    from functools import partial

    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils.credentials import get_default_host_creds

    class ImpatientStore(RestStore):
        """Makes one attempt for each request, with short timeouts."""

        def _call_endpoint(
            self, api: Any, json_body: str | None = None, endpoint: str | None = None, *_: Any, **__: Any
        ) -> Any:
            path, method = self._METHOD_TO_INFO[api]
            return _asked(self.get_host_creds(), endpoint or path, method, json_body, api.Response())

    return ImpatientStore(partial(get_default_host_creds, uri))  # type: ignore[no-untyped-call]


def _asked(server: Any, path: str, method: str, json_body: str | None, message: Any) -> Any:
    """Ask a server once, with short timeouts, and read its answer into `message`.

    MLflow knows these as arguments of `http_request`, but its stores can only be given them through the environment,
    which is the user's.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.proto_json_utils import parse_dict
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    body = {"params" if method == "GET" else "json": json.loads(json_body or "{}")}
    try:
        answer = http_request(
            server,
            path,
            method,
            max_retries=0,
            raise_on_status=False,
            timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
            **body,
        )
    except MlflowException as error:
        raise ConnectionError(str(error)) from error
    try:
        content = answer.json()
    except ValueError as error:  # a proxy's page or a refused login: it says nothing about the event
        said = answer.text.strip().partition("\n")[0][:100]
        raise ConnectionError(f"{answer.status_code} {answer.reason}: {said}") from error
    verify_rest_response(answer, path)
    parse_dict(content, message)
    return message


def _registry(uri: str) -> Any:
    """Open the registry of models of a server or a database, which :func:`connect` has reached."""
    if uri.partition(":")[0] not in _SERVER:
        from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

        if file_of(uri):  # see `_let_go_of`
            SqlAlchemyStore._get_or_create_engine(uri).dispose()
        return SqlAlchemyStore(_with_driver(uri))
    from functools import partial

    from mlflow.store.model_registry.rest_store import RestStore
    from mlflow.utils.credentials import get_default_host_creds

    class ImpatientRegistry(RestStore):
        """Makes one attempt for each request, with short timeouts."""

        def _call_endpoint(self, api: Any, json_body: str | None = None, *_: Any, **__: Any) -> Any:
            path, method = self._get_endpoint_from_method(api)  # type: ignore[no-untyped-call]
            return _asked(self.get_host_creds(), path, method, json_body, api.Response())

    return ImpatientRegistry(partial(get_default_host_creds, uri))  # type: ignore[no-untyped-call]


def find_unused_run(store: Store, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    """Find a run that has these tags and nothing yet of what a search brings; None if there is none.

    One that has parameters, or runs below it, is of a study that was searched.
    """
    for run in _all_pages(store.search_runs, [experiment_id], _condition(tags)):
        run_id: str = run.info.run_id
        if not run.data.params and not _run_ids(store, [experiment_id], {PARENT_TAG: run_id}):
            return run_id
    return None


def _condition(tags: Mapping[str, str]) -> str:
    """Write what MLflow's search reads for runs that have these tags."""
    quoted = {tag: f'"{value}"' if "'" in value else f"'{value}'" for tag, value in tags.items()}
    return " AND ".join(f"tags.`{tag}` = {value}" for tag, value in quoted.items())


def runs_of_study(store: Store, study: str, home: str | None) -> list[str]:
    """Find a study's own runs and those of its trials in all experiments, by their tags alone.

    Args:
        store: MLflow's.
        study: its name.
        home: whose study it is, where the store has those of others; None where all are this home's.
    """
    identity = {STUDY_TAG: study, **({HOME_TAG: home} if home else {})}
    experiments = [one.experiment_id for one in _all_pages(store.search_experiments)]
    if not experiments:
        return []
    own = _run_ids(store, experiments, identity)
    return [*own, *(run.info.run_id for parent in own for run in _runs_below(store, experiments, parent))]


def _run_ids(store: Store, experiments: list[str], tags: Mapping[str, str]) -> list[str]:
    return [run.info.run_id for run in _all_pages(store.search_runs, experiments, _condition(tags))]


PAGE = 1000
"""Runs or experiments that are asked for at once."""


def _all_pages(search: Any, experiments: list[str] | None = None, condition: str = "") -> Iterator[Any]:
    """Give what a store finds, page after page, without what was deleted."""
    from mlflow.entities import ViewType

    asked, token = ([experiments, condition] if experiments else []), None
    while True:
        page = search(*asked, ViewType.ACTIVE_ONLY, max_results=PAGE, page_token=token)  # a server wants to be told
        yield from page
        if not (token := page.token):
            return


def create_run(store: Store, experiment_id: str, name: str, start: int, tags: dict[str, str]) -> str:
    """Create a run that started at `start`, in milliseconds since 1970, and give its id."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        user = "unknown"
    tags = {"mlflow.user": user, "mlflow.runName": name, **tags}
    run_id: str = store.create_run(experiment_id, user, start, run_tags(tags), name).info.run_id
    return run_id


def run_tags(tags: Mapping[str, str]) -> list[Any]:
    """Make MLflow's own objects of tags."""
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]


def set_info(store: Store, run_id: str, name: str, status: str, end: int | None = None) -> None:
    """Set the name and the status of a run, and when it ended, in milliseconds since 1970."""
    from mlflow.entities import RunStatus

    store.update_run_info(run_id, RunStatus.from_string(status), end, name)


def log_dataset(store: Store, run_id: str, dataset: DataSetInput) -> None:
    """Log the data set that a run was given as its input."""
    from mlflow.entities import Dataset, DatasetInput

    source = json.dumps({"name": dataset.name})
    profile = json.dumps(dict(dataset.profile))
    store.log_inputs(
        run_id, [DatasetInput(Dataset(dataset.name, dataset.digest, "local", source, profile=profile), tags=[])]
    )


def log_batch(
    store: Store, run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Add to a run, in one request: parameters first, then metrics, tags last."""
    from mlflow.entities import Metric, Param

    metrics = [Metric(point.name, point.value, point.time, point.step) for point in points]
    store.log_batch(run_id, metrics, [Param(name, value) for name, value in params.items()], run_tags(tags))


def run_state(store: Store, run_id: str) -> RunState:
    """Read one run."""
    return _state_of(store.get_run(run_id))


def expect_run(store: Store, study_run: StudyRun) -> None:
    """Refuse where the run of a study is gone or deleted: those of its trials belong to it."""
    run = _known_run(store, study_run.run_id)
    if run is None:
        raise Refused(f"MLflow has no run {study_run.run_id} of the study any more; {_ANEW}.")
    _expect_active(store.get_experiment(run.info.experiment_id))
    if _is_deleted(run):
        raise Refused(f"the study's run {study_run.run_id} was deleted in MLflow; {_ANEW}.")


_ANEW = "`tune-sam doctor STUDY --fix` brings it back, or makes it anew"


def _known_run(store: Store, run_id: str) -> Any:
    """Give MLflow's run, be it a deleted one; None if it has none."""
    from mlflow.exceptions import MlflowException

    try:
        return store.get_run(run_id)
    except MlflowException as error:
        if is_away(error) or is_internal(error):
            raise
        return None


def _is_deleted(run: Any) -> bool:
    """Say whether MLflow's run was deleted."""
    return bool(run.info.lifecycle_stage == "deleted")


def restore_run(store: Store, run_id: str) -> bool:
    """Bring back a run if it was deleted, and say whether it is there.

    Raises:
        Refused: its whole experiment was deleted.
    """
    run = _known_run(store, run_id)
    if run is None:
        return False
    _expect_active(store.get_experiment(run.info.experiment_id))
    if _is_deleted(run):
        store.restore_run(run_id)
    return True


def _expect_active(experiment: Any) -> None:
    if experiment.lifecycle_stage == "deleted":
        raise Refused(
            f"experiment {experiment.name!r} was deleted in MLflow; restore it with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`."
        )


def _state_of(run: Any) -> RunState:
    data = run.data
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return RunState(
        run.info.run_id,
        run.info.run_name,
        run.info.status,
        dict(data.params),
        dict(data.tags),
        dict(data.metrics),
        frozenset((one.dataset.name, one.dataset.digest) for one in inputs),
    )


def states_in(store: Store, study_run: StudyRun) -> dict[str, list[RunState]]:
    """Read the runs of each trial of a study, by its key; the newest first."""
    found: dict[str, list[RunState]] = {}
    for run in _runs_below(store, [study_run.experiment_id], study_run.run_id):
        state = _state_of(run)
        found.setdefault(state.tags.get(KEY_TAG, ""), []).append(state)
    return found


def _runs_below(store: Store, experiments: list[str], run_id: str) -> Iterator[Any]:
    """Give the runs of a study's trials; a refit's own run, which is below its search's, is none."""
    found = _all_pages(store.search_runs, experiments, _condition({PARENT_TAG: run_id}))
    return (run for run in found if STUDY_TAG not in run.data.tags)


def with_values(store: Store, state: RunState) -> RunState:
    """Read all values of all metrics of a run too; what release 0.1 named otherwise has its name of today."""
    found: dict[tuple[str, int], set[float]] = {}
    for name in state.metrics:
        for point in metric_history(store, state.run_id, name):
            found.setdefault((renamed(name), point.step), set()).add(point.value)
    return replace(state, values=found)


def metric_history(store: Store, run_id: str, name: str) -> list[Point]:
    """Read all values of one metric of a run, page by page: a server of MLflow 3.11 gives none if no size is named."""
    from mlflow.store.tracking import GET_METRIC_HISTORY_MAX_RESULTS

    found: list[Point] = []
    token = None
    while True:
        page = store.get_metric_history(run_id, name, GET_METRIC_HISTORY_MAX_RESULTS, token)
        found += [Point(name, one.value, one.timestamp, one.step) for one in page]
        if not (token := page.token):
            return found


def is_internal(error: Exception) -> bool:
    """Say whether it is a server's answer that something went wrong inside of it."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and (error.get_http_status_code() or 0) >= 500 and not is_away(error)


def is_away(error: Exception) -> bool:
    """Say whether an error is about the server or the login, and not about what was sent."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() in _AWAY
    return isinstance(error, OSError)


@contextmanager
def refusing(uri: str, what: str) -> Iterator[None]:
    """Turn the errors of MLflow and of its database into a refusal.

    Args:
        uri: of the server or database.
        what: what it does not do, such as "does not take the results".
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise Refused(f"MLflow at {masked(uri)} {what}; it says {masked(str(error))}") from error


@dataclass(frozen=True)
class ModelState:
    """What MLflow has of a model.

    Attributes:
        model_id: MLflow's.
        place: URI of its files.
        ready: all of them are there.
    """

    model_id: str
    place: str
    ready: bool


def model_of(store: Store, run_id: str, name: str) -> ModelState | None:
    """Find the model of this name among a run's, one whose files are all there before others; None if there is none."""
    from mlflow.exceptions import MlflowException

    found = []
    outputs = store.get_run(run_id).outputs
    for output in outputs.model_outputs if outputs else []:
        try:
            model = store.get_logged_model(output.model_id)
        except MlflowException as error:
            if is_away(error) or is_internal(error):
                raise
            continue  # a person deleted it
        if model.name == name:
            found.append(_model_state(model))
    return max(found, key=lambda state: state.ready, default=None)


def create_model(store: Store, experiment_id: str, run_id: str, name: str) -> ModelState:
    """Create a model of a run, which is ready once its files are there, see :func:`finish_model`."""
    from mlflow.entities import LoggedModelOutput

    model = store.create_logged_model(experiment_id, name, run_id)
    store.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return _model_state(model)


def finish_model(store: Store, model: ModelState) -> None:
    """Say of a model that its files are all there."""
    from mlflow.entities import LoggedModelStatus

    store.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _model_state(model: Any) -> ModelState:
    return ModelState(model.model_id, model.artifact_location, str(model.status) == "READY")


def register_version(store: Store, uri: str, name: str, model_id: str, alias: str) -> None:
    """Have the registry name a model by an alias of a registered model, with one version for each model.

    Args:
        store: MLflow's.
        uri: of the store.
        name: of the registered model, which is made if there is none.
        model_id: the model's.
        alias: that is the model's from now on.
    """
    from mlflow.exceptions import MlflowException

    registry = _registry(uri)
    try:
        registry.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = store.get_logged_model(model_id)
    there = registry.search_model_versions(f"run_id = '{model.source_run_id}'")
    version = next((one for one in there if (one.name, one.source) == (name, model.artifact_location)), None)
    if version is None:
        version = registry.create_model_version(
            name, model.artifact_location, model.source_run_id, model_id=model.model_id
        )
        if uri.partition(":")[0] not in _SERVER:  # which does it on its own, so that the model's page names the version
            store.set_model_versions_tags(name, version.version, model.model_id)
    registry.set_registered_model_alias(name, alias, str(version.version))


def artifacts_of(store: Store, uri: str, run_id: str, within: Path | None = None) -> ArtifactRepository:
    """Open the place of a run's artifacts.

    MLflow's client remembers it by the run's id for as long as the process lives: a copied home has the same runs in
    another place.

    Args:
        store: MLflow's.
        uri: of the store.
        run_id: whose artifacts.
        within: the folder that they have to be in; anywhere by default.

    Raises:
        Refused: they are elsewhere, by what the database or a link says.
    """
    return artifacts_at(store.get_run(run_id).info.artifact_uri, uri, f"run {run_id}", within)


def artifacts_at(place: str, uri: str, of: str, within: Path | None = None) -> ArtifactRepository:
    """Open a place of artifacts that a store names; see :func:`artifacts_of`.

    Args:
        place: its path or URI.
        uri: of the store.
        of: whose artifacts, in words.
        within: the folder that they have to be in; anywhere by default.

    Raises:
        Refused: they are elsewhere, by what the database or a link says.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if within:
        folder = artifact_folder(place)
        if not folder.resolve().is_relative_to(within.resolve()) or link_below(folder):
            raise Refused(f"MLflow's database at {uri} has the artifacts of {of} in {place}, outside {within}.")
    return get_artifact_repository(place, tracking_uri=uri)


def try_out(uri: str) -> None:
    """Write a run and an artifact, read both back, and take them away again. The experiment that they were in stays.

    Args:
        uri: see :func:`check`.

    Raises:
        Refused: one of these fails.
    """
    try:
        store = connect(uri)
        experiment_id = experiment_id_of(store, "tune_sam.check", None)
        content = secrets.token_hex(8)
        run_id = create_run(store, experiment_id, "check", milliseconds(), {"tune_sam.content": content})
        try:
            repository = artifacts_of(store, uri, run_id)
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "check.txt").write_text(content)
                repository.log_artifact(str(Path(folder) / "check.txt"))
                (Path(folder) / "check.txt").unlink()
                there = Path(repository.download_artifacts("check.txt", folder)).read_text()
            if not there == content == store.get_run(run_id).data.tags["tune_sam.content"]:
                raise OSError("what is read is not what was written")
            repository.delete_artifacts("check.txt")
        finally:
            store.delete_run(run_id)
    except Refused:
        raise
    except Exception as error:  # whatever the client of an artifact store raises
        raise Refused(
            f"MLflow at {masked(uri)} cannot be written to and read back; it says {masked(str(error))}"
        ) from error


def experiment_id_of(store: Store, name: str, artifact_root: str | None) -> str:
    """Find the experiment of a name, or create it.

    Raises:
        Refused: it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = store.get_experiment_by_name(name)
    if found is None:
        try:
            return str(store.create_experiment(name, artifact_root, []))
        except MlflowException:
            found = store.get_experiment_by_name(name)  # another study of this workload was faster
            if found is None:
                raise
    _expect_active(found)
    return str(found.experiment_id)


def tag_experiment(store: Store, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of an experiment."""
    from mlflow.entities import ExperimentTag

    for key, value in tags.items():
        store.set_experiment_tag(experiment_id, ExperimentTag(key, value))


def expect_there(uri: str) -> None:
    """Refuse a database in a file that is gone or empty: MLflow would make a new one, which has no runs."""
    file = file_of(uri)
    if file and (ailment := ailment_of(file)) in _LOST:
        raise Refused(_unusable(file, ailment))


def _expect_usable(file: Path) -> None:
    """Refuse a database that is damaged or of another version of MLflow, which would try for minutes."""
    if (ailment := ailment_of(file)) in _LOST:
        return
    if ailment := ailment or _other_schema(file):
        raise Refused(_unusable(file, ailment))


def _unusable(file: Path, ailment: str) -> str:
    return (
        f"MLflow's database {file} {ailment}; put back a copy of it, or make it anew from the studies' ledgers with "
        "`tune-sam doctor STUDY --fix` for each."
    )


def make_usable(uri: str) -> None:
    """Put a database in a file that cannot be used out of the way; the next that connects makes a new one.

    One that an earlier MLflow made is upgraded, by what MLflow has for that. Nothing is removed: what was there stays
    beside it, under another name.

    Args:
        uri: see :func:`check`; nothing is done for a server and other databases.
    """
    file = file_of(uri)
    if file is None:
        return
    if ailment := ailment_of(file, every_page=True):
        kept = None if ailment == GONE else set_aside(file)
    elif (ailment := _other_schema(file)) == _EARLIER:
        kept = set_aside(file, shutil.copy2)
        try:
            _upgrade(uri)
        except Exception as error:  # whatever a migration raises
            ailment = f"{ailment}, and cannot be upgraded ({masked(' '.join(str(error).split()))})"
            set_aside(file)
    elif ailment:
        kept = set_aside(file)
    else:
        return
    log.warning("MLflow's database %s %s%s.", file, ailment, f"; what it was is kept as {kept}" if kept else "")


_LOST = (GONE, EMPTY)

_EARLIER, _LATER = "has the schema of an earlier MLflow", "has the schema of a later MLflow"


def _other_schema(file: Path) -> str:
    """Say whether a database has the schema of another version of MLflow; nothing if it has this one's."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    found, known = schema_of(file), ScriptDirectory.from_config(_get_alembic_config(""))
    if found == known.get_current_head():
        return ""
    return _EARLIER if found in {one.revision for one in known.walk_revisions()} else _LATER


def _upgrade(uri: str) -> None:
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        _upgrade_db(engine)
    finally:
        engine.dispose()


def milliseconds() -> int:
    """Give the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
