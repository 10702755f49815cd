"""What a search refuses before Ray starts: one sentence that names the member of the workload to mend."""

import re

import pytest
import torch
from foreign_workload import Regression
from studies import INLINE
from torch import nn

import tune_sam
from tune_sam.errors import Refused
from tune_sam.space import Range
from tune_sam.workload import BaseOptimizer, DataSet, Score, Splits


class NoSplits(Regression):
    def splits(self, dataset, root):
        raise KeyError("train")


class OtherSizes(Regression):
    datasets = {"waves": DataSet(train=81, validation=20, test=20)}


class Shaken(Regression):
    def splits(self, dataset, root):
        found = super().splits(dataset, root)

        class Noisy(type(found.validation)):
            def __getitem__(self, index):
                sample = super().__getitem__(index)
                return {**sample, "x": sample["x"] + torch.randn(1)}

        return Splits(Noisy(0, 80), found.validation)


class NoTargets(Regression):
    def splits(self, dataset, root):
        return Splits([{"x": torch.ones(1)}] * 80, [{"x": torch.ones(1)}] * 20)


class WrongShapes(Regression):
    def network(self, setting):
        return nn.Linear(7, 1)


class NoMean(Regression):
    def loss(self, outputs, targets):
        return (outputs - targets).square()


class OtherMetrics(Regression):
    scores = {"auroc": Score()}


class NoNumber(Regression):
    def count(self, targets):
        return torch.tensor(3.0)


class Unlike(Regression):
    """Its training samples are mappings, and its validation samples are tuples."""

    def splits(self, dataset, root):
        found = super().splits(dataset, root)
        samples = [found.validation[index] for index in range(len(found.validation))]
        return Splits(found.train, [tuple(sample.values()) for sample in samples])


class NotOneNumber(Regression):
    def metrics(self, setting):
        return {"r2": lambda outputs, targets: outputs, "mae": lambda *_: 0.0}


class NoSuchOptimizer(Regression):
    base_optimizer = BaseOptimizer("Lion")


class WrongOption(Regression):
    base_optimizer = BaseOptimizer("SGD", {"momentun": 0.9})


class NobodysKnob(Regression):
    hyperparameters = {"mixup": Range(0, 1)}


class ReadKnob(NobodysKnob):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets) * (1 + self.given["mixup"])


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (NoSplits, "splits(): KeyError: 'train'."),
        (OtherSizes, "datasets: 'waves' states 81 training and 20 validation samples, and splits() gives 80 and 20;"),
        (Shaken, "a sample differs from one reading to the next"),
        (Unlike, "splits(), joined as a refit trains on them: "),
        (NoTargets, "splits(): a batch with x has none of labels, label, targets, target, y as its targets; tell "),
        (WrongShapes, "network(): TypeError: linear(): argument 'input' (position 1) must be Tensor, not dict."),
        (NoMean, "loss(): it gave a tensor of shape (4, 1); give the batch's mean, a tensor of shape ()."),
        (NoNumber, "count(): it gave tensor(3.); give a number, as by int() or float()."),
        (OtherMetrics, "metrics(): it has no 'auroc', which `scores` names, but r2, mae."),
        (NotOneNumber, "metrics(): r2 is not one number; average it, or name its parts."),
        (NoSuchOptimizer, "base_optimizer: there is no 'Lion'; give a class of torch.optim, package.module:Class, or"),
        (WrongOption, "a step of base: TypeError: SGD.__init__() got an unexpected keyword argument 'momentun'."),
        (NobodysKnob, "hyperparameters: nothing receives 'mixup'; read it as self.given['mixup'], or give it the name"),
    ],
)
def test_a_workload_that_cannot_be_trained_is_refused_and_nothing_is_left(workload, says, tmp_path):
    with pytest.raises(Refused, match=re.escape(says)):
        tune_sam.search(workload, home=tmp_path / "home", optimizers=["base", "sam"], trials=1, executor=INLINE)
    assert not (tmp_path / "home" / "optuna.db").exists()
    assert not (tmp_path / "home" / "mlflow.db").exists()


def test_a_knob_that_is_read_is_searched_and_the_callers_process_stays_as_it_was(tmp_path, monkeypatch):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    study = tune_sam.search(
        ReadKnob, home=tmp_path, optimizers=["base", "sam"], trials=2, epochs=1, scheduler="none", executor=INLINE
    )
    assert [trial.state for trial in study.records()] == ["complete"] * 4
    assert torch.get_rng_state().equal(state)
    assert not seeded, "the generators of GPUs are the caller's"
    assert study.best("sam").config.more.keys() == {"mixup"}
    assert study.settings.objective == "val/r2"
    assert study.best("base").metrics["val/r2"] == study.best("base").value


def test_a_study_is_judged_by_the_score_that_a_person_names(tmp_path):
    study = tune_sam.search(
        Regression, home=tmp_path, optimizers=["base"], trials=3, epochs=1, objective="val/mae", scheduler="none",
        executor=INLINE,
    )  # fmt: skip
    values = [trial.value for trial in study.records()]
    assert study.best("base").value == min(values)
    with pytest.raises(Refused, match=r"val/accuracy is nothing that waves has; choose from val/r2"):
        tune_sam.search(Regression, home=tmp_path, optimizers=["base"], objective="val/accuracy", executor=INLINE)
