"""The kit for a lent GPU, on the CPU at tiny sizes: what it computes there is for the GPU to say."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu import parts
from gpu.check import check
from gpu.packed import packed_rate
from gpu.sharing import sharing
from gpu.throughput import WAYS, throughput

ROOT = Path(__file__).parents[2]

WITHOUT = ("ray", "optuna", "mlflow", "pydantic", "sqlalchemy", "typer", "wfdb", "plotly", "pyhessian")
"""What a machine with a GPU may lack."""


@pytest.fixture
def uncompiled(monkeypatch):
    """What is to be compiled runs as it is written: a compiler takes a minute for each network."""
    monkeypatch.setattr(torch, "compile", lambda model: model)


@pytest.mark.slow
def test_a_network_is_measured_in_each_way_with_each_optimizer(tmp_path, uncompiled):
    optimizers = ("base", "asam")
    rows = throughput(["gcn"], output=tmp_path, optimizers=optimizers, seconds=0, tiny=True)
    assert [(row["way"], row["optimizer"]) for row in rows] == [
        (way.name, optimizer) for way in WAYS for optimizer in optimizers
    ]
    assert {row["check"] for row in rows} == {"same losses"}
    assert all(row["samples/s"] > 0 and row["of the peak"] > 0 for row in rows)
    written = json.loads((tmp_path / "throughput.json").read_text())
    assert written["rows"] == rows
    assert torch.__version__.startswith(written["machine"]["versions"]["version.torch"])


@pytest.mark.parametrize("network", ["wideresnet", "attention"])
def test_a_network_is_measured_as_it_is(network, tmp_path):
    rows = throughput([network], output=tmp_path, ways=WAYS[:1], optimizers=("sam",), seconds=0, tiny=True)
    assert {row["check"] for row in rows} == {"same losses"}


def test_what_no_time_was_left_for_is_said(tmp_path):
    rows = throughput(["gcn"], output=tmp_path, ways=WAYS[:1], seconds=0, minutes=0, tiny=True)
    assert {row["check"] for row in rows} == {"not measured: no time was left"}


def test_packed_networks_train_as_they_do_alone():
    assert packed_rate(2, 0, tiny=True) > 0


@pytest.mark.slow
def test_trainings_that_share_a_device_are_compared_with_one(tmp_path):
    rows = sharing(["gcn"], output=tmp_path, counts=(1,), packs=(2,), seconds=0, tiny=True)
    assert [(row["how"], row["trainings"], row["check"]) for row in rows] == [
        ("processes", 1, "all ended"),
        ("packed", 2, "same losses as alone"),
    ]


@pytest.mark.slow
def test_all_checks_pass(tmp_path):
    rows = check(
        output=tmp_path,
        tests=["tests/trainables/test_graphs.py"],
        named="copy",
        trainings=2,
        seconds=0,
        tiny=True,
    )
    assert {row["check"]: row["found"] for row in rows if not row["passed"]} == {}
    assert len(rows) == 9


@pytest.mark.slow
def test_it_runs_without_what_such_a_machine_lacks(tmp_path):
    blocked = f"""
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {WITHOUT}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import benchmarks.gpu.check, benchmarks.gpu.sharing
sys.argv = ["gpu", "throughput", "gcn", "--no-compile", "--tiny", "--minutes", "0", "--output", {str(tmp_path)!r}]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no time was left" in done.stdout


@pytest.fixture
def data(tmp_path):
    """A folder with a few pictures, a record and a raw file, as the data sets have them."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "data"
    for name in parts.DATA.values():
        (folder / name).mkdir(parents=True)
    for name in ("data_batch_1", "test_batch"):
        pixels = draw.integers(256, size=(7, 3072), dtype=np.uint8)
        content = {"data": pixels, "labels": [*range(7)], "filenames": ["a.png"] * 7}
        (folder / parts.DATA["cifar10"] / name).write_bytes(pickle.dumps(content))
    (folder / parts.DATA["mitbih"] / "100.dat").write_bytes(draw.bytes(30_000))
    (folder / parts.DATA["mutagenicity"] / "Mutagenicity_A.txt").write_text("1, 2\n" * 100)
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_data_are_the_same_once_all_parts_are_there(data, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SHEET", 3)
    packed = parts.pack(data, tmp_path / "parts", megabytes=0.05)
    assert len(packed) == 2
    assert all(path.stat().st_size < 0.06e6 for path in packed)
    there = tmp_path / "there"
    missing = parts.unpack(packed[:1], there)
    assert missing.keys() == {2}
    assert len(contents(there)) + len(missing[2]) == 4
    assert parts.unpack(packed[1:], there) == {}
    assert contents(there) == contents(data)


def test_a_damaged_part_is_refused(data, tmp_path):
    [packed] = parts.pack(data, tmp_path / "parts", ["mutagenicity"])
    content = bytearray(packed.read_bytes())
    content[content.index(b"Mutagenicity_A.txt/whole.xz") + 40] ^= 1
    packed.write_bytes(content)
    with pytest.raises(ValueError, match="carry that part again"):
        parts.unpack([packed], tmp_path / "there")


def test_a_file_that_was_changed_there_is_laid_out_again(data, tmp_path):
    packed = parts.pack(data, tmp_path / "parts")
    (data / parts.DATA["mitbih"] / "100.dat").write_bytes(b"changed")
    assert parts.unpack(packed, data) == {}
    assert (data / parts.DATA["mitbih"] / "100.dat").stat().st_size == 30_000
