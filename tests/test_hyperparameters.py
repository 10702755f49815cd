"""Further hyperparameters: declared by a workload, received by the network, the optimizer and the loss."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from tune_sam.space import Choice, Configuration, LogRange, Range
from tune_sam.store import TensorStore
from tune_sam.training import Trainer
from tune_sam.workload import BaseOptimizer, DataSet, Setting, Splits, Workload

PLAIN = Configuration("sam", 0.05, 0.1, 8, 0)


class Blobs(Workload):
    """Two clouds of points, told apart by a small network."""

    name = "blobs"
    datasets: ClassVar = {"blobs": DataSet(train=32, validation=16, test=16, classes=2)}
    settings: ClassVar = {"blobs": Setting({"hidden": 4, "dropout": 0.0}, epochs=2, batch_size=8, lr=0.1)}
    base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9})
    rho: ClassVar = {"sam": LogRange(0.01, 0.5), "asam": LogRange(0.1, 2)}
    lr = LogRange(0.01, 1)
    batch_size = (8, 16)
    hyperparameters: ClassVar = {
        "hidden": Choice(4, 8),
        "dropout": Range(0, 0.5, default=0.1),
        "weight_decay": LogRange(1e-5, 1e-2),
        "momentum": Choice(0.9, 0.5),
        "label_smoothing": Range(0, 0.2),
        "slope": {"sam": Range(0, 0.3), "asam": Range(0.3, 0.5)},
    }

    def network(self, setting):
        slope = self.given.get("slope", 0.0)
        hidden, dropout = setting.network["hidden"], setting.network["dropout"]
        return torch.nn.Sequential(
            torch.nn.Linear(2, hidden), torch.nn.LeakyReLU(slope), torch.nn.Dropout(dropout), torch.nn.Linear(hidden, 2)
        )

    def splits(self, dataset, root):
        return Splits(self._store(32, 0), self._store(16, 1))

    def test_split(self, dataset, root):
        return self._store(16, 2)

    def _store(self, samples, seed):
        y = torch.arange(samples) % 2
        x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed)) + 2 * y[:, None]
        return TensorStore(x, y)


def trainer(**more):
    workload = Blobs()
    return Trainer(
        workload, workload.setting("blobs"), replace(PLAIN, more=more), workload.splits("blobs", None), epochs=2
    )


def test_each_hyperparameter_reaches_what_has_its_name():
    one = trainer(hidden=8, dropout=0.25, weight_decay=0.003, momentum=0.5, label_smoothing=0.2, slope=0.3)
    first, relu, drop, _ = one.model
    assert (first.out_features, relu.negative_slope, drop.p) == (8, 0.3, 0.25)
    group = one.optimizer.base_optimizer.param_groups[0]
    assert (group["weight_decay"], group["momentum"]) == (0.003, 0.5)
    assert one.workload.label_smoothing == 0.2
    assert one.workload.given.unused == []


def test_a_workload_itself_stays_as_it_was():
    workload = Blobs()
    before = workload.label_smoothing, workload.base_optimizer, workload.setting("blobs")
    workload.configured(replace(PLAIN, more={"label_smoothing": 0.2, "momentum": 0.5, "hidden": 8}))
    assert (workload.label_smoothing, workload.base_optimizer, workload.setting("blobs")) == before


def test_what_a_configuration_leaves_out_stays_the_workloads_own_and_can_be_read_as_its_default():
    one = trainer()
    assert (one.model[0].out_features, one.model[2].p) == (4, 0.0)
    assert one.model[1].negative_slope == 0.15
    assert one.optimizer.base_optimizer.param_groups[0]["weight_decay"] == 0


def test_a_hyperparameter_that_nothing_receives_is_known():
    class Deaf(Blobs):
        hyperparameters: ClassVar = {"temperature": Range(1, 4)}

    workload = Deaf().configured(replace(PLAIN, more={"temperature": 2.0}))
    workload.network(workload.placed(workload.setting("blobs")))
    assert workload.given.unused == ["temperature"]
    assert workload.given["temperature"] == 2.0
    assert workload.given.unused == []


def test_ranges_may_depend_on_the_optimizer():
    assert Blobs().hyperparameters_of("asam")["slope"] == Range(0.3, 0.5)
    assert "slope" not in Blobs().hyperparameters_of("base")


def test_numbers_differ_by_a_hyperparameter_that_is_given():
    assert trainer(momentum=0.9).epoch().metrics["train/loss"] == trainer().epoch().metrics["train/loss"]
    assert trainer(momentum=0.5).epoch().metrics["train/loss"] != trainer().epoch().metrics["train/loss"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LogRange(0, 1), "give ends above 0, or a linear Range"),
        (lambda: Range(2, 1), "two finite numbers, the smaller first"),
        (lambda: Range(0, 0.5, default=0.6), "the default 0.6 is not in 0:0.5"),
        (lambda: Choice(), "nothing to choose from"),
        (lambda: Choice(1, True), "comes twice"),
        (lambda: Choice("a", "b", default="c"), "the default 'c' is not one of a,b"),
        (lambda: Choice([1]), "cannot be chosen"),
    ],
)
def test_what_is_no_range_and_no_choice_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("domain", "start"),
    [(LogRange(1e-4, 1e-2), 0.001), (Range(0, 0.5), 0.25), (Choice(3, 2), 3), (Choice(3, 2, default=2), 2)],
)
def test_a_domain_without_a_default_starts_in_its_middle_or_with_its_first_value(domain, start):
    assert domain.start == start
