import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import warm

from tune_sam.cluster import forks
from tune_sam.cluster.connection import connected

pytestmark = pytest.mark.slow  # a process with all imports is started first

WORKER = """
import json, os, signal, sys
print(json.dumps({
    "imported": "torch" in sys.modules,
    "words": sys.argv[1:],
    "folder": os.getcwd(),
    "variable": os.environ.get("TUNE_SAM_SHOWN"),
    "path": [sys.path[0], os.environ.get("PYTHONPATH") in sys.path],
    "umask": os.umask(0),
    "blocked": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []),
    "group": os.getpgid(0) == os.getpid(),
    "parent": os.getppid(),
}))
sys.stdout.flush()
sys.exit(3)
"""


@pytest.fixture
def worker(tmp_path):
    """What Ray gives the interpreter to start a worker: its two scripts and arguments."""
    script = tmp_path / "ray" / "default_worker.py"
    script.parent.mkdir()
    script.write_text(WORKER)
    (tmp_path / "ray" / "setup_worker.py").write_text("import sys; print('an environment is made', sys.argv[1:])")
    return [str(script.with_name("setup_worker.py")), str(script), "--worker-id=7", "--language=PYTHON"]


def ran(command, folder, **variables):
    """The end of the process, and what it or the worker that it asked for printed."""
    read, write = os.pipe()
    with open(read) as printed:
        ended = subprocess.run(
            command,
            stdout=write,
            cwd=folder,
            env={**os.environ, **variables},
            preexec_fn=lambda: (os.umask(0o27), signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})),
            timeout=60,
        )
        os.close(write)
        return ended.returncode, printed.read()


def test_a_worker_is_a_fork_with_the_imports_and_everything_that_ray_gave_it(worker, tmp_path):
    given = {"TUNE_SAM_SHOWN": "ρ", "PYTHONPATH": str(tmp_path / "mine")}
    status, said = ran([*warm.forking(), *worker], tmp_path, **given)
    found = json.loads(said)
    assert status == 0, "of the process that asked for it"
    assert found.pop("parent") != os.getpid()
    assert found == {
        "imported": True,
        "words": ["--worker-id=7"],
        "folder": str(tmp_path),
        "variable": "ρ",
        "path": [str(tmp_path / "ray"), True],
        "umask": 0o27,
        "blocked": True,
        "group": True,
    }


def test_flags_of_the_interpreter_are_no_words_of_the_worker(worker, tmp_path):
    """Ray hands them on, such as of a Python that is run with $PYTHONNOUSERSITE."""
    setup, *own = worker
    status, said = ran([*warm.forking(), setup, "-S", "-s", *own], tmp_path)
    assert status == 0
    assert json.loads(said)["words"] == ["--worker-id=7"]


def test_each_worker_draws_its_own_numbers_where_nobody_gave_a_seed(worker, tmp_path):
    Path(worker[1]).write_text("import random, numpy; print(numpy.random.random(), random.random())")
    (_, first), (_, second) = (ran([*warm.forking(), *worker], tmp_path) for _ in range(2))
    assert not set(first.split()) & set(second.split())


def test_a_worker_has_the_drivers_own_package_where_another_one_is_installed(worker, tmp_path, monkeypatch):
    other = tmp_path / "installed"
    (other / "tune_sam").mkdir(parents=True)
    (other / "tune_sam" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(other))
    monkeypatch.setattr(forks, "IMPORTED", ("tune_sam.errors",))
    Path(worker[1]).write_text("import sys; print(sys.modules['tune_sam.errors'].__file__)")
    with forks.served() as words:
        while not Path(words[-2]).exists():
            pass
        status, said = ran([*words, *worker], tmp_path)
    assert (status, said) == (0, f"{Path(forks.__file__).parents[1] / 'errors.py'}\n")


def test_without_a_server_the_interpreter_runs_what_it_would_have_run(worker, tmp_path):
    status, said = ran([*forks.words(str(tmp_path / "nobody")), *worker], tmp_path)
    assert (status, said) == (0, f"an environment is made {worker[1:]}\n")


def test_a_worker_of_a_runtime_environment_is_started_in_it(worker, tmp_path):
    asked = [*worker, '--serialized-runtime-env-context={"env_vars": {"A": "1"}}']
    status, said = ran([*warm.forking(), *asked], tmp_path)
    assert (status, said) == (0, f"an environment is made {asked[1:]}\n")


def test_a_server_that_cannot_import_something_serves(worker, tmp_path):
    code = f"from tune_sam.cluster.forks import serve; serve({str(tmp_path / 'socket')!r}, ['no_such_module', 'json'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as server:
        while not (tmp_path / "socket").exists():
            assert server.poll() is None
        status, said = ran([*forks.words(str(tmp_path / "socket")), *worker], tmp_path)
        assert status == 0
        assert json.loads(said)["parent"] == server.pid
        server.stdin.close()
        assert server.wait(10) == 0, "its standard input has ended"


def test_it_ends_with_its_driver_even_where_that_is_killed(tmp_path):
    code = """
        import time
        from tune_sam.cluster import forks
        forks.IMPORTED = ()
        with forks.served() as words:
            print(words[-2], flush=True)
            time.sleep(60)
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    with driver:
        socket = Path(driver.stdout.readline().strip())
        (server,) = psutil.Process(driver.pid).children()
        while not socket.exists():
            assert server.is_running()
        driver.kill()
    psutil.wait_procs([server], timeout=10)
    assert not server.is_running()
    assert not socket.parent.exists()


def test_a_ray_that_is_started_here_forks_its_workers(monkeypatch):
    import ray

    monkeypatch.setattr("tune_sam.cluster.connection.served", forks.served)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def known():
        imported = "torch" in sys.modules
        import torch

        return imported, torch.get_num_threads(), os.getppid()

    before = signal.getsignal(signal.SIGTERM)
    with connected(None):
        assert signal.getsignal(signal.SIGTERM) is before, "Ray's would end the process without a word"
        imported, threads, parent = ray.get(ray.remote(known).remote())
        assert imported
        assert threads == 1, "Ray gives a task one CPU"
        assert psutil.Process(parent).ppid() == os.getpid(), "the process that serves is the driver's"
    assert not psutil.pid_exists(parent)
