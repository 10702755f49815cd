import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import warm
from services import wait_for
from studies import searched_study

import tune_sam
from tune_sam.cluster.sharing import Shared
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.settings import SearchOptions
from tune_sam.space import LogRange
from tune_sam.study.storage import open_storage
from tune_sam.tuning.plan import create, define, home_of, planned, search_space
from tune_sam.workload import find_workload


def space(optimizer, dataset="mutagenicity", **given):
    options = SearchOptions.read({"workload": "gcn", **given})
    return search_space(options, find_workload("gcn"), dataset, optimizer)


@pytest.mark.parametrize("option", ["--data", "$TUNE_SAM_DATA"])
def test_a_folder_of_data_that_is_named_and_not_there_is_refused(monkeypatch, tmp_path, option):
    given = {"workload": "foreign_workload:Regression", "home": tmp_path, "optimizers": ["base"]}
    monkeypatch.setenv("TUNE_SAM_DATA", str(tmp_path if option == "--data" else tmp_path / "nowhere"))
    chosen = SearchOptions.read(given | ({"data": tmp_path / "nowhere"} if option == "--data" else {}))
    with pytest.raises(Refused, match=re.escape(f"{option} {tmp_path / 'nowhere'} is no folder; name the one that")):
        define(chosen, home_of(chosen))
    (tmp_path / "nowhere").mkdir()
    define(chosen, home_of(chosen))


def test_each_optimizer_has_its_grid():
    at = {"lr": 0.01, "batch_size": 64}
    assert space("base").grid == (at,)
    assert [point["rho"] for point in space("asam-all").grid] == [0.005, 0.01, 0.05, 0.1], "the report's"
    for optimizer in ("sam", "asam"):
        found = space(optimizer)
        assert len(found.grid) == 4
        assert all(point["rho"] in found.rho and {**point, **at} == point for point in found.grid)
    assert space("sam", grid=False).grid == ()


def test_published_values_outside_of_a_persons_range_are_left_out():
    def rhos(rho):
        return [point["rho"] for point in space("asam-all", rho=rho).grid]

    assert rhos("0.02:1") == [0.05, 0.1]
    assert rhos("0.2:2") == list(LogRange(0.2, 2).spread(4))


def test_a_persons_ranges_take_the_place_of_the_workloads():
    found = space("sam", rho="0.01:0.1", lr="0.001:0.1", batch_size="16,64")
    assert (str(found.rho), str(found.lr), found.batch_size) == ("0.01:0.1", "0.001:0.1", (16, 64))
    assert space("base", rho="0.01:0.1").rho is None


@pytest.mark.parametrize(
    ("optimizer", "given", "said"),
    [
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
        options = SearchOptions.read({"workload": name, "preset": "report"})
        found = search_space(options, workload, workload.default_dataset, "asam-all")
        assert list(found.grid) == [{"rho": rho, "lr": lr, "batch_size": size} for rho in rhos]


def test_batches_larger_than_the_training_subset_are_left_out_or_refused_where_a_person_gave_them():
    assert space("base", train_subset=100).batch_size == (32, 64)
    few = space("base", train_subset=40)
    assert few.batch_size == (32,)
    assert [point["batch_size"] for point in few.grid] == [32]
    with pytest.raises(Refused, match="--batch-size 128 is larger than the 100 training samples"):
        space("base", train_subset=100, batch_size="64,128")
    with pytest.raises(Refused, match="--batch-size 128 is larger than the 20 training samples"):
        space("base", train_subset=20)


def test_a_person_is_told_of_batch_sizes_that_are_left_out(tmp_path, caplog):
    own = {"workload": "gcn", "dataset": "digits", "train_subset": 50, "grid": False, "home": tmp_path}
    planned(SearchOptions.read(own | {"name": "own", "batch_size": 16}))
    assert caplog.messages == []
    planned(SearchOptions.read(own | {"name": "chosen"}))
    assert caplog.messages == ["Batches of 64 and 128 are left out, for there are 50 training samples."]


def test_a_plain_grid_has_every_combination_of_the_values():
    found = space("sam", sampler="grid", rho="0.05,0.1", lr="0.01,0.003", batch_size="16,64")
    assert len(found.grid) == 8
    assert {tuple(point.values()) for point in found.grid} == {
        (rho, lr, size) for rho in (0.05, 0.1) for lr in (0.003, 0.01) for size in (16, 64)
    }
    assert (found.rho, found.lr) == (LogRange(0.05, 0.1), LogRange(0.003, 0.01))
    base = space("base", sampler="grid", rho="0.05", lr="0.003")
    assert base.grid == ({"lr": 0.003, "batch_size": 64},)
    assert len(space("sam", sampler="grid", batch_size="16,32").grid) == 8  # four of ρ at two sizes


def test_a_limit_that_is_off_stays_off_with_a_preset(tmp_path):
    given = {"workload": "gcn", "preset": "report-network", "stall_timeout": "off", "patience": "off"}
    settings = define(SearchOptions.read(given), Home(tmp_path))
    assert (settings.stall_timeout, settings.patience) == (0, 0)


def test_a_split_that_others_published_is_not_drawn_by_another_seed(tmp_path):
    given = {"workload": "attention", "split_seed": 2, "home": tmp_path}
    with pytest.raises(Refused, match=r"--split-seed 2 is not possible, the splits of mitbih are given; leave it out"):
        planned(SearchOptions.read(given))


def test_label_noise_needs_classes_that_the_workload_states(tmp_path):
    given = {"workload": "foreign_workload:Regression", "label_noise": 0.2, "home": tmp_path}
    with pytest.raises(Refused, match=r"--label-noise 0\.2 replaces classes, and waves states none of waves"):
        planned(SearchOptions.read(given))


@pytest.mark.slow
def test_a_driver_that_has_no_torch_plans_a_study_without(tmp_path):
    """What needs it is done in a fork of the process that workers are forked from."""
    words = list(warm.forking())
    # It listens after its imports here, the product's before.
    wait_for(Path(words[-2]).exists, "process that forks", limit=180)
    code = f"""
import sys
from pathlib import Path
from tune_sam.cluster import forks
from tune_sam.settings import SearchOptions
from tune_sam.trainable import trainable_for
from tune_sam.tuning.callback import Driver
from tune_sam.tuning.plan import planned

forks.standing = {words!r}
study, read = planned(SearchOptions.read({{"workload": "gcn", "dataset": "digits", "home": {str(tmp_path)!r}}}))
read.taken()(Path({str(tmp_path / "data")!r}))
trainable_for(study.workload)
print(study.settings.trials, "torch" in sys.modules, "sklearn" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "20 False False\n", done.stderr
    assert len(Shared(tmp_path / "data").splits().train) == 1078


def begun(home, *, trials):
    """What is left in a home where the making of a study, or an import, was killed: no record."""
    storage = open_storage(home)
    left = optuna.create_study(storage=storage, study_name="one/base", direction="minimize")
    for _ in range(trials):
        left.add_trial(optuna.trial.create_trial(value=1.0))


def test_a_study_whose_making_was_cut_off_is_made_anew_with_its_own_objective(tmp_path):
    begun(Home.at(tmp_path), trials=0)
    study = searched_study(tmp_path, train_subset=64)
    assert study.counts() == {"complete": 6}
    loaded = optuna.load_study(study_name="one/base", storage=open_storage(study.home))
    assert loaded.direction.name == "MAXIMIZE"


@pytest.mark.slow
def test_trials_that_a_killed_import_has_left_are_not_taken_for_a_new_studys(tmp_path):
    begun(Home.at(tmp_path), trials=2)
    with pytest.raises(Refused, match="was cut off and left trials in .*tune-sam delete one"):
        searched_study(tmp_path, train_subset=64)
    tune_sam.delete("one", home=tmp_path)
    assert searched_study(tmp_path, train_subset=64).counts() == {"complete": 6}


@pytest.mark.parametrize("left", ["ray-1234abcd", "test", "flatness"])
def test_what_is_left_of_a_study_without_records_is_not_taken_for_a_new_ones(tmp_path, left):
    (tmp_path / "studies" / "one" / left).mkdir(parents=True)
    given = {"workload": "gcn", "dataset": "digits", "name": "one", "home": tmp_path}
    with pytest.raises(Refused, match=r"results of a study one are in .*/studies/one, but its records are not in"):
        planned(SearchOptions.read(given))


def test_nor_where_records_are_in_a_database_elsewhere(tmp_path):
    (tmp_path / "studies" / "one" / "test").mkdir(parents=True)
    home = Home(tmp_path, "postgresql://me:secret@host/studies")
    settings = define(SearchOptions.read({"workload": "gcn", "dataset": "digits"}), Home(tmp_path))
    with pytest.raises(Refused, match=r"not in postgresql://\S*@host/studies; put back .* remove that folder"):
        create("one", settings, home, home.tracking_uri, home.storage)


def test_a_name_beyond_ascii_is_refused_where_results_are_at_a_uri(tmp_path):
    given = {"workload": "gcn", "dataset": "digits", "name": "étude", "home": tmp_path, "storage": "s3://bucket/path"}
    with pytest.raises(
        Refused, match="--name étude has characters beyond ASCII, .* s3://bucket/path .* another --name"
    ):
        planned(SearchOptions.read(given))
