import pandas
import pytest
from studies import INLINE

from tune_sam import open_study
from tune_sam.errors import Refused
from tune_sam.operations import run as module
from tune_sam.operations.run import run
from tune_sam.study.records import refits_of
from tune_sam.tuning.listener import Silent

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures", "coarse_measures")]

OPTIONS = {
    "dataset": "digits",
    "train_subset": 256,
    "optimizers": ["base", "sam"],
    "trials": 1,
    "epochs": 1,
    "name": "all",
    "seeds": 2,
    "sample": 32,
    "executor": INLINE,
}


def ledger(home):
    """What was trained, tested and measured, and when."""
    study = open_study("all", home)
    trainings = {
        trial.key: (trial.ended, trial.mlflow_run_id) for one in (study, *refits_of(study)) for trial in one.records()
    }
    parts = {
        file: file.stat().st_mtime_ns
        for folder in ("test", "flatness/parts/*")
        for file in home.glob(f"studies/all*/{folder}/*.json")
    }
    return trainings, parts


@pytest.fixture(scope="module")
def done(searched):
    """Interrupted once, after the refit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "analyze", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run("gcn", home=searched, **OPTIONS)
    before = ledger(searched)
    found = run("gcn", home=searched, **OPTIONS)
    return before, found


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_study_without_the_base_optimizer_has_its_controls_measured(tmp_path):
    alone = {"optimizers": ["sam"], "train_subset": 128, "seeds": 1, "sample": 20}
    run("gcn", home=tmp_path, **{**OPTIONS, **alone})
    assert [one.name for one in refits_of(open_study("all", tmp_path), "control")] == ["all.controls"]
    assert {"base", "sam"} == {*pandas.read_csv(tmp_path / "studies/all.refit/flatness/20/flatness.csv")["optimizer"]}


def test_it_ends_with_a_page_of_everything(done):
    text = done[1].page.read_text()
    for said in ("too few for an interval", "Measured on 32 samples", "Adam × 2 epochs"):
        assert said in text
    assert "Not measured" not in text


def test_interrupted_it_goes_on_and_trains_nothing_again(searched, done):
    trainings, parts = done[0]
    assert len(trainings) == 2 + 4 + 2
    assert len(parts) == 6
    after = ledger(searched)
    assert after[0] == trainings
    assert parts.items() <= after[1].items()


class Heard(Silent):
    """What a listener is told is about to be done."""

    def __init__(self):
        self.texts = []

    def announced(self, text):
        self.texts.append(text)


def test_called_again_nothing_is_done_again(searched, done):
    before = ledger(searched)
    heard = Heard()
    assert run("gcn", home=searched, listener=heard, **OPTIONS).page == done[1].page
    assert ledger(searched) == before
    assert [text.removeprefix("== ") for text in heard.texts if text.startswith("== ")] == [
        "refit of all",
        "flatness of the refit of all",
        "flatness of all trials of all",
        "page of all",
    ]


def test_more_seeds_are_trained_beside_those_there_are(searched, done):
    before = ledger(searched)
    text = run("gcn", home=searched, **{**OPTIONS, "seeds": 3}).page.read_text()
    trainings, parts = ledger(searched)
    assert "over 3 seeds, in percentage points" in text
    assert before[0].items() <= trainings.items()
    assert before[1].items() <= parts.items()
    assert len(trainings) == len(before[0]) + 3


def test_seeds_are_looked_at_before_the_search(tmp_path):
    with pytest.raises(Refused, match="--seeds 3,3: a seed comes twice"):
        run("gcn", home=tmp_path / "home", **{**OPTIONS, "seeds": [3, 3]})
    assert not (tmp_path / "home").exists()
