import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from once import made_once
from services import free_port

from tune_sam.tracking.runs import open_study_run

ROOT = Path(__file__).parents[2]

# A driver of its own: the first contact with a database, with logging set up as loudly as a user may have it.
FIRST_CONTACT = """
import logging, sys
from tune_sam.tracking.content import StudyContent, RunContent
from tune_sam.tracking.delivery import Delivery
from tune_sam.tracking.runs import open_study_run
assert not any(name.partition(".")[0] in ("mlflow", "requests", "sqlalchemy") for name in sys.modules)
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
before = list(logging.root.handlers), logging.root.level
study = open_study_run(sys.argv[1], experiment="gcn", artifact_root=sys.argv[2], name="first")
trial = RunContent("first/sam/0", "sam 0", None, {"rho": "0.05"}, {}, (), "FINISHED", 1000, 2000)
own = RunContent("first", "first", study.run_id, {}, {}, (), "FINISHED", 0, 2000)
delivery = Delivery(sys.argv[1], study, lambda: StudyContent(own, (trial,)))
delivery.start()
assert delivery.close(60) == 0
assert (list(logging.root.handlers), logging.root.level) == before
"""


@pytest.fixture(scope="session")
def first_contact(tmp_path_factory):
    """A database that a fresh process has made, its artifact root, and all that the process printed."""

    def make(folder):
        folder.mkdir()
        artifacts = folder.with_name("first-artifacts")  # whose place is in the database
        done = subprocess.run(
            [sys.executable, "-c", FIRST_CONTACT, f"sqlite:///{folder / 'mlflow.db'}", str(artifacts)],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        (folder / "printed").write_text(done.stdout)
        assert done.returncode == 0, done.stdout

    folder = made_once(tmp_path_factory, "first", make)
    return folder / "mlflow.db", folder.with_name("first-artifacts"), (folder / "printed").read_text()


@pytest.fixture
def uri(first_contact, tmp_path):
    """A database of MLflow's, copied."""
    shutil.copy(first_contact[0], tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def study(uri):
    """The run of a study in that database."""
    return open_study_run(uri, experiment="gcn", name="s", tags={"mlflow.note.content": "old", "dataset": "cora"})


@pytest.fixture
def nowhere():
    """The address of a server that is away."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def impatient(monkeypatch):
    """Deliveries that look at the ledger, and try again, a hundred times a second."""
    monkeypatch.setattr("tune_sam.tracking.delivery.PERIOD", 0.01)
    monkeypatch.setattr("tune_sam.tracking.delivery.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("tune_sam.tracking.delivery.CLOSING_PAUSE", 0.01)
