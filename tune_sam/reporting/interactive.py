"""Figures that a reader can turn and search through, as plotly takes them: plain data, drawn by the page's script.

The script that draws is as large as all else on a page. It is put there once, compressed; the browser unpacks it.
Where a browser cannot, or nothing runs, as in print, the page shows the PNG of the same figure.
"""

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from tune_sam.reporting.style import (
    NAMES,
    further_in,
    is_scale,
    log_ticks,
    loss_unit_in,
    name_of,
    objective_in,
    optimizers_in,
    shown,
    spans,
    style_of,
    told_apart,
)
from tune_sam.scores import of_loss
from tune_sam.space import text_of_value

HEIGHT = 460
"""Pixels of an interactive figure."""


@cache
def script() -> str:
    """Give plotly's script, compressed by gzip, in base64: two fifths of its size."""
    from plotly.offline import get_plotlyjs

    return b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def surfaces(frame: pd.DataFrame) -> dict[str, Any]:
    """Show loss surfaces in one room, with a button for each optimizer; heights and colours have one scale.

    Args:
        frame: as for :func:`tune_sam.reporting.landscape_figures.surfaces`.
    """
    names = optimizers_in(frame)
    labels = [style_of(name, names).label for name in names]
    logarithmic = spans(frame["loss"])
    finite = frame["loss"][np.isfinite(frame["loss"])]
    low, high = (np.log10(finite.min()), np.log10(finite.max())) if logarithmic else (finite.min(), finite.max())
    unit, data = loss_unit_in(frame), []
    hover = f"loss %{{z:.3g}}{' nats' if unit else ''}<extra>%{{fullData.name}}</extra>"
    for place, name in enumerate(names):
        table = frame[frame["optimizer"] == name].pivot_table(index="y", columns="x", values="loss", dropna=False)
        losses = table.where(np.isfinite(table))
        data.append(
            {
                "type": "surface",
                "name": labels[place],
                "x": _plain(table.columns),
                "y": _plain(table.index),
                "z": [_plain(row) for row in losses.to_numpy()],
                "surfacecolor": [_plain(row) for row in (np.log10(losses) if logarithmic else losses).to_numpy()],
                "colorscale": "Viridis",
                "cmin": float(low),
                "cmax": float(high),
                "showscale": False,
                "visible": place == 0,
                "hovertemplate": hover,
            }
        )
    buttons = [
        {"label": label, "method": "restyle", "args": ["visible", [other == place for other in range(len(names))]]}
        for place, label in enumerate(labels)
    ]
    margin = 0.03 * (high - low)
    return {
        "data": data,
        "layout": {
            "scene": {
                "xaxis": {"title": {"text": "direction 1"}},
                "yaxis": {"title": {"text": "direction 2"}},
                "zaxis": {
                    "title": {"text": f"loss{of_loss(unit)}"},
                    "type": "log" if logarithmic else "linear",
                    "range": [float(low - margin), float(high + margin)],
                    **({"tickvals": log_ticks(10.0**low, 10.0**high, most=5)} if logarithmic else {}),
                },
                "camera": {"eye": {"x": 1.5, "y": -1.8, "z": 1.0}},
            },
            "margin": {"l": 0, "r": 0, "t": 44, "b": 0},
            "updatemenus": [
                {
                    "type": "buttons",
                    "direction": "right",
                    "buttons": buttons,
                    "x": 0,
                    "xanchor": "left",
                    "y": 1.02,
                    "yanchor": "bottom",
                }
            ],
        },
    }


def parallel_coordinates(frame: pd.DataFrame) -> dict[str, Any]:
    """Show each trial as a line that can be chosen by dragging along an axis.

    Args:
        frame: as for :func:`tune_sam.reporting.search_figures.parallel_coordinates`.
    """
    value, names = objective_in(frame), optimizers_in(frame)
    frame = shown(frame, value)
    codes = frame["optimizer"].map({name: code for code, name in enumerate(names)})
    last = max(len(names) - 1, 1)
    looks = names if len(names) > 1 else names * 2  # plotly takes no scale with one end
    steps = [(code / last, style_of(name, names).colour) for code, name in enumerate(looks)]
    columns: list[dict[str, Any]] = [_choices("optimizer", codes, [style_of(name, names).label for name in names])]
    columns += [_axis(NAMES[column], frame[column], logarithmic=True) for column in ("rho", "lr")]
    sizes = sorted(frame["batch_size"].dropna().unique())
    order = frame["batch_size"].map({size: code for code, size in enumerate(sizes)})
    columns.append(_choices("batch size", order, [f"{size:g}" for size in sizes]))
    for name in further_in(frame):
        if is_scale(frame[name]):
            columns.append(_axis(name, frame[name], logarithmic=spans(frame[name])))
        else:
            texts = frame[name].map(text_of_value, na_action="ignore").fillna("none")
            values = list(dict.fromkeys(texts))
            columns.append(_choices(name, texts.map({value: code for code, value in enumerate(values)}), values))
    if "state" in frame:
        states = list(dict.fromkeys(frame["state"]))
        columns.append(_choices("state", frame["state"].map({state: at for at, state in enumerate(states)}), states))
    label = name_of(value, loss_unit_in(frame)).partition(" (")[0]
    columns.append(_axis(label, frame[value], logarithmic=False))
    return {
        "data": [
            {
                "type": "parcoords",
                "line": {"color": _plain(codes), "colorscale": steps, "cmin": 0, "cmax": last},
                "dimensions": columns,
                "labelangle": -20,
            }
        ],
        "layout": {"margin": {"l": 50, "r": 80, "t": 90, "b": 20}},
    }


INTERACTIVE: Mapping[str, Callable[[pd.DataFrame], dict[str, Any]]] = {
    "surfaces": surfaces,
    "parallel-coordinates": parallel_coordinates,
}
"""By the figure's name."""


def interactive(name: str, frame: pd.DataFrame) -> str:
    """Give a figure of that name for plotly, as JSON; empty where there is none."""
    if name not in INTERACTIVE:
        return ""
    made = INTERACTIVE[name](frame)
    made["layout"]["height"] = HEIGHT
    return json.dumps(made, separators=(",", ":"), allow_nan=False)


def _choices(label: str, codes: pd.Series, texts: list[str]) -> dict[str, Any]:
    """Make an axis of a few values, each with its own tick."""
    ends = [-0.3, max(len(texts) - 1, 0) + 0.3]
    ticks = list(range(len(texts)))
    return {"label": label, "values": _plain(codes), "range": ends, "tickvals": ticks, "ticktext": texts}


def _axis(label: str, values: pd.Series, *, logarithmic: bool) -> dict[str, Any]:
    """Make an axis of numbers; what is missing lies below the others, at "none"."""
    scaled = np.log10(values.astype(float)) if logarithmic else values.astype(float)
    low, high = (float(scaled.min()), float(scaled.max())) if scaled.notna().any() else (0.0, 1.0)
    width = (high - low) or 1.0
    ticks = [float(tick) for tick in np.linspace(low, high, 5 if high > low else 1)]
    texts = told_apart([10**tick if logarithmic else tick for tick in ticks])
    below = low - 0.15 * width
    if scaled.isna().all():
        ticks, texts, low = [below], ["none"], below
    elif scaled.isna().any():
        ticks, texts, low = [below, *ticks], ["none", *texts], below
    return {
        "label": label,
        "values": _plain(scaled.fillna(below)),
        "range": [low - 0.02 * width, high + 0.02 * width],
        "tickvals": ticks,
        "ticktext": texts,
    }


def _plain(values: Any) -> list[float | None]:
    """Give numbers as JSON holds them, with five digits; None for what is missing."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]
