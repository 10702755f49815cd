"""Further hyperparameters: declared by a workload, received by the network, the optimizer and the loss."""

import copy
import io
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient
from rich.console import Console
from studies import INLINE

import tune_sam
from tune_sam.cli.main import main
from tune_sam.cli.tables import show_refit, trial_table
from tune_sam.errors import Refused
from tune_sam.evaluation.analysis import Extent, measured
from tune_sam.evaluation.claims import pairs
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.refit import tested_refit
from tune_sam.evaluation.selection import best_alone
from tune_sam.operations.refit import refit
from tune_sam.optim import SAM
from tune_sam.reporting.interactive import interactive
from tune_sam.reporting.page import report
from tune_sam.reporting.plots import trials_with_values
from tune_sam.reporting.search_figures import parallel_coordinates
from tune_sam.settings import SearchOptions
from tune_sam.space import Choice, Configuration, LogRange, Range, Space, domain_from_json
from tune_sam.store import TensorStore
from tune_sam.study.records import open_study
from tune_sam.study.settings import StudySettings
from tune_sam.testing import WorkloadContract
from tune_sam.training import Trainer
from tune_sam.tuning.listener import Silent
from tune_sam.tuning.plan import define, home_of
from tune_sam.tuning.recipe import as_yaml
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
        "activation": Choice("relu", "tanh"),
        "bias": Choice(True, False),
        "hidden": Choice(4, 8),
        "dropout": Range(0, 0.5, default=0.1),
        "weight_decay": LogRange(1e-5, 1e-2),
        "momentum": Choice(0.9, 0.5),
        "label_smoothing": Range(0, 0.2),
        "slope": {"sam": Range(0, 0.3), "asam": Range(0.3, 0.5)},
    }

    def network(self, setting):
        slope = self.given.get("slope", 0.0)
        activation = {"relu": torch.nn.LeakyReLU(slope), "tanh": torch.nn.Tanh()}[self.given["activation"]]
        hidden, dropout = setting.network["hidden"], setting.network["dropout"]
        return torch.nn.Sequential(
            torch.nn.Linear(2, hidden, bias=self.given["bias"]),
            activation,
            torch.nn.Dropout(dropout),
            torch.nn.Linear(hidden, 2),
        )

    def splits(self, dataset, root):
        return Splits(self.cloud(32, 0), self.cloud(16, 1))

    def test_split(self, dataset, root):
        return self.cloud(16, 2)

    def cloud(self, samples, seed):
        y = torch.arange(samples) % 2
        x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed)) + 2 * y[:, None]
        return TensorStore(x, y)


def trainer(**more):
    workload = Blobs()
    return Trainer(
        workload, workload.setting("blobs"), replace(PLAIN, more=more), workload.splits("blobs", None), epochs=2
    )


def test_each_hyperparameter_reaches_what_has_its_name():
    one = trainer(hidden=8, dropout=0.25, weight_decay=0.003, momentum=0.5, label_smoothing=0.2, slope=0.3, bias=False)
    first, relu, drop, _ = one.model
    assert first.bias is None
    assert isinstance(trainer(activation="tanh").model[1], torch.nn.Tanh)
    assert (first.out_features, relu.negative_slope, drop.p) == (8, 0.3, 0.25)
    group = one.optimizer.base_optimizer.param_groups[0]
    assert (group["weight_decay"], group["momentum"]) == (0.003, 0.5)
    assert one.workload.label_smoothing == 0.2
    assert one.workload.given.unused == []


def test_parts_of_m_samples_are_perturbed_each_on_its_own():
    one = trainer(m=3)
    x, y = one.splits.train.batch(torch.arange(8))
    model = copy.deepcopy(one.model)
    expected = SAM(model.parameters(), torch.optim.SGD, PLAIN.rho, lr=PLAIN.lr, momentum=0.9)

    def part(x, y):
        loss = one.workload.loss(model(x), y) * len(x) / 8
        loss.backward()
        return loss.detach()

    losses = expected.step_parts([partial(part, *xy) for xy in zip(x.split(3), y.split(3), strict=True)])
    loss = one.step([[one.splits.train.batch(indices)] for indices in torch.arange(8).split(3)])
    assert loss == pytest.approx(float(sum(losses)))
    for ours, theirs in zip(one.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_m_cuts_batches_into_parts_and_one_of_the_batch_size_changes_nothing():
    assert [[len(y) for ((_, y),) in parts] for parts in trainer(m=3).batches()] == [[3, 3, 2]] * 4
    whole = trainer(m=8).epoch().metrics["train/loss"]
    assert whole == trainer().epoch().metrics["train/loss"]
    assert whole != trainer(m=4).epoch().metrics["train/loss"]


def test_the_base_optimizer_takes_no_parts():
    with pytest.raises(ValueError, match="'base' perturbs no parts of a batch; leave m out"):
        Trainer(
            Blobs(),
            Blobs().setting("blobs"),
            replace(PLAIN, optimizer="base", rho=None, more={"m": 4}),
            Blobs().splits("blobs", None),
            epochs=1,
        )


def test_what_a_setting_has_by_name_can_be_searched():
    class Clipped(Blobs):
        hyperparameters: ClassVar = {"clip_norm": LogRange(0.01, 1), "noise": Range(0, 1)}
        settings: ClassVar = {"blobs": replace(Blobs.settings["blobs"], augmentation={"noise": 0.0})}

    workload = Clipped().configured(replace(PLAIN, more={"clip_norm": 0.05, "noise": 0.5}))
    setting = workload.placed(workload.setting("blobs"))
    assert (setting.clip_norm, setting.augmentation["noise"]) == (0.05, 0.5)
    assert workload.given.unused == []


def test_the_list_of_workloads_has_their_ranges():
    ranges = Blobs().to_json()["ranges"]
    assert domain_from_json(ranges["sam"]["hyperparameters"]["slope"]) == Range(0, 0.3)
    assert "slope" not in ranges["base"]["hyperparameters"]


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
        hyperparameters: ClassVar = {**Blobs.hyperparameters, "temperature": Range(1, 4)}

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


HIDDEN = {"base": {"params": {"hidden": 4}}, "sam": {"params": {"hidden": 8}}}
PARAMS = {"bias": "false", "slope": "0.1", "label_smoothing": "0:0.1"}


def search(home, name="one", **options):
    return tune_sam.search(
        Blobs,
        **{
            "optimizers": ["base", "sam"],
            "trials": 2,
            "epochs": 1,
            "grid": False,
            "scheduler": "none",
            "params": PARAMS,
            "ranges": HIDDEN,
        }
        | options,
        name=name,
        home=home,
        executor=INLINE,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory, blank_figures):
    """A home with the study `one`, searched, refitted and reported."""
    found = tmp_path_factory.mktemp("home") / "home"
    search(found, optimizers=["base", "sam"], params={**PARAMS, "m": "4"})
    refit("one", home=found, seeds=2, executor=INLINE)
    report("one", home=found)
    return found


def test_a_search_over_the_loss_itself_is_not_judged_by_it(tmp_path):
    for objective in ("val/loss", "two"):
        with pytest.raises(
            Refused, match=r"another function for each label_smoothing, which is searched; judge by val/"
        ):
            search(tmp_path / "home", objective=objective)
    found = search(tmp_path / "home", objective="val/loss", params={**PARAMS, "label_smoothing": "0"}, trials=1)
    assert found.settings.objective == "val/loss"


def test_trials_are_suggested_and_recorded_with_their_hyperparameters(home):
    study = open_study("one", home)
    best = study.best("sam")
    assert best.config.more.keys() == {*Blobs.hyperparameters, "m"}
    assert (best.config.more["hidden"], best.config.more["slope"], best.config.more["m"]) == (8, 0.1, 4)
    assert 0 <= best.config.more["label_smoothing"] <= 0.1
    table = study.trials()
    assert table["weight_decay"].nunique() == len(table)
    assert table[table["optimizer"] == "base"]["m"].isna().all()
    assert best.to_json()["config"]["weight_decay"] == best.config.more["weight_decay"]
    json.dumps(study.to_record())
    assert best.load_model()[2].p == best.config.more["dropout"]


def test_a_refit_and_its_controls_train_with_the_hyperparameters_of_their_row(home):
    study = open_study("one", home)
    chosen = study.best("sam").config
    table = tested_refit(study).table()
    rows = table[(table["optimizer"] == "sam") & (table["kind"] == "refit")]
    control = table[table["kind"] == "control"]
    for name, value in chosen.more.items():
        assert set(rows[name]) == {value}
        assert name == "m" or set(control[name]) == {value}
    twice = open_study("one.twice", home).records()
    assert all(trial.config.more == study.best("base").config.more for trial in twice)


class OneSlope(Blobs):
    name = "one-slope"
    hyperparameters: ClassVar = {**Blobs.hyperparameters, "slope": {"sam": Range(0.1, 0.3)}}


@pytest.mark.slow
@pytest.mark.parametrize("others", [("sam", "asam"), ("asam", "sam")])
def test_each_control_has_the_hyperparameters_of_its_own_row_where_optimizers_differ_in_them(tmp_path, others):
    params = {"bias": "false", "label_smoothing": "0"}
    given = {"home": tmp_path / "home", "executor": INLINE}
    tune_sam.search(
        OneSlope, optimizers=["base", *others], trials=1, epochs=1, grid=False, params=params, name="one", **given
    )
    made = refit("one", seeds=2, **given)
    found = tested_refit(open_study("one", tmp_path / "home"))
    assert found.table().equals(made.table())
    table = found.table().set_index("row")
    compared = pairs(found.table(), found.choice, "rho")
    assert [table.loc[row, "optimizer"].iloc[0] for row, _ in compared] == list(others)
    for row, control in compared:
        one, other = table.loc[row].iloc[0], table.loc[control].iloc[0]
        assert (one["optimizer"] == "sam") == (one["slope"] > 0) == (other["slope"] > 0)
        for name in {"lr", "batch_size", *OneSlope.hyperparameters} - {"slope"}:
            assert one[name] == other[name], name
        assert one["optimizer"] == "asam" or one["slope"] == other["slope"]
        assert names_of(found)[control].startswith("control of ")
    assert not found.lacks_controls
    again = refit("one", seeds=3, **given)
    assert len(again.controls.records()) == 6


def test_a_row_is_compared_with_the_control_that_shares_its_hyperparameters(home):
    found = tested_refit(open_study("one", home))
    table = found.table()
    rows = {
        kind: table[(table["kind"] == kind) & (table["optimizer"] == of)]["row"].iloc[0]
        for kind, of in (("refit", "sam"), ("control", "base"))
    }
    assert pairs(table, found.choice, "rho") == [(rows["refit"], rows["control"])]
    assert names_of(found)[rows["control"]] == "control of SAM"


def test_runs_in_mlflow_have_them_as_params_and_in_their_names(home):
    study = open_study("one", home)
    best = study.best("sam")
    run = MlflowClient(study.tracking_uri).get_run(best.mlflow_run_id)
    assert run.data.params["hidden"] == "8"
    assert float(run.data.params["weight_decay"]) == best.config.more["weight_decay"]
    assert " hidden=8 " in run.info.run_name


def test_tables_and_the_page_show_them(home):
    study = open_study("one", home)
    best = study.best("sam")
    console = Console(width=200, file=io.StringIO())
    console.print(trial_table([best], study.settings))
    show_refit(tested_refit(open_study("one", home)), console)
    assert console.file.getvalue().count("label_smoothing") == 2
    page = next(home.glob("**/report.md")).read_text()
    columns = ["optimizer", "ρ", "learning rate", "batch size", *sorted([*Blobs.hyperparameters, "m"])]
    assert f"| {' | '.join(columns)} |" in page
    assert f"{best.config.more['weight_decay']:.4g}" in page
    coordinates = pd.read_csv(next(home.glob("**/parallel-coordinates.csv")))
    assert {"weight_decay", "dropout"} <= set(coordinates.columns)


def test_parallel_coordinates_have_an_axis_for_each_that_varies(home):
    frame = trials_with_values(open_study("one", home)).assign(norm=["batch", "layer", "batch", "batch"], fixed=1)
    axes = [axis["label"] for axis in json.loads(interactive("parallel-coordinates", frame))["data"][0]["dimensions"]]
    assert {"weight_decay", "dropout", "norm"} <= set(axes)
    assert not {"bias", "fixed"} & set(axes)
    labels = [text.get_text() for text in parallel_coordinates(frame).axes[0].get_xticklabels()]
    assert len(labels) == len(axes) - 2  # the optimizer and the state are colours and lines there


@pytest.mark.slow
def test_networks_of_different_shapes_are_measured_each_in_directions_of_its_own(home):
    with measured("one", home, Extent(grid=3), None, INLINE, Silent()) as found:
        assert found.surfaces.keys() == {"base", "sam"}
        assert found.lines == {}


def test_a_search_that_was_interrupted_suggests_the_same_when_resumed(tmp_path, home):
    search(tmp_path / "home", optimizers=["sam"], trials=1, params={**PARAMS, "m": "4"})
    tune_sam.resume("one", trials=2, home=tmp_path / "home", executor=INLINE)
    whole, resumed = (
        [trial.config for trial in open_study("one", place).records("sam")] for place in (home, tmp_path / "home")
    )
    assert resumed == whole


def test_the_recipe_of_the_best_trains_just_their_configurations(home, tmp_path):
    study = open_study("one", home)
    file = tmp_path / "best.yaml"
    file.write_text(as_yaml(best_alone(study)))
    settings = define(SearchOptions.read({"workload": study.settings.workload, "home": home}, file), study.home)
    for optimizer, space in settings.spaces.items():
        (point,) = space.grid
        assert Configuration.at(optimizer, point, study.best(optimizer).config.seed) == study.best(optimizer).config


def test_a_recipe_of_a_search_makes_the_same_study(home, tmp_path):
    study = open_study("one", home)
    file = tmp_path / "one.yaml"
    file.write_text(as_yaml(study.settings))
    options = SearchOptions.read({"workload": study.settings.workload, "home": home}, file)
    assert define(options, study.home).spaces == study.settings.spaces


def test_settings_with_hyperparameters_are_read_back_from_their_record(home):
    settings = open_study("one", home).settings
    assert StudySettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_a_space_of_an_earlier_release_has_no_further_hyperparameters():
    before = {"rho": [0.01, 1], "lr": [0.01, 1], "batch_size": [8], "grid": []}
    assert Space.from_json(before).more == {}
    assert Space.from_json(before).to_json() == before


def spaces(**options):
    chosen = SearchOptions.read(
        {"workload": Blobs, "optimizers": ["base", "sam", "asam"], "home": Path("/none"), **options}
    )
    return define(chosen, home_of(chosen)).spaces


def test_a_search_without_further_options_has_the_workloads_ranges_and_starts_with_the_defaults():
    space = spaces()["sam"]
    assert space.more == {**Blobs.hyperparameters, "slope": Range(0, 0.3)}
    assert {point["dropout"] for point in space.grid} == {0.1}
    assert {point["weight_decay"] for point in space.grid} == {0.0003162}


@pytest.mark.parametrize(
    ("given", "domain"),
    [
        ("weight_decay=1e-4:1e-3", LogRange(1e-4, 1e-3)),
        ("dropout=0:0.2", Range(0, 0.2, default=0.1)),
        ("dropout=0.2:0.4", Range(0.2, 0.4)),
        ("weight_decay=0", Choice(0.0)),
        ("dropout=0.1,0.3", Choice(0.1, 0.3, default=0.1)),
        ("momentum=0.5", Choice(0.5)),
        ("activation=tanh", Choice("tanh")),
        ("bias=true", Choice(True)),
    ],
)
def test_a_person_narrows_or_fixes_a_range(given, domain):
    name = given.partition("=")[0]
    assert spaces(params=[given])["sam"].more[name] == domain


def test_a_range_can_be_that_of_one_optimizer():
    found = spaces(params={"dropout": 0.2}, ranges={"sam": {"params": {"dropout": [0.3, 0.4]}}})
    assert (found["sam"].more["dropout"], found["asam"].more["dropout"]) == (Choice(0.3, 0.4), Choice(0.2))


def test_m_is_searched_where_it_is_asked_for_and_of_those_optimizers_that_climb():
    found = spaces(params={"m": "2,4"})
    assert found["sam"].more["m"] == Choice(2, 4)
    assert "m" not in found["base"].more
    assert all("m" not in space.more for space in spaces().values())


def test_a_plain_grid_combines_the_values_that_are_given_and_has_the_defaults_of_the_others():
    found = spaces(sampler="grid", rho="0.1", params={"momentum": "0.5,0.9", "dropout": 0.2})["sam"]
    assert [point["momentum"] for point in found.grid] == [0.5, 0.9]
    assert {point["dropout"] for point in found.grid} == {0.2}
    assert {point["hidden"] for point in found.grid} == {4}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dropuot=0.1", "no further hyperparameter 'dropuot' for base, sam, asam; it has activation, bias, dropout"),
        ("lr=0.1", "give --lr"),
        ("batch_size=8", "give --batch-size"),
        ("momentum=0.7", "--param momentum=0.7: 0.7 is not one of 0.9,0.5"),
        ("activation=gelu", "gelu is not one of relu,tanh"),
        ("bias=1", "1 is not one of true,false"),
        ("momentum=0.1:0.9", "is not one of 0.9,0.5"),
        ("dropout=high", "it is a number; give a range as LOW:HIGH"),
        ("dropout=0.5:0.1", "LOW:HIGH with LOW below HIGH"),
        ("weight_decay=0:0.1", "searched in logarithms"),
        ("m=0", "whole numbers above 0"),
        ("m=2:8", "whole numbers above 0"),
        ("dropout=", "expected a range as LOW:HIGH"),
        ("dropout", "expected NAME=LOW:HIGH"),
    ],
)
def test_what_no_hyperparameter_can_be_is_refused_in_a_sentence(given, said):
    with pytest.raises(Refused, match=said):
        spaces(params=[given])


def test_the_command_line_takes_each_by_its_name(monkeypatch, capsys, tmp_path):
    words = ["search", "test_hyperparameters:Blobs", "--param", "dropout=0.2", "--param", "dropuot=0.1"]
    monkeypatch.setattr(sys, "argv", ["tune-sam", *words, "--home", str(tmp_path / "home")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    known = sorted(["m", *Blobs.hyperparameters])
    assert f"it has {', '.join(known)}." in capsys.readouterr().err


def test_a_hyperparameter_of_another_optimizer_alone_is_unknown():
    with pytest.raises(Refused, match="no further hyperparameter 'slope' for base; it has"):
        spaces(optimizers=["base"], params=["slope=0.1"])


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"lr": LogRange(0.1, 1)}, "'lr', a name that tune_sam itself uses"),
        ({"epochs": Choice(1, 2)}, "'epochs', a name that tune_sam itself uses"),
        ({"state": Choice(1, 2)}, "'state', a name that tune_sam itself uses"),
        ({"score": Choice("dot", "add")}, "'score', a name that tune_sam itself uses"),
        ({"loss": Choice("a", "b")}, "'loss', a name that tune_sam itself uses"),
        *(
            ({name: Choice(1, 2)}, f"'{name}', a name that tune_sam itself uses")
            for name in (
                "ratio",
                "worst_case_own_rho",
                "trace_error",
                "lambda_max_resolved",
                "samples",
                "base_epochs",
                "gap",
            )
        ),
        ({"weight decay": LogRange(0.1, 1)}, "no name of Python's"),
        ({"slope": (0, 1)}, "give a LogRange, a Range or a Choice"),
        ({"slope": {"sam": 0.1}}, "give a LogRange, a Range or a Choice"),
        ({"m": LogRange(2, 8)}, "whole numbers above 0"),
        (
            {"slope": {"SAM": Range(0, 1)}},
            "gives its slope for 'SAM', which is no optimizer; choose from base, sam, asam,",
        ),
    ],
)
def test_a_hyperparameter_that_cannot_be_searched_is_refused(monkeypatch, declared, said):
    monkeypatch.setattr(Blobs, "hyperparameters", declared)
    with pytest.raises(Refused, match=said):
        spaces()


def test_a_range_of_rho_of_an_optimizer_that_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(Blobs, "rho", {"mine:Own": LogRange(0.01, 1), "SAM": LogRange(0.01, 1)})
    with pytest.raises(Refused, match="gives its rho for 'SAM', which is no optimizer; choose from base, sam, asam,"):
        spaces()


def test_a_linear_range_of_the_learning_rate_is_refused(monkeypatch):
    monkeypatch.setattr(Blobs, "lr", Range(0.01, 1))
    with pytest.raises(Refused, match="searched in logarithms; give a tune_sam.space.LogRange"):
        spaces()


def test_a_yaml_file_gives_hyperparameters_as_a_mapping(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"params": {"dropout": "0:0.2", "momentum": [0.5], "hidden": 8}}))
    more = (
        define(
            SearchOptions.read({"workload": Blobs, "home": tmp_path}, file),
            home_of(SearchOptions.read({"workload": Blobs, "home": tmp_path})),
        )
        .spaces["sam"]
        .more
    )
    assert (more["dropout"], more["momentum"], more["hidden"]) == (Range(0, 0.2, default=0.1), Choice(0.5), Choice(8))


class TestBlobs(WorkloadContract):
    workload = "test_hyperparameters:Blobs"
    samples = 32
