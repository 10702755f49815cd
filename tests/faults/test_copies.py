"""A copy of a home leaves the original as it is; tests/test_homes.py says the same of one of the earlier release."""

import shutil
from pathlib import Path

import pytest
from studies import INLINE

import tune_sam
from tune_sam.operations.doctor import diagnose
from tune_sam.study.records import open_study
from tune_sam.tracking.client import artifacts_of, connect
from tune_sam.tuning.listener import Silent


class Interrupts(Silent):
    """Stops the search in the second of three epochs."""

    def epoch(self, optimizer, number, epoch):
        if epoch == 2:
            raise KeyboardInterrupt


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.slow
def test_a_study_that_is_resumed_in_a_copy_leaves_the_original_which_is_resumed_too(tmp_path):
    original, copy = tmp_path / "a", tmp_path / "b"
    options = {"dataset": "digits", "optimizers": ["base"], "trials": 2, "epochs": 3, "scheduler": "none"}
    with pytest.raises(KeyboardInterrupt):
        tune_sam.search("gcn", name="one", home=original, executor=INLINE, listener=Interrupts(), **options)
    kept = open_study("one", original).records()[0].checkpoint
    assert Path(kept).is_relative_to(original)
    shutil.copytree(original, copy, symlinks=True)
    before = contents(original)
    assert tune_sam.resume("one", home=copy, executor=INLINE).counts() == {"complete": 2}
    assert contents(original) == before, "neither results nor runs are written there, and no checkpoint is removed"
    assert tune_sam.resume("one", home=original, executor=INLINE).counts() == {"complete": 2}
    for home in (original, copy):
        assert not [one.trouble for one in diagnose("one", home=home) if one.trouble]
        assert all(Path(trial.checkpoint).is_relative_to(home) for trial in open_study("one", home).records())
    one, other = (
        [(trial.value, trial.metrics["train/loss"]) for trial in open_study("one", home).records()]
        for home in (original, copy)
    )
    assert one == other


def test_artifacts_of_a_copy_that_had_none_are_its_own(searched, tmp_path):
    copy = Path(shutil.copytree(searched, tmp_path / "copy"))
    shutil.rmtree(copy / "artifacts", ignore_errors=True)
    before = contents(searched)
    (tmp_path / "page.html").write_text("a page")
    study = open_study("one", copy)
    repository = artifacts_of(connect(study.mlflow), study.mlflow, study.mlflow_run_id, study.mlflow_run.artifacts)
    repository.log_artifact(str(tmp_path / "page.html"))
    assert [file.read_text() for file in (copy / "artifacts").rglob("page.html")] == ["a page"]
    assert contents(searched) == before
