"""The figures of the loss around the minima, and of the Hessian's spectrum."""

from typing import cast

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from numpy.typing import NDArray

from tune_sam.reporting.style import (
    GREY,
    NEAR,
    TEXT,
    finite_of,
    firsts_of_rows,
    label_ends,
    legend,
    limits,
    log_ticks,
    loss_unit_in,
    need,
    optimizers_in,
    panels,
    plain_ticks,
    set_scale,
    short,
    spans,
    style_of,
    without_values,
    wrapped,
)
from tune_sam.scores import of_loss, per_squared_weight

FLATTEST = 1e-9
"""Fraction of the highest spectral density below which nothing is drawn: the smoothing kernel's tail lies there."""

ABOVE = 3.0
"""The linear cut-out of a line ends at so many times the highest loss of its minima."""


def surfaces(frame: pd.DataFrame) -> Figure:
    """Draw loss surfaces side by side, with one scale of height and colour (Li et al. 2018).

    The published study's figure 2 is one.

    Args:
        frame: `optimizer`, `x`, `y` (coordinates along two directions), `loss`; a full grid for each optimizer.
    """
    need(frame, "optimizer", "x", "y", "loss")
    names = optimizers_in(frame)
    finite = finite_of(frame["loss"])
    logarithmic = spans(finite)
    height = np.log10 if logarithmic else np.asarray
    low, high = limits(height(finite))
    figure, axes = panels(len(names), height=2.9, projection="3d")
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
        axis.set_title(wrapped(style_of(name, names).label, 20), y=0.98)
        axis.set_zlim(low, high)
        axis.set_xlabel("direction 1", labelpad=1)
        axis.set_ylabel("direction 2", labelpad=1)
        axis.set_zlabel(_loss(frame), labelpad=1)
        axis.tick_params(labelsize=TEXT, pad=0)
        for which in (axis.xaxis, axis.yaxis, axis.zaxis):
            which.set_major_locator(MaxNLocator(2))
        if logarithmic:
            ticks = log_ticks(10**low, 10**high, most=4)
            axis.set_zticks(np.log10(ticks), [short(tick) for tick in ticks])
        axis.view_init(elev=28, azim=-58)
        axis.set_box_aspect((4, 4, 3), zoom=0.72)
    return figure


def contours(frame: pd.DataFrame) -> Figure:
    """Draw contours of loss surfaces side by side, with one colour scale; a cross is the model.

    The published study's figure 3 is one.

    Args:
        frame: as for :func:`surfaces`.
    """
    need(frame, "optimizer", "x", "y", "loss")
    names = optimizers_in(frame)
    finite = finite_of(frame["loss"])
    low, high = limits(finite)
    norm = LogNorm(low, high) if spans(finite) else Normalize(low, high)
    levels = (np.geomspace if spans(finite) else np.linspace)(low, high, 21)
    figure, axes = panels(len(names), height=2.35, layout="compressed")
    for name, axis in zip(names, axes, strict=True):
        x, y, z = _grid_of(frame[frame["optimizer"] == name])
        z = np.ma.masked_invalid(z)
        axis.contourf(x, y, z, levels=levels, norm=norm, cmap="viridis")
        axis.contour(x, y, z, levels=levels[::2], colors="white", linewidths=0.6, alpha=0.8)
        axis.plot(0, 0, "+", color="white", markersize=10, markeredgewidth=2)
        axis.set_title(wrapped(style_of(name, names).label, 20))
        axis.set(xlabel="direction 1", aspect="equal")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.yaxis.set_major_locator(MaxNLocator(4))
    for axis in firsts_of_rows(axes):
        axis.set_ylabel("direction 2")
    bar = figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label=_loss(frame), shrink=0.9)
    plain_ticks(bar.ax, "y", isinstance(norm, LogNorm), low, high)
    return figure


def near_minimum(frame: pd.DataFrame) -> Figure:
    """Draw the loss close to the minima along both directions, on a linear axis, all optimizers in one panel.

    Args:
        frame: as for :func:`surfaces`; what lies beyond :data:`tune_sam.reporting.style.NEAR` is left out.
    """
    need(frame, "optimizer", "x", "y", "loss")
    names = optimizers_in(frame)
    figure, axes = panels(2, height=2.5, columns=1, sharex=True)
    for axis, along, across in zip(axes, "xy", "yx", strict=True):
        rows = frame[np.isclose(frame[across], 0) & (frame[along].abs() <= NEAR + 1e-9) & np.isfinite(frame["loss"])]
        ends = []
        for name in names:
            style, one = style_of(name, names), rows[rows["optimizer"] == name].sort_values(along)
            axis.plot(one[along], one["loss"], style.line, color=style.colour, marker=style.marker, markersize=4)
            if len(one):
                ends.append((one[along].iloc[-1], one["loss"].iloc[-1], style))
        axis.set(xlabel=f"direction {1 if along == 'x' else 2} (filter norms)", ylabel=_loss(frame))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        label_ends(axis, ends)
    return figure


def lines(frame: pd.DataFrame) -> Figure:
    """Draw the loss on the line from one minimum to each other one; a bump between 0 and 1 is a barrier.

    Where the losses span a decade they are drawn on a logarithmic axis, and below it once more on a linear one, cut out
    near the minima: up to :data:`ABOVE` times the highest loss of a minimum.

    Args:
        frame: `start` (the optimizer of the minimum at 0), `optimizer` (of the one at 1), `position`, `loss`.
    """
    need(frame, "start", "optimizer", "position", "loss")
    start, names = str(frame["start"].iloc[0]), optimizers_in(frame)
    everyone = optimizers_in(pd.DataFrame({"optimizer": [start, *names]}))
    minima = finite_of(frame["loss"][np.isclose(frame["position"], 0) | np.isclose(frame["position"], 1)])
    cut = spans(frame["loss"]) and len(minima) > 0
    figure, axes = panels(1 + cut, height=2.8, columns=1, sharex=True)
    for axis in axes:
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
        axis.set(ylabel=_loss(frame))
    set_scale(axes[0], "y", frame["loss"])
    if cut:
        axes[1].set(ylim=(0, ABOVE * minima.max()), ylabel=f"near the minima{of_loss(loss_unit_in(frame))}")
    axes[-1].set_xlabel(wrapped(f"on the line: {style_of(start, everyone).label} at 0, the other minimum at 1", 46))
    legend(figure, names, lines=True, among=everyone)
    return figure


def spectral_densities(frame: pd.DataFrame) -> Figure:
    """Draw the densities of the Hessian's eigenvalues, a panel for each optimizer, with λ_max marked.

    All panels have the same axes; that of the density is logarithmic.

    Args:
        frame: `optimizer`, `eigenvalue` (in nats per squared weight), `density` (its integral is 1) and, if known,
            `lambda_max`, the same in all rows of an optimizer.
    """
    need(frame, "optimizer", "eigenvalue", "density")
    names = optimizers_in(frame)
    rows = visible_density(frame)
    figure, axes = panels(len(names), height=1.9, columns=1, sharex=True)
    if rows.empty:
        return without_values(figure, axes[0])
    top, low = rows["density"].max(), rows["density"].min()  # without those that part others
    marked = frame["lambda_max"] if "lambda_max" in frame else pd.Series(dtype=float)
    for name, axis in zip(names, axes, strict=True):
        one = rows[rows["optimizer"] == name].sort_values("eigenvalue")
        style = style_of(name, names)
        marker = style.marker if one["density"].count() == 1 else None
        axis.plot(one["eigenvalue"], one["density"], color=style.colour, linewidth=1.6, marker=marker)
        axis.set(yscale="log", ylim=(low / 2, 3 * top), ylabel="density")
        axis.set_title(style.label, color=style.colour, loc="left", fontsize=TEXT)
        axis.axvline(0, color=GREY, linewidth=0.8, zorder=0)
        axis.yaxis.set_major_locator(LogLocator(numticks=5))
        if len(marked) and np.isfinite(largest := marked[frame["optimizer"] == name].iloc[0]):
            axis.axvline(largest, color=style.colour, linestyle="--", linewidth=1.4)
            axis.set_title(f"λ_max = {short(largest)}", color=style.colour, loc="right", fontsize=TEXT)
    axes[-1].set_xlabel(f"eigenvalue λ of the Hessian{per_squared_weight(loss_unit_in(frame))}")
    axes[-1].set_xlim(*limits([*rows["eigenvalue"], *marked], pad=0.03))
    axes[-1].xaxis.set_major_locator(MaxNLocator(6))
    return figure


def _loss(frame: pd.DataFrame) -> str:
    """Name the axis of a loss, with its unit."""
    return f"loss{of_loss(loss_unit_in(frame))}"


def visible_density(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows whose density is drawn: above :data:`FLATTEST` of the highest.

    Where an optimizer has none between two of them, one without a density parts them, so that no line joins them.
    """
    rows = frame[np.isfinite(frame["eigenvalue"])].sort_values(["optimizer", "eigenvalue"], kind="stable")
    seen = rows["density"] > FLATTEST * rows["density"].max()
    of_one = seen.groupby(rows["optimizer"], sort=False)
    inside = of_one.cummax() & of_one.transform(lambda one: one[::-1].cummax()[::-1])
    first_of_a_gap = ~seen & of_one.shift(fill_value=False).astype(bool) & inside
    return rows.assign(density=rows["density"].where(seen))[seen | first_of_a_gap]


def _grid_of(frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Arrange one surface as coordinates [X], [Y] and losses [Y, X], with nan where there is none."""
    table = frame.pivot_table(index="y", columns="x", values="loss", aggfunc="mean", dropna=False)
    if min(table.shape) < 2:
        raise ValueError(f"a surface needs 2 × 2 points or more, got {' × '.join(map(str, table.shape))}: pass a grid")
    return table.columns.to_numpy(float), table.index.to_numpy(float), table.to_numpy(float)
