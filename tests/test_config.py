"""What a trial is given: one type, which Tune carries as a flat dict."""

from dataclasses import fields, replace

import pytest

from tune_sam.config import TrainingSettings, TrialConfig
from tune_sam.settings import SearchOptions
from tune_sam.space import Configuration
from tune_sam.workload import find_workload

GCN = find_workload("gcn")
TRIAL = TrialConfig(
    dataset="digits",
    epochs=3,
    train_subset=100,
    label_noise=0.2,
    split_seed=3,
    precision="bf16",
    compile=True,
    cpus_per_trial=2,
    configuration=Configuration("asam", 0.5, 0.01, 64, 7),
    together=True,
    gpus_per_trial=0.25,
    number=4,
    attempt=2,
    resume_from=("/c",),
    log="/l",
    stall_timeout=60.0,
)


def test_a_trial_is_read_back_as_it_was_given():
    assert TrialConfig.from_tune(TRIAL.to_tune(), GCN) == TRIAL
    assert not [value for value in TRIAL.to_tune().values() if isinstance(value, dict)], "Tune's own ranges may join"


def test_further_hyperparameters_of_a_trial_are_read_back_by_their_names():
    trial = replace(TRIAL, configuration=replace(TRIAL.configuration, more={"m": 16}))
    assert trial.to_tune()["m"] == 16
    assert TrialConfig.from_tune(trial.to_tune(), GCN) == trial
    with pytest.raises(ValueError, match="a trial has no 'm'"):  # the base optimizer climbs nowhere
        TrialConfig.from_tune({**trial.to_tune(), "optimizer": "base"}, GCN)


def test_what_a_trial_is_not_given_is_the_fields_default_or_the_workloads():
    found = TrialConfig.from_tune({"optimizer": "base", "lr": 0.1, "batch_size": 32}, GCN)
    assert found.configuration == Configuration("base", None, 0.1, 32, 0)
    assert (found.dataset, found.epochs, found.attempt) == ("mutagenicity", GCN.setting("mutagenicity").epochs, 1)
    report = TrialConfig.from_tune({"optimizer": "base", "lr": 0.1, "batch_size": 32, "preset": "report"}, GCN)
    assert report.epochs == GCN.setting("mutagenicity", "report").epochs


@pytest.mark.parametrize(
    ("given", "said"),
    [({"rhos": 0.1}, "a trial has no 'rhos'; choose from attempt, batch_size"), ({"lr": None}, None)],
)
def test_a_key_that_would_change_nothing_is_refused(given, said):
    config = {"optimizer": "base", "lr": 0.1, "batch_size": 32} | given
    if said is None:
        del config["lr"]
        said = "a trial needs 'lr' in its config"
    with pytest.raises(ValueError, match=said):
        TrialConfig.from_tune(config, GCN)


def test_every_setting_of_trainings_is_an_option_of_a_search():
    assert {field.name for field in fields(TrainingSettings)} <= set(SearchOptions.model_fields)


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (3, 3), (2.0, 2)])
def test_a_process_has_a_thread_for_each_of_its_cpus_and_one_at_least(cpus, threads):
    assert replace(TRIAL, cpus_per_trial=cpus).threads == threads


def test_resources_are_read_of_an_incomplete_config_too():
    assert TrialConfig.resources({}) == (1, None)
    assert TrialConfig.resources(replace(TRIAL, cpus_per_trial=3).to_tune()) == (3, 0.25)
