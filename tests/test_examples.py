"""The examples: each is tried at the door, searched, and keeps the contract."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from studies import INLINE

import tune_sam
from tune_sam.testing import WorkloadContract
from tune_sam.workload import find_workload

EXAMPLES = Path(__file__).parents[1] / "examples"
WORKLOADS = {
    "regression:Diabetes": ("val/r2", None),
    "sequences:Waves": ("val/accuracy", 150),
    "transformer:Parity": ("val/accuracy", 160),
    "folder:Folder": ("val/accuracy", 128),
    "fine_tuning:FineTuning": ("val/accuracy", 64),
}
LARGER = ("transformer:Parity", "folder:Folder", "fine_tuning:FineTuning")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delenv("TUNE_SAM_DATA", raising=False)


def test_each_file_of_the_folder_is_tested():
    assert {name.partition(":")[0] for name in WORKLOADS} == {file.stem for file in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow if one in LARGER else []) for one in WORKLOADS]
)
def test_each_is_searched(name, tmp_path):
    objective, subset = WORKLOADS[name]
    study = tune_sam.search(
        name, home=tmp_path, optimizers=["base", "sam"], trials=1, epochs=1, train_subset=subset, executor=INLINE
    )
    assert [trial.state for trial in study.records()] == ["complete", "complete"]
    assert study.settings.objective == objective
    assert study.best("sam").load_model() is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_each_is_tested_and_measured(name, tmp_path):
    subset = WORKLOADS[name][1]
    options = {"home": tmp_path, "executor": INLINE}
    tune_sam.search(name, name="one", optimizers=["sam"], trials=1, epochs=1, train_subset=subset, **options)
    refit = tune_sam.refit("one", seeds=1, controls=False, **options)
    assert refit.studies[0].counts() == {"complete": 1}
    found = tune_sam.analyze("one", sample=32, grid=3, **options)
    assert all(one.measures["lambda_max"].value > 0 for one in found.flatness.values())


class _Contract(WorkloadContract):
    samples = 64

    @classmethod
    def subject(cls):
        sys.path[:0] = [str(EXAMPLES)] if str(EXAMPLES) not in sys.path else []
        return find_workload(cls.workload)


@pytest.mark.slow
class TestDiabetes(_Contract):
    workload = "regression:Diabetes"


@pytest.mark.slow
class TestWaves(_Contract):
    workload = "sequences:Waves"


@pytest.mark.slow
class TestParity(_Contract):
    workload = "transformer:Parity"
    repeated = 1000  # short sequences come twice by chance


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """With its classes in `__main__`, as a notebook has them; test_notebook.py has such a class travel to workers."""
    notebook, main = json.loads((EXAMPLES / "landscape.ipynb").read_text()), sys.modules["__main__"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(tune_sam, "search", partial(tune_sam.search, executor=INLINE))
    monkeypatch.setattr(main, "Digits", None, raising=False)
    names = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "notebook", "exec"), names)
            main.Digits = names.get("Digits")
    assert (tmp_path / "landscape.png").stat().st_size > 10_000
