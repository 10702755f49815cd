"""What the tests of tracking share: a ledger in memory, a stand-in for a server, and what MLflow has in the end."""

import http.server
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace

from tune_sam.tracking.content import KEY_TAG, STATE_TAG, Point, RunContent, StudyContent

KEYS = ("s/sam/0", "s/sam/1", "s/base/0")
PATIENCE = 60.0


def values(step):
    return {"val/loss": 1 / (step + 1), "val/accuracy": step / 1000}


def own_run(status):
    """What MLflow should have of the study as a whole."""
    return RunContent("s", "s", None, {}, {}, (), status, 0, None if status == "RUNNING" else 9000)


class Book:
    """A ledger in memory: what MLflow should have of a study, which may grow while it is delivered."""

    def __init__(self):
        self.status, self.trials = "RUNNING", {}

    def __call__(self):
        return StudyContent(own_run(self.status), tuple(self.trials.values()))

    def start(self, key, params=None, run_id=None):
        given = {"rho": "0.05", "lr": "0.1"} if params is None else params
        tags = {"tune_sam.optimizer": "sam"}
        self.trials[key] = RunContent(key, key.rpartition("/")[0], run_id, given, tags, (), "RUNNING", 1000, None)

    def log(self, key, step, metrics=None):
        found = values(step) if metrics is None else metrics
        points = tuple(Point(name, value, 1000 + step, step) for name, value in found.items())
        self.trials[key] = replace(self.trials[key], points=self.trials[key].points + points)

    def end(self, key, status="FINISHED", state="complete"):
        trial = self.trials[key]
        self.trials[key] = replace(trial, status=status, end=9000, tags=trial.tags | {STATE_TAG: state})

    def whole_trials(self, steps, keys=KEYS):
        """Trials of so many epochs, interleaved, which have ended."""
        for key in keys:
            self.start(key)
        for step in range(1, steps + 1):
            for key in keys:
                self.log(key, step)
        for key in keys:
            self.end(key)
        return self

    def note(self, key, run_id):
        """Keep the run of a trial, as the ledger does."""
        self.trials[key] = replace(self.trials[key], run_id=run_id)


def runs_of(uri, study):
    """All runs of a study's trials by key, read with MLflow's own client."""
    import mlflow

    children = mlflow.MlflowClient(uri).search_runs(
        [study.experiment_id], f"tags.`mlflow.parentRunId` = '{study.run_id}'", max_results=1000
    )
    keys = [run.data.tags[KEY_TAG] for run in children]
    assert len(keys) == len(set(keys)), "a trial has two runs"
    return dict(zip(keys, children, strict=True))


def history(uri, study, key, metric):
    """Steps and values of a metric of a trial, in the order of the steps."""
    import mlflow

    run = runs_of(uri, study)[key]
    points = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def assert_once(uri, study, key, steps):
    for metric in values(1):
        assert history(uri, study, key, metric) == [(step, values(step)[metric]) for step in range(1, steps + 1)]


@contextmanager
def answering(answer):
    """An HTTP server; `answer` gives status and body for a method and a path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answer(self.command, self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
