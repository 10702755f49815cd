"""The figure of what is claimed: every difference in the test set's score with its interval, question by question."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tune_sam.reporting.style import GREY, TEXT, need, optimizers_in, panels, score_in, style_of, wrapped
from tune_sam.scores import signed, written

HEADINGS = {
    "use": "against base, for the same epochs",
    "compute": "against base at equal compute",
    "rho": "what ρ does: against the matched control",
}
"""What each question compares, as a heading above its rows."""


def differences(frame: pd.DataFrame) -> Figure:
    """Draw a forest plot: each difference on the test set with its 95 % interval, below a heading for each question.

    A point is filled where a difference is shown after Holm's correction, else hollow. Where there are too few seeds
    for an interval, the point stands alone.

    Args:
        frame: `question` (one of :data:`HEADINGS`), `optimizer`, `measure` (such as `test/accuracy`), `label` (of the
            row), `difference`, `low`, `high` (of an accuracy 0 to 1; nan without an interval), `shown`.
    """
    need(frame, "question", "optimizer", "measure", "label", "difference", "low", "high", "shown")
    names, score = optimizers_in(frame), score_in(frame)
    how = written(score)
    lines = len(frame) + 1.2 * frame["question"].nunique()
    most = max((wrapped(str(label), 18).count("\n") + 1 for label in frame["label"]), default=1)
    figure, (axis,) = panels(1, height=0.9 + max(0.36, 0.17 * most) * lines)
    place, places, labels = 0.0, [], []
    for question, rows in frame.groupby("question", sort=False):
        heading = HEADINGS[str(question)]
        axis.annotate(
            heading,
            (0, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=TEXT,
            color=GREY,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
        place += 1
        for row in rows.itertuples():
            style = style_of(str(row.optimizer), names)
            value, low, high = how.factor * row.difference, how.factor * row.low, how.factor * row.high
            if low == low:
                axis.plot([low, high], [place, place], color=style.colour, linewidth=2, solid_capstyle="butt")
            axis.plot(
                value,
                place,
                style.marker,
                color=style.colour,
                markerfacecolor=style.colour if row.shown else "white",
                markersize=8,
                markeredgewidth=1.8,
            )
            axis.annotate(
                signed(value, (high - low) / 2, how.difference).replace("-", "−"),
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=TEXT,
                annotation_clip=False,
            )
            places.append(place)
            labels.append(wrapped(str(row.label), 18))
            place += 1
        place += 0.2
    axis.axvline(0, color="black", linewidth=1, zorder=0)
    axis.set_yticks(places, labels, fontsize=TEXT)
    unit = " (percentage points)" if how.factor == 100 else ""
    axis.set(ylim=(place - 0.4, -0.6), xlabel=f"difference in test {score}{unit}")
    axis.set_title("filled: shown (Holm); hollow: not shown", fontsize=TEXT, color=GREY)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.margins(x=0.08)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)
    return figure
