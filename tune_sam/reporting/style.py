"""What the figures have in common: the optimizers' styles, panels, axes, legends, and how they are saved.

A function of a figure takes a tidy DataFrame (one observation a row) and returns a matplotlib Figure.
:func:`save` writes it as PNG, with the data as CSV. Nothing opens a window or touches pyplot's state. Missing columns
are refused, and missing values are left out.

One optimizer has one colour, marker and line in all figures. The colours are Okabe and Ito's (2008), which can be told
apart with any colour vision. Values are coloured with cividis or viridis, whose lightness grows, too. What does not
count in full is drawn hollow: a quantity that is unresolved, by a boolean column `resolved`, and a trial that did not
end complete, by a column `state`.

All figures are :data:`WIDTH` wide and no text is smaller than :data:`TEXT`, so that all can be read on a telephone.

Losses are in the study's unit, nats of a classifier. Accuracies are from 0 to 1 in the data and in % in the figures.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from PIL import Image

from tune_sam.files import replaced_file
from tune_sam.optimizers import distinct_labels, label_of
from tune_sam.scores import SPLITS, of_loss, written

DPI = 150
"""Of every PNG."""

WIDTH = 5.6
"""Inches of every figure."""

TEXT = 10
"""Points of the smallest text: 9 pixels where a figure is 370 pixels wide, as on a page of 400."""

COLUMNS = 2
"""Panels in a row; further panels start a new one."""

LINE_HEIGHT = 0.095
"""Of a line of text, in heights of a panel."""

COLOURS = 256
"""Of a PNG, which is a third as large then, and looks the same."""

SPAN = 10.0
"""An axis is logarithmic if all values are above 0 and the largest is this many times the smallest."""

NEAR = 0.4
"""Filter norms from a minimum within which the loss is drawn on a linear axis."""

GREY = "0.35"
BEST = "#D55E00"
Layout = Literal["constrained", "compressed"]


@dataclass(frozen=True)
class Style:
    """How an optimizer looks in every figure."""

    label: str
    colour: str
    marker: str
    line: str


STYLES = {
    name: Style(label_of(name), *look)
    for name, *look in (
        ("base", "#0072B2", "o", "-"),
        ("sam", "#D55E00", "s", "--"),
        ("asam", "#009E73", "^", "-."),
        ("asam-all", "#CC79A7", "D", ":"),
    )
}
OTHERS = (
    ("#E69F00", "v", "-"),
    ("#56B4E9", "P", "--"),
    ("#000000", "X", "-."),
    # No eighth colour of theirs can be seen on white: marker and line tell these apart.
    ("#E69F00", "*", ":"),
    ("#56B4E9", "p", "-."),
    ("#000000", "h", "-"),
)
OURS = dict(zip(("fisher-sam", "gsam", "look-sam", "sam-on"), OTHERS, strict=False))
"""The looks of the package's further optimizers, whoever is beside them; others have what these leave in a figure."""


NAMES = {
    "rho": "radius ρ",
    "lr": "learning rate",
    "batch_size": "batch size",
}


def optimizers_in(frame: pd.DataFrame) -> list[str]:
    """List the optimizers in the data in a fixed order, ours first."""
    found = set(frame["optimizer"])
    return [name for name in STYLES if name in found] + sorted(found - STYLES.keys())


def _shortened(label: str) -> str:
    """Cut a label to 24 characters, in the middle: what tells names apart may be at either end."""
    return label if len(label) <= 24 else f"{label[:12].rstrip()} … {label[-9:].lstrip()}"


def style_of(name: str, names: Sequence[str]) -> Style:
    """Choose an optimizer's style; unknown ones get the remaining looks in the order of their names.

    Args:
        name: of the optimizer.
        names: of all in the figure, whose labels are told apart.
    """
    labels = distinct_labels({one: label_of(one) for one in (*names, name)})
    short = {one: _shortened(label) for one, label in labels.items()}
    label = labels[name] if [*short.values()].count(short[name]) > 1 else short[name]
    if name in STYLES:
        return replace(STYLES[name], label=label)
    if name in OURS:
        return Style(label, *OURS[name])
    taken = [OURS[other] for other in names if other in OURS]
    free = [look for look in OTHERS if look not in taken]
    others = [other for other in names if other not in STYLES and other not in OURS]
    return Style(label, *free[others.index(name) % len(free)])


def name_of(column: str, unit: str) -> str:
    """Say what a column is called, with its unit.

    Args:
        column: of the data.
        unit: of the study's losses, see :func:`loss_unit_in`.
    """
    if column == "val/sharpness":
        return f"worst rise of the validation loss found, ρ = 0.05{of_loss(unit)}"
    split, _, metric = column.partition("/")
    if split not in SPLITS or not metric:
        return NAMES.get(column, column)
    behind = of_loss(unit) if metric == "loss" else " (%)" if written(metric).factor == 100 else ""
    return f"{SPLITS[split]} {metric}{behind}"


OF_STUDY = ("score", "direction", "loss_unit")
"""Columns that say something of the study that the data are of, the same in each row."""


def score_in(frame: pd.DataFrame) -> str:
    """Name the score of the study that the data are of: their `score`, and `accuracy` where they have none."""
    return str(frame["score"].iloc[0]) if "score" in frame and len(frame) else "accuracy"


def loss_unit_in(frame: pd.DataFrame) -> str:
    """Give the unit of the losses: their `loss_unit`; where they have none, nats of a study judged by accuracy."""
    if "loss_unit" in frame and len(frame):
        return str(frame["loss_unit"].iloc[0])
    return "nats" if score_in(frame) == "accuracy" else ""


def wrapped(text: str, width: int) -> str:
    """Break a text into lines of `width` characters.

    Lines are not broken at an equals sign, and identifiers only after an underscore or slash.
    """
    text = text.replace(" = ", "\u00a0=\u00a0").replace("_", "_ ").replace("/", "/ ")
    return textwrap.fill(text, width).replace("_ ", "_").replace("/ ", "/")


def panels(
    count: int,
    height: float,
    columns: int = COLUMNS,
    projection: str | None = None,
    sharex: bool = False,
    layout: Layout = "constrained",
) -> tuple[Figure, list[Axes]]:
    """Make a figure with `count` axes of `height` inches, in rows."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.4), layout=layout)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, subplot_kw={"projection": projection})
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.remove()
    for axis in axes[:count]:
        if projection is None:
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(True, color="0.9", linewidth=0.6)
            axis.set_axisbelow(True)
    return figure, axes[:count]


def firsts_of_rows(axes: Sequence[Axes]) -> list[Axes]:
    """Pick the leftmost panel of each row."""
    return [axis for axis in axes if axis.get_subplotspec().is_first_col()]  # type: ignore[union-attr]


def draw_points(
    axis: Axes, x: pd.Series, y: pd.Series, rows: pd.DataFrame, style: Style, horizontal: bool = False
) -> None:
    """Draw points with error bars along one axis, hollow where they do not count in full."""
    counts = counts_in(rows)
    for which, face in ((counts, style.colour), (~counts, "white")):
        if not which.any():
            continue
        error = rows["error"][which].to_numpy(float) if "error" in rows else np.full(which.sum(), np.nan)
        error = np.where(np.isfinite(error) & (error >= 0), error, np.nan)
        bars: dict[str, Any] = {"xerr" if horizontal else "yerr": error}
        axis.errorbar(
            x[which],
            y[which],
            **bars,
            fmt=style.marker,
            color=style.colour,
            markerfacecolor=face,
            markeredgewidth=1.3,
            markersize=5.5,
            elinewidth=0.8,
            alpha=0.9,
        )


def set_scale(axis: Axes, which: str, values: pd.Series, ticks: int = 6) -> None:
    """Make the axis logarithmic where the values span a decade, with at most so many ticks."""
    if spans(values):
        axis.set(**{f"{which}scale": "log"})
        low, high = getattr(axis, f"get_{which}lim")()
        plain_ticks(axis, which, True, low, high, most=ticks)
    else:
        getattr(axis, f"{which}axis").set_major_locator(MaxNLocator(ticks))


def plain_ticks(axis: Axes, which: str, logarithmic: bool, low: float, high: float, most: int = 7) -> None:
    """Set at most so many ticks of a logarithmic axis, as plain numbers, also where it spans less than a decade."""
    if not logarithmic:
        return
    ticker = getattr(axis, f"{which}axis")
    ticker.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    ticker.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ticker.set_minor_formatter(NullFormatter())


def legend(
    figure: Figure,
    names: Sequence[str],
    *,
    lines: bool,
    markers: bool = True,
    patches: bool = False,
    counts: pd.Series | None = None,
    hollow: str = "",
    among: Sequence[str] = (),
) -> None:
    """Put one legend above all panels; `hollow` says what hollow points are.

    Styles are those of the names `among` all that the figure has; by default it has just `names`.
    """
    handles = []
    for name in names:
        style = style_of(name, among or names)
        label = style.label if counts is None else f"{style.label} (n = {counts[name]})"
        marker = "s" if patches else style.marker if markers else None
        look: dict[str, Any] = {"linestyle": style.line if lines else "none", "marker": marker}
        handles.append(
            Line2D([], [], color=style.colour, markersize=9 if patches else 6, linewidth=1.8, label=label, **look)
        )
    if hollow:
        handles.append(
            Line2D(
                [],
                [],
                color=GREY,
                marker="o",
                linestyle="none",
                markerfacecolor="white",
                markeredgewidth=1.3,
                label=hollow,
            )
        )
    # Inches of an entry at this font size: its line and gaps, and its characters.
    widest = 0.75 + 0.083 * max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int(figure.get_figwidth() / widest)))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=TEXT, handlelength=2.8
    )


def without_values(figure: Figure, axis: Axes) -> Figure:
    """Write "no values" into the panel."""
    axis.text(0.5, 0.5, "no values", transform=axis.transAxes, ha="center", va="center", color=GREY)
    return figure


def finite_of(values: Iterable[float]) -> NDArray[np.float64]:
    """Drop values that are missing or infinite."""
    array: NDArray[np.float64] = np.asarray(values, float)
    return array[np.isfinite(array)]


def spans(values: Iterable[float]) -> bool:
    """Say whether the finite values are above 0 and span a factor of :data:`SPAN`."""
    array = finite_of(values)
    return bool(len(array) and array.min() > 0 and array.max() >= SPAN * array.min())


def limits(values: Iterable[float], pad: float = 0.0) -> tuple[float, float]:
    """Find the least and the largest of finite values, never the same; 0 and 1 if there are none."""
    array = finite_of(values)
    if not len(array):
        return 0.0, 1.0
    low, high = float(array.min()), float(array.max())
    if low == high:
        aside = abs(low) * 0.05 or 0.5
        return low - aside, high + aside
    return low - pad * (high - low), high + pad * (high - low)


def counts_in(frame: pd.DataFrame) -> pd.Series:
    """Mark the rows that count in full: resolved quantities, complete trials; all, if the data do not say."""
    if "resolved" in frame:
        return frame["resolved"].fillna(False).astype(bool)
    if "state" in frame:
        return frame["state"] == "complete"
    return pd.Series(True, index=frame.index)


def why_hollow(frame: pd.DataFrame) -> str:
    """Say what hollow points of these data are; empty if none is hollow."""
    if counts_in(frame).all():
        return ""
    if "resolved" in frame:
        return "unresolved"
    return " or ".join(dict.fromkeys(frame["state"][~counts_in(frame)]))


def objective_in(frame: pd.DataFrame) -> str:
    """Name the column that trials are judged by; the score of the validation split, if the data do not say."""
    return str(frame["objective"].iloc[0]) if "objective" in frame else f"val/{score_in(frame)}"


def further_in(frame: pd.DataFrame) -> list[str]:
    """List the columns of a table of trials that are further hyperparameters with more than one value."""
    known = {"optimizer", "number", "state", "epochs", "rho", "lr", "batch_size", "objective", *OF_STUDY}
    return [name for name in frame if name.isidentifier() and name not in known and frame[name].nunique() > 1]


def is_scale(values: pd.Series) -> bool:
    """Say whether the values are numbers, rather than texts, or yes and no."""
    return is_numeric_dtype(values) and not is_bool_dtype(values)


def is_of_the_loss(column: str) -> bool:
    """Say whether a column is of the loss, or of its sharpness, and no score that is only called like it."""
    return column.rpartition("/")[2] in ("loss", "sharpness")


def less_is_better(column: str, frame: pd.DataFrame) -> bool:
    """Say whether lower values of a column are better: of losses and sharpness, and of a score where the data say so.

    Args:
        column: of the data.
        frame: the data, with `direction` where lower scores are better.
    """
    if is_of_the_loss(column):
        return True
    return "direction" in frame and str(frame["direction"].iloc[0]) == "minimize"


def label_ends(axis: Axes, ends: Sequence[tuple[float, float, Style]]) -> None:
    """Write the optimizers' names at the ends of their lines, in their colours, apart from each other.

    Args:
        axis: with its final scales.
        ends: x, y and style of the last point of each line; those that are not finite are left out.
    """
    axis.get_xlim(), axis.get_ylim()  # which brings the scales up to date
    inverted = axis.transAxes.inverted()

    def height(x: float, y: float) -> float:
        return float(inverted.transform(axis.transData.transform((x, y)))[1])

    labels = [(height(x, y), x, y, textwrap.fill(style.label, 13), style) for x, y, style in ends if math.isfinite(y)]
    labels.sort(key=lambda label: label[0])
    heights = [LINE_HEIGHT * (1 + text.count("\n")) for *_, text, _ in labels]
    middles = _apart([there for there, *_ in labels], heights)
    for (_, x, y, text, style), middle in zip(labels, middles, strict=True):
        axis.annotate(
            text,
            xy=(x, y),
            xytext=(1.04, middle),
            textcoords="axes fraction",
            color=style.colour,
            fontsize=TEXT,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style.colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 1},
        )


def _apart(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Move ascending places apart by what stands there, and back below 1, each as little as that takes."""
    moved, bottom = [], 0.0
    for place, height in zip(places, heights, strict=True):
        moved.append(max(place, bottom + height / 2))
        bottom = moved[-1] + height / 2
    top = 1 + LINE_HEIGHT / 2
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], top - heights[index] / 2)
        top = moved[index] - heights[index] / 2
    return moved


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Choose at most so many round numbers from `low` to `high`, evenly spread on a logarithmic axis."""
    decades = math.log10(high / low)
    if decades < 0.6:
        marks: Sequence[float] = MaxNLocator(most).tick_values(low, high)
    else:
        subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
        marks = LogLocator(subs=subs, numticks=99).tick_values(low, high)
    inside = [float(mark) for mark in marks if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
    return inside[:: math.ceil(len(inside) / most) or 1]


def short(value: float, digits: int = 3) -> str:
    """Write a number with three digits, or as many, and with a power of ten only where that is shorter."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "none")
    if value and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def told_apart(values: Sequence[float]) -> list[str]:
    """Write numbers with three digits, or as many as it takes to tell those that differ apart."""
    written = ([short(value, digits) for value in values] for digits in range(3, 18))
    return next((texts for texts in written if len(set(texts)) == len(set(values))), [short(value) for value in values])


def save(figure: Figure, data: pd.DataFrame, path: Path | str) -> None:
    """Write a figure to `path`.png and its data to `path`.csv; each is there whole or not at all.

    The same figure gives the same bytes.

    Args:
        figure: to write, at :data:`DPI`.
        data: what it was drawn from. An index of names becomes the first column, one of numbers is left out.
        path: without an ending; its folder is made if it does not exist.
    """
    with replaced_file(Path(f"{path}.csv")) as unfinished:
        data.to_csv(unfinished, index=data.index.dtype.kind not in "iu")
    with replaced_file(Path(f"{path}.png")) as unfinished:
        figure.savefig(unfinished, format="png", dpi=DPI, metadata={"Software": None})
        with Image.open(unfinished) as drawn:
            fewer = drawn.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        fewer.save(unfinished, format="png", optimize=True)


def need(frame: pd.DataFrame, *columns: str) -> None:
    """Refuse data that lack a column or have no rows.

    Raises:
        ValueError: a column is missing, or there are no rows.
    """
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"the data have no column {', '.join(missing)}: they have {', '.join(map(str, frame))}")
    if frame.empty:
        raise ValueError("the data have no rows: there is nothing to draw")


def shown(frame: pd.DataFrame, column: str, drop: bool = True) -> pd.DataFrame:
    """Prepare a column for drawing: accuracies in %, and no values that are not finite.

    Args:
        frame: the data.
        column: to prepare.
        drop: leave out rows without a finite value; else keep them with nan.
    """
    frame = frame.assign(**{column: frame[column].astype(float).where(np.isfinite(frame[column].astype(float)))})
    if column.partition("/")[0] in SPLITS:
        frame[column] *= written(column.partition("/")[2]).factor
    return frame.dropna(subset=[column]) if drop else frame.reset_index(drop=True)
