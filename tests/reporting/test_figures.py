"""The figures of a page: what is drawn, that it can be read, and what is written."""

import math
import subprocess
import sys
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from tune_sam.evaluation.statistics import Mean
from tune_sam.optimizers import find_optimizer, optimizer_names
from tune_sam.reporting import flatness_figures, landscape_figures, refit_figures, search_figures
from tune_sam.reporting.style import STYLES, TEXT, WIDTH, log_ticks, save, short, style_of, told_apart, wrapped

OPTIMIZERS = ["base", "sam", "asam", "asam-all"]
LONG = "an optimizer of a user whose name is long"
MEASURES = [
    "largest eigenvalue λ_max (nats per squared weight)",
    "worst-case sharpness, ρ = 0.05 (nats)",
    "adaptive_worst_case_sharpness_of_a_user/in_nats_and_at_length",
    "trace (nats per squared weight)",
]


def surface(optimizers, steps=9, largest=2.0):
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-1, 1, steps), np.linspace(-1, 1, steps)))
    return pd.concat(
        pd.DataFrame({"optimizer": name, "x": x, "y": y, "loss": 0.1 + largest / (k + 1) * (x**2 + y**2)})
        for k, name in enumerate(optimizers)
    )


def line(optimizers, start="base"):
    place = np.linspace(-0.5, 1.5, 41)
    return pd.concat(
        pd.DataFrame(
            {"start": start, "optimizer": name, "position": place, "loss": 0.3 + (k + 1) * np.sin(np.pi * place) ** 2}
        )
        for k, name in enumerate(optimizers)
    )


def density(optimizers):
    grid = np.linspace(-5, 60, 300)
    return pd.concat(
        pd.DataFrame(
            {
                "optimizer": name,
                "eigenvalue": grid,
                "density": np.exp(-(grid**2) / 2) + 1e-5 * np.exp(-((grid - 50 / (k + 1)) ** 2) / 2),
                "lambda_max": 50 / (k + 1),
            }
        )
        for k, name in enumerate(optimizers)
    )


def trials(optimizers, count=30, missing=True, seed=0):
    random = np.random.default_rng(seed)
    rows = []
    for name in optimizers:
        for index in range(count):
            accuracy = np.nan if missing and index % 9 == 4 else random.uniform(0.7, 0.85)
            rows.append(
                {
                    "optimizer": name,
                    "rho": np.nan if name == "base" else 10 ** random.uniform(-3, 0),
                    "lr": 10 ** random.uniform(-4, -1),
                    "batch_size": random.choice([32, 64, 128]),
                    "val/accuracy": accuracy,
                    "val/loss": 1.2 - accuracy,
                }
            )
    return pd.DataFrame(rows)


def numbered(frame):
    """Trials in their order, of which every third did not end complete."""
    number = frame.groupby("optimizer").cumcount()
    return frame.assign(number=number, state=np.where(number % 3 == 2, "pruned", "complete"))


def refitted(optimizers, count=4):
    random = np.random.default_rng(4)
    return pd.DataFrame(
        [
            {
                "label": name,
                "optimizer": name,
                "kind": "refit",
                "test/accuracy": random.uniform(0.8, 0.9),
                "gradients": 40_000,
            }
            for name in optimizers
            for _ in range(count)
        ]
    )


def scores(optimizers, classes=("normal", "supraventricular", "ventricular")):
    random = np.random.default_rng(5)
    return pd.DataFrame(
        [
            {"label": name, "optimizer": name, "class": one, "f1": random.uniform(0.3, 0.9)}
            for name in optimizers
            for one in classes
            for _ in range(3)
        ]
    )


def curvatures(optimizers, sizes=(32, 64, 128)):
    random = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {
                "optimizer": name,
                "batch_size": size,
                "measure": "m",
                "value": 10 ** random.uniform(0, 3),
                "error": 1.0,
                "resolved": seed != 1,
            }
            for name in optimizers
            for size in sizes
            for seed in range(3)
        ]
    )


def radii(optimizers, values=(0.0003, 0.001, 0.003, 0.01, 0.03)):
    random = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {
                "optimizer": name,
                "rho": np.nan if name == "base" else rho,
                "measure": measure,
                "value": 10 ** random.uniform(0, 3),
                "resolved": seed != 1,
            }
            for measure in ("test accuracy (%)", "gap in the loss (nats)", "largest eigenvalue (nats)")
            for name in optimizers
            for rho in (values[:1] if name == "base" else values)
            for seed in range(3)
        ]
    )


def curves(optimizers, epochs=20, seeds=3):
    random = np.random.default_rng(2)
    return pd.DataFrame(
        [
            {
                "optimizer": name,
                "seed": seed,
                "epoch": epoch,
                "gradients": 1000 * epoch * (1 if name == "base" else 2),
                "train/loss": np.exp(-epoch / 9) + 0.02 * random.random(),
                "val/loss": 0.1 + np.exp(-epoch / 9) + 0.02 * random.random(),
                "train/accuracy": 0.9,
                "val/accuracy": 0.8 + 0.02 * random.random(),
            }
            for name in optimizers
            for seed in range(seeds)
            for epoch in range(1, epochs + 1)
        ]
    )


def gaps(optimizers, measures=MEASURES, seeds=4):
    random = np.random.default_rng(3)
    return pd.DataFrame(
        [
            {
                "optimizer": name,
                "measure": measure,
                "value": 10 ** random.uniform(-2, 2),
                "error": 0.01,
                "resolved": seed != 2,
                "gap/loss": random.normal(0.05, 0.03),
            }
            for name in optimizers
            for measure in measures
            for seed in range(seeds)
        ]
    )


def importances(optimizers):
    return {
        name: {"lr": 0.7, "batch_size": 0.1, "a_hyperparameter_of_a_user_whose_name_is_long": 0.1}
        | ({} if name == "base" else {"rho": 0.1})
        for name in optimizers
    }


DRAW = {
    "surfaces": lambda names: landscape_figures.surfaces(surface(names)),
    "surfaces, logarithmic": lambda names: landscape_figures.surfaces(surface(names, largest=500)),
    "contours": lambda names: landscape_figures.contours(surface(names)),
    "contours, linear": lambda names: landscape_figures.contours(surface(names, largest=0.2)),
    "lines": lambda names: landscape_figures.lines(line(names, "start")),
    "densities": lambda names: landscape_figures.spectral_densities(density(names)),
    "rho": lambda names: search_figures.over_rho(trials(names)),
    "rho, many": lambda names: search_figures.over_rho(trials(names, 100)),
    "coordinates": lambda names: search_figures.parallel_coordinates(trials(names)),
    "coordinates, loss": lambda names: search_figures.parallel_coordinates(trials(names).assign(objective="val/loss")),
    "history": lambda names: search_figures.history(numbered(trials(names))),
    "compute": lambda names: search_figures.accuracy_and_compute(curves(names)),
    "near": lambda names: landscape_figures.near_minimum(surface(names)),
    "lines, cut": lambda names: landscape_figures.lines(line(names).assign(loss=lambda of: of["loss"] ** 4 + 0.01)),
    "seeds": lambda names: refit_figures.seeds(refitted(names)),
    "f1": lambda names: refit_figures.f1_by_class(scores(names)),
    "importance": lambda names: search_figures.importance(importances(names)),
    "rates": lambda names: search_figures.rates_and_radii(trials(names)),
    "pareto": lambda names: search_figures.pareto(
        trials(names).assign(**{"val/sharpness": lambda of: of["val/loss"] ** 4})
    ),
    "batches": lambda names: flatness_figures.over_batch_sizes(curvatures(names)),
    "radii": lambda names: flatness_figures.over_radii(radii(names)),
    "curves": lambda names: search_figures.learning_curves(curves(names)),
    "gaps": lambda names: flatness_figures.gaps_and_flatness(gaps(names)),
}
FEW = {
    "surfaces": lambda: landscape_figures.surfaces(surface(["sam"], 2)),
    "contours": lambda: landscape_figures.contours(surface(["sam"], 2)),
    "lines": lambda: landscape_figures.lines(line(["sam"]).iloc[:2]),
    "densities": lambda: landscape_figures.spectral_densities(density(["sam"]).iloc[150:151]),
    "rho": lambda: search_figures.over_rho(trials(["base", "sam"], 1)),
    "coordinates": lambda: search_figures.parallel_coordinates(trials(["sam"], 1)),
    "coordinates, two": lambda: search_figures.parallel_coordinates(trials(["base", "sam"], 1)),
    "importance": lambda: search_figures.importance({"sam": {"rho": 1.0}}),
    "rates": lambda: search_figures.rates_and_radii(trials(["sam"], 1)),
    "rates, two": lambda: search_figures.rates_and_radii(trials(["sam"], 2)),
    "batches": lambda: flatness_figures.over_batch_sizes(curvatures(["sam"]).iloc[:1]),
    "radii": lambda: flatness_figures.over_radii(radii(["sam"]).iloc[:1]),
    "curves": lambda: search_figures.learning_curves(curves(["sam"], 1, 1)),
    "curves, two": lambda: search_figures.learning_curves(curves(["base", "sam"], 2, 1)),
    "gaps": lambda: flatness_figures.gaps_and_flatness(gaps(["sam"], MEASURES[:1], 1)),
    "gaps, two": lambda: flatness_figures.gaps_and_flatness(gaps(["base", "sam"], MEASURES[:2], 2)),
}


def assert_legible(figure):
    """No upright text lies on another, none leaves the figure, and all can be read where it is 370 pixels wide."""
    assert figure.get_figwidth() == WIDTH
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    # Of an annotation the text alone, without its line. Ticks beyond the limits keep their text but are not drawn.
    texts = [
        text
        for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
        if text.get_text() and drawn(text, figure)
    ]
    assert min(text.get_fontsize() for text in texts) >= TEXT
    boxes = [(text.get_text(), Text.get_window_extent(text, canvas.get_renderer())) for text in texts]
    assert boxes
    width, height = canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < width + 1, text
        assert box.y1 < height + 1, text
    # A slanted label, as of three axes, does not fill its box.
    upright = [box for text, box in zip(texts, boxes, strict=True) if text.get_rotation() % 90 == 0]
    for (first, a), (second, b) in combinations(upright, 2):
        apart = a.x1 - 1 < b.x0 or b.x1 - 1 < a.x0 or a.y1 - 1 < b.y0 or b.y1 - 1 < a.y0
        assert apart, f"{first!r} lies on {second!r}"


def drawn(text, figure):
    for axis in figure.axes:
        for which in axis._axis_map.values():
            ticks = [*which.majorTicks, *which.minorTicks]
            labels = {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
            if id(text) in labels:
                shown = {id(label) for tick in which._update_ticks() for label in (tick.label1, tick.label2)}
                return id(text) in shown and which.get_visible() and axis.axison
    return True


@pytest.mark.parametrize(
    ("name", "optimizers"),
    [
        *((name, [*OPTIMIZERS, LONG]) for name in DRAW),
        *((name, OPTIMIZERS[:2]) for name in ("surfaces", "contours, linear", "rates", "curves", "gaps")),
    ],
)
def test_no_text_lies_on_another(name, optimizers):
    figure = DRAW[name](optimizers)
    assert isinstance(figure, Figure)
    assert_legible(figure)


@pytest.mark.parametrize("name", FEW)
def test_one_or_two_points_are_legible_too(name):
    assert_legible(FEW[name]())


def test_overlaps_are_seen():
    figure = Figure((WIDTH, 4))
    figure.text(0.5, 0.5, "one text")
    figure.text(0.51, 0.5, "another")
    with pytest.raises(AssertionError, match="lies on"):
        assert_legible(figure)


# --- what is drawn ---


@pytest.mark.parametrize("name", ["rho", "coordinates", "batches", "gaps"])
def test_an_optimizer_has_one_colour_whoever_is_beside_it(name):
    for optimizers in (["sam"], ["base", "sam"], ["sam", "asam"]):
        figure = DRAW[name](optimizers)
        labels = {
            handle.get_label().split(" (")[0]: to_hex(handle.get_color()) for handle in figure.legends[0].legend_handles
        }
        assert {labels[STYLES[name].label] for name in optimizers} == {
            STYLES[name].colour.lower() for name in optimizers
        }
        assert labels["SAM"] == "#d55e00"


def test_the_colours_are_okabe_and_itos_and_none_is_twice():
    okabe_ito = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    everyone = [*STYLES.values(), *(style_of(name, ["x", "y", "z"]) for name in "xyz")]
    assert {style.colour for style in everyone} < okabe_ito
    for part in ("label", "colour", "marker"):
        assert len({getattr(style, part) for style in everyone}) == len(everyone)


def test_an_optimizer_of_ours_has_the_same_look_in_every_figure():
    everyone = optimizer_names()
    for name in everyone:
        assert style_of(name, [name]) == style_of(name, everyone)


def test_all_of_our_optimizers_can_be_told_apart_in_one_figure():
    styles = [style_of(name, optimizer_names()) for name in optimizer_names()]
    assert len({style.marker for style in styles}) == len({(s.colour, s.line) for s in styles}) == len(styles)
    assert "LookSAM" in {style.label for style in styles}


def test_optimizers_with_one_label_are_told_apart_by_their_names():
    names = ["sam", *(f"own_optimizers:{name}" for name in ("Half", "Plain", "Dear"))]
    assert len({find_optimizer(name).label for name in names}) == 2
    assert len({style_of(name, names).label for name in names}) == 4
    assert style_of("sam", names).label == "SAM"
    assert style_of("own_optimizers:Dear", names).label == "Half of SAM … ers:Dear)"
    alike = [f"my_research_package{end}.optimizers:MySAM" for end in ("", "_two")]
    assert [style_of(name, alike).label for name in alike] == alike, "where a shorter one would be both's"


def test_surfaces_and_contours_share_their_scales():
    data = surface(["base", "sam"])
    axes = landscape_figures.surfaces(data).axes
    assert axes[0].get_zlim() == axes[1].get_zlim()
    assert len({axis.collections[0].norm.vmax for axis in axes}) == 1
    contoured = landscape_figures.contours(data).axes
    filled = [axis.collections[0] for axis in contoured[:2]]
    assert filled[0].norm.vmin == filled[1].norm.vmin == pytest.approx(0.1)
    assert filled[0].norm.vmax == filled[1].norm.vmax == pytest.approx(4.1)
    assert np.array_equal(filled[0].levels, filled[1].levels)


def test_x_and_y_of_a_surface_are_not_exchanged():
    data = surface(["sam"], 5)
    data["loss"] = 10 * data["x"] + data["y"]
    x, y, losses = landscape_figures._grid_of(data.sample(frac=1, random_state=0))
    assert losses[0, 4] == pytest.approx(10 - 1)  # y = -1, x = 1
    assert list(x) == list(y) == [-1, -0.5, 0, 0.5, 1]


def test_losses_that_are_not_finite_leave_a_hole():
    data = surface(["base", "sam"])
    data.iloc[[3, 40], 3] = [np.inf, np.nan]
    for draw in (landscape_figures.surfaces, landscape_figures.contours):
        assert_legible(draw(data))
    assert landscape_figures.contours(data).axes[0].collections[0].norm.vmax == pytest.approx(4.1)


def markers(axis):
    """Each line's marker faces and points: (colour of the face, [x], [y])."""
    return [
        (line.get_markerfacecolor(), list(line.get_xdata()), list(line.get_ydata()))
        for line in axis.lines
        if line.get_marker() not in ("None", None, "")
    ]


def test_unresolved_is_hollow():
    data = curvatures(["sam"], sizes=(32,))
    data["value"] = [5.0, 6.0, 7.0]
    figure = flatness_figures.over_batch_sizes(data)
    assert [(face, y) for face, _, y in markers(figure.axes[0])] == [("#D55E00", [5, 7]), ("white", [6])]
    assert "unresolved" in [text.get_text() for text in figure.legends[0].texts]
    for known in (data.assign(resolved=True), data.drop(columns="resolved")):
        figure = flatness_figures.over_batch_sizes(known)
        assert [face for face, *_ in markers(figure.axes[0])] == ["#D55E00"]
        assert "unresolved" not in [text.get_text() for text in figure.legends[0].texts]
    unknown = data.assign(resolved=[True, None, True])
    assert [face for face, *_ in markers(flatness_figures.over_batch_sizes(unknown).axes[0])] == ["#D55E00", "white"]


@pytest.mark.parametrize("sizes", [(32, 64, 128), (96, 112, 128)])
def test_a_larger_batch_stands_to_the_right_whatever_the_optimizer(sizes):
    axis = flatness_figures.over_batch_sizes(curvatures(optimizer_names(), sizes)).axes[0]
    low, high = axis.get_xlim()
    found = [float(x) for _, xs, _ in markers(axis) for x in xs]
    for size in sizes:
        own = [x for x in found if min(sizes, key=lambda one: abs(np.log(one / x))) == size]
        assert len({round(x, 6) for x in own}) == len(optimizer_names())
    assert low < min(found) <= max(found) < high


def test_the_mean_over_batch_sizes_is_that_of_the_resolved_with_its_interval():
    """Of 10, 12 and 14: mean 12, standard error 2/√3, Student's t 4.3027."""
    data = pd.DataFrame(
        {
            "optimizer": "sam",
            "batch_size": [32, 32, 32, 32, 64],
            "measure": "m",
            "value": [10.0, 300.0, 12.0, 14.0, 20.0],
            "resolved": [True, False, True, True, True],
        }
    )
    axis = flatness_figures.over_batch_sizes(data).axes[0]
    (line,) = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [12, 20]
    ends = [segment[:, 1] for part in axis.collections for segment in part.get_segments() if len(segment) == 2]
    assert [list(pair) for pair in ends if np.ptp(pair) > 0] == [pytest.approx([7.0317, 16.9683], abs=1e-4)]


def test_over_radii_the_base_optimizer_is_a_band_and_each_radius_has_its_mean():
    data = pd.DataFrame(
        {
            "optimizer": ["base"] * 3 + ["sam"] * 4,
            "rho": [np.nan] * 3 + [0.1, 0.1, 0.1, 0.3],
            "measure": "m",
            "value": [10.0, 12.0, 14.0, 5.0, 6.0, 7.0, 4.0],
        }
    )
    axis = flatness_figures.over_radii(data).axes[0]
    heights = {line.get_linestyle(): list(line.get_ydata()) for line in axis.lines if line.get_marker() == "None"}
    assert heights == {"-": [12, 12], "--": [6, 4]}
    (band,) = axis.patches
    assert [band.get_y(), band.get_y() + band.get_height()] == pytest.approx([7.0317, 16.9683], abs=1e-4)


def test_tau_is_kendalls_over_the_resolved():
    """Values 1 2 3 4 5 against gaps 1 3 2 5 4: 8 pairs agree, 2 do not, τ = 0.6."""
    data = pd.DataFrame(
        {
            "optimizer": ["base", "sam"] * 3,
            "measure": "m",
            "value": [1, 2, 3, 4, 5, 6.0],
            "gap/loss": [1, 3, 2, 5, 4, -9.0],
            "resolved": [True] * 5 + [False],
        }
    )
    figure = flatness_figures.gaps_and_flatness(data)
    assert figure.axes[0].get_title() == "Kendall's τ = 0.60\n(n = 5)"
    data["gap/loss"] *= -1
    assert "τ = −0.60" in flatness_figures.gaps_and_flatness(data).axes[0].get_title()
    assert "too few\npoints (n = 3)" in flatness_figures.gaps_and_flatness(data.iloc[:3]).axes[0].get_title()
    assert "n = 4" in flatness_figures.gaps_and_flatness(data.assign(value=[1, np.nan, 3, 4, 5, 6])).axes[0].get_title()


def test_accuracies_are_in_percent_and_the_data_stay():
    data = trials(["base", "sam"], 12)
    before = data.copy()
    figure = search_figures.over_rho(data)
    shown = np.concatenate([y for _, _, y in markers(figure.axes[0])])
    expected = 100 * data["val/accuracy"][(data["optimizer"] == "sam")].dropna()
    assert sorted(shown) == pytest.approx(sorted(expected))
    for draw in (search_figures.parallel_coordinates, search_figures.rates_and_radii):
        draw(data)
    pd.testing.assert_frame_equal(data, before)


def test_repeated_radii_have_their_own_median():
    data = pd.DataFrame(
        {
            "optimizer": "sam",
            "rho": [0.01] * 3 + [0.1] * 3,
            "val/loss": 1.0,
            "val/accuracy": [0.1, 0.2, 0.9, 0.5, 0.4, 0.3],
        }
    )
    line = next(line for line in search_figures.over_rho(data).axes[0].lines if line.get_linestyle() == "--")
    assert list(line.get_xdata()) == [0.01, 0.1]
    assert list(line.get_ydata()) == pytest.approx([20, 40])


def judged_by(score, direction, frame):
    """The same data of a study with another score."""
    names = {f"{split}/accuracy": f"{split}/{score}" for split in ("train", "val", "test")}
    return frame.rename(columns=names).assign(score=score, direction=direction)


@pytest.mark.parametrize(("direction", "best"), [("maximize", "idxmax"), ("minimize", "idxmin")])
def test_the_ring_is_around_the_best_of_the_score(direction, best):
    data = judged_by("mae", direction, trials(["base", "sam"], missing=False))
    figure = search_figures.rates_and_radii(data)
    for name, axis in zip(["base", "sam"], figure.axes, strict=False):
        rows = data[data["optimizer"] == name]
        ring = next(line for line in axis.lines if line.get_markersize() == 15)
        assert ring.get_xdata()[0] == rows["lr"][getattr(rows["val/mae"], best)()]


@pytest.mark.parametrize(("direction", "extreme"), [("maximize", 1), ("minimize", 0)])
def test_the_lines_that_stand_out_are_the_best_of_the_score(direction, extreme):
    axis = search_figures.parallel_coordinates(judged_by("mae", direction, trials(["base"], missing=False))).axes[0]
    thick = [line.get_ydata()[-1] for line in axis.lines if line.get_linewidth() == 2]
    assert any(end == pytest.approx(extreme) for end in thick)


@pytest.mark.parametrize("score", ["mae", "macro_f1", "nll"])
def test_figures_of_another_score_have_its_name_and_no_unit(score):
    data = judged_by(score, "minimize", trials(["base", "sam"]))
    for draw in (search_figures.over_rho, search_figures.rates_and_radii, search_figures.parallel_coordinates):
        texts = [text.get_text() for text in draw(data).findobj(Text)]
        assert any(score in text for text in texts)
        assert not any("nats" in text or "%" in text or "accuracy" in text for text in texts)
    by_loss = search_figures.rates_and_radii(data.assign(objective="val/loss"))
    assert "validation loss" in [axis.get_ylabel() for axis in by_loss.axes]
    gaps = data.assign(measure="trace", value=data["lr"], **{"gap/loss": data["val/loss"]})
    assert flatness_figures.gaps_and_flatness(gaps).axes[0].get_ylabel() == "generalisation gap: loss"
    in_nats = flatness_figures.gaps_and_flatness(gaps.assign(loss_unit="nats"))
    assert in_nats.axes[0].get_ylabel().replace("\n", " ") == "generalisation gap: loss (nats)", "of a classifier"


def test_the_best_few_stand_out():
    data = trials(["base", "sam"], 40)
    for value, best in (("val/accuracy", "max"), ("val/loss", "min")):
        axis = search_figures.parallel_coordinates(data.assign(objective=value)).axes[0]
        thick = [line for line in axis.lines if line.get_linewidth() == 2]
        counts = data.groupby("optimizer")[value].count() // 10
        assert len(thick) == counts.sum() == 6
        extreme = 1 if best == "max" else 0
        assert any(line.get_ydata()[-1] == pytest.approx(extreme) for line in thick)
    texts = [text.get_text() for text in axis.texts]
    assert texts.count("none") == 2  # no ρ, and no value


@pytest.mark.parametrize(
    "draw", [search_figures.over_rho, search_figures.parallel_coordinates, search_figures.rates_and_radii]
)
def test_trials_without_any_value_are_no_error(draw):
    data = trials(["base", "sam"], 3).assign(**{"val/accuracy": np.nan, "val/loss": np.nan})
    assert_legible(draw(data))


def test_nothing_finite_is_said():
    empty = curvatures(["sam"]).assign(value=np.nan)
    assert "no values" in [text.get_text() for text in flatness_figures.over_batch_sizes(empty).axes[0].texts]
    empty = density(["sam"]).assign(density=0.0)
    assert "no values" in [text.get_text() for text in landscape_figures.spectral_densities(empty).axes[0].texts]
    empty = gaps(["sam"], MEASURES[:1]).assign(value=np.nan)
    assert "no values" in [text.get_text() for text in flatness_figures.gaps_and_flatness(empty).axes[0].texts]


@pytest.mark.parametrize(
    ("draw", "data", "words"),
    [
        (landscape_figures.contours, surface(["sam"]).drop(columns="y"), "no column y: they have optimizer, x, loss"),
        (search_figures.over_rho, trials(["sam"]).iloc[:0], "no rows"),
        (landscape_figures.surfaces, surface(["sam"], 5).query("y == 0"), "2 × 2 points or more, got 1 × 5"),
        (search_figures.importance, {}, "no importances"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, data, words):
    with pytest.raises(ValueError, match=words):
        draw(data)


# --- what is written ---


def test_a_figure_is_saved_with_its_data(tmp_path):
    data = trials(["base", "sam"], 5)
    save(search_figures.over_rho(data), data, tmp_path / "new" / "rho-0.05")
    png, csv = (tmp_path / f"new/rho-0.05.{ending}" for ending in ("png", "csv"))
    assert png.read_bytes().startswith(b"\x89PNG")
    pd.testing.assert_frame_equal(pd.read_csv(csv), data)
    assert sorted(path.name for path in png.parent.iterdir()) == ["rho-0.05.csv", "rho-0.05.png"]
    first = png.read_bytes()
    save(search_figures.over_rho(data), data, tmp_path / "new" / "rho-0.05")
    assert png.read_bytes() == first


def test_names_in_the_index_are_saved(tmp_path):
    values = importances(["base", "sam"])
    save(search_figures.importance(values), pd.DataFrame(values), tmp_path / "importance")
    assert pd.read_csv(tmp_path / "importance.csv", index_col=0).loc["rho", "sam"] == 0.1


def test_a_failed_save_leaves_what_was_there(tmp_path):
    data = trials(["sam"], 5)
    save(search_figures.over_rho(data), data, tmp_path / "a")
    before = (tmp_path / "a.png").read_bytes()

    class Fails(Figure):
        def savefig(self, path, **options):
            path.write_bytes(b"half")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        save(Fails(), data, tmp_path / "a")
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.png"]


def test_settings_of_matplotlib_are_left_alone():
    before = dict(matplotlib.rcParams)
    for draw in DRAW.values():
        draw(["sam"])
    assert dict(matplotlib.rcParams) == before


def test_no_figure_of_pyplot_is_opened():
    code = (
        "import tune_sam.reporting.search_figures as f, pandas as p, matplotlib as m\n"
        "f.over_rho(p.DataFrame({'optimizer': ['sam'], 'rho': [1], 'val/accuracy': [1], 'val/loss': [1]}))\n"
        "import matplotlib.pyplot as plt; print(len(plt.get_fignums()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0\n"


# --- parts ---


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.05, "0.05"), (1000.0, "1000"), (123456.0, "1.2e5"), (1e-6, "1e−6"), (0.3, "0.3"), (-2.5, "-2.5")],
)
def test_short_numbers(value, text):
    assert short(value) == text


def test_ticks_of_logarithmic_axes_are_round():
    assert log_ticks(0.001, 1) == pytest.approx([0.001, 0.01, 0.1, 1])
    assert log_ticks(0.005, 0.1) == pytest.approx([0.01, 0.03, 0.1])
    assert len(log_ticks(2.0, 3.0)) >= 3
    assert log_ticks(1e-6, 1e6, most=4) == pytest.approx([1e-6, 1e-2, 1e2, 1e6])


def test_long_names_are_wrapped_where_they_may_be():
    assert wrapped("a_long_identifier/of_parts", 12).split("\n") == ["a_long_", "identifier/", "of_parts"]
    assert wrapped("sharpness, ρ = 0.5 (nats)", 14).split("\n") == ["sharpness,", "ρ\u00a0=\u00a00.5 (nats)"]


def test_the_front_is_what_no_trial_beats():
    data = pd.DataFrame(
        {
            "optimizer": "sam",
            "val/accuracy": [0.9, 0.8, 0.85, 0.8, 0.7, np.nan],
            "val/sharpness": [0.5, 0.1, 0.5, 0.2, 0.1, 0.01],
        }
    )
    (front,) = [line for line in search_figures.pareto(data).axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(0.1, 80), (0.5, 90)]


def test_trials_that_were_pruned_are_drawn_hollow_at_their_last_value_and_count_in_no_best():
    data = pd.DataFrame(
        {
            "optimizer": "sam",
            "number": [0, 1, 2, 3],
            "state": ["complete", "pruned", "complete", "pruned"],
            "rho": [0.01, 0.02, 0.05, 0.1],
            "lr": [0.001, 0.01, 0.1, 0.01],
            "batch_size": 32,
            "val/accuracy": [0.6, 0.95, 0.8, 0.3],
            "val/loss": [1.0, 0.2, 0.5, 2.0],
        }
    )
    history = search_figures.history(data).axes[0]
    assert [(face, y) for face, _, y in markers(history)] == [("#D55E00", [60, 80]), ("white", [95, 30])]
    (best,) = [line for line in history.lines if line.get_drawstyle() == "steps-post"]
    assert list(best.get_ydata())[:2] == [60, 80]
    assert list(best.get_xdata()) == [0, 2, 3], "the numbers that tables and commands have"
    rho = search_figures.over_rho(data).axes[0]
    assert [(face, x) for face, x, _ in markers(rho)] == [("#D55E00", [0.01, 0.05]), ("white", [0.02, 0.1])]
    coordinates = search_figures.parallel_coordinates(data).axes[0]
    assert len([line for line in coordinates.lines if line.get_linestyle() == ":"]) == 2
    (panel, *_) = search_figures.rates_and_radii(data).axes
    assert [len(points.get_offsets()) for points in panel.collections] == [2, 2]
    assert [len(points.get_facecolors()) for points in panel.collections] == [2, 0]
    assert list(panel.lines[-1].get_ydata()) == [0.05], "the ring is around the best complete one"


def test_sams_curve_over_compute_is_twice_as_long():
    axis = search_figures.accuracy_and_compute(curves(["base", "sam"], epochs=10)).axes[0]
    assert [line.get_xdata()[-1] for line in axis.lines] == [10_000, 20_000]


def test_curves_are_labelled_at_their_ends_in_their_colours():
    for figure in (
        search_figures.learning_curves(curves(OPTIMIZERS)),
        search_figures.history(numbered(trials(OPTIMIZERS))),
    ):
        for axis in figure.axes:
            labels = {text.get_text(): to_hex(text.get_color()) for text in axis.texts}
            assert labels == {STYLES[name].label: STYLES[name].colour.lower() for name in OPTIMIZERS}


def test_lambda_max_is_marked_in_a_panel_for_each_optimizer():
    figure = landscape_figures.spectral_densities(density(["base", "sam"]))
    marked = [[line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"] for axis in figure.axes]
    assert marked == [[50], [25]]
    assert [axis.get_title(loc="right") for axis in figure.axes] == ["λ_max = 50", "λ_max = 25"]


def test_no_line_joins_eigenvalues_with_none_between_them():
    data = density(["sam"])
    data["density"] = np.where((data["eigenvalue"] > 6) & (data["eigenvalue"] < 46), 1e-12, data["density"])
    axis = landscape_figures.spectral_densities(landscape_figures.visible_density(data)).axes[0]
    drawn = next(line for line in axis.lines if len(line.get_xdata()) > 2)
    x, y = drawn.get_xdata(), drawn.get_ydata()
    (gap,) = np.flatnonzero(np.isnan(y))
    assert x[gap - 1] < 6.1
    assert x[gap + 1] > 45.9


def test_a_line_over_decades_is_cut_out_near_the_minima_on_a_linear_axis():
    (alone,) = landscape_figures.lines(line(["sam"]).assign(loss=lambda of: of["loss"] + 1)).axes
    data = line(["sam"]).assign(loss=lambda of: 0.1 + 50 * np.sin(np.pi * of["position"]) ** 2)
    whole, cut = landscape_figures.lines(data).axes
    assert (whole.get_yscale(), cut.get_yscale()) == ("log", "linear")
    assert cut.get_ylim() == (0, pytest.approx(0.3))


def test_a_legend_of_lines_has_the_colours_of_the_lines_whatever_is_at_their_start():
    figure = landscape_figures.lines(line(["gsam", "look-sam"], start="fisher-sam"))
    drawn = [to_hex(one.get_color()) for one in figure.axes[0].lines if one.get_linestyle() != "None"][:2]
    (legend,) = figure.legends
    assert [to_hex(handle.get_color()) for handle in legend.legend_handles] == drawn


def test_near_the_minimum_only_what_is_near_is_drawn():
    data = surface(["sam"], 21)
    first, second = landscape_figures.near_minimum(data).axes
    for axis in (first, second):
        assert np.abs(axis.lines[0].get_xdata()).max() == pytest.approx(0.4)
        assert axis.get_yscale() == "linear"


def test_seeds_are_dots_beside_their_mean_and_its_interval():
    data = refitted(["base", "sam"]).assign(**{"test/accuracy": [0.8, 0.82, 0.84, 0.82] + [0.9, 0.92, 0.9, 0.92]})
    axis = refit_figures.seeds(data).axes[0]
    points = markers(axis)
    assert [len(x) for _, x, _ in points] == [4, 1, 4, 1]
    assert [x[0] for _, x, _ in points if len(x) == 1] == pytest.approx([82, 91])
    mean = Mean.of([80, 82, 84, 82])
    assert list(axis.lines[1].get_xdata()) == pytest.approx([mean.low, mean.high])
    few = refit_figures.seeds(data.groupby("optimizer").head(2)).axes[0]
    assert [len(x) for _, x, _ in markers(few)] == [2, 1, 2, 1]
    assert len(few.lines) == 4, "two seeds have no interval"


def test_each_class_has_the_mean_f1_of_each_optimizer():
    data = pd.DataFrame({"label": "SAM", "optimizer": "sam", "class": ["a", "a", "b"], "f1": [0.4, 0.6, 0.9]})
    axis = refit_figures.f1_by_class(data).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert [list(x) for _, x, _ in markers(axis)] == [[0.4, 0.6], [0.5], [0.9], [0.9]]


def test_dollar_signs_of_classes_and_choices_are_no_mathematics():
    names = ["$5_$6", "100% of $a^$"]
    classes = pd.DataFrame({"label": "SAM", "optimizer": "sam", "class": names, "f1": [0.4, 0.9]})
    choices = trials(["sam"], 2).assign(pool=names)
    for figure in (refit_figures.f1_by_class(classes), search_figures.parallel_coordinates(choices)):
        FigureCanvasAgg(figure).draw()
        assert {*names} <= {text.get_text() for text in figure.findobj(Text)}


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([97.12, 97.16, 97.2, 97.25, 97.31], ["97.12", "97.16", "97.2", "97.25", "97.31"]),
        ([1234.1, 1234.5, 1235.9], ["1234.1", "1234.5", "1235.9"]),
        ([0.05, 0.1, 0.1], ["0.05", "0.1", "0.1"]),
        ([1.231e-5, 1.233e-5], ["1.231e−5", "1.233e−5"]),
        ([-math.inf, 2.0, math.inf], ["−∞", "2", "∞"]),
    ],
)
def test_ticks_that_differ_are_written_apart(values, texts):
    assert told_apart(values) == texts
