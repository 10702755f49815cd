import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import psutil
import pytest

from tune_sam.operations import check
from tune_sam.operations.check import CLOCKS, Finding
from tune_sam.settings import SearchOptions


def options(tmp_path, **more):
    return SearchOptions.read({"workload": "gcn", "dataset": "digits", "home": tmp_path, **more})


def probe(tmp_path, **more):
    """What the driver finds with these options, by what it is."""
    home = check.Home.at(tmp_path)
    chosen = options(tmp_path, **more)
    found = check.driver_findings(chosen, home, chosen.storage or str(tmp_path / "studies"), chosen.tracking_uri)
    return {one.what: one.trouble for one in found}


@pytest.mark.slow
def test_one_machine_needs_nothing_but_its_home(cluster, tmp_path):
    found = check.check("gcn", dataset="digits", home=tmp_path)
    assert not [one for one in found if one.trouble]
    assert [one.what for one in found if one.where != "driver"] == ["versions", "results", "data", "clock"]


def test_a_file_of_sqlite_on_a_network_is_refused(tmp_path, monkeypatch):
    there = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: there)
    troubles = [trouble for trouble in probe(tmp_path).values() if trouble]
    assert len(troubles) == 2
    assert all("is a SQLite file on a network file system (nfs4)" in trouble for trouble in troubles)
    there[1].fstype = "xfs"
    assert not any(probe(tmp_path).values())


def test_relative_places_are_refused(tmp_path):
    found = probe(tmp_path, address="auto", storage="results", tracking_uri="sqlite:///mlflow.db")
    assert "--storage results is another folder in each process" in found["results in results"]
    assert "give the absolute path with four slashes" in found["MLflow at sqlite:///mlflow.db"]


def test_a_relative_folder_is_tried_where_a_search_on_this_machine_would_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not any(probe(tmp_path, storage="results").values())


@contextmanager
def answering(status):
    """A server that gives every question this answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_the_host_check_of_mlflow_is_explained(tmp_path):
    with answering(403) as uri:
        found = probe(tmp_path, tracking_uri=uri)
    assert "start it with `mlflow server --allowed-hosts 127.0.0.1:" in found[f"MLflow at {uri}"]


def test_other_versions_are_named():
    here = check.package_versions()
    check.compare_versions(here)
    finding = check.attempted("node", "versions", lambda: check.compare_versions({**here, "torch": "1.0"}))
    assert finding.trouble == f"it has torch {here['torch']}, not 1.0; install the driver's versions."


@pytest.mark.parametrize(("answered", "off"), [(100.5, 0), (103.5, 2.5), (97.4, 2.6), (101 + CLOCKS, 0)])
def test_a_clock_is_right_if_its_time_lies_between_question_and_answer(answered, off):
    trouble = check.clock_finding("node", 100.0, answered, 101.0).trouble
    assert bool(trouble) == bool(off)
    assert not off or "s off the driver's" in trouble


def test_whatever_goes_wrong_is_a_finding():
    assert check.attempted("node", "data", lambda: 1 / 0) == Finding(
        "node", "data", "ZeroDivisionError: division by zero"
    )
