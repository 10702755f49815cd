"""The registry of optimizers: ours, an installed one, one that a person names, and one that a record names alone."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import own_optimizers
import pytest
import torch
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.evaluation.claims import answers
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.names import optimizer_names as names_of_study
from tune_sam.evaluation.refit import tested_refit
from tune_sam.operations.refit import refit
from tune_sam.operations.status import stages
from tune_sam.optim import SAM
from tune_sam.optimizers import (
    OURS,
    distinct_labels,
    find_optimizer,
    gradients_of,
    known_optimizer,
    label_of,
    optimizer_names,
    optimizers,
    scale_of,
)
from tune_sam.reporting.compute import compute_section
from tune_sam.reporting.results import configurations_section
from tune_sam.settings import SearchOptions
from tune_sam.space import Configuration
from tune_sam.study.records import open_study
from tune_sam.training import build_optimizer
from tune_sam.tuning.plan import search_space
from tune_sam.workload import find_workload

GCN = find_workload("gcn")
HALF = "own_optimizers:Half"


@pytest.fixture
def installed(monkeypatch):
    """A package of somebody else's whose metadata names an optimizer."""
    point = EntryPoint("half", HALF, "tune_sam.optimizers")
    monkeypatch.setattr("tune_sam.plugins.entry_points", lambda group, name="half": [point] if name == "half" else [])
    find_optimizer.cache_clear()
    yield
    find_optimizer.cache_clear()


def test_ours_come_first_and_are_described():
    assert optimizer_names()[:4] == ["base", "sam", "asam", "asam-all"]
    for entry in optimizers():
        assert entry.label
        assert entry.source
        assert "\n" not in entry.description
        assert entry.gradients >= 1
        assert (entry.rho is None) == (not entry.rho_source), "a range says where it comes from"
    assert [find_optimizer(name).gradients for name in ("base", "sam")] == [1, 2]


def test_describing_them_imports_no_torch():
    code = "import sys; from tune_sam.optimizers import optimizers; assert optimizers() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_optimizers_with_one_label_have_their_names_beside_it():
    labels = {"base": "Adam", "sam": "SAM", "mine:SAM": "SAM"}
    assert distinct_labels(labels) == {"base": "Adam", "sam": "SAM (sam)", "mine:SAM": "SAM (mine:SAM)"}


@pytest.mark.usefixtures("installed")
def test_an_installed_optimizer_joins_ours():
    assert optimizer_names()[-1] == "half"
    assert optimizers()[-1].label == "Half of SAM"
    options = SearchOptions.read({"workload": "gcn", "optimizers": ["base", "half"]})
    assert options.optimizers == ("base", "half")
    assert GCN.rho_range("half") == own_optimizers.Half.rho


def test_one_that_a_person_names_is_built_with_the_workloads_own_inside():
    configuration = Configuration(HALF, 0.4, 0.01, 64, 0)
    built = build_optimizer(GCN.network(GCN.settings["digits"]), GCN, configuration)
    assert isinstance(built, SAM)
    assert built.param_groups[0]["rho"] == 0.2
    assert isinstance(built.base_optimizer, torch.optim.Adam)


def test_a_range_is_the_persons_else_the_workloads_else_the_optimizers():
    def rho(optimizer, **given):
        options = SearchOptions.read({"workload": "gcn", "optimizers": [optimizer], **given})
        return search_space(options, GCN, "digits", optimizer).rho

    assert rho(HALF).to_json() == [0.02, 1]
    assert rho("sam") == GCN.rho["sam"]
    assert rho(HALF, rho="0.1:0.2").to_json() == [0.1, 0.2]
    assert rho("own_optimizers:Plain", rho="0.1:0.2") is None, "it has no ρ"


def test_a_class_is_named_by_its_module():
    options = SearchOptions.read({"workload": "gcn", "optimizers": ["base", own_optimizers.Half]})
    assert options.optimizers == ("base", HALF)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adamw", "there is no optimizer 'adamw'; choose from base, sam, asam, asam-all, .*or give your own as"),
        ("nowhere:Thing", "cannot be imported"),
        (":", "there is no optimizer ':'"),
        ("../there:Half", "there is no optimizer '../there:Half'"),
        ("own_optimizers:SAM", "is not a subclass of tune_sam.optimizers.OptimizerEntry"),
        ("own_optimizers:Incomplete", "is not complete .*build"),
        ("own_optimizers:Bare", "is not complete; give its class label, description, source, rho, gradients"),
        ("own_optimizers:Free", "has 0 as its `gradients`; give it a number above 0"),
        ("own_optimizers:Written", "has '0.1:1' as its `rho`; give it a LogRange, or None"),
    ],
)
def test_what_is_no_optimizer_is_refused_in_a_sentence(name, said):
    with pytest.raises(Refused, match=said):
        SearchOptions.read({"workload": "gcn", "optimizers": [name]})


def test_code_that_a_record_names_alone_is_not_imported_and_its_numbers_are_still_read(tmp_path, monkeypatch):
    (tmp_path / "sent.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match="if you trust it, give --optimizer sent:Evil, or import sent in Python"):
        known_optimizer("sent:Evil")
    assert (label_of("sent:Evil"), gradients_of("sent:Evil"), scale_of("sent:Evil")) == ("sent:Evil", 2, None)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_one_that_a_person_names_is_searched_refitted_and_registered(tmp_path):
    options = {"dataset": "digits", "trials": 1, "epochs": 5, "train_subset": 200, "batch_size": [40], "grid": False}
    home, names = tmp_path / "home", ["base", HALF, "look-sam"]
    tune_sam.search("gcn", optimizers=names, name="one", home=home, executor=INLINE, rho="0.05:0.2", **options)
    found = refit("one", home=home, seeds=1, controls=False, register="own", executor=INLINE)
    assert not found.undelivered
    study = open_study("one", home)
    assert names_of_study(study) == {"base": "Adam", HALF: "Half of SAM", "look-sam": "LookSAM"}
    assert study.best(HALF).config.optimizer == HALF
    # 25 steps of 40 samples, of which each fifth has two passes
    assert [study.gradients(study.best(name), 0) for name in names] == [1000, 2000, 1200]
    # and each optimizer has the base optimizer at its own cost
    assert [child.name for child in found.studies[:3]] == ["one.refit", "one.twice", "one.1.2-times"]
    assert list(names_of(tested_refit(study)).values())[:5] == [
        "Adam",
        "Half of SAM",
        "LookSAM",
        "Adam × 2 epochs",
        "Adam × 1.2 epochs",
    ]
    dear = answers(study, found).help_at_equal_compute
    costs = found.summary()
    for claim in dear:
        assert costs[claim.row]["gradients"].value == pytest.approx(costs[claim.to]["gradients"].value, rel=0.05)
    assert {claim.optimizer for claim in dear} == {HALF, "look-sam"}
    assert "for 1.2 times the epochs, which cost what LookSAM costs" in str(configurations_section(found))


def test_a_study_is_not_resumed_with_code_that_its_record_names_alone(tmp_path, monkeypatch):
    home = tmp_path / "home"
    tune_sam.search(
        "gcn", optimizers=[HALF], dataset="digits", trials=1, epochs=1, train_subset=200, name="one", home=home,
        executor=INLINE,
    )  # fmt: skip
    monkeypatch.delitem(sys.modules, "own_optimizers")
    with pytest.raises(Refused, match="give --optimizer own_optimizers:Half"):
        tune_sam.resume("one", home=home, trials=2, executor=INLINE)
    assert open_study("one", home).best().config.optimizer == HALF


def test_what_a_study_cost_is_told_when_the_class_of_its_own_optimizer_is_gone(tmp_path, monkeypatch):
    home, names = tmp_path / "home", ["base", "own_optimizers:Dear"]
    options = {"dataset": "digits", "epochs": 1, "train_subset": 200, "batch_size": [64], "grid": False}
    tune_sam.search(
        "gcn", optimizers=names, trials=1, budget="compute", name="one", home=home, executor=INLINE, **options
    )
    monkeypatch.delitem(sys.modules, "own_optimizers")
    study = open_study("one", home)
    assert [study.settings.trials_of(name) for name in names] == [3, 1], "as many of base as cost the same"
    assert study.counts() == {"complete": 4}
    assert stages(study)[0].left == 0
    (trial,) = study.records("own_optimizers:Dear")
    assert study.gradients(replace(trial, metrics={}), 200) == 3 * 200, "which counted none, as where it diverged"
    assert [str(row[0]) for row in compute_section(study, None, {}).tables[0].rows][1:] == ["Adam", names[1]]


def test_the_page_of_the_optimizers_has_what_they_say_of_themselves():
    page = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text()
    rows = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", page.replace("\\|", "∣"), re.MULTILINE)]
    plain = [[re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell) for cell in row] for row in rows]
    assert [row[0] for row in plain] == [f"`{name}`" for name in OURS]
    for name, _, passes, rho, _ in plain:
        entry = OURS[name.strip("`")]
        assert passes == f"{entry.gradients:g}"
        assert rho == (f"{entry.rho.low:g} to {entry.rho.high:g}: {entry.rho_source}" if entry.rho else "–")


def test_the_optimizer_of_the_page_is_one(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text()
    use, own = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(use, {})
    (tmp_path / "half.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    entry = find_optimizer("half:HalfSAM")
    built = entry.build(torch.nn.Linear(2, 2), partial(torch.optim.SGD, lr=0.1), Configuration("x", 0.4, 0.1, 8, 0))
    assert built.param_groups[0]["rho"] == 0.2
