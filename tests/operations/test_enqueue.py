import re

import optuna
import pytest
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.study import spent
from tune_sam.study.records import open_study
from tune_sam.study.spent import Ended
from tune_sam.tuning.listener import SearchListener

POINT = {"rho": 0.1, "lr": 0.02, "batch_size": 64, "m": 16}


def first_trial_enqueues(home):
    """A person who enqueues a point while the first trial of a search is trained."""

    class Enqueues(SearchListener):
        def started(self, optimizer, number):
            if number == 0:
                tune_sam.enqueue("mine", rho=0.1, lr=0.02, params={"m": "16"}, home=home)

    return Enqueues()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with the study `mine`, whose second trial is a person's, and whose last grid point waits for ever."""
    home = tmp_path_factory.mktemp("mine") / "home"
    tune_sam.search(
        "gcn",
        dataset="digits",
        train_subset=256,
        optimizers=["sam"],
        trials=3,
        epochs=1,
        scheduler="none",
        params={"m": [16, 32]},
        name="mine",
        home=home,
        executor=INLINE,
        listener=first_trial_enqueues(home),
    )
    return home


def test_a_running_search_takes_a_persons_point_before_grid_points_that_wait(home):
    trials = open_study("mine", home).records()
    assert trials[3].config.point == POINT
    assert [trial.state for trial in trials] == ["complete", "complete", "waiting", "complete"]
    assert trials[3].started <= trials[1].started


def test_a_finished_study_tries_a_persons_point_with_a_larger_budget(cli, home):
    status, said, _ = cli("enqueue", "mine", "--rho", "0.2", "--lr", "0.03", "--batch-size", "32", "--param", "m=32")
    assert status == 0
    assert "mine/sam/4: `tune-sam resume mine --trials 4` tries it" in said
    study = tune_sam.resume("mine", home=home, trials=4, executor=INLINE)
    assert study.trial("sam/4").state == "complete"
    assert study.trial("sam/4").config.point == {"rho": 0.2, "lr": 0.03, "batch_size": 32, "m": 32}
    assert study.trial("sam/2").state == "waiting"


def test_a_search_that_its_budget_has_ended_is_told_to_have_more_of_it(cli, home, monkeypatch):
    ended = Ended("its budget of 1 epochs is spent", "--epoch-budget 2")
    monkeypatch.setattr(spent, "ended_by", lambda study: ended if study.settings.trials > 3 else None)
    status, said, _ = cli("enqueue", "mine", "--rho", "0.2", "--lr", "0.05", "--batch-size", "32", "--param", "m=32")
    assert status == 0
    assert re.search(
        r"`tune-sam resume mine --trials \d --epoch-budget 2` tries it, for all \d trials have begun", said
    )
    assert said.endswith("or are taken and its budget of 1 epochs is spent.\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "1e9", "--rho", "0.1"], "learning rate 1000000000 is not in "),
        (["--lr", "0.02", "--rho", "0.1", "--batch-size", "7"], "batch size 7 is not in 32,64,128"),
        (
            ["--lr", "0.02", "--rho", "0.1", "--batch-size", "64", "--param", "m=16"],
            "mine/sam/3 is at this point already",
        ),
        (["--lr", "0.02"], "needs a ρ; give --rho from "),
        (["--lr", "0.02", "--rho", "0.1", "--param", "m"], "--param m is no hyperparameter with its value"),
        (["--lr", "0.02", "--rho", "0.1", "--param", "m=16,32"], "a point has one value of each"),
        (["--lr", "0.02", "--rho", "0.1", "--param", "m=1:2:"], "--param m=1:2:"),
        (["--lr", "0.02", "--rho", "0.1", "--param", "n=1"], "no further hyperparameter 'n' (it has m)"),
        (
            ["--lr", "0.02", "--rho", "0.1", "--optimizer", "base"],
            "did not search 'base'; give --optimizer as one of sam",
        ),
    ],
)
def test_a_point_that_cannot_be_tried_is_refused_in_one_sentence(cli, home, words, said):
    before = len(open_study("mine", home).records())
    status, out, err = cli("enqueue", "mine", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert len(open_study("mine", home).records()) == before


def test_a_point_of_one_of_several_optimizers_names_it(searched):
    with pytest.raises(Refused, match="has several optimizers; give --optimizer as one of base, sam"):
        tune_sam.enqueue("one", lr=0.01, home=searched)
    with pytest.raises(Refused, match="base of study one has no ρ; leave --rho out"):
        tune_sam.enqueue("one", lr=0.01, rho=0.1, optimizer="base", home=searched)


def test_a_point_is_told_by_its_own_number_where_another_is_enqueued_at_the_same_time(home, monkeypatch):
    enqueue = optuna.Study.enqueue_trial

    def beside(self, point, **options):
        enqueue(self, point | {"lr": 0.05}, **options)
        enqueue(self, point, **options)
        enqueue(self, point | {"lr": 0.06}, **options)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", beside)
    point = {"rho": 0.3, "lr": 0.04, "batch_size": 32}
    assert tune_sam.enqueue("mine", **point, params={"m": "16"}, home=home).config.point == point | {"m": 16}
