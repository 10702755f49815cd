"""A search on a cluster of several Ray nodes, with its records in Postgres, its results on S3 and an MLflow server: all
of them real, and each of them going away at some time."""

import json
import os
import re
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import odd_workload
import pytest
import warm
from services import mlflow_server, postgres, ray_nodes, s3, wait_for

from tune_sam.operations.doctor import diagnose, mend
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage
from tune_sam.tuning.delivery import sync

pytestmark = pytest.mark.slow

OPTIONS = ("--dataset", "digits", "--scheduler", "none")
DIGITS = ("gcn", *OPTIONS)
SLOW = ("odd_workload:Slow", *OPTIONS, "--batch-size", "64")
"""Epochs of two seconds, most of it waiting: what happens meanwhile does not depend on how fast the machine is."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two nodes of four CPUs and a GPU that is only counted, and every service that a search can be given."""
    folder = tmp_path_factory.mktemp("site")
    # Nodes run their workers in the background here, so that a test's own commands get on.
    with (
        postgres(folder) as database,
        s3(folder) as objects,
        pytest.MonkeyPatch.context() as patch,
        ray_nodes(
            4,
            1,
            dashboard=True,
            settings={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                # Else many a process that a Ray client gets dies at its fork.
                "GRPC_ENABLE_FORK_SUPPORT": "false",
                # A node that is gone is known as such after five looks, which are three seconds apart by default.
                "RAY_health_check_period_ms": "500",
                "PYTHONPATH": odd_workload.PYTHONPATH,
                **objects.environment,
            },
        ) as cluster,
    ):
        for name, value in (objects.environment | cluster.environment).items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", odd_workload.PYTHONPATH)
        objects.create("results")
        objects.create("artifacts")
        cluster.add(4, 1)
        with mlflow_server(database.create("mlflow"), folder, artifacts="s3://artifacts") as tracking:
            patch.setenv("TUNE_SAM_STUDY_STORAGE", database.create("studies"))
            patch.setenv("TUNE_SAM_TRACKING_URI", tracking.uri)
            patch.setenv("TUNE_SAM_STORAGE", objects.uri("results", "ray"))
            patch.setenv("TUNE_SAM_ADDRESS", cluster.address)
            yield SimpleNamespace(database=database, objects=objects, cluster=cluster, tracking=tracking)


@contextmanager
def begun(home, *words):
    """The command line in a process of its own, which does not outlive the test."""
    process = warm.command(*words, "--home", home)
    try:
        yield process
    finally:
        process.kill()


def done(home, *words, status=0):
    """What it prints."""
    with begun(home, *words) as process:
        out, err = process.communicate(timeout=400)
        assert process.returncode == status, err
    return out, err


def in_turn(*commands):
    """Run several command lines in this process, which imports Ray once, and end it."""
    for words in commands:
        try:
            warm.type_in(*words)
        except SystemExit as left:
            if left.code:
                raise
    raise SystemExit(0)


def done_in_turn(home, *commands):
    """The JSON document that each prints."""
    process = warm.Command(in_turn, *((*words, "--home", home) for words in commands))
    try:
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return [json.loads(document) for document in re.split(r"(?<=^[\]}])\n", out, flags=re.MULTILINE) if document]


def all_agree(home, name, looked=diagnose):
    """One line for each trial, and no ledger contradicts another."""
    found = looked(name, home=home)
    assert not [one for one in found if one.trouble]
    return {one.key: one for one in found}


def frozen(study, optimizer):
    storage = open_storage(study.home)
    return storage.get_all_trials(storage.get_study_id_from_name(f"{study.name}/{optimizer}"))


def found(name, home):
    """The study, once there is one."""
    try:
        return open_study(name, home)
    except ValueError:
        return None


def epochs(name, home):
    """Epochs so far of each trial."""
    study = found(name, home)
    return [trial.epochs for trial in study.records()] if study else []


def steps(study, trial):
    from mlflow import MlflowClient

    history = MlflowClient(study.tracking_uri).get_metric_history(trial.mlflow_run_id, "val/accuracy")
    return sorted(point.step for point in history)


@pytest.fixture(scope="module")
def four(site, tmp_path_factory):
    """Four trials of half a GPU each, while whose search the tracking server is away for a while."""
    home = tmp_path_factory.mktemp("four")
    words = ("--optimizer", "base", "--trials", "4", "--epochs", "24", "--gpus-per-trial", "0.5", "--name", "four")
    with begun(home, "search", *SLOW, *words) as search:
        wait_for(lambda: len(reached := epochs("four", home)) == 4 and sum(reached) > 10, "trials run", limit=200)
        site.tracking.kill()
        before, gone = sum(epochs("four", home)), time.monotonic()

        def was_away():
            """For half a minute, or half of that where trainings plainly went on."""
            away = time.monotonic() - gone
            return away > 30 or (away > 15 and sum(epochs("four", home)) > before + 10)

        wait_for(was_away, "half a minute")
        after = sum(epochs("four", home))
        site.tracking.start()
        _, err = search.communicate(timeout=400)
    assert search.returncode == 0, err
    sync("four", home=home)
    return SimpleNamespace(home=home, study=open_study("four", home), before=before, after=after)


def test_four_trials_share_the_gpus_of_two_nodes(four):
    trials = four.study.records()
    assert four.study.counts() == {"complete": 4}
    assert max(trial.started for trial in trials) < min(trial.ended for trial in trials), "all ran at the same time"
    assert sorted(Counter(trial.node for trial in trials).values()) == [2, 2]
    assert all(trial.checkpoint.startswith("s3://results/ray/four/") for trial in trials)
    assert four.study.best().load_model() is not None
    assert len(all_agree(four.home, "four")) == 4 + 1
    assert not list(four.home.glob("optuna.db")) + list(four.home.glob("mlflow.db")), "nothing of it is in the home"


def test_a_tracking_server_that_is_away_is_not_waited_for(four):
    assert four.after > four.before + 10, "it goes on meanwhile"
    for trial in four.study.records():
        assert steps(four.study, trial) == list(range(1, 25))


def test_check_tries_everything_on_every_node(site, tmp_path):
    out, _ = done(tmp_path, "check", "gcn", "--dataset", "digits", "--json")
    tried = json.loads(out)
    assert not [one for one in tried if one["trouble"]]
    nodes = {one["where"] for one in tried} - {"driver"}
    assert len(nodes) == 2
    for node in nodes:
        assert {one["what"] for one in tried if one["where"] == node} == {
            "versions",
            "results",
            "studies",
            "MLflow",
            "data",
            "clock",
        }
    assert len([one for one in tried if one["where"] == "driver"]) == 4
    assert site.database.password not in out


def test_rays_client_drives_a_search_and_measures_its_networks(site, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_SAM_ADDRESS", site.cluster.client_address)
    words = ("--optimizer", "sam", "--trials", "2", "--epochs", "2", "--gpus-per-trial", "0.5", "--name", "client")
    checked, _, measured = done_in_turn(
        tmp_path,
        ("check", "gcn", "--dataset", "digits", "--json"),
        ("search", *DIGITS, *words, "--train-subset", "128", "--json"),
        ("analyze", "client", "--all", "--sample", "64", "--json"),
    )
    assert not [one for one in checked if one["trouble"]]
    assert len({one["where"] for one in checked}) == 1 + 2
    study = open_study("client", tmp_path)
    assert study.counts() == {"complete": 2}
    assert len(all_agree(tmp_path, "client")) == 2 + 1
    assert len(measured) == 2
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong" * 8)
    _, err = done(tmp_path, "search", *DIGITS, "--trials", "1", status=2)
    assert f"the Ray cluster at --address {site.cluster.client_address} refuses this process" in err
    assert len(err.strip().splitlines()) == 1


def test_a_killed_driver_is_followed_by_one_on_another_machine(site, tmp_path):
    words = ("--optimizer", "base", "--trials", "3", "--epochs", "4", "--max-concurrent", "2", "--name", "killed")
    with begun(tmp_path / "one", "search", *SLOW, *words):
        wait_for(lambda: sum(epochs("killed", tmp_path / "one")) > 2, "trials run", limit=200)
    done(tmp_path / "two", "search", *SLOW, *words)
    study = open_study("killed", tmp_path / "two")
    assert study.counts() == {"complete": 3}
    assert max(trial.user_attrs["attempt"] for trial in frozen(study, "base")) == 2
    # What the first driver could not give MLflow any more is in the ledger, from which the second gave it.
    assert len(all_agree(tmp_path / "two", "killed", mend)) == 3 + 1
    for trial in study.records():
        assert steps(study, trial) == list(range(1, 5))


def list_jobs(address):
    """Print the command line of each job of a cluster; in a process that has imported Ray with its token."""
    from ray.job_submission import JobSubmissionClient

    print(*(job.entrypoint for job in JobSubmissionClient(address).list_jobs()), sep="\n", flush=True)


def test_a_job_on_the_cluster_goes_on_where_it_was(site, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", site.cluster.dashboard)
    small = ("--optimizer", "base", "--epochs", "1", "--train-subset", "128", "--name", "job")
    command = ("search", *DIGITS, *small, "--home", str(tmp_path))
    for trials in ("1", "2"):
        submitted = warm.command("submit", *command, "--trials", trials)
        out, err = submitted.communicate(timeout=400)
        assert submitted.returncode == 0, out + err
        assert out.startswith("tune-sam-job-")
        assert site.database.password not in out + err
        assert open_study("job", tmp_path).counts() == {"complete": int(trials)}
    listed = warm.Command(list_jobs, site.cluster.dashboard)
    out, err = listed.communicate(timeout=100)
    assert listed.returncode == 0, err
    assert out.count("--name job") == 2
    assert "postgresql" not in out


@pytest.mark.parametrize(
    ("results", "bucket", "records", "login"),
    [
        (
            "s3://absent/p?scheme=http&endpoint_override=127.0.0.1:{s3}",
            "NO_SUCH_BUCKET",
            "postgresql://tune:wrong-secret@127.0.0.1:{postgres}/studies",
            "password",
        ),
        (
            "s3://results/p?scheme=http&endpoint_override=127.0.0.1:1",
            "NETWORK_CONNECTION",
            "postgresql://tune:wrong-secret@127.0.0.1:1/studies",
            "refused",
        ),
    ],
)
def test_a_service_that_refuses_is_named_before_a_trial_starts(
    site, tmp_path, monkeypatch, results, bucket, records, login
):
    ports = {"s3": site.objects.port, "postgres": site.database.port}
    printed = []

    def refused(says):
        words = (*DIGITS, "--optimizer", "base", "--trials", "1", "--name", "refused")
        out, err = done(tmp_path, "search", *words, status=2)
        assert says in err
        assert len(err.strip().splitlines()) == 1
        printed.extend((out, err))

    monkeypatch.setenv("TUNE_SAM_STORAGE", results.format(**ports))
    refused(bucket)
    monkeypatch.setenv("TUNE_SAM_STUDY_STORAGE", records.format(**ports))
    refused(login)
    checked, _ = done(tmp_path, "check", "--json", status=1)
    troubles = [one["trouble"] for one in json.loads(checked) if one["where"] == "driver" and one["trouble"]]
    assert [says for says in (bucket, login) if any(says in trouble for trouble in troubles)] == [bucket, login]
    for text in (*printed, checked):
        assert "wrong-secret" not in text
        assert site.database.password not in text


# Last, for the site has one node less from then on.
def test_trials_of_a_node_that_dies_go_on_elsewhere(site, tmp_path):
    words = ("--optimizer", "base", "--trials", "2", "--epochs", "10", "--gpus-per-trial", "0.6", "--name", "node")
    with begun(tmp_path, "search", *SLOW, *words) as search:
        wait_for(
            lambda: len(reached := epochs("node", tmp_path)) == 2 and min(reached) >= 2,
            "both nodes train",
            limit=300,
        )
        site.cluster.kill(site.cluster.nodes[1])
        then = {trial.number: trial for trial in frozen(open_study("node", tmp_path), "base")}
        _, err = search.communicate(timeout=400)
    assert search.returncode == 0, err
    study = open_study("node", tmp_path)
    assert study.counts() == {"complete": 2}
    (moved,) = [trial for trial in frozen(study, "base") if trial.user_attrs["attempt"] == 2]
    assert " ".join(err.split()).count("is resumed elsewhere: ") == 1
    for trial in study.records():
        assert steps(study, trial) == list(range(1, 11))
    at_its_death = then[moved.number]
    saved = int(re.search(r"checkpoint_(\d+)", at_its_death.user_attrs["checkpoint"]).group(1)) + 1
    assert at_its_death.last_step - saved <= 1, "an epoch is lost at most"
    assert len(all_agree(tmp_path, "node")) == 2 + 1
