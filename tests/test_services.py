"""The services that other tests rely on do what they say."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest
from services import SOON, Program, answers, mlflow_server, postgres, ray_nodes, s3, wait_for


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster():
    with ray_nodes(cpus=2, gpus=1, dashboard=True, settings=SOON) as nodes:
        yield nodes


# --------------------------------------------------------------------------------------------------------- programs


def gone(family):
    return not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_a_program_that_ends_at_once_shows_its_log(tmp_path):
    program = Program("hasty", ["sh", "-c", "echo no such option; exit 3"], tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)hasty ended with 3.*hasty\.log ends with:\nno such option"):
        program.start(lambda: False)


def test_a_program_that_is_never_ready_shows_its_log_and_is_gone(tmp_path):
    program = Program("slow", ["sh", "-c", "echo $$; exec sleep 1000"], tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)slow is ready: not within 0\.5 s.*slow\.log ends with"):
        program.start(lambda: False, limit=0.5)
    assert not psutil.pid_exists(int(program.log.read_text()))


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_all_that_a_program_started_is_gone_with_it(ending, tmp_path):
    """Also a child in a session of its own, one that has lost its parent, and one that ignores SIGTERM."""
    script = "trap '' TERM; setsid sleep 1000 & (sleep 1001 &) ; echo ready; while true; do sleep 1002; done"
    program = Program("parent", ["sh", "-c", script], tmp_path)
    program.start(lambda: "ready" in program.log.read_text() and len(program._family()) == 4)
    family = program._family()
    if ending == "kill":
        program.kill()
    else:
        program.stop(patience=0.5)
    assert gone(family)
    program.kill()  # again, which does nothing


# --------------------------------------------------------------------------------------------------------- Postgres


def refusal(url):
    import psycopg

    with pytest.raises(psycopg.Error) as info:
        psycopg.connect(url, connect_timeout=5)
    return str(info.value)


def test_postgres_refuses_a_wrong_password_and_a_missing_database(database):
    right = database.create("guarded")
    assert 'password authentication failed for user "tune"' in refusal(right.replace(database.password, "wrong"))
    assert "no password supplied" in refusal(right.replace(f":{database.password}", ""))
    assert 'database "missing" does not exist' in refusal(database.url("missing"))


def test_the_role_of_the_url_owns_its_database_and_no_more(database):
    import psycopg

    with psycopg.connect(database.create("own"), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (x int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE DATABASE another")


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_study_of_optuna_is_still_there_when_postgres_comes_back(ending, database):
    from optuna import create_study, load_study
    from optuna.storages import RDBStorage

    url = database.create(f"optuna_{ending}")
    storage = RDBStorage(url)
    assert storage.engine.dialect.driver == "psycopg"
    create_study(storage=storage, study_name="s").optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    getattr(database, ending)()
    assert "Connection refused" in refusal(url)
    database.start()
    assert len(load_study(storage=RDBStorage(url), study_name="s").trials) == 3


# --------------------------------------------------------------------------------------------------------------- S3


def test_pyarrow_writes_and_reads_what_boto3_sees(store, monkeypatch):
    from pyarrow import fs

    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    store.create("studies")
    filesystem, path = fs.FileSystem.from_uri(store.uri("studies", "a/b"))
    assert path == "studies/a/b"
    with filesystem.open_output_stream(f"{path}/weights") as file:
        file.write(b"0" * 10_000_000)  # in several parts
    with filesystem.open_input_stream(f"{path}/weights") as file:
        assert file.read() == b"0" * 10_000_000
    listed = store.client().list_objects_v2(Bucket="studies")["Contents"]
    assert {item["Key"]: item["Size"] for item in listed} == {"a/b/weights": 10_000_000}


def test_a_bucket_that_is_not_there_is_refused(store, monkeypatch):
    from pyarrow import fs

    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    filesystem, path = fs.FileSystem.from_uri(store.uri("missing", "a"))
    with pytest.raises(FileNotFoundError):
        filesystem.open_input_stream(path)
    with pytest.raises(OSError, match="bucket does not exist"), filesystem.open_output_stream(path) as file:
        file.write(b"0")


def test_an_s3_that_is_stopped_refuses_and_forgets(tmp_path):
    with s3(tmp_path) as own:
        own.create("studies")
        own.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", own.port))
        own.start()
        assert own.client().list_buckets()["Buckets"] == []


# ----------------------------------------------------------------------------------------------------------- MLflow


@pytest.mark.slow
def test_mlflow_over_postgres_keeps_what_it_has_through_a_restart(database, tmp_path):
    from mlflow import MlflowClient

    with mlflow_server(database.create("mlflow"), tmp_path) as server:
        client = MlflowClient(server.uri)
        experiment = client.create_experiment("e")
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "loss", 0.5)
        client.log_text(run, "hello", "note.txt")
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        server.start()
        client = MlflowClient(server.uri)
        assert client.get_experiment_by_name("e").experiment_id == experiment
        assert client.get_run(run).data.metrics == {"loss": 0.5}
        assert [item.path for item in client.list_artifacts(run)] == ["note.txt"]
        assert list((tmp_path / "artifacts").rglob("note.txt"))
        foreign = urllib.request.Request(server.uri + "/api/2.0/mlflow/experiments/search", headers={"Host": "evil"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(foreign)
    assert not answers(server.uri)


# -------------------------------------------------------------------------------------------------------------- Ray


WAIT = """
import json, sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[2]):
    time.sleep(0.1)
print(json.dumps({node["NodeManagerAddress"]: node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"]}))
"""


def drive(code, *words, **environment):
    """What a driver in a process of its own prints, or its error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], env={**kept, **environment}, text=True,
                          capture_output=True, timeout=300)
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["kill", "freeze"])
def test_a_node_is_seen_with_its_gpus_until_it_dies(ending, cluster):
    node = cluster.add(cpus=1, gpus=2)
    both = {cluster.head.host: 1, node.host: 2}
    assert json.loads(drive(WAIT, cluster.address, 2, **cluster.environment)) == both
    getattr(cluster, ending)(node)
    assert json.loads(drive(WAIT, cluster.address, 1, **cluster.environment)) == {cluster.head.host: 1}


@pytest.mark.slow
@pytest.mark.parametrize(("token", "told"), [
    ({}, "Authentication token is missing or incorrect"),
    ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "Authentication token is missing or incorrect"),
    ({"RAY_AUTH_MODE": "token"}, "no authentication token was found"),
])
def test_a_driver_without_the_token_is_refused(token, told, cluster, tmp_path):
    once = {"RAY_NUM_REDIS_GET_RETRIES": "1", "HOME": str(tmp_path)}
    assert told in drive(WAIT, cluster.address, 1, **once, **token)


@pytest.mark.slow
def test_this_process_can_connect_too(cluster):
    import ray

    before = dict(os.environ)
    with cluster.known_here():
        ray.init(address=cluster.address, log_to_driver=False)
        assert ray.get(ray.remote(num_gpus=1)(os.getppid).remote()) != os.getpid()
    assert not ray.is_initialized()
    assert {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")} == {
        name: value for name, value in before.items() if name.startswith("RAY_AUTH")}


@pytest.mark.slow
def test_jobs_can_be_submitted(cluster):
    from ray.job_submission import JobSubmissionClient

    with cluster.known_here():
        jobs = JobSubmissionClient(cluster.dashboard)
        job = jobs.submit_job(entrypoint="python -c 'import ray; ray.init(); print(len(ray.nodes()), \"node\")'")
        wait_for(lambda: jobs.get_job_status(job).is_terminal(), "the job ends", cluster.head.program.log, limit=300)
        assert jobs.get_job_status(job).value == "SUCCEEDED", jobs.get_job_logs(job)


@pytest.mark.slow
def test_a_cluster_frees_everything_after_a_failure():
    seen = {}

    def fail():
        with ray_nodes(cpus=1, token=None) as nodes:
            drive(WAIT, nodes.address, 1)
            seen.update(nodes=nodes, family=nodes.head.program._family())
            raise RuntimeError("of a test")

    with pytest.raises(RuntimeError, match="of a test"):
        fail()
    assert len(seen["family"]) > 3
    assert gone(seen["family"])
    assert not seen["nodes"].head.program.log.parent.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(seen["nodes"].address.split(":"))
