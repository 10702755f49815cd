"""A home that may only be read, as a colleague's on a shared disk."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.reporting.page import report
from tune_sam.study.lock import is_going, study_lock
from tune_sam.study.records import open_study
from tune_sam.tracking.runs import run_states

COMMANDS = """
import contextlib, ctypes, io, json, os, sys
from pathlib import Path

home, out = sys.argv[1:]
try:
    Path(home, "probe").touch()
    sys.exit("the home can be written, so nothing is shown")
except PermissionError:
    pass
from tune_sam.cli.main import main

found = []
for words in (["studies"], ["best", "one"], ["trials", "one"], ["status", "one"], ["doctor", "one"],
              ["report", "one", "--output", out]):
    sys.argv = ["tune-sam", *words, "--home", home]
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            found.append([words[0], left.code, err.getvalue()])
print(json.dumps(found))
"""

UNPRIVILEGED = """
import ctypes, os, sys

libc = ctypes.CDLL(None)
for capability in (1, 2):  # to write and to read what the bits forbid, as root may
    libc.prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def contents(folder):
    """Everything that a write would change, of every file and folder."""
    return {
        path.relative_to(folder): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted([folder, *folder.rglob("*")])
    }


@pytest.fixture
def home(refitted, tmp_path):
    """A home in which nobody may write."""
    home = Path(shutil.copytree(refitted, tmp_path / "home"))
    paths = [home, *home.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield home
    for path in paths:
        path.chmod(0o755)


@pytest.mark.slow
def test_everything_that_shows_a_study_works_without_writing_a_byte(home, tmp_path):
    before = contents(home)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, "-c", COMMANDS, str(home), str(out)],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={**os.environ, "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [status for _, status, _ in found] == [0] * 6, found
    assert (out / "index.html").stat().st_size > 10_000
    assert contents(home) == before


def test_asking_whether_a_study_is_driven_writes_nothing(home):
    before = contents(home)
    assert not is_going(Home(home), "one")
    assert not is_going(Home(home), "never")
    assert contents(home) == before


def test_a_study_that_is_driven_is_said_to_be(searched):
    with study_lock(Home(searched), "one"):
        assert is_going(Home(searched), "one")
    assert not is_going(Home(searched), "one")


def test_mlflow_is_asked_without_writing(home):
    before = contents(home)
    study = open_study("one", home)
    own, of_trials = run_states(study.tracking_uri, study.mlflow_run)
    assert own.status == "FINISHED"
    assert len(of_trials) == 6
    assert contents(home) == before


def test_a_page_takes_the_place_of_nothing_but_a_page(searched, tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(Refused, match=f"--output {tmp_path} has thesis.txt in it"):
        report("one", home=searched, output=tmp_path)
    with pytest.raises(Refused, match="cannot be used"):
        report("one", home=searched, output=tmp_path / "thesis.txt" / "page")
    assert (tmp_path / "thesis.txt").read_text() == "years"
