"""Figures for plotly: that it takes them, what is in them, and that its script can be unpacked."""

import gzip
import json
from base64 import b64decode

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from tune_sam.reporting.interactive import interactive, script

TRIALS = pd.DataFrame(
    {
        "optimizer": ["base", "sam", "sam"],
        "state": ["complete", "complete", "pruned"],
        "rho": [np.nan, 0.01, 0.1],
        "lr": [0.01, 0.1, 0.02],
        "batch_size": [32, 64, 32],
        "val/accuracy": [0.9, 0.8, 0.95],
    }
)


@pytest.fixture
def surface():
    x, y = (part.ravel() for part in np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1]))
    loss = 0.1 + 10 * x**2 + y**2
    return pd.concat(pd.DataFrame({"optimizer": name, "x": x, "y": y, "loss": loss}) for name in ("base", "sam"))


def test_plotly_takes_the_surfaces_which_are_those_of_the_data(surface):
    surface.iloc[0, 3] = np.inf
    made = go.Figure(json.loads(interactive("surfaces", surface)))
    assert [trace.name for trace in made.data] == ["base", "SAM"]
    assert [trace.visible for trace in made.data] == [True, False]
    assert made.data[0].z[0][0] is None
    assert made.data[0].z[1][2] == pytest.approx(10.1), "y = 0, x = 1"
    assert made.layout.scene.zaxis.type == "log"
    assert made.layout.scene.zaxis.title.text == "loss (nats)"
    of_no_unit = go.Figure(json.loads(interactive("surfaces", surface.assign(loss_unit=""))))
    assert of_no_unit.layout.scene.zaxis.title.text == "loss"
    assert [button.label for button in made.layout.updatemenus[0].buttons] == ["base", "SAM"]


def test_plotly_takes_the_trials_and_what_has_no_radius_lies_below_the_others():
    made = go.Figure(json.loads(interactive("parallel-coordinates", TRIALS)))
    axes = {axis.label: axis for axis in made.data[0].dimensions}
    assert list(axes) == ["optimizer", "radius ρ", "learning rate", "batch size", "state", "validation accuracy"]
    assert axes["radius ρ"]["values"][0] < min(axes["radius ρ"]["values"][1:]) == -2
    assert axes["radius ρ"].ticktext[0] == "none"
    assert list(axes["validation accuracy"]["values"]) == [90, 80, 95]
    assert list(axes["state"].ticktext) == ["complete", "pruned"]


def test_other_figures_are_not_interactive():
    assert interactive("history", TRIALS) == ""


def test_the_script_is_unpacked_to_plotlys_and_takes_less_than_two_and_a_half_megabytes():
    assert len(script()) < 2.5e6
    assert b"plotly.js v" in gzip.decompress(b64decode(script()))[:200]


def test_of_one_optimizer_the_lines_have_its_colour_and_without_a_radius_the_axis_has_no_numbers():
    made = go.Figure(json.loads(interactive("parallel-coordinates", TRIALS.iloc[:1])))
    assert made.data[0].line.colorscale == ((0.0, "#0072B2"), (1.0, "#0072B2"))
    axes = {axis.label: axis for axis in made.data[0].dimensions}
    assert list(axes["radius ρ"].ticktext) == ["none"]
