import math
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest

from tune_sam.home import Home
from tune_sam.reporting.plots import _densities, _if_near, _surface, draw_trainings, importances
from tune_sam.space import LogRange, Space
from tune_sam.study.records import Study
from tune_sam.study.settings import StudySettings
from tune_sam.study.storage import open_storage
from tune_sam.tuning.ledger import Ledger, Outcome
from tune_sam.tuning.plan import store

SPACE = Space(LogRange(0.001, 1), LogRange(1e-4, 1e-1), (32, 64), ())


@pytest.fixture
def study(tmp_path):
    settings = StudySettings(
        workload="gcn",
        dataset="digits",
        data="/data",
        optimizers=("sam", "asam"),
        trials=20,
        epochs=10,
        seed=7,
        scheduler="none",
        spaces={"sam": SPACE, "asam": SPACE},
    )
    return Study("one", Home(tmp_path), settings, "2026-01-02T03:04:05+00:00", "sqlite:////m.db", "1", "p", "/s")


def told(study, optimizer, points, value):
    made = optuna.create_study(storage=open_storage(study.home), study_name=f"one/{optimizer}", direction="maximize")
    for rho, lr, size in points:
        distributions = {
            "rho": optuna.distributions.FloatDistribution(0.001, 1, log=True),
            "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
            "batch_size": optuna.distributions.CategoricalDistribution((32, 64)),
        }
        made.add_trial(
            optuna.trial.create_trial(
                params={"rho": rho, "lr": lr, "batch_size": size}, distributions=distributions, value=value(rho, lr)
            )
        )


def test_what_has_one_value_has_no_importance(study):
    points = [(0.002 * 2**k, 1e-3 * 2 ** (k * 5 % 4), 64) for k in range(8)]
    told(study, "sam", points, lambda rho, lr: 0.5 + rho)
    told(study, "asam", [(rho, 0.01, 64) for rho, *_ in points], lambda rho, lr: 0.5 + rho)
    found = importances(study)
    assert list(found) == ["sam"], "with ρ alone varied there is nothing to compare"
    assert set(found["sam"]) == {"rho", "lr"}
    assert found["sam"]["rho"] > 0.6


def test_importances_are_shares_of_the_variance_and_leave_out_what_two_explain_together(study):
    points = [(0.002 * 4 ** (k % 4), 1e-3 * 4 ** (k // 4), 64) for k in range(16)]
    told(study, "sam", points, lambda rho, lr: 0.5 + 0.4 * ((rho > 0.02) == (lr > 0.01)))
    told(study, "asam", points[:2], lambda rho, lr: 0.5)
    assert sum(importances(study)["sam"].values()) < 0.95, "normalised they would sum to 1"


def test_a_few_trials_or_equal_values_have_no_importance(study):
    told(study, "sam", [(0.01, 0.01, 64), (0.1, 0.001, 64), (0.2, 0.002, 32)], lambda rho, lr: rho)
    told(study, "asam", [(0.01 * k, 0.01 / k, 64) for k in range(1, 7)], lambda rho, lr: 0.5)
    assert importances(study) == {}


def test_learning_curves_are_those_of_the_ledger_wherever_mlflow_is(study, tmp_path):
    store(study)
    book = Ledger(open_storage(study.home), "one", "sam", study.settings)
    number = book.suggest("t").number
    losses = {epoch: 1 / epoch for epoch in range(1, 7)}
    for epoch, loss in losses.items():
        metrics = dict.fromkeys(("train/loss", "val/loss"), loss) | dict.fromkeys(
            ("train/accuracy", "val/accuracy"), 0.5
        )
        book.report(number, epoch, metrics)
    book.end(number, Outcome("complete", "", 6, metrics, 1.0, "node", 1))
    draw_trainings(study, study.records("sam"), tmp_path / "figures")
    drawn = pd.read_csv(tmp_path / "figures" / "learning-curves.csv")
    assert dict(zip(drawn["epoch"], drawn["val/loss"], strict=True)) == pytest.approx(losses)
    assert (tmp_path / "figures" / "learning-curves.png").exists()


@pytest.mark.parametrize(("points", "drawn"), [(3, False), (20, False), (6, False), (15, True), (21, True)])
def test_near_the_minimum_is_drawn_where_a_grid_has_points_there(points, drawn):
    surface = _surface({"sam": [0.1] * points**2}, points)
    assert bool(len(_if_near(surface))) == drawn


def test_an_unresolved_eigenvalue_is_not_marked():
    def flatness(resolved):
        largest = SimpleNamespace(value=12.0, resolved=resolved)
        return SimpleNamespace(eigenvalues=(0.0, 1.0), density=(0.5, 0.4), measures={"lambda_max": largest})

    trials = [SimpleNamespace(optimizer=one, key=one) for one in ("base", "sam")]
    found = _densities(SimpleNamespace(trials=trials, flatness={"base": flatness(True), "sam": flatness(False)}))
    assert found.groupby("optimizer")["lambda_max"].first().to_dict() == {
        "base": 12.0,
        "sam": pytest.approx(math.nan, nan_ok=True),
    }
