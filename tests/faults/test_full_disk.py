"""A disk that is full: the search stops with a sentence, and is resumed when there is room."""

import os
import subprocess
from pathlib import Path

import pytest
from studies import INLINE

import tune_sam
from tune_sam.errors import Stopped
from tune_sam.home import Home
from tune_sam.operations.doctor import diagnose
from tune_sam.study.records import open_study
from tune_sam.tuning.listener import Silent

OPTIONS = {
    "dataset": "digits", "optimizers": ["sam"], "trials": 2, "epochs": 3, "train_subset": 128, "scheduler": "none",
}  # fmt: skip


@pytest.fixture
def disk(tmp_path):
    """A disk of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class Fills(Silent):
    """Fills a disk in the second epoch of the second trial, before its checkpoint is saved."""

    def __init__(self, disk: Path) -> None:
        self.ballast = disk / "ballast"

    def epoch(self, optimizer, number, epoch):
        if (number, epoch) == (1, 2):
            free = os.statvfs(self.ballast.parent)
            self.ballast.write_bytes(bytes(free.f_bavail * free.f_frsize))


@pytest.mark.slow
def test_a_search_whose_results_have_no_room_stops_and_is_resumed(disk, tmp_path):
    fills = Fills(disk)
    with pytest.raises(
        Stopped, match=r"trial full/sam/1 stopped, for the disk takes no more .*No space left.*make room"
    ):
        tune_sam.search(
            "gcn", name="full", home=tmp_path / "home", storage=str(disk), executor=INLINE, listener=fills, **OPTIONS
        )
    study = open_study("full", Home.at(tmp_path / "home", storage=str(disk)))
    assert study.counts() == {"complete": 1, "waiting": 1}, "no trial failed for the disk's sake"
    fills.ballast.unlink()
    assert not [one.trouble for one in diagnose("full", home=study.home) if one.trouble]
    tune_sam.resume("full", home=study.home, executor=INLINE)
    assert study.counts() == {"complete": 2}
    assert [list(study.history(trial)) for trial in study.records()] == [[1, 2, 3]] * 2
    assert not [one.trouble for one in diagnose("full", home=study.home) if one.trouble]
