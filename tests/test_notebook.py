"""A workload that a program or a notebook defines itself, under Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_sam.errors import Refused
from tune_sam.workload import find_workload, known_workload

PROGRAM = Path(__file__).with_name("notebook.py")


@pytest.mark.slow
def test_workers_get_a_class_that_they_cannot_import(tmp_path):
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "home"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [["complete"], 1, 1]


def test_a_class_that_is_defined_anew_counts(monkeypatch):
    import notebook

    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "Blobs", notebook.Blobs, raising=False)
    assert find_workload("__main__:Blobs").settings["blobs"].epochs == 1

    class Again(notebook.Blobs):
        label_smoothing = 0.0

    monkeypatch.setattr(main, "Blobs", Again)
    assert known_workload("__main__:Blobs").label_smoothing == 0


def test_another_process_says_where_such_a_study_can_be_opened():
    with pytest.raises(Refused, match="the workload Gone was defined in a program or a notebook"):
        known_workload("__main__:Gone")
