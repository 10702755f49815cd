"""Checkpoints that are damaged, gone or somebody's: what can be trained again is, and what is lost is said."""

import shutil
from pathlib import Path

import pytest
from faults.damage import DAMAGES, emptied, flipped, removed
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.operations.doctor import diagnose
from tune_sam.study.checkpoints import BEFORE, LAST
from tune_sam.study.records import open_study
from tune_sam.study.storage import open_storage
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


def contents(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


@pytest.fixture
def precious(interrupted, tmp_path):
    """A folder of the reader's, outside of the home, with whole checkpoints in it, too. It must stay as it is."""
    folder = tmp_path / "some" / "where" / "precious"
    for place in (folder, folder / "cut" / "sam"):
        shutil.copytree(checkpoints(interrupted, 0)[0], place)
    (folder / "thesis.txt").write_text("years")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


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


@pytest.mark.parametrize(
    ("last", "before"), [("{}", "sam/../../../../../{}"), ("file://{}", "{}/cut/sam")], ids=["paths", "results"]
)
def test_a_checkpoint_that_a_record_has_elsewhere_is_left_alone_and_the_trial_starts_anew(
    interrupted, unbroken, precious, last, before, caplog
):
    storage = open_storage(interrupted.home)
    (running,) = (
        frozen
        for frozen in storage.get_all_trials(storage.get_study_id_from_name("cut/sam"))
        if not frozen.state.is_finished()
    )
    storage.set_trial_user_attr(running._trial_id, LAST, last.format(precious))
    storage.set_trial_user_attr(running._trial_id, BEFORE, before.format(precious))
    resumed(interrupted, unbroken)
    assert caplog.text.count("trial cut/sam/1 is not resumed from a checkpoint outside its study's results") == 2


def test_results_that_a_link_has_elsewhere_are_refused_and_train_anew_without_it(interrupted, unbroken, precious):
    place = Path(interrupted.results, "sam-0001.1")
    shutil.rmtree(place)
    place.symlink_to(precious)
    with pytest.raises(Refused, match=f"{place} is a link to {precious}"):
        tune_sam.resume("cut", home=interrupted.home, executor=INLINE)
    place.unlink()
    resumed(interrupted, unbroken)
