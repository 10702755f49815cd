from types import SimpleNamespace

import pytest

from tune_sam.errors import Refused
from tune_sam.operations import submit


class Client:
    """Stands for the client of a cluster that takes every job; the real one is in tests/test_clusters.py."""

    def __init__(self, jobs=()):
        self.jobs, self.sent = jobs, None

    def list_jobs(self):
        return self.jobs

    def submit_job(self, **sent):
        self.sent = sent
        return sent["submission_id"]


@pytest.fixture
def client(monkeypatch):
    found = Client()
    monkeypatch.setattr(submit, "_client", lambda _: found)
    return found


def test_places_with_passwords_travel_as_variables_and_not_in_the_command(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "m-secret")
    monkeypatch.setenv("TUNE_SAM_HOME", "/here")
    monkeypatch.setenv("TUNE_SAM_CACHE", "/here/cache")
    monkeypatch.setenv("UNRELATED", "x")
    job, succeeded = submit.submit(
        [
            "search",
            "gcn",
            "--name",
            "mol",
            "--study-storage",
            "postgresql://u:secret@h/d",
            "--tracking-uri=http://u:t@h",
            "--trials",
            "4",
        ]
    )
    assert succeeded is None
    assert job.startswith("tune-sam-mol-")
    assert client.sent["entrypoint"] == "tune-sam search gcn --name mol --trials 4"
    variables = client.sent["runtime_env"]["env_vars"]
    assert variables["TUNE_SAM_STUDY_STORAGE"] == "postgresql://u:secret@h/d"
    assert variables["TUNE_SAM_TRACKING_URI"] == "http://u:t@h"
    assert variables["TUNE_SAM_ADDRESS"] == "auto"
    assert variables["MLFLOW_TRACKING_PASSWORD"] == "m-secret"
    assert not {"TUNE_SAM_HOME", "TUNE_SAM_CACHE", "UNRELATED"} & variables.keys()
    assert client.sent["metadata"] == {"tune_sam.study": "mol"}


def test_places_without_a_login_stay_in_the_command_where_no_file_overrules_them(client, monkeypatch):
    for name in ("TUNE_SAM_STORAGE", "TUNE_SAM_STUDY_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TUNE_SAM_DATA", "PGPASSFILE", "AWS_CA_BUNDLE"):
        monkeypatch.setenv(name, "/here")
    submit.submit(["search", "gcn", "--name", "mol", "--storage", "s3://b/p", "--tracking-uri=http://h"])
    assert client.sent["entrypoint"] == "tune-sam search gcn --name mol --storage s3://b/p --tracking-uri http://h"
    variables = client.sent["runtime_env"]["env_vars"]
    assert not {"TUNE_SAM_STORAGE", "TUNE_SAM_DATA", "PGPASSFILE", "AWS_CA_BUNDLE"} & variables.keys()


def test_the_job_is_named_before_anything_else_of_it_is_shown(client, monkeypatch):
    async def follow(_, job, show):
        show("its output")

    monkeypatch.setattr(submit, "_follow", follow)
    client.get_job_status = lambda _: SimpleNamespace(name="SUCCEEDED")
    shown = []
    job, succeeded = submit.submit(["resume", "mol"], show=shown.append)
    assert shown == [f"{job}\n", "its output"]
    assert succeeded


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["refit", "--seeds", "5", "mol"], "--seeds has an option where the study's name belongs"),
        (["resume", "mol", "--storage"], "--storage comes last and names nothing"),
        (["best", "mol"], "best cannot be a job; give one of search, run"),
        ([], "a job needs a command; give one of search, run"),
        (["search", "gcn"], "without --name would make another study"),
        (["run", "gcn", "--trials", "3"], "without --name"),
        (["refit", "gcn", "--preset", "report"], "without --name"),
        (["resume"], "needs the name of a study"),
        (["resume", "mol", "--address", "auto"], "--address does not go with a job"),
    ],
)
def test_what_would_not_go_on_is_refused(client, command, says):
    with pytest.raises(Refused, match=says):
        submit.submit(command)
    assert client.sent is None


def test_a_study_has_one_job_at_a_time(client):
    running = SimpleNamespace(
        metadata={"tune_sam.study": "mol"}, status=SimpleNamespace(name="RUNNING"), submission_id="tune-sam-mol-1"
    )
    client.jobs = [running]
    with pytest.raises(Refused, match="job tune-sam-mol-1 is at study mol already"):
        submit.submit(["resume", "mol"])
    submit.submit(["resume", "other"])
    running.status.name = "FAILED"
    submit.submit(["resume", "mol"])


def test_a_dashboards_password_is_not_shown():
    with pytest.raises(Refused, match=r"no Ray dashboard answers at http://\*\*\*@127.0.0.1:1 ") as refused:
        submit.submit(["resume", "mol"], dashboard="http://u:hidden@127.0.0.1:1")
    assert "hidden" not in str(refused.value)


def test_a_dashboard_that_does_not_answer_is_named():
    with pytest.raises(Refused, match="no Ray dashboard answers at http://127.0.0.1:1 "):
        submit.submit(["resume", "mol"], dashboard="http://127.0.0.1:1")
