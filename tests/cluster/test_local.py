"""A Ray on this machine: where its sockets lie, and what is said when it dies."""

import os
import subprocess
import sys
import time

import pytest

from tune_sam.cluster import local
from tune_sam.cluster.local import Watch, sockets_folder
from tune_sam.errors import Refused, Stopped


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """Folders for TMPDIR, without those that this machine's user has set."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(local, "SHORT", (str(tmp_path / "a"), str(tmp_path / "b")))
    monkeypatch.setattr(local, "SOCKETS", 20)
    monkeypatch.setattr(local, "SOCKET_PATH", len(str(tmp_path)) + 60)

    def chosen(path):
        monkeypatch.setenv("TMPDIR", str(path))
        return path

    return chosen


def test_rays_own_folder_is_taken_where_it_works(temporary, tmp_path):
    folder = temporary(tmp_path / "t")
    assert sockets_folder() == folder / "ray"
    assert (folder / "ray").is_dir()


def test_a_path_that_is_too_long_for_a_socket_is_not_taken(temporary, tmp_path):
    long = temporary(tmp_path / ("x" * 117))
    assert sockets_folder() == tmp_path / "a" / f"tune_sam-{os.getuid()}"
    assert not long.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_not_taken(temporary, tmp_path):
    for taken in (temporary(tmp_path / "t") / "ray", tmp_path / "a" / "tune_sam-0"):
        taken.mkdir(parents=True)
        os.chown(taken, 65534, 65534)
    assert sockets_folder() == tmp_path / "b" / "tune_sam-0"


def test_where_no_folder_works_the_way_out_is_said(temporary, tmp_path):
    temporary(tmp_path / ("x" * 117))
    for name in ("a", "b"):
        (tmp_path / name).write_text("no folder")
    with pytest.raises(Refused, match=r"no sockets in TMPDIR .*xxx, nor in .*; set TMPDIR to a folder of your own"):
        sockets_folder()


WITHOUT_TOKEN = """
import grpc
import ray
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from tune_sam.cluster.connection import connected

with connected(None):
    channel = grpc.insecure_channel(ray.get_runtime_context().gcs_address)
    try:
        NodeInfoGcsServiceStub(channel).GetAllNodeInfo(GetAllNodeInfoRequest(), timeout=30)
        print("let in")
    except grpc.RpcError as error:
        print(error.code().name)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "said"), [(None, "UNAUTHENTICATED"), ("disabled", "let in")])
def test_nobody_uses_a_ray_that_is_started_here_without_its_token(monkeypatch, tmp_path, mode, said):
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps its token
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    done = subprocess.run([sys.executable, "-c", WITHOUT_TOKEN], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == said


@pytest.fixture
def process():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def wait_for_its_end(process):
    with Watch({"raylet": process}).watching():
        process.kill()
        time.sleep(60)


def fail(process):
    with Watch({"raylet": process}).watching():
        raise ZeroDivisionError


def test_a_process_of_ray_that_ends_stops_what_waits_for_it(process):
    with pytest.raises(Stopped, match="Ray's raylet on this machine has ended"):
        wait_for_its_end(process)


def test_what_else_goes_wrong_is_passed_on(process):
    with pytest.raises(ZeroDivisionError):
        fail(process)
