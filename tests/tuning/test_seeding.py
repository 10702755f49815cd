import shutil
from dataclasses import replace
from statistics import median

import optuna
import pytest
from mlflow import MlflowClient
from optuna.samplers import TPESampler
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.reporting.searched import searched_section
from tune_sam.space import LogRange, Space
from tune_sam.study.records import every_study, open_study
from tune_sam.tuning.history import InMemory, distribution_of
from tune_sam.tuning.seeding import count_seeds, tell_other_training

OPTIONS = {"dataset": "digits", "optimizers": ["sam"], "epochs": 2, "scheduler": "none", "executor": INLINE}
SPACE = Space(LogRange(0.001, 1.0), LogRange(1e-4, 1e-1), (32, 64), ())


DISTRIBUTIONS = {name: distribution_of(domain) for name, domain in SPACE.domains.items()}


def distance(trial, best=0.1):
    """How many times a trial's ρ is above the best one, or below."""
    return max(trial.params["rho"] / best, best / trial.params["rho"])


def searched_in_memory(sampler, trials):
    """The trials of a study whose value falls with the distance of ρ from the best one."""
    study = optuna.create_study(direction="maximize")
    for _ in range(trials):
        study.sampler = sampler(study.get_trials())
        trial = study.ask(DISTRIBUTIONS)
        study.tell(trial, -distance(trial))
    return study.get_trials()


def alone(seed):
    made = TPESampler(n_startup_trials=4, seed=seed)
    return lambda trials: made


def seeded(seeds, seed=0):
    made = TPESampler(n_startup_trials=4, seed=seed)
    return lambda trials: InMemory(made, [*seeds, *trials], SPACE, seed)


def test_a_sampler_begins_with_what_another_study_found():
    seeds = searched_in_memory(alone(1), 30)
    without = [searched_in_memory(seeded([], seed), 1)[0] for seed in range(12)]
    begun = [searched_in_memory(seeded(seeds, seed), 1)[0] for seed in range(12)]
    assert median(map(distance, begun)) < 4 < median(map(distance, without))


def test_without_another_study_it_suggests_what_it_would():
    own = searched_in_memory(alone(0), 8)
    assert [one.params for one in searched_in_memory(seeded([]), 8)] == [one.params for one in own]


@pytest.fixture(scope="module")
def home(searched):
    """A home with the study `one`, and `two`, which was seeded with its trials."""
    tune_sam.search("gcn", **OPTIONS, name="two", trials=1, grid=False, from_study="one", home=searched)
    return searched


def test_trials_of_the_other_study_are_none_of_the_new_one(home):
    study = open_study("two", home)
    assert study.counts() == {"complete": 1}
    assert count_seeds(study) == {"sam": 3}
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([study.experiment_id], "tags.`tune_sam.key` LIKE 'two/%'")
    assert len(runs) == 1
    said = " ".join(searched_section(study).sentences)
    assert "began with the finished trials of study one (3 of sam), which are none of this study's" in said


@pytest.mark.slow
def test_a_resume_suggests_the_same_when_the_other_study_is_gone(home, tmp_path):
    copy = shutil.copytree(home, tmp_path / "copy")
    tune_sam.delete("one", home=copy)
    tune_sam.export("two", tmp_path / "two.tar.gz", home=copy)
    there, here = (tune_sam.resume("two", home=place, trials=2, executor=INLINE) for place in (copy, home))
    assert [trial.config for trial in there.records()] == [trial.config for trial in here.records()]
    assert count_seeds(tune_sam.import_(tmp_path / "two.tar.gz", home=tmp_path / "elsewhere")) == {"sam": 3}


@pytest.mark.slow
def test_a_search_for_two_objectives_begins_with_one_for_the_same_two(tmp_path):
    options = {**OPTIONS, "epochs": 1, "train_subset": 100, "objective": "two", "home": tmp_path / "home"}
    both = tune_sam.search("gcn", **{**options, "optimizers": ["base", "sam"]}, name="both", trials=2)
    study = tune_sam.search("gcn", **options, name="new", trials=2, grid=False, from_study="both")
    assert count_seeds(study) == {"sam": 2}, "of the optimizer that both search"
    assert study.counts() == {"complete": 2}
    assert study.pareto()
    with pytest.raises(Refused, match="--from both did not search asam"):
        tune_sam.search("gcn", **{**options, "optimizers": ["sam", "asam"]}, name="more", from_study="both")
    with pytest.raises(Refused, match="--from both has objective two, and this search val/accuracy"):
        tune_sam.search("gcn", **{**options, "objective": None}, name="more", from_study="both")
    assert [one.name for one in every_study(tmp_path / "home")] == [both.name, study.name]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"from_study": "none"}, "there is no study 'none'"),
        ({"objective": "val/loss"}, "--from one has objective val/accuracy, and this search val/loss"),
        ({"objective": "two"}, "--from one has objective val/accuracy, and this search two"),
        ({"rho": "0.01:0.1"}, "--from one searched sam with ρ "),
        ({"params": {"m": 16}}, "--from one searched sam with m as the workload has it, and this search has 16"),
        ({"optimizers": ["sam", "asam"]}, "--from one did not search asam"),
        ({"optimizers": ["asam"]}, "--from one did not search asam"),
        ({"sampler": "random"}, "changes nothing with --sampler random"),
        ({"dataset": "mutagenicity"}, "--from one has dataset digits, and this search mutagenicity"),
    ],
)
def test_a_study_of_another_search_is_refused_and_nothing_is_made(home, options, said):
    before = [study.name for study in every_study(home)]
    with pytest.raises(Refused) as refused:
        tune_sam.search("gcn", **{**OPTIONS, "from_study": "one", **options}, name="three", home=home)
    assert said in str(refused.value)
    assert [study.name for study in every_study(home)] == before


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ({}, {}, None),
        ({"precision": "bf16"}, {"precision": "bf16"}, None),
        ({}, {"epochs": 4}, "with epochs 2, not 4;"),
        ({}, {"train_subset": 100}, "with train subset 256, not 100;"),
        ({"train_subset": None}, {}, "with train subset of all, not 256;"),
        ({"precision": "fp32"}, {"precision": "auto"}, "with precision fp32, not auto;"),
        ({"precision": None}, {"precision": "auto"}, "with precision of an earlier release (fp32 on a CPU), not auto;"),
        (
            {"label_noise": 0.2, "precision": "fp32"},
            {"precision": "bf16"},
            "label noise 0.2, not none and precision fp32,",
        ),
    ],
)
def test_a_person_is_told_how_the_other_study_trained_otherwise(home, caplog, theirs, ours, said):
    one = open_study("one", home)
    source = replace(one, settings=replace(one.settings, **theirs))
    tell_other_training(replace(one.settings, **ours), source)
    told = [record.getMessage() for record in caplog.records]
    assert told == [] if said is None else said in told[0]
