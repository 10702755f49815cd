import re
from dataclasses import replace

import pytest
import torch
from foreign_workload import Regression, Waves

from tune_sam.errors import Refused
from tune_sam.optimizers import optimizer_names
from tune_sam.space import LogRange
from tune_sam.workload import BaseOptimizer, DataSet, Score, Setting, find_workload, made_workload, workload_names


def test_workloads_are_found_by_name_and_by_class():
    assert workload_names() == ["attention", "gcn", "wideresnet"]
    assert type(find_workload("gcn")) is type(find_workload("tune_sam.trainables.gcn:GCN"))
    assert find_workload("odd_workload:Odd").name == "odd"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gnc", "there is no workload 'gnc'; choose from attention, gcn, wideresnet"),
        ("nowhere:Thing", "cannot be imported"),
        ("tune_sam.trainables.gcn:Nothing", "cannot be imported"),
        ("tune_sam.trainables.gcn:Path", "is not a subclass"),
        (":", "cannot be imported"),
        ("tune_sam.workload:Workload", "is not complete"),
    ],
)
def test_a_workload_that_is_not_there_is_refused(name, said):
    with pytest.raises(Refused, match=said):
        find_workload(name)


@pytest.mark.parametrize(
    ("name", "epochs", "parameters", "base", "options"),
    [
        ("wideresnet", 50, 17_158_106, "SGD", {"momentum": 0.9, "weight_decay": 5e-4}),
        ("attention", 50, 19_528_109, "SGD", {"momentum": 0.9, "weight_decay": 5e-4}),
        ("gcn", 200, 92_546, "Adam", {"weight_decay": 5e-4}),
    ],
)
def test_the_reports_settings(name, epochs, parameters, base, options):
    workload = find_workload(name)
    preset = workload.presets["report"]
    assert preset.setting.epochs == epochs
    assert workload.parameters(preset.setting) == parameters
    assert (workload.base_optimizer.name, dict(workload.base_optimizer.options)) == (base, options)
    assert workload.label_smoothing == 0.1
    assert preset.options == {"optimizers": ("base", "asam-all"), "sampler": "grid", "scheduler": "none"}


def test_parameters_are_counted_of_networks_that_compute_while_they_are_built(monkeypatch):
    workload = find_workload("gcn")
    monkeypatch.setattr(type(workload), "network", lambda *_: torch.nn.Linear(int(torch.tensor([3.0]).sum().item()), 2))
    assert workload.parameters(workload.settings["digits"]) == 8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Score("max"), "the direction of a score is 'max'; give 'maximize' or 'minimize'"),
        (lambda: Setting({}, epochs=0, batch_size=8, lr=0.1), "epochs is 0; give a whole number, 1 or more"),
        (lambda: Setting({}, epochs="3", batch_size=8, lr=0.1), "epochs is '3'; give a whole number, 1 or more"),
        (lambda: Setting({}, epochs=3, batch_size=0, lr=0.1), "batch_size is 0; give a whole number, 1 or more"),
        (
            lambda: BaseOptimizer("SGD", {"lr": 0.5}),
            "lr=0.5 among its options would put the searched learning rate out",
        ),
    ],
)
def test_values_that_cannot_be_are_refused_where_they_are_written(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("member", "given", "says"),
    [
        ("datasets", DataSet(60, 20, 20), '`datasets = {"mine": DataSet(train=800, validation=100, test=100)}`'),
        ("datasets", {"waves": (60, 20, 20)}, "has {'waves': (60, 20, 20)} as its `datasets`; write it as"),
        (
            "settings",
            Regression.settings["waves"],
            '`settings = {"mine": Setting({}, epochs=10, batch_size=32, lr=0.1)}`',
        ),
        ("settings", {"waves": {"epochs": 3}}, "has {'waves': {'epochs': 3}} as its `settings`; write it as `settings"),
        ("base_optimizer", "SGD", '`base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9})`'),
        ("base_optimizer", torch.optim.SGD, "has <class 'torch.optim.sgd.SGD'> as its `base_optimizer`; write it as"),
        ("rho", LogRange(0.01, 1), '`rho = {"sam": LogRange(0.01, 0.5)}`'),
        ("batch_size", 16, "has 16 as its `batch_size`; write it as `batch_size = (16, 32)`."),
        ("batch_size", "16", "has '16' as its `batch_size`; write it as `batch_size = (16, 32)`."),
        ("scores", ["r2"], 'has [\'r2\'] as its `scores`; write it as `scores = {"r2": Score("maximize")}`.'),
        ("scores", {"r2": "maximize"}, "has {'r2': 'maximize'} as its `scores`; write it as `scores ="),
        ("scores", {}, "has no score; give its `scores` one, or leave them out for accuracy."),
        ("schedule", torch.optim.lr_scheduler.StepLR, "`schedule = tune_sam.schedules.CONSTANT`"),
    ],
)
def test_a_member_of_another_form_is_refused_with_the_one_to_give(monkeypatch, member, given, says):
    monkeypatch.setattr(Regression, member, given)
    made_workload.cache_clear()
    with pytest.raises(Refused, match=re.escape(says)):
        find_workload("foreign_workload:Regression")


def test_a_test_set_of_another_size_than_stated_is_refused(tmp_path):
    class Fewer(Regression):
        def test_split(self, dataset, root):
            return Waves(110, 10)

    assert len(Regression().read_test("waves", tmp_path)) == 20
    says = "'waves' states 20 test samples, and test_split() gives 10; state what there is, and run the same command"
    with pytest.raises(Refused, match=re.escape(says)):
        Fewer().read_test("waves", tmp_path)


def test_a_class_that_mlflow_would_refuse_is_refused():
    setting = find_workload("gcn").settings["digits"]
    with pytest.raises(ValueError, match=r"the class 'malignant \(M\)' cannot be part of the name of a metric"):
        replace(setting, classes=("malignant (M)", "benign"))
    for classes in (("N/a",), ("..",), ("a", "b", "a")):
        with pytest.raises(ValueError, match="cannot be part of|not all different"):
            replace(setting, classes=classes)
    assert replace(setting, classes=("N a b-c_d.e:f", "ä")).classes[1] == "ä"


def test_the_shares_of_a_gpu():
    assert [find_workload(name).gpus_per_trial for name in ("wideresnet", "attention", "gcn")] == [0.5, 0.25, 0.1]


def test_a_description_has_the_promised_fields():
    found = find_workload("gcn").to_json()
    assert list(found) == [
        "name",
        "parameters",
        "datasets",
        "base_optimizer",
        "epochs",
        "batch_size",
        "lr",
        "ranges",
        "rho_grid",
        "gpus_per_trial",
        "presets",
    ]
    assert found["parameters"] == 125_442
    assert found["presets"]["report"]["parameters"] == 92_546
    sizes = {"train": 2602, "validation": 433, "test": 1302, "classes": 2}
    assert found["datasets"]["mutagenicity"] == {**sizes, "by_seed": True}
    assert (found["base_optimizer"], found["epochs"], found["batch_size"], found["lr"]) == ("Adam", 200, 64, 0.01)
    assert set(found["ranges"]) == set(optimizer_names())
    assert found["ranges"]["base"]["rho"] is None
    assert found["ranges"]["asam-all"]["rho"] == [0.001, 0.1]
    assert {name: len(points) for name, points in found["rho_grid"].items()} == dict.fromkeys(optimizer_names()[1:], 4)
