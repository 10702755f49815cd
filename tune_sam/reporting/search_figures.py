"""The figures of a search's trials."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from tune_sam.evaluation.statistics import FEWEST
from tune_sam.reporting.style import (
    BEST,
    GREY,
    NAMES,
    TEXT,
    Style,
    counts_in,
    draw_points,
    finite_of,
    further_in,
    is_scale,
    label_ends,
    legend,
    less_is_better,
    limits,
    log_ticks,
    loss_unit_in,
    name_of,
    need,
    objective_in,
    optimizers_in,
    panels,
    plain_ticks,
    score_in,
    set_scale,
    shown,
    spans,
    style_of,
    told_apart,
    why_hollow,
    without_values,
    wrapped,
)
from tune_sam.space import text_of_value

COORDINATES = ("rho", "lr", "batch_size")
"""The axes of a configuration."""


def over_rho(frame: pd.DataFrame) -> Figure:
    """Draw validation score and loss over ρ: each trial, the median and the middle half of the trials around it.

    Where values of ρ repeat, as with several seeds, a median is over one value, else over five trials or more of
    neighbouring ρ. Trials without ρ, those of the base optimizer, are a level line with its band. Trials that did not
    end complete are hollow, at their last value, and count in no median.

    Args:
        frame: `optimizer`, `rho`, the score, such as `val/accuracy` (0 to 1), `val/loss` and, if known, `state`.
    """
    score = score_in(frame)
    need(frame, "optimizer", "rho", f"val/{score}", "val/loss")
    names = optimizers_in(frame)
    figure, axes = panels(2, height=2.8, columns=1, sharex=True)
    logarithmic = bool((frame["rho"].dropna() > 0).all())
    for axis, column in zip(axes, (f"val/{score}", "val/loss"), strict=True):
        for name in names:
            one = shown(frame[frame["optimizer"] == name], column)
            _spread(axis, one, column, style_of(name, names))
        axis.set_ylabel(wrapped(name_of(column, loss_unit_in(frame)), 20))
        if column == "val/loss":
            set_scale(axis, "y", frame[column])
    axes[1].set_xlabel("radius ρ (each optimizer measures it its own way)")
    if logarithmic and frame["rho"].notna().any():
        axes[1].set_xscale("log")
        plain_ticks(axes[1], "x", True, *axes[1].get_xlim())
    legend(figure, names, counts=frame["optimizer"].value_counts(), lines=True, hollow=why_hollow(frame))
    return figure


def history(frame: pd.DataFrame) -> Figure:
    """Draw each trial in the order in which it was suggested, and the best complete one so far of each optimizer.

    Args:
        frame: `optimizer`, `number`, what trials are judged by and, if known, its name as `objective`, and `state`.
            Trials that did not end complete are hollow, at their last value.
    """
    value = objective_in(frame)
    need(frame, "optimizer", "number", value)
    names, frame = optimizers_in(frame), shown(frame, value)
    figure, (axis,) = panels(1, height=3.4)
    ends = []
    for name in names:
        style, one = style_of(name, names), frame[frame["optimizer"] == name].sort_values("number")
        draw_points(axis, one["number"], one[value], one, style)
        complete = one[counts_in(one)]
        best = complete[value].cummin() if less_is_better(value, frame) else complete[value].cummax()
        if len(complete):
            x, y = [*complete["number"], one["number"].max()], [*best, best.iloc[-1]]
            axis.step(x, y, where="post", linestyle=style.line, color=style.colour, linewidth=1.8)
            ends.append((x[-1], y[-1], style))
    axis.set(xlabel="number of the trial", ylabel=name_of(value, loss_unit_in(frame)))
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    set_scale(axis, "y", frame[value])
    label_ends(axis, ends)
    legend(figure, names, counts=frame["optimizer"].value_counts(), lines=False, hollow=why_hollow(frame))
    return figure


def parallel_coordinates(frame: pd.DataFrame) -> Figure:
    """Draw each trial as a line from its configuration to its value; the best few of each optimizer stand out.

    A configuration without ρ, or a trial without a value, passes below the axis, at "none". Trials that did not end
    complete are dotted and end in a hollow point, at their last value.

    Args:
        frame: `optimizer`, each of :data:`COORDINATES`, further hyperparameters under their names, what trials are
            judged by and, if known, its name as `objective`, and `state`.

    Raises:
        ValueError: a column is missing, or there are no trials.
    """
    value = objective_in(frame)
    need(frame, "optimizer", *COORDINATES, value)
    more = further_in(frame)
    names, axes_names = optimizers_in(frame), [*COORDINATES, *more, value]
    frame = shown(frame, value, drop=False)
    figure, (axis,) = panels(1, height=4.0)
    heights = {}
    for place, column in enumerate(axes_names):
        heights[column], ticks = (
            _levels(frame[column])
            if column in more and not is_scale(frame[column])
            else _heights(frame[column], log=spans(frame[column]) if column in more else column != value)
        )
        axis.plot([place, place], [0, 1], color="black", linewidth=1, zorder=4)
        for height, text in ticks:
            axis.text(
                place - 0.04,
                height,
                text,
                ha="right",
                va="center",
                fontsize=TEXT,
                zorder=5,
                parse_math=False,  # of a choice with dollar signs
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8},
            )
    table = pd.DataFrame(heights, index=frame.index)
    whole = counts_in(frame)
    good = _good(frame[whole], value).reindex(frame.index, fill_value=False)
    faint = min(0.3, max(0.06, 30 / len(table)))
    for name in names:
        style, own = style_of(name, names), frame["optimizer"] == name
        for row in table[own & ~good & whole].to_numpy():
            axis.plot(range(len(row)), row, color=style.colour, alpha=faint, linewidth=0.8, zorder=2)
        for row in table[own & ~whole].to_numpy():
            axis.plot(range(len(row)), row, ":", color=style.colour, alpha=faint, linewidth=1, zorder=2)
            axis.plot(len(row) - 1, row[-1], style.marker, color=style.colour, markerfacecolor="white", zorder=5)
        for row in table[own & good].to_numpy():
            axis.plot(range(len(row)), row, style.line, color=style.colour, alpha=0.95, linewidth=2, zorder=3)
    axis.set_xticks(
        range(len(axes_names)), [wrapped(name_of(column, loss_unit_in(frame)), 11) for column in axes_names]
    )
    axis.set(xlim=(-0.55, len(axes_names) - 0.85), ylim=(-0.2, 1.05), yticks=[])
    axis.tick_params(axis="x", length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    counts = frame["optimizer"].value_counts()
    legend(figure, names, counts=counts, lines=True, markers=False, hollow=why_hollow(frame))
    return figure


def importance(values: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw which share of the value's variance each hyperparameter explains by itself, by optimizer.

    Args:
        values: optimizer to hyperparameter to its share, 0 to 1. `pandas.DataFrame(values)` is its data.
    """
    table = pd.DataFrame(values, dtype=float)
    if table.empty:
        raise ValueError("there are no importances to draw: pass {optimizer: {hyperparameter: value}}")
    names = optimizers_in(pd.DataFrame({"optimizer": list(table)}))
    table = table[names].loc[table.mean(axis=1).sort_values().index]
    thickness = 0.8 / len(names)
    labels = [wrapped(NAMES.get(str(index), str(index)), 18) for index in table.index]
    figure, (axis,) = panels(
        1,
        height=1.0 + max(0.5, 0.27 * len(names)) * len(table) + 0.15 * sum(label.count("\n") for label in labels),
    )
    for index, name in enumerate(names):
        places = np.arange(len(table)) + (len(names) - 1 - 2 * index) * thickness / 2
        bars = axis.barh(places, table[name].fillna(0), 0.9 * thickness, color=style_of(name, names).colour)
        axis.bar_label(bars, [f"{v:.2f}" if np.isfinite(v) else "none" for v in table[name]], padding=3, fontsize=TEXT)
    axis.set_yticks(range(len(table)), labels)
    axis.set(xlabel="importance (share of variance)", xlim=(0, max(1.0, table.max().max()) * 1.2))
    axis.grid(axis="y", visible=False)
    legend(figure, names, lines=False, patches=True)
    return figure


def rates_and_radii(frame: pd.DataFrame) -> Figure:
    """Map learning rate and ρ, a panel for each optimizer, with one colour scale; a ring is each panel's best.

    Args:
        frame: `optimizer`, `lr`, `rho` (missing for the base optimizer), what trials are judged by, which is coloured,
            and, if known, its name as `objective`, and `state`. Trials that did not end complete are hollow, at their
            last value, and those without a value small crosses.
    """
    value = objective_in(frame)
    need(frame, "optimizer", "lr", "rho", value)
    names = optimizers_in(frame)
    frame = shown(frame, value, drop=False)
    good = finite_of(frame[value])
    if not len(good):
        figure, (axis,) = panels(1, height=4.0)
        return without_values(figure, axis)
    low, high = limits(good)
    norm = LogNorm(low, high) if less_is_better(value, frame) and spans(good) else Normalize(low, high)
    figure, axes = panels(len(names), height=2.9)
    lr = limits(np.log10(finite_of(frame["lr"])), pad=0.06)
    wider = max(0.0, 0.7 - (lr[1] - lr[0])) / 2  # a narrow range has no room for its ticks' digits
    for name, axis in zip(names, axes, strict=True):
        one = frame[frame["optimizer"] == name]
        with_rho = bool(one["rho"].notna().any())
        rho = one["rho"] if with_rho else one["rho"].fillna(1.0)
        found = np.isfinite(one[value])
        axis.plot(one["lr"][~found], rho[~found], "x", color=GREY, markersize=4)
        whole = counts_in(one)
        for which in (found & whole, found & ~whole):
            inside = colormaps["cividis"](norm(one[value][which]))
            axis.scatter(
                one["lr"][which],
                rho[which],
                s=42,
                marker=style_of(name, names).marker,
                facecolors=inside if whole[which].all() else "none",
                edgecolors="black" if whole[which].all() else inside,
                linewidths=0.5 if whole[which].all() else 1.8,
            )
        if (found & whole).any():
            judged = one[value][found & whole]
            best = judged.idxmin() if less_is_better(value, frame) else judged.idxmax()
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
            title=wrapped(style_of(name, names).label, 20),
            xlabel="learning rate",
            xscale="log",
            xlim=(10 ** (lr[0] - wider), 10 ** (lr[1] + wider)),
        )
        plain_ticks(axis, "x", True, *axis.get_xlim(), most=3)
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
    if hollow := why_hollow(frame.dropna(subset=[value])):
        looks: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": GREY, "markerfacecolor": "none"}
        marks.append(Line2D([], [], markersize=6, label=hollow, **looks))
    figure.legend(handles=marks, loc="outside upper center", ncols=3, frameon=False, fontsize=TEXT)
    bar = figure.colorbar(
        ScalarMappable(norm, "cividis"), ax=axes, label=name_of(value, loss_unit_in(frame)), shrink=0.9
    )
    plain_ticks(bar.ax, "y", isinstance(norm, LogNorm), low, high)
    return figure


def pareto(frame: pd.DataFrame) -> Figure:
    """Draw the validation score against the sharpness of the validation loss: each trial, and the front of all.

    The front joins the complete trials than which no other is both at least as good and at least as flat. Trials
    that did not end complete are hollow, at their last values.

    Args:
        frame: `optimizer`, the score, such as `val/accuracy` (0 to 1), `val/sharpness` and, if known, `state`.
    """
    score = score_in(frame)
    value, less = f"val/{score}", less_is_better(f"val/{score}", frame)
    need(frame, "optimizer", value, "val/sharpness")
    names = optimizers_in(frame)
    figure, (axis,) = panels(1, height=3.8)
    rows = frame[np.isfinite(frame[value]) & np.isfinite(frame["val/sharpness"])]
    if rows.empty:
        return without_values(figure, axis)
    rows, sign = shown(rows, value), -1 if less else 1
    front = rows[counts_in(rows)].sort_values(["val/sharpness", value], ascending=[True, less])
    front = front[sign * front[value] > (sign * front[value]).cummax().shift(fill_value=-np.inf)]
    axis.step(front["val/sharpness"], front[value], where="post", color=GREY, linewidth=1.2, zorder=1)
    for name in names:
        one = rows[rows["optimizer"] == name]
        draw_points(axis, one["val/sharpness"], one[value], one, style_of(name, names))
    axis.set(
        xlabel=wrapped(name_of("val/sharpness", loss_unit_in(frame)), 46), ylabel=name_of(value, loss_unit_in(frame))
    )
    set_scale(axis, "x", rows["val/sharpness"])
    legend(figure, names, counts=rows["optimizer"].value_counts(), lines=False, hollow=why_hollow(rows))
    return figure


def learning_curves(frame: pd.DataFrame) -> Figure:
    """Draw loss and score over the epochs, the mean over the seeds: validation thick, training thin.

    A band goes from the lowest to the highest seed of the validation.

    Args:
        frame: `optimizer`, `epoch`, and of both splits the loss and the score, such as `val/accuracy`; one row for each
            seed and epoch.
    """
    score = score_in(frame)
    need(frame, "optimizer", "epoch", "train/loss", "val/loss", f"train/{score}", f"val/{score}")
    names = optimizers_in(frame)
    figure, axes = panels(2, height=2.8, columns=1, sharex=True)
    for axis, metric in zip(axes, ("loss", score), strict=True):
        ends = []
        for name in names:
            style, one = style_of(name, names), frame[frame["optimizer"] == name]
            training = _curve(axis, one, f"train/{metric}", "epoch", style, 0.9)
            validation = _curve(axis, one, f"val/{metric}", "epoch", style, 2.0)
            ends += [end for end in (validation or training,) if end]
        axis.set_ylabel(name_of(f"train/{metric}", loss_unit_in(frame)).removeprefix("training "))
        if metric == "loss":
            set_scale(axis, "y", pd.concat([frame["train/loss"], frame["val/loss"]]))
        label_ends(axis, ends)
    axes[0].set_title("thick: validation, thin: training", fontsize=TEXT, color=GREY)
    axes[1].set_xlabel("epoch")
    axes[1].xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    return figure


def accuracy_and_compute(frame: pd.DataFrame) -> Figure:
    """Draw the validation score over what the training has cost so far, the mean over the seeds.

    SAM takes two gradients of each sample in an epoch, so its curves are twice as long as the base optimizer's.

    Args:
        frame: as for :func:`learning_curves`, with `gradients`, of single samples since the training began.
    """
    score = score_in(frame)
    value = f"val/{score}"
    need(frame, "optimizer", "gradients", value)
    names = optimizers_in(frame)
    figure, (axis,) = panels(1, height=3.4)
    ends = [
        end
        for name in names
        if (end := _curve(axis, frame[frame["optimizer"] == name], value, "gradients", style_of(name, names), 2.0))
    ]
    if not ends:
        return without_values(figure, axis)
    axis.set(xlabel="gradients of a sample", ylabel=name_of(value, loss_unit_in(frame)), xlim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    label_ends(axis, ends)
    return figure


def _curve(
    axis: Axes, rows: pd.DataFrame, column: str, over: str, style: Style, thick: float
) -> tuple[float, float, Style] | None:
    """Draw the mean over the seeds, a thick one with a band, and return its end; None where there are no values."""
    values = shown(rows, column).groupby(over)[column]
    mean = values.mean()
    if mean.empty:
        return None
    marker = style.marker if len(mean) < 3 else None
    line = style.line if thick > 1 else "-"
    axis.plot(mean.index, mean, line, color=style.colour, linewidth=thick, marker=marker, markersize=3 * thick)
    if thick > 1:
        axis.fill_between(mean.index, values.min(), values.max(), color=style.colour, alpha=0.18, linewidth=0)
    return float(mean.index[-1]), float(mean.iloc[-1]), style


def _good(frame: pd.DataFrame, value: str) -> pd.Series:
    """Mark the best of each optimizer: a tenth, but one at least and five at most."""
    rank = frame.groupby("optimizer")[value].rank(ascending=less_is_better(value, frame), method="first")
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
    places = [float((scale(mark) - bottom) / (top - bottom)) for mark in marks]
    ticks = list(zip(places, told_apart([float(mark) for mark in marks]), strict=True))
    if len(finite) < len(array):
        ticks.append((-0.13, "none"))
    return np.where(np.isfinite(array), heights, -0.13), _apart(ticks)


def _levels(values: pd.Series) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Place values that are no numbers on an axis, at even distances, as :func:`_heights` places numbers."""
    names = list(dict.fromkeys(values.dropna()))
    heights = {name: place / max(len(names) - 1, 1) for place, name in enumerate(names)}
    ticks = [(height, text_of_value(name)) for name, height in heights.items()]
    if values.isna().any():
        ticks.append((-0.13, "none"))
    return values.map(heights).fillna(-0.13).to_numpy(float), ticks


def _apart(ticks: list[tuple[float, str]], least: float = 0.09) -> list[tuple[float, str]]:
    """Drop ticks that would overlap another; the lowest and the highest stay."""
    kept: list[tuple[float, str]] = []
    for height, text in sorted(ticks, key=lambda tick: (0.0 < tick[0] < 1.0, tick[0])):
        if all(abs(height - other) >= least for other, _ in kept):
            kept.append((height, text))
    return kept


def _spread(axis: Axes, rows: pd.DataFrame, column: str, style: Style) -> None:
    """Draw points, and the median of those that count with its middle half, where there are enough of them."""
    level = rows["rho"].isna()
    draw_points(axis, rows["rho"][~level], rows[column][~level], rows[~level], style)
    counted = rows[counts_in(rows)]
    without = counted[column][counted["rho"].isna()]
    if len(without):
        low, middle, high = np.quantile(without, [0.25, 0.5, 0.75])
        axis.axhline(middle, color=style.colour, linestyle=style.line, linewidth=1.6)
        if len(without) >= FEWEST:
            axis.axhspan(low, high, color=style.colour, alpha=0.15, linewidth=0)
    counted = counted[counted["rho"].notna()]
    rho, values = counted["rho"].to_numpy(float), counted[column].to_numpy(float)
    bins = _bins(rho)
    if len(bins) < 2:
        return
    quartiles = np.array([np.quantile(values[where], [0.25, 0.5, 0.75]) for where in bins])
    centre = [float(np.median(rho[where])) for where in bins]
    axis.plot(centre, quartiles[:, 1], style.line, color=style.colour, linewidth=1.8)
    if min(map(len, bins)) >= FEWEST:
        axis.fill_between(centre, quartiles[:, 0], quartiles[:, 2], color=style.colour, alpha=0.15, linewidth=0)


def _bins(rho: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Group rows of equal ρ if most values repeat, else of at least five neighbours, in order of ρ."""
    order = np.argsort(rho, kind="stable")
    distinct = np.unique(rho)
    if 2 * len(distinct) <= len(rho):
        return [order[rho[order] == value] for value in distinct]
    return [part for part in np.array_split(order, max(1, min(8, len(rho) // 5))) if len(part) >= 5]
