"""The figures of measures of flatness: over the batch size, over ρ, and against the gap."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy.stats import kendalltau
from scipy.stats import t as student_t

from tune_sam.evaluation.statistics import FEWEST, Mean
from tune_sam.reporting.style import (
    TEXT,
    Style,
    counts_in,
    draw_points,
    firsts_of_rows,
    legend,
    loss_unit_in,
    name_of,
    need,
    optimizers_in,
    panels,
    plain_ticks,
    set_scale,
    shown,
    style_of,
    why_hollow,
    without_values,
    wrapped,
)


def over_batch_sizes(frame: pd.DataFrame) -> Figure:
    """Draw each measure over the batch size: all trials, and the mean of each optimizer's resolved values.

    Bars are 95 % intervals of the mean by Student's t, where a batch size has three values or more. Hollow points are
    unresolved.

    Args:
        frame: `optimizer`, `batch_size`, `measure` (its name with its unit), `value` and, if known, `resolved`.
    """
    need(frame, "optimizer", "batch_size", "measure", "value")
    names = optimizers_in(frame)
    measures = list(dict.fromkeys(frame["measure"]))
    figure, axes = panels(len(measures), height=3.2)
    for measure, axis in zip(measures, axes, strict=True):
        rows = frame[(frame["measure"] == measure) & np.isfinite(frame["batch_size"]) & np.isfinite(frame["value"])]
        axis.set(xlabel="batch size (samples)", ylabel=wrapped(str(measure), 26))
        if rows.empty:
            without_values(figure, axis)
            continue
        sizes = np.unique(rows["batch_size"])
        # All optimizers of a size lie within a third of the way to the next, and not beyond the axis.
        apart = min([1.0, *np.diff(np.log2(sizes))]) / 3
        for index, name in enumerate(names):
            one = rows[rows["optimizer"] == name]
            aside = 2 ** (min(0.16, 2 * apart / len(names)) * (index - (len(names) - 1) / 2))
            style = style_of(name, names)
            _draw_cells(axis, one, "batch_size", aside, style)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator(list(sizes)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
        set_scale(axis, "y", rows["value"])
    legend(figure, names, lines=True, hollow=why_hollow(frame[np.isfinite(frame["value"])]))
    return figure


def over_radii(frame: pd.DataFrame) -> Figure:
    """Draw each measure over ρ, everything else fixed: all trainings, and the mean of each optimizer's resolved values.

    Bars are 95 % intervals of the mean by Student's t, where a ρ has three values or more. The base optimizer, which
    has no ρ, is a line and a band over all of them. Hollow points are unresolved.

    Args:
        frame: `optimizer`, `rho` (nan for the base optimizer), `measure` (its name with its unit), `value` and, if
            known, `resolved`.
    """
    need(frame, "optimizer", "rho", "measure", "value")
    names = optimizers_in(frame)
    measures = list(dict.fromkeys(frame["measure"]))
    figure, axes = panels(len(measures), height=3.2)
    for measure, axis in zip(measures, axes, strict=True):
        rows = frame[(frame["measure"] == measure) & np.isfinite(frame["value"])]
        axis.set(xlabel="radius ρ", ylabel=wrapped(str(measure), 26))
        if rows["rho"].isna().all():
            without_values(figure, axis)
            continue
        for name in names:
            one, style = rows[rows["optimizer"] == name], style_of(name, names)
            if one["rho"].notna().any():
                _draw_cells(axis, one, "rho", 1.0, style)
            elif len(counted := one[counts_in(one)]):
                mean = Mean.of(counted["value"].tolist())
                axis.axhline(mean.value, linestyle=style.line, color=style.colour, linewidth=1.4, zorder=1)
                axis.axhspan(mean.low, mean.high, color=style.colour, alpha=0.15, linewidth=0)
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        plain_ticks(axis, "x", True, low, high, most=3)
        set_scale(axis, "y", rows["value"])
    legend(figure, names, lines=True, hollow=why_hollow(frame[np.isfinite(frame["value"])]))
    return figure


def _draw_cells(axis: Axes, rows: pd.DataFrame, over: str, aside: float, style: Style) -> None:
    """Draw the points of one optimizer over a hyperparameter, and the mean at each of its values with its interval."""
    draw_points(axis, rows[over] * aside, rows["value"], rows.drop(columns="error", errors="ignore"), style)
    cells = rows[counts_in(rows)].groupby(over)["value"].agg(["mean", "sem", "count"])
    half = (cells["sem"] * student_t.ppf(0.975, np.maximum(cells["count"] - 1, 1))).where(cells["count"] >= FEWEST)
    axis.errorbar(cells.index * aside, cells["mean"], yerr=half, fmt="none", ecolor=style.colour, elinewidth=1.8)
    axis.plot(cells.index * aside, cells["mean"], style.line, color=style.colour, linewidth=1.4, zorder=1)


def gaps_and_flatness(frame: pd.DataFrame) -> Figure:
    """Draw the generalisation gap against each measure of flatness, with Kendall's rank correlation τ.

    τ is over the resolved points alone, of all optimizers together; hollow points are unresolved. With fewer than four
    there is none. It has no p-value here: points that differ in the seed alone are not independent of each other, see
    :class:`tune_sam.evaluation.statistics.Correlation`.

    Args:
        frame: `optimizer`, `measure` (its name with its unit), `value`, `gap/loss` and, if known, `error` (of `value`)
            and `resolved`.
    """
    need(frame, "optimizer", "measure", "value", "gap/loss")
    names = optimizers_in(frame)
    frame = shown(frame, "gap/loss", drop=False)
    measures = list(dict.fromkeys(frame["measure"]))
    figure, axes = panels(len(measures), height=3.1)
    for measure, axis in zip(measures, axes, strict=True):
        rows = frame[(frame["measure"] == measure) & np.isfinite(frame["value"]) & np.isfinite(frame["gap/loss"])]
        for name in names:
            one = rows[rows["optimizer"] == name]
            draw_points(axis, one["value"], one["gap/loss"], one, style_of(name, names), horizontal=True)
        axis.set_title(_correlation(rows[counts_in(rows)]), fontsize=TEXT)
        axis.set_xlabel(wrapped(str(measure), 26))
        axis.margins(0.08)
        set_scale(axis, "x", rows["value"], ticks=4)
        axis.yaxis.set_major_locator(MaxNLocator(6))
        if rows.empty:
            without_values(figure, axis)
    for axis in firsts_of_rows(axes):
        axis.set_ylabel(wrapped(name_of("gap/loss", loss_unit_in(frame)), 26))
    legend(figure, names, lines=False, hollow=why_hollow(frame))
    return figure


def _correlation(rows: pd.DataFrame) -> str:
    if len(rows) < 4 or rows["value"].nunique() < 2 or rows["gap/loss"].nunique() < 2:
        return f"Kendall's τ: too few\npoints (n = {len(rows)})"
    found = kendalltau(rows["value"], rows["gap/loss"])
    return f"Kendall's τ = {found.statistic:.2f}\n(n = {len(rows)})".replace("-", "−")
