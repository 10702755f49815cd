"""Which trial a training that was made elsewhere is of."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from foreign_workload import Tags
from torch import nn

from tune_sam.config import TrialConfig
from tune_sam.space import Configuration
from tune_sam.store import TensorStore
from tune_sam.trained import MADE_BY, Trained, tested
from tune_sam.workload import Score, Setting

TRIAL = TrialConfig(dataset="digits", epochs=2, configuration=Configuration("sam", 0.05, 0.01, 64, 3))


def training(given):
    return Trained("gcn", given, asdict(TRIAL.configuration), ({},) * TRIAL.epochs, 1.0, "float32", "CPU", {}, {}, {})


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


def test_a_training_that_lacks_an_epoch_is_of_no_trial():
    assert not replace(training(GIVEN), epochs=({},)).is_of("gcn", TRIAL)


@pytest.mark.parametrize(
    ("loss", "score", "said"), [(math.nan, 0.5, "the loss of"), (1.0, math.inf, "the metric hits")]
)
def test_a_test_result_that_is_not_finite_is_no_result(loss, score, said):
    class Odd(Tags):
        scores = {"hits": Score()}

        def loss(self, outputs, targets):
            return outputs.sum() * 0 + loss

        def metrics(self, setting):
            return {"hits": lambda *_: score}

    model, store = nn.Linear(2, 2), TensorStore(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=f"^{said} .*test split is"):
        tested(model, Odd(), Setting({}, epochs=1, batch_size=2, lr=0.1), store, "fp32", torch.device("cpu"))


def test_a_file_of_the_release_before_does_not_say_that_it_trained_on_few_samples_alone():
    earlier = training({name: value for name, value in GIVEN.items() if name != "train_alone"})
    assert earlier.is_of("gcn", TRIAL)
    assert not earlier.is_of("gcn", replace(TRIAL, train_alone=True))
