import ctypes
import importlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import warm
from torch.testing import assert_close

from tune_sam.cluster import forks
from tune_sam.cluster.beside import Call, NoAnswer, called, offered
from tune_sam.cluster.data import written
from tune_sam.cluster.sharing import Shared
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.settings import SearchOptions
from tune_sam.tuning.plan import define
from tune_sam.workload import find_workload

pytestmark = pytest.mark.slow  # a process with all imports is started first

MODULE = """
import logging, os, sys, time, warnings
from contextlib import suppress
from dataclasses import dataclass
from tune_sam.errors import Refused

@dataclass
class Own:
    value: int

class Missing(Refused):
    def __init__(self, what, where):
        super().__init__(f"{what} is missing at {where}.")

def doubled(number):
    print("doubles")
    os.write(1, b"by hand")
    return 2 * number, os.getpid(), "torch" in sys.modules

def value_of(own):
    return own.value

def threads():
    import torch
    return torch.get_num_threads()

def warns():
    warnings.warn("soon gone", FutureWarning)
    logging.getLogger("tune_sam.somewhere").warning("look at %s", "this")

def refuses(what):
    raise Missing(what, "here")

def refuses_for_a_reason():
    try:
        {}["y"]
    except KeyError as error:
        raise Refused("there is no y.") from error

def fails():
    raise KeyError("\u03c1")

def ends():
    os._exit(1)

def ends_in_its_answer():
    for file in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if int(file) > 2 and os.readlink(f"/proc/self/fd/{file}").startswith("pipe:"):
                os.write(int(file), b"half of an ans")
    os._exit(1)

def never_ends(file):
    if os.fork() == 0:
        time.sleep(60)
    with open(file, "w") as pid:
        pid.write(str(os.getpid()))
    time.sleep(60)

def unpicklable():
    return lambda: 0
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module that this process finds, and a process that forks."""
    (tmp_path / "called_beside.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(forks, "standing", warm.forking())
    yield "called_beside"
    sys.modules.pop("called_beside", None)


def answer(function, *args):
    with Call(function, *args) as call:
        return call.result()


def test_a_function_is_called_in_a_process_that_has_torch(own, capfd):
    value, process, has_torch = answer(f"{own}:doubled", 21)
    assert (value, has_torch) == (42, True)
    assert process != os.getpid()
    assert own not in sys.modules
    printed = capfd.readouterr()
    assert printed.out == "", "which is the answer's"
    assert "doubles" in printed.err
    assert "by hand" in printed.err


def test_calls_go_on_at_the_same_time(own):
    calls = [Call(f"{own}:doubled", number) for number in range(3)]
    assert [call.result()[0] for call in reversed(calls)] == [4, 2, 0]


def test_a_class_beside_the_program_is_found_there(own):
    assert answer(f"{own}:value_of", importlib.import_module(own).Own(7)) == 7


def test_it_has_the_threads_of_a_driver(own, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert answer(f"{own}:threads") == os.cpu_count()
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    assert answer(f"{own}:threads") == 1


def test_what_it_warns_of_is_the_callers(own, caplog):
    with pytest.warns(FutureWarning, match="soon gone"):
        answer(f"{own}:warns")
    assert "look at this" in caplog.text


def test_a_refusal_is_the_callers(own):
    with pytest.raises(Refused, match="^--rho 7 is missing at here.$"):
        answer(f"{own}:refuses", "--rho 7")


@pytest.mark.parametrize(
    "name", ["fails", "ends", "ends_in_its_answer", "refuses_for_a_reason", "unpicklable", "unknown"]
)
def test_of_what_else_goes_wrong_there_is_no_answer(own, name):
    with pytest.raises(NoAnswer):
        answer(f"{own}:{name}")


def test_what_has_no_answer_is_called_here(own, monkeypatch):
    monkeypatch.setattr("tune_sam.cluster.beside.offered", lambda: True)
    with pytest.raises(Refused, match="there is no y") as refusal:
        called(f"{own}:refuses_for_a_reason")
    assert repr(refusal.value.__cause__) == "KeyError('y')", "with the lines that led to it"


def test_what_cannot_be_sent_is_not_called(own, monkeypatch):
    mine = type("Mine", (), {"__module__": "__main__"})
    for argument in (lambda: 0, mine(), ctypes.pointer(ctypes.c_int())):
        with pytest.raises(NoAnswer):
            Call(f"{own}:doubled", argument)


def test_nobody_serves(monkeypatch):
    monkeypatch.setattr(forks, "standing", [])
    assert not offered()
    with pytest.raises(NoAnswer):
        Call("json:dumps", {})
    assert called("json:dumps", {}) == "{}"


def test_what_is_not_waited_for_ends_with_all_that_it_has_started(own, tmp_path):
    with Call(f"{own}:never_ends", tmp_path / "pid"):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        process = psutil.Process(int((tmp_path / "pid").read_text()))
        family = [process, *process.children()]
        assert len(family) == 2
    psutil.wait_procs(family, timeout=10)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family)


def test_who_has_torch_already_calls_here(own):
    assert "torch" in sys.modules
    assert not offered()


def test_it_ends_with_the_process_that_forks(tmp_path):
    (tmp_path / "called_beside.py").write_text(MODULE)
    code = (
        # A shell's background ignores it.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tune_sam.cluster import forks; from tune_sam.cluster.beside import Call, offered; forks.IMPORTED = ()\n"
        "with forks.served():\n"
        f"    print(offered(), flush=True); Call('called_beside:never_ends', {str(tmp_path / 'pid')!r}).result()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert driver.poll() is None
            time.sleep(0.01)
        called = psutil.Process(int((tmp_path / "pid").read_text()))
        assert driver.stdout.readline() == "True\n"
        time.sleep(1)  # until it waits for the answer: an interrupt in the middle of a finalizer would be dropped
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=30)
    psutil.wait_procs([called], timeout=10)
    assert not called.is_running()


def test_data_are_the_same_whoever_reads_them(own, tmp_path):
    options = {"workload": "gcn", "dataset": "digits", "train_subset": 300, "label_noise": 0.2, "split_seed": 3}
    settings = define(SearchOptions.read(options), Home.at(tmp_path))
    what = find_workload("gcn").split_by(3), settings, tmp_path
    written(*what, 100, tmp_path / "here")
    answer("tune_sam.cluster.data:written", *what, 100, tmp_path / "beside")
    answer("tune_sam.tuning.door:tried", *what, tmp_path / "tried")
    written(*what, None, tmp_path / "all")
    for one, other, size in (("here", "beside", 100), ("all", "tried", 300)):
        ours, theirs = (Shared(tmp_path / name).splits() for name in (one, other))
        assert len(ours.train) == size
        for split in ("train", "validation"):
            assert_close(vars(getattr(ours, split)), vars(getattr(theirs, split)), rtol=0, atol=0)
