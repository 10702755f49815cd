"""The kit for a lent GPU, on the CPU at tiny sizes: what it computes there is for the GPU to say."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from gpu import parts
from gpu.check import check
from gpu.packed import packed_rate
from gpu.rows import FIRST_SEED, PUBLISHED, Rows, rows
from gpu.sharing import sharing
from gpu.throughput import WAYS, throughput
from studies import INLINE
from typer.testing import CliRunner

from tune_sam.cli.app import app
from tune_sam.cluster.tasks import made_by
from tune_sam.errors import Refused
from tune_sam.evaluation import selection
from tune_sam.evaluation.refit import file_of_test
from tune_sam.operations.refit import refit_grid
from tune_sam.settings import SearchOptions
from tune_sam.space import Configuration
from tune_sam.trainables.gcn import GCN
from tune_sam.trained import MADE_BY
from tune_sam.tuning.plan import define, home_of

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
    assert {(row["check"], row["held"]) for row in rows} == {("same losses", True)}
    assert {row["× base"] for row in rows if row["optimizer"] == "base"} == {1}
    assert all(row["samples/s"] > 0 and row["of the peak"] > 0 for row in rows)
    content = json.loads((tmp_path / "throughput.json").read_text())
    assert content["rows"] == rows
    assert torch.__version__.startswith(content["machine"]["versions"]["version.torch"])


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


def test_what_did_not_hold_is_told_and_nothing_is_compared_with_it(tmp_path, monkeypatch):
    def together(jobs):
        return [SimpleNamespace(rate=0.0 if len(jobs) == 1 else 5.0, error="OutOfMemoryError" * (len(jobs) == 1))] * 2

    monkeypatch.setattr("gpu.sharing.together", together)
    rows = sharing(["attention"], output=tmp_path, counts=(1, 2), seconds=0, tiny=True)
    assert [(row["held"], "× one alone" in row) for row in rows] == [(False, False), (True, False)]

    def losses(trainer):
        if trainer.configuration.optimizer == "base":
            raise RuntimeError("no kernel")
        return [0.5, 0.4]

    monkeypatch.setattr("gpu.throughput.first_losses", losses)
    rows = throughput(["gcn"], output=tmp_path, ways=WAYS[:1], seconds=0, tiny=True)
    assert [(row["held"], "× base" in row) for row in rows] == [(False, False), (True, False), (True, False)]


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
import benchmarks.gpu.check, benchmarks.gpu.rows, benchmarks.gpu.sharing
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


DIGITS = Rows(GCN(), 0.01, dataset="digits", preset=None, epochs=2, train_subset=128)
GRID = {
    "dataset": "digits",
    "optimizers": ["base", "asam-all"],
    "sampler": "grid",
    "epochs": 2,
    "train_subset": 128,
    "lr": [0.01],
    "batch_size": [64],
    "ranges": {"asam-all": {"rho": "0.01"}},
}


def written(file):
    return json.loads(file.read_text())["rows"]


def trained(tmp_path, **options):
    of = {"data": tmp_path, "folder": tmp_path / "checkpoints", "output": tmp_path / "there", "seeds": 1}
    return rows("digits", DIGITS, **{**of, **options})


@pytest.mark.slow
def test_rows_resume_and_are_entered_as_a_refit(tmp_path, monkeypatch):
    monkeypatch.setattr("tune_sam.operations.refit.log_models", lambda *_: "")  # takes longer than all the rest
    with monkeypatch.context() as patch:  # a second passes whenever somebody looks, and there is time for one epoch
        patch.setattr("gpu.rows.time", SimpleNamespace(monotonic=count().__next__))
        assert not trained(tmp_path, minutes=4.5 / 60)
    assert [row["epochs"] for row in written(tmp_path / "there" / "digits-rows.json")] == ["1 of 2", "0 of 2", "0 of 4"]
    assert not (tmp_path / "there" / "digits-trainings.json").exists()
    assert trained(tmp_path)
    file = tmp_path / "there" / "digits-trainings.json"
    content = json.loads(file.read_text())
    for one in content["trainings"]:
        one |= {"device": "NVIDIA H100", "versions": {"version.torch": "2.11.0"}}
    file.write_text(json.dumps(content))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    options = {"config": tmp_path / "grid.yaml", "name": "lent", "home": tmp_path / "home", "seeds": 1}
    asked = ["--config", str(options["config"]), "--name", "lent", "--seeds", "1", "--home", str(options["home"])]
    assert CliRunner().invoke(app, ["refit", "gcn", *asked, "--trained", str(file)]).exit_code == 0
    entered = refit_grid("gcn", trained=file, **options)
    here = refit_grid("gcn", executor=INLINE, **{**options, "home": tmp_path / "other"})
    with pytest.raises(Refused, match="no training of base lr=0.01 batch=64 with seed 10001 for 2 epochs"):
        refit_grid("gcn", trained=file, **{**options, "seeds": 2})
    content["trainings"][0]["precision"] = "bf16"
    (mixed := tmp_path / "mixed.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match="mixed.json has trainings in bf16 and in fp32, whose difference would be"):
        refit_grid("gcn", trained=mixed, **{**options, "home": tmp_path / "third"})
    content["trainings"][0]["epochs"].pop()
    (short := tmp_path / "short.json").write_text(json.dumps(content))
    with pytest.raises(Refused, match="short.json has no training of base lr=0.01 batch=64 with seed 10000 for 2"):
        refit_grid("gcn", trained=short, **{**options, "home": tmp_path / "third"})
    assert entered.studies[0].settings.trials == 1
    for study in entered.studies:
        for trial in study.records():
            assert (trial.device, trial.state) == ("NVIDIA H100", "complete")
            assert made_by(file_of_test(study, trial.optimizer, trial.number)) == {"version.torch": "2.11.0"}
    numbers = ["row", "seed", "train/loss", "test/loss", "test/accuracy", "test/ece", "gradients"]
    assert len(entered.table()) == 3
    pd.testing.assert_frame_equal(entered.table()[numbers], here.table()[numbers])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_files_of_the_rows_describe_what_is_trained(name, tmp_path):
    """So that a refit by such a file finds its trainings, those of twice the epochs included."""
    (tmp_path / "mitdb").mkdir()
    chosen = SearchOptions.read({"workload": name, "home": tmp_path}, ROOT / "benchmarks" / "gpu" / f"{name}.yaml")
    settings = define(chosen, home_of(chosen))
    points = {optimizer: space.grid for optimizer, space in settings.spaces.items()}
    trials = list(PUBLISHED[name].trials([FIRST_SEED + settings.seed], compile=False))
    refit = replace(settings, kind="refit")
    assert FIRST_SEED == selection.FIRST_SEED
    assert [trial.configuration.point for trial in trials[:2]] == [
        Configuration.at(optimizer, point).point for optimizer, [point] in points.items()
    ]
    for trial in trials[:2]:
        asked = refit.trial(trial.configuration)
        assert {one: getattr(asked, one) for one in MADE_BY} == {one: getattr(trial, one) for one in MADE_BY}
    assert trials[2] == replace(trials[0], epochs=2 * settings.epochs)
