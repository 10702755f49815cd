import json
import math

import pytest
import torch

from tune_sam.analysis import spectrum
from tune_sam.analysis.sharpness import average_case, worst_case
from tune_sam.flatness import (
    COMMON_RHO,
    SIGMA,
    Flatness,
    Measure,
    batches_of,
    columns,
    measure,
    quick,
)
from tune_sam.measures import COLUMNS, MEASURES
from tune_sam.space import Configuration
from tune_sam.store import TensorStore
from tune_sam.training import Trainer
from tune_sam.workload import find_workload

CONFIGURATION = Configuration("asam", 0.3, 0.1, 16, 0)
CHEAP = {"lambda_max", "lambda_min", "ratio", "lambda_max_over_lambda_5", "trace", "worst_case", "batch_lambda_max"}
SIZE = 128

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store():
    generator = torch.Generator().manual_seed(0)
    return TensorStore(torch.randn(300, 4, generator=generator), torch.randint(0, 3, (300,), generator=generator))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()


def batches(store):
    return [(inputs.double(), targets) for inputs, targets in batches_of(store, SIZE, CPU)]


@pytest.fixture(scope="module")
def found(store, model):
    return measure("s/asam/0", model, torch.nn.functional.cross_entropy, batches(store), CONFIGURATION)


def test_all_samples_are_in_the_batches(store):
    assert sum(len(targets) for _, targets in batches_of(store, SIZE, CPU)) == len(store)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches_of(store, SIZE, CPU)]), store.x)


def test_each_measure_is_the_one_that_its_name_says(store, model, found):
    loss, given = torch.nn.functional.cross_entropy, batches(store)
    expected = {
        "worst_case": worst_case(model, loss, given, COMMON_RHO),
        "worst_case_adaptive": worst_case(model, loss, given, COMMON_RHO, scale="adaptive"),
        "worst_case_own_rho": worst_case(model, loss, given, 0.3, scale="asam"),
        "average_case": average_case(model, loss, given, SIGMA, scale="rms"),
        "average_case_adaptive": average_case(model, loss, given, SIGMA, scale="adaptive"),
    }
    assert found.measures.keys() == CHEAP | expected.keys() == set(MEASURES)
    for name, one in expected.items():
        assert found.measures[name].value == pytest.approx(one.value), name
        assert found.measures[name].error == pytest.approx(one.error), name


def test_the_base_optimizer_has_no_radius_of_its_own(store, model):
    base = measure(
        "s/base/0", model, torch.nn.functional.cross_entropy, batches(store), Configuration("base", None, 0.1, 16, 0)
    )
    assert "worst_case_own_rho" not in base.measures


def test_the_cheap_measures_agree_with_the_others(store, model, found):
    cheap = measure("s/asam/0", model, torch.nn.functional.cross_entropy, batches(store), CONFIGURATION, cheap=True)
    assert cheap.measures.keys() == CHEAP
    assert cheap.products < found.products
    for name in CHEAP:
        one, other = cheap.measures[name], found.measures[name]
        assert abs(one.value - other.value) <= 4 * (one.error + other.error) + 1e-3 * abs(other.value), name


def test_a_record_survives_json(found):
    assert Flatness.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_lambda_max_of_single_batches_is_their_mean_with_their_spread(store, model, found):
    *whole, last = batches(store)
    assert [len(targets) for _, targets in (*whole, last)] == [128, 128, 44], "the smaller one is not among them"
    each = [float(spectrum(model, torch.nn.functional.cross_entropy, [batch]).lambda_max) for batch in whole]
    assert found.measures["batch_lambda_max"].value == pytest.approx(sum(each) / len(each), rel=1e-3)
    assert found.measures["batch_lambda_max"].error == pytest.approx(torch.tensor(each).std().item(), rel=0.02)


def test_mlflow_gets_nan_for_an_unresolved_value(found):
    measures = {
        "lambda_max": Measure(3.0, 0.1, True),
        "ratio": Measure(2.0, 5.0, False),
        "trace": Measure(1.0, math.nan, True),
    }
    told = Flatness(**{**found.to_json(), "measures": measures}).metrics()
    assert {name: value for name, value in told.items() if not math.isnan(value)} == {
        "lambda_max": 3.0,
        "lambda_max_error": 0.1,
        "ratio_error": 5.0,
        "trace": 1.0,
    }
    assert told.keys() - {"lambda_max", "lambda_max_error", "ratio_error", "trace"} == {"ratio", "trace_error"}


def test_a_row_has_each_measure_with_its_error(found):
    row = columns([found]).iloc[0]
    assert {*row.index} == {*COLUMNS}
    assert row["key"] == "s/asam/0"
    for name, one in found.measures.items():
        assert (row[name], row[f"{name}_error"], row[f"{name}_resolved"]) == (one.value, one.error, one.resolved)


def test_a_quick_sharpness_is_the_worst_case_of_the_validation_part():
    gcn = find_workload("gcn")
    trainer = Trainer(
        gcn,
        gcn.settings["digits"],
        Configuration("sam", 0.05, 0.01, 64, 0),
        gcn.splits("digits", None),
        epochs=1,
        device=torch.device("cpu"),
    )
    trainer.epoch()
    validation = batches_of(trainer.splits.validation, gcn.evaluation_batch // 2, CPU)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    found = quick(trainer)
    assert found == worst_case(trainer.model.eval(), gcn.criterion, validation, 0.05, steps=5, restarts=0).value
    assert found > 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        (Measure(86.42901, 1e-5, True), "86.43"),
        (Measure(365.21, 5.4, True), "365 ± 5"),
        (Measure(-0.48252, 0.0003, True), "-0.4825 ± 0.0003"),
        (Measure(0.001, 0.02, True), "0.00 ± 0.02"),
        (Measure(230.4, 13.2, True), "230 ± 13"),
        (Measure(0.00028914, 5e-8, True), "0.0002891"),
        (Measure(12.0, 3.0, False), "unresolved"),
        (Measure(0.1561, 0.0021, True, lower_bound=True), "0.156 (+0.002 late)"),
        (Measure(0.1561, 1e-8, True, lower_bound=True), "0.1561"),
    ],
)
def test_a_measure_is_shown_with_its_error(measure, text):
    assert str(measure) == text
