"""A study's options as a command, which the command line reads back."""

import shlex
from dataclasses import replace

import pytest

from tune_sam.cli.app import app
from tune_sam.home import Home
from tune_sam.settings import SearchOptions
from tune_sam.space import Choice, Configuration, LogRange, Range, Space
from tune_sam.trainables.gcn import GCN
from tune_sam.tuning.plan import define
from tune_sam.tuning.recipe import as_command, as_options, as_yaml
from tune_sam.workload import Preset


class Declared(GCN):
    """The digits with further hyperparameters, one of SAM's alone."""

    name = "declared"
    datasets = {"digits": GCN.datasets["digits"]}
    presets = {"one-size": Preset(GCN.settings["digits"], {"batch_size": "64"})}
    hyperparameters = {
        "weight_decay": LogRange(1e-5, 1e-2),
        "norm": Choice("batch", "layer"),
        "slope": {"sam": Range(0, 0.3)},
    }


class Read(Exception):
    """Carries what a command line gave the search."""


def settings_of(command, home):
    """What the search of a command would be."""

    def search(workload, *, config, listener, **options):
        raise Read({"workload": workload, **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune_sam.tuning.runner.search", search)
        with pytest.raises(Read) as found:
            app(shlex.split(command)[1:], standalone_mode=False)
    return define(SearchOptions.read(found.value.args[0]), home)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


DECLARED = {"workload": "test_recipe:Declared", "trials": 7}
BOTH = {"workload": "gcn", "optimizers": ["base", "sam"]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"optimizers": ["base"]}, "--optimizer base"),
        (
            {"optimizers": ["sam"], "rho": "0.01:0.5", "trials": 40, "epochs": 7, "seed": 3, "dataset": "digits"},
            "--optimizer sam --epochs 7 --dataset digits --seed 3 --trials 40 --rho 0.01:0.5",
        ),
        ({"preset": "report-network", "epochs": 3, "rho": "0.01:0.1"}, "--preset report-network --epochs 3"),
        ({"train_subset": 100, "objective": "two", "sampler": "random"}, "--train-subset 100 --objective two"),
        ({"sampler": "grid", "rho": "0.05", "lr": "0.001,0.01"}, "--sampler grid --lr 0.001,0.01 --rho 0.05"),
        ({**DECLARED, "params": {"norm": "layer", "slope": "0.1:0.2"}}, "--param norm=layer --param slope=0.1:0.2"),
        ({**DECLARED, "trials": 20, "sampler": "gp", "params": {"m": "16,32"}}, "--sampler gp --param m=16,32"),
        ({"sampler": "grid", "rho": "0.01,0.1", "train_subset": 100}, "--sampler grid --rho 0.01,0.1"),
        ({"sampler": "grid", "rho": "0.1", "batch_size": "32,64,128"}, "--rho 0.1 --batch-size 32,64,128"),
        (
            {"workload": "test_recipe:Declared", "sampler": "grid", "rho": "0.1", "params": {"norm": "batch,layer"}},
            "--rho 0.1 --param norm=batch,layer",
        ),
        ({**DECLARED, "preset": "one-size", "batch_size": "32,64,128"}, "--batch-size 32,64,128"),
        ({"train_subset": 50}, "--train-subset 50 --rho 0.001:1"),
        (
            {
                **{"lr": "0.001:0.1", "batch_size": "32,64", "label_noise": 0.2, "train_subset": 500, "compile": True},
                **{"scheduler": "median", "sampler": "qmc", "objective": "val/loss", "budget": "compute"},
                **{
                    "dataset": "digits",
                    "split_seed": 4,
                    "time_budget": "1h30m",
                    "stall_timeout": "off",
                    "patience": 5,
                    "epoch_budget": 900,
                },
                **{"cpus_per_trial": 0.5, "gpus_per_trial": "auto", "precision": "fp32", "grid": False},
            },
            "--compile --no-grid --time-budget 1h30m --stall-timeout off --batch-size 32,64",
        ),
    ],
)
def test_a_command_has_what_differs_from_the_defaults_and_makes_the_same_study(given, words, home):
    settings = define(SearchOptions.read({**BOTH, **given}), home)
    command = as_command(settings, home)
    assert set(words.split()) <= set(command.split())
    assert settings_of(command, home) == settings
    assert define(SearchOptions.read({"workload": settings.workload, **as_options(settings)}), home) == settings


def test_a_file_is_for_any_machine_and_a_command_for_this_one(home, tmp_path):
    settings = replace(define(SearchOptions.read(BOTH), home), data=str(tmp_path))
    assert f"--data {tmp_path}" in as_command(settings, home)
    assert str(tmp_path) not in as_yaml(settings)


def test_a_command_leaves_the_defaults_out(home):
    settings = define(SearchOptions.read({**DECLARED, "optimizers": ["base", "sam"]}), home)
    assert as_command(settings, home) == (
        "tune-sam search test_recipe:Declared --optimizer base --optimizer sam --trials 7 --rho 0.001:1"
    )


class Fixed(Declared):
    """A workload that fixes rate and radius."""

    name = "fixed"
    lr = LogRange(0.05, 0.05)
    rho = {"sam": LogRange(0.1, 0.1)}


def test_a_rate_and_a_radius_that_the_workload_fixes_are_read_back(home, tmp_path):
    options = {"workload": "test_recipe:Fixed", "optimizers": ["base", "sam"], "trials": 3, "grid": False}
    settings = define(SearchOptions.read(options), home)
    (tmp_path / "study.yaml").write_text(as_yaml(settings))
    again = SearchOptions.read({"workload": "test_recipe:Fixed"}, tmp_path / "study.yaml")
    assert define(again, home) == settings


@pytest.mark.parametrize("rho", [GCN.published_rho[0], 0.3, 0.0013104280906962081])
def test_a_single_radius_is_written_as_a_value(rho, home):
    """A published one, too, of which the range from itself to itself has a grid."""
    options = {**BOTH, "optimizers": ["asam-all"], "sampler": "grid", "rho": str(rho), "lr": "0.01"}
    settings = define(SearchOptions.read(options), home)
    single = Space.of([Configuration("asam-all", rho, 0.01, 64, 0)], (0,))
    for spaces in (settings.spaces, {"asam-all": single}):  # as given, and as what a search found best
        assert as_options(replace(settings, spaces=spaces))["ranges"]["asam-all"]["rho"] == str(rho)
