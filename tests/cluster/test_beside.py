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
from tune_sam.cluster.beside import Call, NoAnswer, offered
from tune_sam.cluster.data import written
from tune_sam.cluster.sharing import Shared
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.settings import SearchOptions
from tune_sam.tuning.plan import define
from tune_sam.workload import find_workload

MODULE = """
import os, sys, time
from tune_sam.errors import Refused

def doubled(number):
    print("doubles")
    os.write(1, b"by hand")
    return 2 * number, os.getpid(), "torch" in sys.modules

def refuses(what):
    raise Refused(f"{what} is refused.")

def fails():
    raise KeyError("ρ")

def ends():
    os._exit(1)

def never_ends(file):
    open(file, "w").write(str(os.getpid()))
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
    return "called_beside"


def test_a_function_is_called_in_a_process_that_has_torch(own, capfd):
    value, process, has_torch = Call(f"{own}:doubled", 21).result()
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


def test_a_refusal_is_the_callers(own):
    with pytest.raises(Refused, match="^--rho 7 is refused.$"):
        Call(f"{own}:refuses", "--rho 7").result()


@pytest.mark.parametrize("name", ["fails", "ends", "unpicklable", "unknown"])
def test_of_what_else_goes_wrong_there_is_no_answer(own, name):
    with pytest.raises(NoAnswer):
        Call(f"{own}:{name}").result()


def test_what_cannot_be_sent_is_not_called(own):
    with pytest.raises(NoAnswer):
        Call(f"{own}:doubled", lambda: 0)


def test_nobody_serves(monkeypatch):
    monkeypatch.setattr(forks, "standing", [])
    assert not offered()
    with pytest.raises(NoAnswer):
        Call("json:dumps", {})


def test_who_has_torch_already_calls_here(own):
    assert "torch" in sys.modules
    assert not offered()


def test_it_ends_with_the_process_that_forks(tmp_path):
    (tmp_path / "called_beside.py").write_text(MODULE)
    code = (
        "from tune_sam.cluster import forks; from tune_sam.cluster.beside import Call, offered; forks.IMPORTED = ()\n"
        f"with forks.served(): print(offered()); Call('called_beside:never_ends', {str(tmp_path / 'pid')!r}).result()"
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
        driver.send_signal(signal.SIGINT)
        assert driver.communicate(timeout=30)[0] == "True\n"
    psutil.wait_procs([called], timeout=10)
    assert not called.is_running()


def test_data_are_the_same_whoever_reads_them(own, tmp_path):
    options = {"workload": "gcn", "dataset": "digits", "train_subset": 300, "label_noise": 0.2, "split_seed": 3}
    settings = define(SearchOptions.read(options), Home.at(tmp_path))
    what = find_workload("gcn").split_by(3), settings, tmp_path
    written(*what, 100, tmp_path / "here")
    Call("tune_sam.cluster.data:written", *what, 100, tmp_path / "beside").result()
    (tmp_path / "tried").write_bytes(Call("tune_sam.tuning.door:tried", *what).result())
    written(*what, None, tmp_path / "all")
    for one, other, size in (("here", "beside", 100), ("all", "tried", 300)):
        ours, theirs = (Shared(tmp_path / name).splits() for name in (one, other))
        assert len(ours.train) == size
        for split in ("train", "validation"):
            assert_close(vars(getattr(ours, split)), vars(getattr(theirs, split)), rtol=0, atol=0)
