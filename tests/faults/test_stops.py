"""What ends a driver from outside: it is said in a sentence with the way to resume, and nothing is lost."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import odd_workload
import psutil
import pytest
import warm
from faults.damage import truncated
from services import wait_for
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.operations.doctor import diagnose
from tune_sam.study.records import open_study

MAIN = "from tune_sam.cli.main import main; main()"
IN_A_TERMINAL = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
{MAIN}
"""
"""Without what `nohup` or a shell in the background ignores."""
RESUME = "resume it with `tune-sam resume cut --workload odd_workload:Slow`."
SEARCH = (
    "search", "odd_workload:Slow", "--dataset", "digits", "--batch-size", "64", "--train-subset", "64",
    "--optimizer", "sam", "--trials", "1", "--epochs", "40", "--max-concurrent", "1", "--scheduler", "none",
    "--name", "cut",
)  # fmt: skip


class Driver:
    """The command line in a process and a session of its own."""

    def __init__(self, home, *words):
        self.home = home
        self.before = self.epochs()
        self.process = warm.command(*words, "--home", home, env={**os.environ, "PYTHONPATH": odd_workload.PYTHONPATH})

    def epochs(self):
        """The epochs that its study's trials have trained, by whomever."""
        with suppress(Refused):
            return sum(trial.epochs for trial in open_study("cut", self.home).records())
        return 0

    def trains(self, epochs):
        """Wait until it has trained so many epochs."""

        def there():
            assert self.process.poll() is None, self.process.communicate()
            return self.epochs() >= self.before + epochs

        wait_for(there, f"{epochs} epochs", limit=300)

    def ended(self):
        """The status, and what was printed."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, " ".join(err.split())

    def kill(self, name):
        """Kill one of the processes of its Ray."""
        next(one for one in psutil.Process(self.process.pid).children(recursive=True) if one.name() == name).kill()


@pytest.mark.slow
def test_whatever_ends_a_driver_is_said_once_with_the_way_to_resume(tmp_path, monkeypatch):
    stops = {
        "raylet": lambda driver: driver.kill("raylet"),
        "GCS": lambda driver: driver.kill("gcs_server"),
        "SIGHUP": lambda driver: driver.process.send_signal(signal.SIGHUP),
        "SIGINT": lambda driver: driver.process.send_signal(signal.SIGINT),
    }
    words, told = SEARCH, RESUME
    for what, stop in stops.items():
        driver = Driver(tmp_path, *words)
        driver.trains(2)
        stop(driver)
        status, out, err = driver.ended()
        assert not out, what
        assert "core_worker" not in err, what
        assert err.count(told) == 1, err
        if what.startswith("SIG"):
            assert status == 130
            assert "Stopping: " in err
            assert f"Interrupted; {told}" in err
        else:
            assert status == 1
            assert f"tune-sam: Ray's {what} on this machine has ended, and with it the workers; {told}" in err
        words, told = ("resume", "cut", "--workload", "odd_workload:Slow"), "the same command resumes it."
        if what == "GCS":
            truncated(Path(open_study("cut", tmp_path).checkpoints()["cut/sam/0"][0]))
    monkeypatch.setattr(odd_workload.Slow, "SECONDS", 0)
    study = tune_sam.resume("cut", home=tmp_path, executor=INLINE)
    assert [list(study.history(trial)) for trial in study.records()] == [list(range(1, 41))]
    assert not [one.trouble for one in diagnose("cut", home=tmp_path) if one.trouble]


WHEN = {
    "imports": """
import importlib.abc, signal, sys
class Stops(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Stops())
""",
    "building of the commands": """
import signal, typer.main
typer.main.get_command = lambda app: signal.raise_signal(signal.SIGINT)
""",
    "reading of the options": """
import signal, tune_sam.home
tune_sam.home.Home.at = classmethod(lambda *_: signal.raise_signal(signal.SIGINT))
""",
}
"""What a SIGINT comes in the middle of."""


@pytest.mark.parametrize("when", WHEN)
def test_an_interrupt_while_the_command_line_starts_is_one_line(tmp_path, when):
    code = IN_A_TERMINAL.replace(MAIN, f"{WHEN[when]}\n{MAIN}")
    run = subprocess.run(
        [sys.executable, "-c", code, "studies", "--home", tmp_path], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "Interrupted.\n")


def test_a_working_directory_that_is_gone_is_said_in_a_sentence(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); {MAIN}"
    run = subprocess.run(  # -P: as of a script, the working directory is not on the path
        [sys.executable, "-P", "-c", code, "studies", "--home", tmp_path],
        cwd=gone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr == "tune-sam: the working directory has been removed; change to one that is there (cd).\n"
