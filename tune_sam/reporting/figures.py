"""The figures of a report: each from plain data, each with its data beside it.

A function takes a tidy DataFrame (one observation a row) and returns a matplotlib Figure, which :func:`save` writes as
PNG with the data as CSV. Nothing here opens a window or touches pyplot's state. Missing columns are refused, missing
values are left out.

One optimizer has one colour, marker and line in all figures: the colours are Okabe and Ito's (2008), which are told
apart with any colour vision, and values are coloured with cividis or viridis, which also grow in lightness. A quantity
that is called unresolved, in a boolean column `resolved`, is drawn hollow.

Losses are in nats, accuracies in the data from 0 to 1 and in the figures in %.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from mpl_toolkits.mplot3d import Axes3D
from numpy.typing import NDArray
from scipy.stats import kendalltau
from scipy.stats import t as student_t

from tune_sam.reporting.style import (
    BEST,
    GREY,
    Style,
    draw_points,
    finite_of,
    firsts_of_rows,
    legend,
    limits,
    log_ticks,
    name_of,
    optimizers_in,
    panels,
    plain_ticks,
    resolved_in,
    set_scale,
    short,
    spans,
    style_of,
    without_values,
    wrapped,
)

DPI = 150

FLATTEST = 1e-9
"""Part of the highest spectral density below which nothing is drawn: there it is the smoothing kernel's tail."""


def save(figure: Figure, data: pd.DataFrame, path: Path | str) -> tuple[Path, Path]:
    """Write `path`.png and, beside it, `path`.csv with the data; each is there whole or not at all.

    The same figure gives the same bytes.

    Args:
        figure: from one of the functions here.
        data: what it was drawn from. An index of names becomes the first column, one of numbers is left out.
        path: with or without `.png`; its folder is made if it is not there.

    Returns:
        The paths of the PNG and the CSV.
    """
    path = Path(path)
    stem = path.name.removesuffix(".png")
    png, csv = path.with_name(f"{stem}.png"), path.with_name(f"{stem}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _Whole(csv) as part:
        data.to_csv(part, index=data.index.dtype.kind not in "iu")
    with _Whole(png) as part:
        figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})
    return png, csv


# --- the loss landscape ---


def surfaces(frame: pd.DataFrame) -> Figure:
    """Loss surfaces side by side, with one scale of height and colour (Li et al. 2018; the report's figure 2).

    Args:
        frame: `optimizer`, `x`, `y` (coordinates along two directions), `loss`; a full grid for each optimizer.
    """
    _need(frame, "optimizer", "x", "y", "loss")
    names = optimizers_in(frame)
    finite = finite_of(frame["loss"])
    logarithmic = spans(finite)
    height = np.log10 if logarithmic else np.asarray
    low, high = limits(height(finite))
    figure, axes = panels(len(names), width=4.4, height=3.8, projection="3d")
    for name, axis in zip(names, cast("list[Axes3D]", axes), strict=True):
        x, y, z = _grid_of(frame[frame["optimizer"] == name])
        with np.errstate(divide="ignore", invalid="ignore"):
            z = height(np.where(np.isfinite(z), z, np.nan))
        axis.plot_surface(
            *np.meshgrid(x, y),
            z,
            cmap="viridis",
            vmin=low,
            vmax=high,
            linewidth=0.2,
            edgecolor="0.3",
            rcount=60,
            ccount=60,
            antialiased=True,
        )
        axis.set_title(style_of(name, names).label, y=0.98)
        axis.set_zlim(low, high)
        axis.set_xlabel("direction 1 (filter norms)", labelpad=6, fontsize=9)
        axis.set_ylabel("direction 2 (filter norms)", labelpad=6, fontsize=9)
        axis.set_zlabel("loss (nats)", labelpad=3, fontsize=9)
        axis.tick_params(labelsize=8, pad=1)
        for which in (axis.xaxis, axis.yaxis, axis.zaxis):
            which.set_major_locator(MaxNLocator(5))
        if logarithmic:
            ticks = log_ticks(10**low, 10**high)
            axis.set_zticks(np.log10(ticks), [short(tick) for tick in ticks])
        axis.view_init(elev=28, azim=-58)
        axis.set_box_aspect((4, 4, 3), zoom=0.82)
    return figure


def contours(frame: pd.DataFrame) -> Figure:
    """Contours of loss surfaces side by side, with one colour scale; a cross is the model (the report's figure 3).

    Args:
        frame: as for :func:`surfaces`.
    """
    _need(frame, "optimizer", "x", "y", "loss")
    names = optimizers_in(frame)
    finite = finite_of(frame["loss"])
    low, high = limits(finite)
    norm = LogNorm(low, high) if spans(finite) else Normalize(low, high)
    levels = (np.geomspace if spans(finite) else np.linspace)(low, high, 21)
    figure, axes = panels(len(names), width=3.7, height=3.5, layout="compressed")
    for name, axis in zip(names, axes, strict=True):
        x, y, z = _grid_of(frame[frame["optimizer"] == name])
        z = np.ma.masked_invalid(z)
        axis.contourf(x, y, z, levels=levels, norm=norm, cmap="viridis")
        axis.contour(x, y, z, levels=levels[::2], colors="white", linewidths=0.6, alpha=0.8)
        axis.plot(0, 0, "+", color="white", markersize=10, markeredgewidth=2)
        axis.set(title=style_of(name, names).label, xlabel="direction 1 (filter norms)", aspect="equal")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.yaxis.set_major_locator(MaxNLocator(4))
    for axis in firsts_of_rows(axes):
        axis.set_ylabel("direction 2 (filter norms)")
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label="loss (nats)", shrink=0.9)
    plain_ticks(bar.ax, "y", isinstance(norm, LogNorm), low, high)
    return figure


def lines(frame: pd.DataFrame) -> Figure:
    """The loss on the line from one minimum to each other one; a bump between 0 and 1 is a barrier.

    Args:
        frame: `start` (the optimizer of the minimum at 0), `optimizer` (of the one at 1), `position`, `loss`.
    """
    _need(frame, "start", "optimizer", "position", "loss")
    start, names = str(frame["start"].iloc[0]), optimizers_in(frame)
    everyone = optimizers_in(pd.DataFrame({"optimizer": [start, *names]}))
    figure, (axis,) = panels(1, width=7.0, height=4.2)
    for name in names:
        one = frame[frame["optimizer"] == name].sort_values("position")
        style = style_of(name, everyone)
        axis.plot(
            one["position"],
            one["loss"].where(np.isfinite(one["loss"])),
            style.line,
            color=style.colour,
            marker=style.marker,
            markersize=4,
        )
    for place in (0, 1):
        axis.axvline(place, color=GREY, linewidth=0.8, zorder=0)
    axis.set(
        xlabel=f"position on the line: {style_of(start, everyone).label} at 0, the other minimum at 1",
        ylabel="loss (nats)",
    )
    set_scale(axis, "y", frame["loss"])
    legend(figure, names, lines=True)
    return figure


def spectral_densities(frame: pd.DataFrame) -> Figure:
    """Densities of the Hessian's eigenvalues, one line an optimizer, on a logarithmic axis.

    Args:
        frame: `optimizer`, `eigenvalue` (in nats per squared weight), `density` (its integral is 1).
    """
    _need(frame, "optimizer", "eigenvalue", "density")
    names = optimizers_in(frame)
    figure, (axis,) = panels(1, width=7.0, height=4.0)
    rows = frame[np.isfinite(frame["eigenvalue"]) & np.isfinite(frame["density"])]
    top = rows["density"].max()
    if not top > 0:
        return without_values(figure, axis)
    for name in names:
        one = rows[rows["optimizer"] == name].sort_values("eigenvalue")
        style = style_of(name, names)
        density = one["density"].where(one["density"] > 0)
        alone = len(one) == 1
        axis.plot(
            one["eigenvalue"],
            density,
            style.line,
            color=style.colour,
            linewidth=1.6,
            marker=style.marker if alone else None,
        )
    visible = rows[rows["density"] > FLATTEST * top]
    axis.set(
        yscale="log",
        ylim=(max(visible["density"].min(), FLATTEST * top) / 2, 3 * top),
        xlabel="eigenvalue λ of the Hessian (nats per squared weight)",
        ylabel="density (1 / unit of λ)",
    )
    axis.set_xlim(*limits(visible["eigenvalue"], pad=0.03))
    axis.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axis.yaxis.set_major_locator(LogLocator(numticks=8))
    axis.xaxis.set_major_locator(MaxNLocator(8))
    legend(figure, names, lines=True, markers=False)
    return figure


# --- a search ---


def over_rho(frame: pd.DataFrame) -> Figure:
    """Validation accuracy and loss over ρ: each trial, the median and the middle half of the trials around it.

    Where values of ρ repeat, as with several seeds, a median is over one value; else over five trials or more of
    neighbouring ρ. Trials without a ρ, the base optimizer's, are a level line with its band.

    Args:
        frame: `optimizer`, `rho`, `val/accuracy` (0 to 1), `val/loss`.
    """
    _need(frame, "optimizer", "rho", "val/accuracy", "val/loss")
    names = optimizers_in(frame)
    figure, axes = panels(2, width=7.0, height=2.9, columns=1, sharex=True)
    logarithmic = bool((frame["rho"].dropna() > 0).all())
    for axis, column in zip(axes, ("val/accuracy", "val/loss"), strict=True):
        for name in names:
            one = _shown(frame[frame["optimizer"] == name], column)
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
    """Each trial as a line from its configuration to its value; the best few of each optimizer stand out.

    A configuration without ρ, or a trial without a value, passes below the axis, at "none".

    Args:
        frame: `optimizer`, each of `columns`, and `value`; numbers.
        value: what is judged; less is better if its name ends in "loss".
        columns: the axes before it.

    Raises:
        ValueError: a column is missing, or there are no trials.
    """
    _need(frame, "optimizer", *columns, value)
    names, axes_names = optimizers_in(frame), [*columns, value]
    frame = _shown(frame, value, drop=False)
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
    """How much each hyperparameter matters for the value, by optimizer, as `optuna.importance` gives it.

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
    """Maps of learning rate and ρ, a panel an optimizer, with one colour scale; a ring is each panel's best.

    Args:
        frame: `optimizer`, `lr`, `rho` (missing for the base optimizer), and `value`. Trials without a value are
            small crosses.
        value: what is coloured; less is better if its name ends in "loss".
    """
    _need(frame, "optimizer", "lr", "rho", value)
    names = optimizers_in(frame)
    frame = _shown(frame, value, drop=False)
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
    """Validation accuracy against the sharpness of the validation loss: each trial, and the front of all.

    The front joins the trials than which no other is both at least as accurate and at least as flat.

    Args:
        frame: `optimizer`, `val/accuracy` (0 to 1), `val/sharpness` (nats).
    """
    _need(frame, "optimizer", "val/accuracy", "val/sharpness")
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


def over_batch_sizes(frame: pd.DataFrame) -> Figure:
    """Each measure over the batch size: all trials, and the mean of each optimizer's resolved values.

    Bars are 95 % intervals of the mean by Student's t, where a batch size has two values or more. Hollow points are
    unresolved.

    Args:
        frame: `optimizer`, `batch_size`, `measure` (its name with its unit), `value` and, if known, `resolved`.
    """
    _need(frame, "optimizer", "batch_size", "measure", "value")
    names = optimizers_in(frame)
    measures = list(dict.fromkeys(frame["measure"]))
    figure, axes = panels(len(measures), width=4.2, height=3.7)
    for measure, axis in zip(measures, axes, strict=True):
        rows = frame[(frame["measure"] == measure) & np.isfinite(frame["batch_size"]) & np.isfinite(frame["value"])]
        axis.set(xlabel="batch size (samples)", ylabel=wrapped(str(measure), 34))
        if rows.empty:
            without_values(figure, axis)
            continue
        for index, name in enumerate(names):
            one = rows[rows["optimizer"] == name]
            aside = 2 ** (0.16 * (index - (len(names) - 1) / 2))
            style = style_of(name, names)
            places = one["batch_size"] * aside
            draw_points(axis, places, one["value"], one.drop(columns="error", errors="ignore"), style)
            cells = one[resolved_in(one)].groupby("batch_size")["value"].agg(["mean", "sem", "count"])
            half = cells["sem"] * student_t.ppf(0.975, np.maximum(cells["count"] - 1, 1))
            axis.errorbar(
                cells.index * aside, cells["mean"], yerr=half, fmt="none", ecolor=style.colour, elinewidth=1.8
            )
            axis.plot(cells.index * aside, cells["mean"], style.line, color=style.colour, linewidth=1.4, zorder=1)
        sizes = np.unique(rows["batch_size"])
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator(list(sizes)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
        set_scale(axis, "y", rows["value"])
    legend(figure, names, lines=True, hollow=_any_hollow(frame[np.isfinite(frame["value"])]))
    return figure


# --- the refits ---


def learning_curves(frame: pd.DataFrame) -> Figure:
    """Loss and accuracy over the epochs: validation as thick lines, training as thin ones, the mean over the seeds.

    A band goes from the lowest to the highest seed of the validation.

    Args:
        frame: `optimizer`, `epoch`, `train/loss`, `val/loss`, `train/accuracy`, `val/accuracy`; one row for each seed
            and epoch.
    """
    _need(frame, "optimizer", "epoch", "train/loss", "val/loss", "train/accuracy", "val/accuracy")
    names = optimizers_in(frame)
    figure, axes = panels(2, width=4.6, height=3.8)
    for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
        for name in names:
            style = style_of(name, names)
            for part, thick in (("val", 2.0), ("train", 0.9)):
                one = _shown(frame[frame["optimizer"] == name], f"{part}/{metric}")
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


def gaps_and_flatness(frame: pd.DataFrame, gap: str = "gap/loss") -> Figure:
    """The generalisation gap against each measure of flatness, with Kendall's rank correlation τ.

    τ and its p-value for no association are over the resolved points alone, of all optimizers together; hollow points
    are unresolved. With fewer than four there is none: even a perfect order of three has p = 1/3.

    Args:
        frame: `optimizer`, `measure` (its name with its unit), `value`, the gap and, if known, `error` (of `value`) and
            `resolved`.
        gap: the column of the gap.
    """
    _need(frame, "optimizer", "measure", "value", gap)
    names = optimizers_in(frame)
    frame = _shown(frame, gap, drop=False)
    measures = list(dict.fromkeys(frame["measure"]))
    figure, axes = panels(len(measures), width=3.6, height=3.5)
    for measure, axis in zip(measures, axes, strict=True):
        rows = frame[(frame["measure"] == measure) & np.isfinite(frame["value"]) & np.isfinite(frame[gap])]
        for name in names:
            one = rows[rows["optimizer"] == name]
            draw_points(axis, one["value"], one[gap], one, style_of(name, names), horizontal=True)
        axis.set_title(_correlation(rows[resolved_in(rows)], gap), fontsize=9)
        axis.set_xlabel(wrapped(str(measure), 34))
        axis.margins(0.08)
        set_scale(axis, "x", rows["value"], ticks=4)
        axis.yaxis.set_major_locator(MaxNLocator(6))
        if rows.empty:
            without_values(figure, axis)
    for axis in firsts_of_rows(axes):
        axis.set_ylabel(wrapped(name_of(gap), 34))
    legend(figure, names, lines=False, hollow=_any_hollow(frame))
    return figure


# --- parts ---


class _Whole:
    """A file that appears under its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            os.replace(self.part, self.path)
        else:
            self.part.unlink(missing_ok=True)


def _need(frame: pd.DataFrame, *columns: str) -> None:
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"the data have no column {', '.join(missing)}: they have {', '.join(map(str, frame))}")
    if frame.empty:
        raise ValueError("the data have no rows: there is nothing to draw")


def _shown(frame: pd.DataFrame, column: str, drop: bool = True) -> pd.DataFrame:
    """Accuracies in %; without the rows whose `column` is not finite, or with nan there."""
    frame = frame.assign(**{column: frame[column].astype(float).where(np.isfinite(frame[column].astype(float)))})
    if column.endswith("accuracy"):
        frame[column] *= 100
    return frame.dropna(subset=[column]) if drop else frame.reset_index(drop=True)


def _grid_of(frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates [X], [Y] and losses [Y, X] of one surface; nan where there is none."""
    table = frame.pivot_table(index="y", columns="x", values="loss", aggfunc="mean", dropna=False)
    if min(table.shape) < 2:
        raise ValueError(f"a surface needs 2 × 2 points or more, got {' × '.join(map(str, table.shape))}: pass a grid")
    return table.columns.to_numpy(float), table.index.to_numpy(float), table.to_numpy(float)


def _any_hollow(frame: pd.DataFrame) -> bool:
    return not bool(resolved_in(frame).all())


def _good(frame: pd.DataFrame, value: str) -> pd.Series:
    """The best of each optimizer: a tenth, but one at least and five at most."""
    rank = frame.groupby("optimizer")[value].rank(ascending=value.endswith("loss"), method="first")
    counts = frame.groupby("optimizer")[value].transform("count")
    return rank <= np.clip(counts // 10, 1, 5)


def _correlation(rows: pd.DataFrame, gap: str) -> str:
    if len(rows) < 4 or rows["value"].nunique() < 2 or rows[gap].nunique() < 2:
        return f"Kendall's τ: too few points (n = {len(rows)})"
    found = kendalltau(rows["value"], rows[gap])
    p = "p < 0.001" if found.pvalue < 0.001 else f"p = {found.pvalue:.2g}"
    return f"Kendall's τ = {found.statistic:.2f} ({p}, n = {len(rows)})".replace("-", "−")


def _heights(values: pd.Series, log: bool) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Where values are on an axis from 0 to 1, missing ones below it, and the axis' ticks."""
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
    """Without ticks that would overlap another; the lowest and the highest stay."""
    kept: list[tuple[float, str]] = []
    for height, text in sorted(ticks, key=lambda tick: (0.0 < tick[0] < 1.0, tick[0])):
        if all(abs(height - other) >= least for other, _ in kept):
            kept.append((height, text))
    return kept


def _spread(axis: Axes, rho: NDArray[np.float64], values: NDArray[np.float64], style: Style) -> None:
    """Points, and a median with its middle half."""
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
    """Rows of equal ρ if most values repeat, else of at least five neighbours, in order of ρ."""
    order = np.argsort(rho, kind="stable")
    distinct = np.unique(rho)
    if 2 * len(distinct) <= len(rho):
        return [order[rho[order] == value] for value in distinct]
    return [part for part in np.array_split(order, max(1, min(8, len(rho) // 5))) if len(part) >= 5]
