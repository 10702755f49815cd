"""Which rows each question compares, and what the answers say; on tables as a refit and an analysis give them."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tune_sam.evaluation.claims import at_equal_loss, chosen_radii, claims, pairs, with_flatness
from tune_sam.evaluation.selection import Choice
from tune_sam.study.records import Study, open_study

SEEDS = range(5)
ROWS = {  # name: kind, optimizer, learning rate, batch size
    "base": ("refit", "base", 0.01, 64),
    "sam": ("refit", "sam", 0.02, 64),
    "asam": ("refit", "asam", 0.01, 64),
    "base twice": ("equal-compute", "base", 0.01, 64),
    "base control": ("control", "base", 0.02, 64),
}


def table(rows=None, **columns):
    """A row for each training of each row; `columns` holds the values of each row by its name."""
    found = pd.DataFrame(
        [
            {
                "row": row,
                "kind": kind,
                "optimizer": optimizer,
                "lr": lr,
                "batch_size": size,
                "seed": seed,
                "base_epochs": {"base twice": 20, "sam": 20, "asam": 20, "look-sam": 12, "base × 1.2": 12}.get(row, 10),
            }
            for row, (kind, optimizer, lr, size) in (rows or ROWS).items()
            for seed in SEEDS
        ]
    )
    found["matched"] = found["lr"].astype(str) + " " + found["batch_size"].astype(str)
    found["key"] = found["row"] + "/" + found["seed"].astype(str)
    for name, values in columns.items():
        found[name] = np.concatenate([values[row] for row in found["row"].unique()])
    return found


def test_each_question_has_a_row_of_its_own_to_compare_with():
    compared = {question: pairs(table(), Choice(), question) for question in ("use", "compute", "rho")}
    assert compared == {
        "use": [("sam", "base"), ("asam", "base")],
        "compute": [("sam", "base twice"), ("asam", "base twice")],
        "rho": [("sam", "base control"), ("asam", "base")],
    }


def test_of_several_configurations_the_best_is_compared_and_each_with_its_control():
    rows = {**ROWS, "second": ("refit", "sam", 0.01, 64), "second base": ("refit", "base", 0.05, 64)}
    assert pairs(table(rows), Choice(top=2), "use") == [("sam", "base"), ("asam", "base")]
    assert ("second", "base") in pairs(table(rows), Choice(top=2), "rho")


def test_each_optimizer_is_compared_with_the_base_optimizer_at_its_own_cost():
    more = {"look-sam": ("refit", "look-sam", 0.01, 64), "base × 1.2": ("equal-compute", "base", 0.01, 64)}
    compared = pairs(table(ROWS | more), Choice(), "compute")
    assert compared == [("sam", "base twice"), ("asam", "base twice"), ("look-sam", "base × 1.2")]
    assert ("look-sam", "base") in pairs(table(ROWS | more), Choice(), "use")


def test_each_batch_size_has_its_own_base_row():
    rows = {**ROWS, "large": ("refit", "sam", 0.02, 128), "large base": ("refit", "base", 0.01, 128)}
    choice = Choice(each_batch_size=True)
    assert pairs(table(rows), choice, "use") == [("sam", "base"), ("asam", "base"), ("large", "large base")]
    assert pairs(table(rows), choice, "compute") == [("sam", "base twice"), ("asam", "base twice")]
    assert pairs(table(rows), choice, "rho") == [("sam", "base control"), ("asam", "base")]


def test_a_grid_with_several_base_rows_has_no_best_one():
    rows = {**ROWS, "other base": ("refit", "base", 0.02, 64)}
    del rows["base control"]
    choice = Choice(planned=True)
    assert pairs(table(rows), choice, "use") == pairs(table(rows), choice, "compute") == []
    assert pairs(table(rows), choice, "rho") == [("sam", "other base"), ("asam", "base")]
    assert pairs(table(), choice, "use") == [("sam", "base"), ("asam", "base")]


def test_without_a_base_optimizer_rows_are_compared_with_their_controls_alone():
    rows = {row: what for row, what in ROWS.items() if row in ("sam", "base control")}
    assert pairs(table(rows), Choice(), "use") == []
    assert pairs(table(rows), Choice(), "rho") == [("sam", "base control")]


def test_comparisons_of_one_question_are_corrected_together_and_pair_the_seeds():
    base = np.array([0.80, 0.82, 0.79, 0.81, 0.83])
    better, same = base + [0.01, 0.012, 0.008, 0.011, 0.009], base + [0.001, -0.002, 0.003, -0.001, 0.0]
    accuracies = dict.fromkeys(ROWS, base) | {"sam": better, "asam": same}
    shuffled = table(accuracy=accuracies).sample(frac=1, random_state=0)
    sam, asam = claims(shuffled, [("sam", "base"), ("asam", "base")], ("accuracy",))
    assert sam.difference.mean.value == pytest.approx(0.01)
    assert sam.difference.corrected == pytest.approx(2 * sam.difference.p)
    assert (sam.difference.shown, asam.difference.shown) == (True, False)
    assert (sam.values.value, sam.others.value) == (pytest.approx(better.mean()), pytest.approx(base.mean()))


def test_measures_that_are_not_resolved_are_left_out():
    networks = pd.DataFrame(
        {"key": ["sam/0", "base/0"], "lambda_max": [5.0, 7.0], "lambda_max_resolved": [True, False]}
    )
    found = with_flatness(table(), networks).set_index("key")["lambda_max"]
    assert found.dropna().to_dict() == {"sam/0": 5.0}


def regressed(shift, slope=-3.0, factor=0.5):
    """λ_max of a row by its control's, where it falls with the training loss and the row's losses are shifted."""
    draw = np.random.default_rng(0)
    losses = {"base control": draw.uniform(0.1, 0.2, 5)}
    losses["sam"] = losses["base control"][::-1] + shift
    sharp = {row: 100 * np.exp(slope * loss + draw.normal(0, 0.01, 5)) for row, loss in losses.items()}
    sharp["sam"] *= factor
    rows = {row: ROWS[row] for row in ("sam", "base control")}
    (found,) = at_equal_loss(table(rows, **{"train/loss": losses, "lambda_max": sharp}), [("sam", "base control")])
    return found


def test_flatness_at_equal_training_loss_is_without_what_the_loss_explains():
    found = regressed(shift=0.05)
    assert found.low < 0.5 < found.high
    assert found.factor == pytest.approx(0.5, rel=0.05)
    assert found.shown


def test_flatness_that_the_training_loss_explains_is_not_shown():
    found = regressed(shift=0.05, slope=-20.0, factor=1.0)
    assert found.low < 1 < found.high
    assert not found.shown


def test_training_losses_that_do_not_overlap_say_nothing():
    found = regressed(shift=1.0)
    assert (found.overlap, found.shown, math.isnan(found.factor)) == (False, False, True)


def test_networks_with_a_loss_within_the_range_of_both_rows_are_counted():
    losses = {"sam": [0.12, 0.13, 0.14, 0.15, 0.16], "base control": [0.08, 0.09, 0.12, 0.125, 0.13]}
    sharp = {row: [100.0, 90.0, 80.0, 85.0, 95.0] for row in losses}
    rows = {row: ROWS[row] for row in losses}
    (found,) = at_equal_loss(table(rows, **{"train/loss": losses, "lambda_max": sharp}), [("sam", "base control")])
    assert (found.common, found.networks, found.overlap) == (5, 10, True)


@pytest.fixture
def radii(searched, monkeypatch):
    """The radius that is chosen of these points of ρ and validation accuracy."""
    study = open_study("one", searched)
    trial = study.best("sam")

    def choose(*points):
        trials = [
            replace(trial, config=replace(trial.config, rho=rho), metrics={"val/accuracy": accuracy}, value=accuracy)
            for rho, accuracy in points
        ]
        monkeypatch.setattr(Study, "records", lambda *_: trials)
        return chosen_radii(replace(study, settings=replace(study.settings, optimizers=("sam",))))

    return choose


def test_the_chosen_radius_has_the_range_that_is_as_good_within_one_standard_error(radii):
    (found,) = radii((0.1, 0.90), (0.3, 0.895), (0.05, 0.70), (0.8, 0.60))
    assert (found.value, found.low, found.high, found.tried, found.end) == (0.1, 0.1, 0.3, 4, "")


@pytest.mark.parametrize(
    ("points", "end"),
    [(((0.1, 0.9), (0.2, 0.5)), "smallest"), (((0.2, 0.9), (0.1, 0.5)), "largest"), (((0.1, 0.9),), "")],
)
def test_a_best_radius_at_the_end_of_those_tried_is_named(radii, points, end):
    (found,) = radii(*points)
    assert found.end == end


def test_values_beyond_the_end_whose_trials_were_stopped_are_counted(searched, monkeypatch):
    study = open_study("one", searched)
    best = study.best("sam")
    rho = best.config.rho
    others = [
        replace(best, config=replace(best.config, rho=times * rho), state=state, value=None)
        for times, state in (
            *((0.5, "pruned"), (0.25, "diverged"), (0.25, "pruned")),
            *((0.1, "failed"), (2, "pruned"), (0.95, "pruned")),  # which tell of nothing beyond the smallest
        )
    ]
    monkeypatch.setattr(
        Study, "records", lambda *_: [best, replace(best, config=replace(best.config, rho=1.5 * rho)), *others]
    )
    (found,) = chosen_radii(study, ["sam"])
    assert (found.end, found.beyond, found.is_open) == ("smallest", 2, False)


def test_the_base_optimizer_has_no_radius(radii):
    assert radii((None, 0.9)) == ()
