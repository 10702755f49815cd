"""The figures of a refit's results on the test set: every seed, and each class."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from tune_sam.evaluation.statistics import Mean
from tune_sam.reporting.style import (
    GREY,
    TEXT,
    legend,
    loss_unit_in,
    name_of,
    need,
    optimizers_in,
    panels,
    score_in,
    shown,
    style_of,
    wrapped,
)


def seeds(frame: pd.DataFrame) -> Figure:
    """Draw the score on the test set of each row of a refit: a dot for each seed, and the mean with its 95 % interval.

    What each training cost stands beside it, in gradients of a sample: SAM takes twice as many in an epoch. Below three
    seeds there is no interval.

    Args:
        frame: `label` (of the row), `optimizer`, `kind`, the score, such as `test/accuracy` (0 to 1), `gradients`; a
            row for each seed.
    """
    score = score_in(frame)
    value = f"test/{score}"
    need(frame, "label", "optimizer", "kind", value, "gradients")
    frame = shown(frame, value)
    names, labels = optimizers_in(frame), list(dict.fromkeys(frame["label"]))
    told = [wrapped(label, 18) for label in labels]
    most = max(label.count("\n") + 1 for label in told)
    figure, (axis,) = panels(1, height=0.9 + max(0.5, 0.17 * most) * len(labels))
    cost = EngFormatter(places=1, sep=" ")
    for place, label in enumerate(labels):
        rows = frame[frame["label"] == label]
        style, mean = style_of(str(rows["optimizer"].iloc[0]), names), Mean.of(rows[value].tolist())
        chosen = rows["kind"].iloc[0] == "refit"
        look: dict[str, Any] = {"color": style.colour, "markerfacecolor": style.colour if chosen else "white"}
        axis.plot(rows[value], np.full(len(rows), place + 0.2), "o", markersize=5, alpha=0.6, **look)
        if np.isfinite(mean.half):
            axis.plot([mean.low, mean.high], [place - 0.1] * 2, color=style.colour, linewidth=2)
        axis.plot(mean.value, place - 0.1, style.marker, markersize=9, markeredgewidth=1.8, **look)
        axis.annotate(
            cost(rows["gradients"].iloc[0]),
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=TEXT,
        )
    axis.set_yticks(range(len(labels)), told)
    axis.set(ylim=(len(labels) - 0.4, -0.7), xlabel=name_of(value, loss_unit_in(frame)))
    axis.annotate("gradients", (1.01, -0.6), xycoords=("axes fraction", "data"), va="center", fontsize=TEXT, color=GREY)
    axis.set_title("small: seeds, large: mean", loc="left", fontsize=TEXT, color=GREY)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.margins(x=0.06)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    return figure


def f1_by_class(frame: pd.DataFrame) -> Figure:
    """Draw the F1 of each class, a small dot for each seed and a large one for their mean.

    Args:
        frame: `label` (of the row), `optimizer`, `class`, `f1` (0 to 1); a row for each seed and class.
    """
    need(frame, "label", "optimizer", "class", "f1")
    names, classes = optimizers_in(frame), list(dict.fromkeys(frame["class"]))
    figure, (axis,) = panels(1, height=1.0 + len(classes) * max(0.4, 0.17 * len(names)))
    for index, name in enumerate(names):
        style, aside = style_of(name, names), 0.7 * (index - (len(names) - 1) / 2) / len(names)
        for place, one in enumerate(classes):
            values = frame["f1"][(frame["optimizer"] == name) & (frame["class"] == one)].dropna()
            if len(values):
                axis.plot(
                    values,
                    np.full(len(values), place + aside),
                    style.marker,
                    color=style.colour,
                    markersize=4,
                    alpha=0.4,
                )
                axis.plot(values.mean(), place + aside, style.marker, color=style.colour, markersize=8)
    # A class may have dollar signs in its name.
    axis.set_yticks(range(len(classes)), [wrapped(str(one), 16) for one in classes], parse_math=False)
    axis.set(ylim=(len(classes) - 0.5, -0.5), xlabel="F1 on the test set")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.margins(x=0.06)
    legend(figure, names, lines=False)
    return figure
