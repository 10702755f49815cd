"""Which trial a training that was made elsewhere is of."""

from dataclasses import asdict, replace

import pytest

from tune_sam.config import TrialConfig
from tune_sam.space import Configuration
from tune_sam.trained import MADE_BY, Trained

TRIAL = TrialConfig(dataset="digits", epochs=2, configuration=Configuration("sam", 0.05, 0.01, 64, 3))


def training(given):
    return Trained("gcn", given, asdict(TRIAL.configuration), (), 1.0, "float32", "CPU", {}, {}, {})


GIVEN = {name: getattr(TRIAL, name) for name in MADE_BY}


@pytest.mark.parametrize(
    "other",
    [{"epochs": 3}, {"together": True}, {"train_alone": True}, {"precision": "bfloat16"}, {"split_seed": 1}],
    ids=lambda other: next(iter(other)),
)
def test_a_training_is_of_the_trial_that_it_was_given_and_of_no_other(other):
    assert training(GIVEN).is_of("gcn", TRIAL)
    assert not training(GIVEN).is_of("gcn", replace(TRIAL, **other))
    assert not training(GIVEN).is_of("attention", TRIAL)


def test_a_file_of_the_release_before_does_not_say_that_it_trained_on_few_samples_alone():
    earlier = training({name: value for name, value in GIVEN.items() if name != "train_alone"})
    assert earlier.is_of("gcn", TRIAL)
    assert not earlier.is_of("gcn", replace(TRIAL, train_alone=True))
