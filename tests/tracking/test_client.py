"""What is refused at the door, and MLflow's private API, of which tracking/client.py alone makes use."""

import inspect
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import requests
from mlflow.store.entities import PagedList
from mlflow_places import answering
from services import free_port

import tune_sam
from tune_sam.errors import Refused
from tune_sam.tracking.client import Away, check, connect, try_out
from tune_sam.tracking.relocation import COLUMNS


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("sqlite:///mlflow.db", "four slashes"),
        ("sqlite://", "four slashes"),
        ("sqlite:////proc/version/x/mlflow.db", "choose a folder"),
        ("mlruns", "neither a server nor a database"),
        ("/tmp/mlruns", "neither a server nor a database"),
        ("file:///tmp/mlruns", "neither a server nor a database"),
        ("http://127.0.0.1:PORT", "cannot be reached .*Connection refused.*mlflow server"),
        ("http://ada:secret@127.0.0.1:PORT/mlflow", "http://\\*\\*\\*@127.0.0.1:PORT/mlflow cannot be reached"),
        ("postgresql://ada:secret@127.0.0.1:PORT/mlflow", "Connection refused.*start the database"),
        ("http://[oops", "cannot be reached"),
        ("mysql://ada:secret@127.0.0.1:PORT/mlflow", "needs the package MySQLdb; install it, or name a driver"),
        ("mysql+nosuch://ada:secret@127.0.0.1:PORT/mlflow", "cannot be read .*nosuch"),
    ],
)
def test_a_place_that_cannot_work_is_refused_without_its_login(bad, says):
    port = str(free_port())
    with pytest.raises(Refused, match=says.replace("PORT", port)) as refused:
        check(bad.replace("PORT", port))
    assert isinstance(refused.value, Away) == ("reached" in says or "refused" in says)
    assert "secret" not in str(refused.value)
    assert "ada" not in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, "Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts 127.0.0.1:"),
        (404, "nothing here", "answered 404 .*address of an MLflow tracking server"),
        (200, "<html>log in</html>", "address of an MLflow tracking server"),
        (502, "{}", "answered 502"),
        (200, '{"experiments": []}', None),
        (401, "log in", None),
    ],
)
def test_a_server_is_judged_by_its_answer(status, body, says):
    with answering(lambda method, path: (status, body)) as uri:
        if says is None:
            check(uri)
            return
        with pytest.raises(Refused, match=says) as refused:
            check(uri.replace("://", "://ada:secret@"))
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("body", "taken"), [("Forbidden", True), ("Invalid Host header - possible attack", False)])
def test_a_server_that_forbids_what_brings_no_token_is_asked_with_it_later(body, taken, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with answering(lambda method, path: (403, body)) as uri:
        if taken:
            check(uri)
        else:
            with pytest.raises(Refused, match="--allowed-hosts"):
                check(uri)


def test_a_postgres_is_opened_by_the_driver_that_cluster_brings(monkeypatch):
    opened = []
    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", lambda uri, _: opened.append(uri))
    monkeypatch.setattr("tune_sam.tracking.client.check", lambda _: None)
    connect("postgresql://me:secret@host/mlflow")
    assert opened == ["postgresql+psycopg://me:secret@host/mlflow"]


def test_a_database_to_be_is_accepted_and_not_made(tmp_path):
    check(f"sqlite:///{tmp_path / 'to be made' / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_first_contact_prints_nothing_and_leaves_the_users_logging_alone(first_contact):
    assert first_contact[2] == ""


# A release that moves what follows needs a look at tracking/client.py before setup.cfg lets it in.
STORE = {
    "create_experiment": ["self", "name", "artifact_location", "tags"],
    "create_run": ["self", "experiment_id", "user_id", "start_time", "tags", "run_name"],
    "delete_run": ["self", "run_id"],
    "get_experiment": ["self", "experiment_id"],
    "get_experiment_by_name": ["self", "experiment_name"],
    "get_metric_history": ["self", "run_id", "metric_key", "max_results", "page_token"],
    "get_run": ["self", "run_id"],
    "log_batch": ["self", "run_id", "metrics", "params", "tags"],
    "restore_run": ["self", "run_id"],
    "search_runs": ["self", "experiment_ids", "filter_string", "run_view_type"],
    "update_run_info": ["self", "run_id", "run_status", "end_time", "run_name"],
}


@pytest.mark.parametrize("kind", ["rest_store.RestStore", "sqlalchemy_store.SqlAlchemyStore"])
@pytest.mark.parametrize("method", STORE)
def test_mlflows_stores_take_what_the_client_gives_them(kind, method):
    import importlib

    module, name = kind.split(".")
    store = getattr(importlib.import_module(f"mlflow.store.tracking.{module}"), name)
    there = hasattr(store, method) and list(inspect.signature(getattr(store, method)).parameters)
    assert there and there[: len(STORE[method])] == STORE[method], (  # noqa: PT018
        f"this release of MLflow has moved {name}.{method}({', '.join(STORE[method])}), it is {there or 'gone'}: "
        "mend tune_sam/tracking/client.py, and the bound in setup.cfg"
    )


def test_mlflows_requests_can_be_told_to_give_up():
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    parameters = inspect.signature(http_request).parameters
    wanted = ["host_creds", "endpoint", "method", "max_retries", "raise_on_status", "timeout"]
    missing = [name for name in wanted if name not in parameters]
    missing += [name for name in ("_call_endpoint", "_METHOD_TO_INFO", "get_host_creds") if not _has(RestStore, name)]
    assert not missing, (
        f"this release of MLflow has moved {', '.join(missing)}, by which tune_sam/tracking/client.py sends each "
        "request once and with a short timeout: mend it, and the bound in setup.cfg"
    )
    assert callable(verify_rest_response)


def test_mlflows_database_can_be_compared_and_upgraded():
    from mlflow.store.db import utils
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    missing = {"_get_alembic_config", "_upgrade_db", "create_sqlalchemy_engine"} - set(dir(utils))
    missing |= {"_get_or_create_engine"} - set(dir(SqlAlchemyStore))
    assert not missing, (
        f"this release of MLflow has moved {', '.join(missing)}, by which tune_sam/tracking/client.py tells the schema "
        "of another release and upgrades it: mend it, and the bound in setup.cfg"
    )


def _has(store, name):
    return hasattr(store, name) or name in inspect.getsource(store)


def test_mlflow_takes_the_same_point_twice_for_one(uri, study):
    """A delivery that was cut short sends some again; no other promise of MLflow keeps them from being there twice."""
    from tune_sam.tracking.client import connect, log_batch, metric_history
    from tune_sam.tracking.content import Point

    store, point = connect(uri), Point("val/loss", 0.5, 1000, 1)
    for others in ([], [], [Point("val/loss", 0.4, 1001, 2)]):
        log_batch(store, study.run_id, [point, *others], {}, {})
    assert sorted(one.step for one in metric_history(store, study.run_id, "val/loss")) == [1, 2], (
        "this release of MLflow keeps a point that is sent twice as two: tracking/delivery.py has to look before "
        "it sends"
    )


def test_a_metric_is_read_whole_where_it_takes_several_pages(uri, study, monkeypatch):
    from tune_sam.tracking.client import connect, log_batch, metric_history
    from tune_sam.tracking.content import Point

    monkeypatch.setattr("mlflow.store.tracking.GET_METRIC_HISTORY_MAX_RESULTS", 2)
    points = [Point("val/loss", 1 / step, 1000 + step, step) for step in range(1, 6)]
    store = connect(uri)
    log_batch(store, study.run_id, points, {}, {})
    assert metric_history(store, study.run_id, "val/loss") == points
    assert metric_history(store, study.run_id, "none") == []

    class OldServer:
        """As MLflow 3.11's, of which a page that no size is named for is empty, and not the last."""

        def get_metric_history(self, run_id, name, size=None, token=None):
            return store.get_metric_history(run_id, name, size, token) if size else PagedList([], "more")

    assert metric_history(OldServer(), study.run_id, "val/loss") == points


def test_mlflows_database_names_places_of_artifacts_where_a_moved_home_looks(first_contact):
    wanted = [*COLUMNS, ("runs", "experiment_id"), ("tags", "run_uuid"), ("tags", "key")]
    with closing(sqlite3.connect(first_contact[0])) as connection:
        there = {table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table, _ in wanted}
    missing = [f"{table}.{column}" for table, column in wanted if column not in there[table]]
    assert not missing, (
        f"this release of MLflow has moved {', '.join(missing)}: mend tune_sam/tracking/relocation.py, and the bound "
        "in setup.cfg"
    )


def test_no_other_module_touches_mlflows_stores():
    private = re.compile(r"mlflow\.(store|utils|protos|entities|exceptions|tracking)\b")
    sources = Path(tune_sam.__file__).parent.rglob("*.py")
    found = {file.name for file in sources if private.search(file.read_text())}
    assert found == {"client.py"}


def test_what_is_tried_out_is_taken_away_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try_out(f"sqlite:///{tmp_path}/mlflow.db")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mlflow.db"]


def test_a_client_certificate_is_shown_to_a_server_as_mlflows_own_client_does(monkeypatch):
    shown = []
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", "/keys/me.pem")
    with answering(lambda method, path: (200, "{}")) as uri, monkeypatch.context() as patch:
        ask = requests.get
        patch.setattr("requests.get", lambda *given, cert, **options: shown.append(cert) or ask(*given, **options))
        check(uri)
    assert shown == ["/keys/me.pem"]
