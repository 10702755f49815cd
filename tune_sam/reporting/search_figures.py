"""The figures of a search's trials."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tune_sam.reporting.style import (
    BEST,
    GREY,
    Style,
    draw_points,
    finite_of,
    legend,
    limits,
    log_ticks,
    name_of,
    need,
    optimizers_in,
    panels,
    plain_ticks,
    set_scale,
    short,
    shown,
    spans,
    style_of,
    without_values,
    wrapped,
)


def over_rho(frame: pd.DataFrame) -> Figure:
    """Draw validation accuracy and loss over ρ: each trial, the median and the middle half of the trials around it.

    Where values of ρ repeat, as with several seeds, a median is over one value, else over five trials or more of
    neighbouring ρ. Trials without ρ, those of the base optimizer, are a level line with its band.

    Args:
        frame: `optimizer`, `rho`, `val/accuracy` (0 to 1), `val/loss`.
    """
    need(frame, "optimizer", "rho", "val/accuracy", "val/loss")
    names = optimizers_in(frame)
    figure, axes = panels(2, width=7.0, height=2.9, columns=1, sharex=True)
    logarithmic = bool((frame["rho"].dropna() > 0).all())
    for axis, column in zip(axes, ("val/accuracy", "val/loss"), strict=True):
        for name in names:
            one = shown(frame[frame["optimizer"] == name], column)
            _spread(axis, one["rho"].to_numpy(float), one[column].to_numpy(float), style_of(name, names))
        axis.set_ylabel(wrapped(name_of(column), 20))
        if column == "val/loss":
            set_scale(axis, "y", frame[column])
    axes[1].set_xlabel("radius ρ (each optimizer measures it its own way)")
    if logarithmic and frame["rho"].notna().any():
        axes[1].set_xscale("log")
        plain_ticks(axes[1], "x", True, *axes[1].get_xlim())
    legend(figure, names, counts=frame["optimizer"].value_counts(), lines=True)
    return figure


def parallel_coordinates(
    frame: pd.DataFrame, value: str = "val/accuracy", columns: Sequence[str] = ("rho", "lr", "batch_size")
) -> Figure:
    """Draw each trial as a line from its configuration to its value; the best few of each optimizer stand out.

    A configuration without ρ, or a trial without a value, passes below the axis, at "none".

    Args:
        frame: `optimizer`, each of `columns`, and `value`; numbers.
        value: what is judged; less is better if its name ends in "loss".
        columns: the axes before it.

    Raises:
        ValueError: a column is missing, or there are no trials.
    """
    need(frame, "optimizer", *columns, value)
    names, axes_names = optimizers_in(frame), [*columns, value]
    frame = shown(frame, value, drop=False)
    figure, (axis,) = panels(1, width=2.2 * len(axes_names) + 1, height=4.4)
    heights = {}
    for place, column in enumerate(axes_names):
        heights[column], ticks = _heights(frame[column], log=column != value)
        axis.plot([place, place], [0, 1], color="black", linewidth=1, zorder=4)
        for height, text in ticks:
            axis.text(
                place - 0.03,
                height,
                text,
                ha="right",
                va="center",
                fontsize=8,
                zorder=5,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8},
            )
    table = pd.DataFrame(heights, index=frame.index)
    good = _good(frame, value)
    faint = min(0.3, max(0.06, 30 / len(table)))
    for name in names:
        style, own = style_of(name, names), frame["optimizer"] == name
        for row in table[own & ~good].to_numpy():
            axis.plot(range(len(row)), row, color=style.colour, alpha=faint, linewidth=0.8, zorder=2)
        for row in table[own & good].to_numpy():
            axis.plot(range(len(row)), row, style.line, color=style.colour, alpha=0.95, linewidth=2, zorder=3)
    axis.set_xticks(range(len(axes_names)), [wrapped(name_of(column), 16) for column in axes_names])
    axis.set(xlim=(-0.45, len(axes_names) - 0.9), ylim=(-0.2, 1.05), yticks=[])
    axis.tick_params(axis="x", length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    legend(figure, names, counts=frame["optimizer"].value_counts(), lines=True, markers=False)
    return figure


def importance(values: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how much each hyperparameter matters for the value, by optimizer, as `optuna.importance` computes it.

    Args:
        values: optimizer to hyperparameter to its importance, 0 to 1. `pandas.DataFrame(values)` is its data.
    """
    table = pd.DataFrame(values, dtype=float)
    if table.empty:
        raise ValueError("there are no importances to draw: pass {optimizer: {hyperparameter: value}}")
    names = optimizers_in(pd.DataFrame({"optimizer": list(table)}))
    table = table[names].loc[table.mean(axis=1).sort_values().index]
    thickness = 0.8 / len(names)
    labels = [wrapped(name_of(str(index)), 24) for index in table.index]
    figure, (axis,) = panels(
        1,
        width=7.0,
        height=1.0 + max(0.5, 0.25 * len(names)) * len(table) + 0.15 * sum(label.count("\n") for label in labels),
    )
    for index, name in enumerate(names):
        places = np.arange(len(table)) + (len(names) - 1 - 2 * index) * thickness / 2
        bars = axis.barh(places, table[name].fillna(0), 0.9 * thickness, color=style_of(name, names).colour)
        axis.bar_label(bars, [f"{v:.2f}" if np.isfinite(v) else "none" for v in table[name]], padding=3, fontsize=8)
    axis.set_yticks(range(len(table)), labels)
    axis.set(xlabel="importance (share of the variance of the value)", xlim=(0, max(1.0, table.max().max()) * 1.08))
    axis.grid(axis="y", visible=False)
    legend(figure, names, lines=False, patches=True)
    return figure


def rates_and_radii(frame: pd.DataFrame, value: str = "val/accuracy") -> Figure:
    """Map learning rate and ρ, a panel for each optimizer, with one colour scale; a ring is each panel's best.

    Args:
        frame: `optimizer`, `lr`, `rho` (missing for the base optimizer), and `value`. Trials without a value are
            small crosses.
        value: what is coloured; less is better if its name ends in "loss".
    """
    need(frame, "optimizer", "lr", "rho", value)
    names = optimizers_in(frame)
    frame = shown(frame, value, drop=False)
    good = finite_of(frame[value])
    if not len(good):
        figure, (axis,) = panels(1, width=7.0, height=4.0)
        return without_values(figure, axis)
    low, high = limits(good)
    norm = LogNorm(low, high) if value.endswith("loss") and spans(good) else Normalize(low, high)
    figure, axes = panels(len(names), width=3.6, height=3.5)
    lr = limits(np.log10(finite_of(frame["lr"])), pad=0.06)
    wider = max(0.0, 0.7 - (lr[1] - lr[0])) / 2  # a narrow range has no room for its ticks' digits
    for name, axis in zip(names, axes, strict=True):
        one = frame[frame["optimizer"] == name]
        with_rho = bool(one["rho"].notna().any())
        rho = one["rho"] if with_rho else one["rho"].fillna(1.0)
        found = np.isfinite(one[value])
        axis.plot(one["lr"][~found], rho[~found], "x", color=GREY, markersize=4)
        axis.scatter(
            one["lr"][found],
            rho[found],
            c=one[value][found],
            cmap="cividis",
            norm=norm,
            s=42,
            marker=style_of(name, names).marker,
            edgecolors="black",
            linewidths=0.5,
        )
        if found.any():
            best = one[value][found].idxmin() if value.endswith("loss") else one[value][found].idxmax()
            axis.plot(
                one["lr"][best],
                rho[best],
                "o",
                markersize=15,
                markerfacecolor="none",
                markeredgecolor=BEST,
                markeredgewidth=2,
            )
        axis.set(
            title=style_of(name, names).label,
            xlabel="learning rate",
            xscale="log",
            xlim=(10 ** (lr[0] - wider), 10 ** (lr[1] + wider)),
        )
        plain_ticks(axis, "x", True, *axis.get_xlim())
        if with_rho:
            axis.set(ylabel="radius ρ", yscale="log")
            axis.margins(y=0.1)
            plain_ticks(axis, "y", True, *axis.get_ylim())
        else:
            axis.set(ylabel="no radius", yticks=[])
    marks = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgewidth=2,
            markeredgecolor=BEST,
            label="best",
        )
    ]
    if len(good) < len(frame):
        marks.append(Line2D([], [], linestyle="none", marker="x", markersize=4, color=GREY, label="no value"))
    figure.legend(handles=marks, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    bar = figure.colorbar(ScalarMappable(norm, "cividis"), ax=axes, label=name_of(value), shrink=0.9)
    plain_ticks(bar.ax, "y", isinstance(norm, LogNorm), low, high)
    return figure


def pareto(frame: pd.DataFrame) -> Figure:
    """Draw validation accuracy against the sharpness of the validation loss: each trial, and the front of all.

    The front joins the trials than which no other is both at least as accurate and at least as flat.

    Args:
        frame: `optimizer`, `val/accuracy` (0 to 1), `val/sharpness` (nats).
    """
    need(frame, "optimizer", "val/accuracy", "val/sharpness")
    names = optimizers_in(frame)
    figure, (axis,) = panels(1, width=7.0, height=4.2)
    rows = frame[np.isfinite(frame["val/accuracy"]) & np.isfinite(frame["val/sharpness"])]
    if rows.empty:
        return without_values(figure, axis)
    front = rows.sort_values(["val/sharpness", "val/accuracy"], ascending=[True, False])
    front = front[front["val/accuracy"] > front["val/accuracy"].cummax().shift(fill_value=-np.inf)]
    axis.step(front["val/sharpness"], 100 * front["val/accuracy"], where="post", color=GREY, linewidth=1.2, zorder=1)
    for name in names:
        one = rows[rows["optimizer"] == name]
        draw_points(axis, one["val/sharpness"], 100 * one["val/accuracy"], one, style_of(name, names))
    axis.set(xlabel=name_of("val/sharpness"), ylabel=name_of("val/accuracy"))
    set_scale(axis, "x", rows["val/sharpness"])
    legend(figure, names, counts=rows["optimizer"].value_counts(), lines=False)
    return figure


def learning_curves(frame: pd.DataFrame) -> Figure:
    """Draw loss and accuracy over the epochs, the mean over the seeds: validation thick, training thin.

    A band goes from the lowest to the highest seed of the validation.

    Args:
        frame: `optimizer`, `epoch`, `train/loss`, `val/loss`, `train/accuracy`, `val/accuracy`; one row for each seed
            and epoch.
    """
    need(frame, "optimizer", "epoch", "train/loss", "val/loss", "train/accuracy", "val/accuracy")
    names = optimizers_in(frame)
    figure, axes = panels(2, width=4.6, height=3.8)
    for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
        for name in names:
            style = style_of(name, names)
            for part, thick in (("val", 2.0), ("train", 0.9)):
                one = shown(frame[frame["optimizer"] == name], f"{part}/{metric}")
                by_epoch = one.groupby("epoch")[f"{part}/{metric}"]
                mean = by_epoch.mean()
                axis.plot(
                    mean.index,
                    mean,
                    style.line if thick > 1 else "-",
                    color=style.colour,
                    linewidth=thick,
                    marker=style.marker if len(mean) < 3 else None,
                    markersize=3 * thick,
                )
                if thick > 1:
                    axis.fill_between(
                        mean.index, by_epoch.min(), by_epoch.max(), color=style.colour, alpha=0.18, linewidth=0
                    )
        axis.set(xlabel="epoch", ylabel="loss (nats)" if metric == "loss" else "accuracy (%)")
        first, last = limits(frame["epoch"])
        axis.set_xlim(first - 0.02 * (last - first), last + 0.02 * (last - first))
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    set_scale(axes[0], "y", pd.concat([frame["train/loss"], frame["val/loss"]]))
    extra = [
        Line2D([], [], color=GREY, linewidth=2.0, label="validation"),
        Line2D([], [], color=GREY, linewidth=0.9, label="training"),
    ]
    legend(figure, names, lines=True, markers=False, extra=extra)
    return figure


def _good(frame: pd.DataFrame, value: str) -> pd.Series:
    """Mark the best of each optimizer: a tenth, but one at least and five at most."""
    rank = frame.groupby("optimizer")[value].rank(ascending=value.endswith("loss"), method="first")
    counts = frame.groupby("optimizer")[value].transform("count")
    return rank <= np.clip(counts // 10, 1, 5)


def _heights(values: pd.Series, log: bool) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Place values on an axis from 0 to 1, missing ones below it, and choose the axis' ticks."""
    array = values.to_numpy(float)
    finite = array[np.isfinite(array)]
    low, high = limits(finite)
    log = log and len(finite) > 0 and finite.min() > 0 and low > 0
    scale = np.log10 if log else np.asarray
    some = np.unique(finite)
    if 0 < len(some) <= 6:
        marks = some
    else:
        marks = np.array(log_ticks(low, high) if log else MaxNLocator(5).tick_values(low, high))
        marks = np.unique([low, high, *marks[(marks >= low) & (marks <= high)]])
    bottom, top = scale(low), scale(high)
    with np.errstate(divide="ignore", invalid="ignore"):
        heights = (scale(array) - bottom) / (top - bottom)
    ticks = [(float((scale(mark) - bottom) / (top - bottom)), short(mark)) for mark in marks]
    if len(finite) < len(array):
        ticks.append((-0.13, "none"))
    return np.where(np.isfinite(array), heights, -0.13), _apart(ticks)


def _apart(ticks: list[tuple[float, str]], least: float = 0.06) -> list[tuple[float, str]]:
    """Drop ticks that would overlap another; the lowest and the highest stay."""
    kept: list[tuple[float, str]] = []
    for height, text in sorted(ticks, key=lambda tick: (0.0 < tick[0] < 1.0, tick[0])):
        if all(abs(height - other) >= least for other, _ in kept):
            kept.append((height, text))
    return kept


def _spread(axis: Axes, rho: NDArray[np.float64], values: NDArray[np.float64], style: Style) -> None:
    """Draw points, and their median with its middle half."""
    without = ~np.isfinite(rho)
    if without.any():
        low, middle, high = np.quantile(values[without], [0.25, 0.5, 0.75])
        axis.axhline(middle, color=style.colour, linestyle=style.line, linewidth=1.6)
        axis.axhspan(low, high, color=style.colour, alpha=0.15, linewidth=0)
    rho, values = rho[~without], values[~without]
    axis.plot(rho, values, style.marker, color=style.colour, markersize=4, alpha=0.55, markeredgewidth=0)
    bins = _bins(rho)
    if len(bins) < 2:
        return
    quartiles = np.array([np.quantile(values[where], [0.25, 0.5, 0.75]) for where in bins])
    centre = [float(np.median(rho[where])) for where in bins]
    axis.plot(centre, quartiles[:, 1], style.line, color=style.colour, linewidth=1.8)
    axis.fill_between(centre, quartiles[:, 0], quartiles[:, 2], color=style.colour, alpha=0.15, linewidth=0)


def _bins(rho: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Group rows of equal ρ if most values repeat, else of at least five neighbours, in order of ρ."""
    order = np.argsort(rho, kind="stable")
    distinct = np.unique(rho)
    if 2 * len(distinct) <= len(rho):
        return [order[rho[order] == value] for value in distinct]
    return [part for part in np.array_split(order, max(1, min(8, len(rho) // 5))) if len(part) >= 5]
