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
    finite_of,
    firsts_of_rows,
    legend,
    limits,
    log_ticks,
    need,
    optimizers_in,
    panels,
    plain_ticks,
    set_scale,
    short,
    spans,
    style_of,
    without_values,
)

FLATTEST = 1e-9
"""Fraction of the highest spectral density below which nothing is drawn: the smoothing kernel's tail lies there."""


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
    """Draw the loss on the line from one minimum to each other one; a bump between 0 and 1 is a barrier.

    Args:
        frame: `start` (the optimizer of the minimum at 0), `optimizer` (of the one at 1), `position`, `loss`.
    """
    need(frame, "start", "optimizer", "position", "loss")
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
    """Draw the densities of the Hessian's eigenvalues, a line for each optimizer, on a logarithmic axis.

    Args:
        frame: `optimizer`, `eigenvalue` (in nats per squared weight), `density` (its integral is 1).
    """
    need(frame, "optimizer", "eigenvalue", "density")
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


def _grid_of(frame: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Arrange one surface as coordinates [X], [Y] and losses [Y, X], with nan where there is none."""
    table = frame.pivot_table(index="y", columns="x", values="loss", aggfunc="mean", dropna=False)
    if min(table.shape) < 2:
        raise ValueError(f"a surface needs 2 × 2 points or more, got {' × '.join(map(str, table.shape))}: pass a grid")
    return table.columns.to_numpy(float), table.index.to_numpy(float), table.to_numpy(float)
