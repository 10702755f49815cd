"""The words for who does not see a figure: its numbers, which is highest, and by how much."""

import math

import numpy as np
import pandas as pd
import pytest

from tune_sam.reporting.alternatives import WORDS, alternative, ranked
from tune_sam.reporting.pictures import CAPTIONS, picture

TRIALS = pd.DataFrame(
    {
        "optimizer": ["base", "base", "sam", "sam"],
        "state": ["complete", "complete", "complete", "pruned"],
        "rho": [np.nan, np.nan, 0.05, 0.1],
        "lr": [0.01, 0.1, 0.02, 0.03],
        "batch_size": [32, 64, 32, 64],
        "val/accuracy": [0.90, 0.80, 0.95, 0.99],
        "val/loss": [0.3, 0.2, 0.1, 0.05],
    }
)


def test_all_are_named_in_order_and_the_first_with_its_lead():
    assert ranked({"base": 90.0, "SAM": 95.5}, " %") == "SAM 95.5 %, base 90 %; SAM is highest by 5.5 points"
    assert ranked({"base": 0.3, "SAM": 0.1}, least=True) == "SAM 0.1, base 0.3; SAM is lowest by 0.2"
    assert ranked({"base": 1.0, "SAM": 1.0}) == "base 1, SAM 1"
    assert ranked({"base": float("nan")}) == "no values"


def test_every_figure_with_a_caption_has_words():
    assert set(WORDS) == set(CAPTIONS)


def test_trials_are_counted_and_only_complete_ones_are_best():
    said = alternative("history", TRIALS)
    assert said.startswith("4 trials, 1 of them not complete.")
    assert "SAM 95 %, base 90 %; SAM is highest by 5 points" in said
    assert "SAM at ρ = 0.05, learning rate 0.02, batch size 32" in alternative("parallel-coordinates", TRIALS)
    by_loss = alternative("history", TRIALS.assign(objective="val/loss"))
    assert "SAM 0.1 nats, base 0.2 nats; SAM is lowest by 0.1 nats" in by_loss


def test_less_is_better_where_the_data_say_so():
    less = {"score": "mae", "direction": "minimize"}
    seeds = pd.DataFrame({"label": ["SAM", "SAM", "Adam"], "test/mae": [0.3, 0.2, 0.5]}).assign(**less)
    assert "SAM 0.25, Adam 0.5; SAM is lowest by 0.25" in alternative("seeds", seeds)
    curves = pd.DataFrame({"optimizer": ["base", "sam"], "epoch": 2, "gradients": [1, 2], "val/mae": [0.5, 0.4]})
    assert "SAM 0.4, base 0.5; SAM is lowest by 0.1" in alternative("accuracy-compute", curves.assign(**less))


def test_what_is_not_finite_is_said_and_not_compared():
    trials = TRIALS.assign(**{"val/sharpness": [math.inf, *np.linspace(0.1, 0.4, len(TRIALS) - 1)]})
    said = alternative("pareto", trials)
    assert "complete trials. The most accurate, of" in said
    assert "∞" not in said
    assert "none of which is complete with a finite" in alternative(
        "pareto", trials.assign(**{"val/sharpness": math.inf})
    )
    surface = pd.DataFrame({"optimizer": "sam", "x": [0, 1], "y": 0, "loss": [0.5, math.inf]})
    assert "At 1 points it is not finite, which this leaves out." in alternative("contours", surface)
    line = {"start": "base", "optimizer": "sam", "position": [0, 0.25, 0.5, 1], "loss": [1, 3, math.nan, 2]}
    assert alternative("lines", pd.DataFrame(line)).endswith("no values.")


def test_more_is_better_of_a_score_whose_name_only_ends_like_a_loss():
    more = {"score": "neg_log_loss", "direction": "maximize"}
    seeds = pd.DataFrame({"label": ["SAM", "Adam"], "test/neg_log_loss": [-0.2, -0.9]}).assign(**more)
    assert "over 1 seeds: SAM -0.2, Adam -0.9; SAM is highest by 0.7" in alternative("seeds", seeds)


@pytest.mark.parametrize(("direction", "side", "way"), [("maximize", "Right", "above"), ("minimize", "Left", "below")])
def test_captions_say_on_which_side_the_better_is(direction, side, way, tmp_path):
    data = TRIALS.rename(columns={"val/accuracy": "val/mae"}).assign(score="mae", direction=direction)
    data.to_csv(tmp_path / "over-rho.csv", index=False)
    assert f"{way} the base optimizer's line" in picture("over-rho", tmp_path / "over-rho.png").caption
    claim = {"question": "use", "measure": "test/mae", "label": "SAM", "difference": -0.1, "low": -0.2, "high": -0.01}
    claims = pd.DataFrame([claim]).assign(shown=True, score="mae", direction=direction)
    claims.to_csv(tmp_path / "differences.csv", index=False)
    assert f"{side} of the line the row is better" in picture("differences", tmp_path / "differences.png").caption


@pytest.mark.parametrize(("objective", "way"), [("val/accuracy", "rises"), ("val/loss", "falls")])
def test_the_history_is_of_what_trials_are_judged_by(objective, way, tmp_path):
    TRIALS.assign(objective=objective).to_csv(tmp_path / "history.csv", index=False)
    assert f"A line that still {way} at its end" in picture("history", tmp_path / "history.png").caption


@pytest.mark.parametrize("judged_by", ["accuracy", "loss"])
def test_rates_and_radii_are_coloured_by_what_trials_are_judged_by(judged_by, tmp_path):
    TRIALS.assign(objective=f"val/{judged_by}").to_csv(tmp_path / "lr-rho.csv", index=False)
    assert f"Validation {judged_by} over" in picture("lr-rho", tmp_path / "lr-rho.png").caption


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "differences",
            {
                "question": ["use", "rho"],
                "measure": ["test/accuracy", "test/accuracy"],
                "label": ["SAM", "SAM"],
                "difference": [0.02, -0.01],
                "low": [0.01, np.nan],
                "high": [0.03, np.nan],
                "shown": [True, False],
            },
            ["SAM +2.00 (+1.00 to +3.00), shown", "SAM -1.00, no interval"],
        ),
        (
            "seeds",
            {"label": ["SAM", "SAM", "Adam"], "test/accuracy": [0.9, 0.8, 0.7]},
            ["over 1 to 2 seeds: SAM 85 %, Adam 70 %; SAM is highest by 15 points"],
        ),
        (
            "accuracy-compute",
            {"optimizer": ["base", "sam"], "epoch": [2, 2], "gradients": [100, 200], "val/accuracy": [0.5, 0.6]},
            ["SAM 60 %, base 50 %", "base 100, SAM 200"],
        ),
        (
            "spectral-density",
            {"optimizer": ["base", "sam"], "eigenvalue": [9, 4], "lambda_max": [10.0, 5.0]},
            ["base 10, SAM 5; base is highest by 5"],
        ),
        (
            "lines",
            {"start": "base", "optimizer": "sam", "position": [0.0, 0.5, 1.0], "loss": [0.1, 0.9, 0.3]},
            ["from the minimum of base to that of: SAM 0.6 nats"],
        ),
        (
            "near-minimum",
            {"optimizer": "sam", "x": [-0.4, 0, 0.9], "y": [0.0, 0, 0], "loss": [0.5, 0.2, 9.0]},
            ["along direction 1: SAM 0.3 nats"],
        ),
        (
            "f1",
            {"label": "SAM", "class": ["a", "b"], "f1": [0.9, 0.4]},
            ["highest for a (0.900)", "lowest for b (0.400)"],
        ),
        (
            "gap-flatness",
            {
                "optimizer": ["base", "sam", "sam"],
                "measure": "trace",
                "value": [4, 2, 99],
                "resolved": [True, True, False],
            },
            ["trace: base 4, SAM 2; base is highest by 2"],
        ),
        (
            "radius",
            {
                "optimizer": ["base", "sam", "sam", "sam", "sam"],
                "rho": [None, 0.1, 0.1, 0.3, 0.3],
                "measure": "trace",
                "value": [4, 2, 3, 1, 99],
                "resolved": [True, True, True, True, False],
            },
            ["trace: base 4, SAM at ρ = 0.1 2.5, SAM at ρ = 0.3 1."],
        ),
    ],
)
def test_the_numbers_are_those_of_the_data(name, data, words):
    said = alternative(name, pd.DataFrame(data))
    for one in words:
        assert one in said


def test_a_choice_or_a_class_may_be_called_none(tmp_path):
    classes = {"label": "SAM", "optimizer": "sam", "class": ["None", "NA", "ventricular"], "f1": [0.4, 0.9, 0.6]}
    pd.DataFrame(classes).to_csv(tmp_path / "f1.csv", index=False)
    said = picture("f1", tmp_path / "f1.png").alternative
    assert "highest for NA" in said
    assert "lowest for None" in said
