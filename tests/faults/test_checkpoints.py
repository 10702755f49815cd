"""Checkpoints that are damaged or gone: nothing that can be trained again is lost, and what is lost is said."""

import shutil
from pathlib import Path

import pytest
from faults.damage import DAMAGES, emptied, flipped, removed
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.operations.doctor import diagnose
from tune_sam.study.records import open_study
from tune_sam.tuning.listener import Silent

OPTIONS = {
    "dataset": "digits", "optimizers": ["sam"], "trials": 2, "epochs": 4, "train_subset": 128, "scheduler": "none",
}  # fmt: skip


class Interrupts(Silent):
    """Ends a search in the third epoch of its second trial, when the second is saved."""

    def epoch(self, optimizer, number, epoch):
        if (number, epoch) == (1, 3):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    home = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        tune_sam.search("gcn", name="cut", home=home, executor=INLINE, listener=Interrupts(), **OPTIONS)
    return home


@pytest.fixture(scope="module")
def unbroken(interrupted_once, tmp_path_factory):
    """The study without damage. That what is resumed ends as what was never interrupted, other tests show."""
    home = shutil.copytree(interrupted_once, tmp_path_factory.mktemp("unbroken") / "home")
    return tune_sam.resume("cut", home=home, executor=INLINE)


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    """A study whose second trial waits to be resumed, with checkpoints of its first and its second epoch."""
    study = open_study("cut", shutil.copytree(interrupted_once, tmp_path / "home"))
    assert study.counts() == {"complete": 1, "waiting": 1}
    return study


def checkpoints(study, number):
    return [Path(place) for place in study.checkpoints()[f"cut/sam/{number}"]]


def troubles(study):
    return {one.key: one.trouble for one in diagnose("cut", home=study.home) if one.trouble}


def without_times(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def resumed(study, unbroken):
    """Resume a study, and hold its trials to those of the one without damage."""
    tune_sam.resume("cut", home=study.home, executor=INLINE)
    assert study.counts() == {"complete": 2}, "the budget is met, and no more"
    for one, two in zip(study.records(), unbroken.records(), strict=True):
        assert (one.number, one.config, one.value, one.epochs) == (two.number, two.config, two.value, two.epochs)
        ours, theirs = study.history(one), unbroken.history(two)
        assert list(ours) == list(theirs) == [1, 2, 3, 4], "every epoch once"
        assert [*map(without_times, ours.values())] == [*map(without_times, theirs.values())]
        for ours, theirs in zip(one.load_model().parameters(), two.load_model().parameters(), strict=True):
            assert ours.equal(theirs)
    assert not troubles(study)
    assert [len(checkpoints(study, number)) for number in (0, 1)] == [2, 2]
    assert [[place.exists() for place in checkpoints(study, number)] for number in (0, 1)] == [[True, False]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_trial_whose_last_checkpoint_is_damaged_is_resumed_from_the_one_before(interrupted, unbroken, damage):
    last, before = checkpoints(interrupted, 1)
    damage(last)
    assert not troubles(interrupted), "it can be resumed"
    resumed(interrupted, unbroken)
    assert not before.exists(), "what was not needed any more is removed"


def test_a_trial_without_a_whole_checkpoint_starts_anew_under_its_number(interrupted, unbroken):
    last, before = checkpoints(interrupted, 1)
    flipped(last)
    removed(before)
    assert troubles(interrupted) == {"cut/sam/1": "its checkpoint is damaged, so it starts anew when it is resumed"}
    resumed(interrupted, unbroken)


@pytest.mark.parametrize(
    ("damage", "state"),
    [(removed, "gone"), (emptied, "damaged"), (flipped, "damaged")],
    ids=["removed", "emptied", "flipped"],
)
def test_doctor_says_which_trials_can_no_longer_be_loaded(interrupted, damage, state):
    damage(checkpoints(interrupted, 0)[0])
    assert troubles(interrupted) == {"cut/sam/0": f"its checkpoint is {state}, so its network cannot be loaded"}
    with pytest.raises(Refused, match=f"of trial cut/sam/0 is {state}; search again"):
        interrupted.records()[0].load_model()
