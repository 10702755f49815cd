from dataclasses import replace

import pytest
import torch

from tune_sam.errors import Refused
from tune_sam.settings import SearchOptions
from tune_sam.space import OPTIMIZERS, Range
from tune_sam.workload import find_workload, workload_names


def space(optimizer, dataset="mutagenicity", **given):
    return find_workload("gcn").space(SearchOptions.read({"workload": "gcn", **given}), optimizer, dataset)


def test_workloads_are_found_by_name_and_by_class():
    assert workload_names() == ["attention", "gcn", "wideresnet"]
    assert type(find_workload("gcn")) is type(find_workload("trainables.gcn:GCN"))
    assert find_workload("odd_workload:Odd").name == "odd"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gnc", "there is no workload 'gnc'; choose from attention, gcn, wideresnet"),
        ("nowhere:Thing", "cannot be imported"),
        ("trainables.gcn:Nothing", "cannot be imported"),
        ("trainables.gcn:Path", "is not a subclass"),
        (":", "cannot be imported"),
        ("tune_sam.workload:Workload", "is not complete"),
    ],
)
def test_a_workload_that_is_not_there_is_refused(name, said):
    with pytest.raises(Refused, match=said):
        find_workload(name)


def test_each_optimizer_has_its_grid():
    at = {"lr": 0.01, "batch_size": 64}
    assert space("base").grid == (at,)
    assert [point["rho"] for point in space("asam-all").grid] == [0.005, 0.01, 0.05, 0.1], "the report's"
    for optimizer in ("sam", "asam"):
        found = space(optimizer)
        assert len(found.grid) == 4
        assert all(point["rho"] in found.rho and {**point, **at} == point for point in found.grid)
    assert space("sam", grid=False).grid == ()


def test_a_persons_ranges_take_the_place_of_the_workloads():
    found = space("sam", rho="0.01:0.1", lr="0.001:0.1", batch_size="16,64")
    assert (str(found.rho), str(found.lr), found.batch_size) == ("0.01:0.1", "0.001:0.1", (16, 64))
    assert space("base", rho="0.01:0.1").rho is None


@pytest.mark.parametrize(
    ("optimizer", "given", "said"),
    [
        ("asam-all", {"rho": "0.02:1"}, "ρ 0.005 is not in 0.02:1"),
        ("base", {"lr": "1e-4:1e-3"}, "learning rate 0.01 is not in 0.0001:0.001"),
        ("sam", {"batch_size": "16,32"}, "batch size 64 is not in 16,32"),
    ],
)
def test_a_grid_point_outside_a_range_is_refused_with_a_way_out(optimizer, given, said):
    with pytest.raises(Refused, match=f"{said}.*--no-grid"):
        space(optimizer, **given)
    assert space(optimizer, grid=False, **given).grid == ()


def test_a_batch_larger_than_the_training_split_is_refused():
    assert space("base", batch_size="64,2602").batch_size == (64, 2602)
    with pytest.raises(Refused, match="--batch-size 2603 is larger than the 2602 training samples of mutagenicity"):
        space("base", batch_size="64,2603")


def test_a_presets_grid_is_at_its_own_learning_rate_and_batch_size():
    for name, rhos, lr, size in (
        ("wideresnet", [0.1, 0.5, 1, 2], 0.1, 128),
        ("attention", [0.1, 0.3, 0.5, 1], 0.01, 128),
        ("gcn", [0.005, 0.01, 0.05, 0.1], 0.01, 64),
    ):
        workload = find_workload(name)
        found = workload.space(
            SearchOptions.read({"workload": name, "preset": "report"}), "asam-all", workload.default_dataset
        )
        assert list(found.grid) == [{"rho": rho, "lr": lr, "batch_size": size} for rho in rhos]


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


def test_a_batch_larger_than_the_training_subset_is_refused():
    with pytest.raises(Refused, match="--batch-size 128 is larger than the 100 training samples"):
        space("base", train_subset=100)


def test_parameters_are_counted_of_networks_that_compute_while_they_are_built(monkeypatch):
    workload = find_workload("gcn")
    monkeypatch.setattr(type(workload), "network", lambda *_: torch.nn.Linear(int(torch.tensor([3.0]).sum().item()), 2))
    assert workload.parameters(workload.settings["digits"]) == 8


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
    assert found["datasets"]["mutagenicity"] == {"train": 2602, "validation": 433, "test": 1302, "classes": 2}
    assert (found["base_optimizer"], found["epochs"], found["batch_size"], found["lr"]) == ("Adam", 200, 64, 0.01)
    assert set(found["ranges"]) == set(OPTIMIZERS)
    assert found["ranges"]["base"]["rho"] is None
    assert found["ranges"]["asam-all"]["rho"] == [0.001, 0.1]
    assert {name: len(points) for name, points in found["rho_grid"].items()} == dict.fromkeys(
        ("sam", "asam", "asam-all"), 4
    )


def test_a_plain_grid_has_every_combination_of_the_values():
    found = space("sam", sampler="grid", rho="0.05,0.1", lr="0.01,0.003", batch_size="16,64")
    assert len(found.grid) == 8
    assert {tuple(point.values()) for point in found.grid} == {
        (rho, lr, size) for rho in (0.05, 0.1) for lr in (0.003, 0.01) for size in (16, 64)
    }
    assert (found.rho, found.lr) == (Range(0.05, 0.1), Range(0.003, 0.01))
    base = space("base", sampler="grid", rho="0.05", lr="0.003")
    assert base.grid == ({"lr": 0.003, "batch_size": 64},)
    assert len(space("sam", sampler="grid", batch_size="16,32").grid) == 8  # four of ρ at two sizes
