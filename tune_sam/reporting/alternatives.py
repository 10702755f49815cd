"""What each figure shows, in words and numbers, for who does not see it: read off the data that it was drawn from."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tune_sam.reporting.style import (
    NAMES,
    NEAR,
    counts_in,
    further_in,
    is_of_the_loss,
    less_is_better,
    loss_unit_in,
    name_of,
    objective_in,
    optimizers_in,
    score_in,
    short,
    shown,
    style_of,
)
from tune_sam.scores import signed, written
from tune_sam.space import cells


def alternative(name: str, frame: pd.DataFrame) -> str:
    """Say what the figure of that name shows, by the data beside it; its name where there are no words for it."""
    return WORDS[name](frame) if name in WORDS and len(frame) else name


def ranked(values: Mapping[str, float], unit: str = "", *, least: bool = False) -> str:
    """Name all values in order, and say which is first and by how much.

    Args:
        values: by what has them; those that are not finite are left out.
        unit: after each number, with a space if it takes one.
        least: begin with the lowest rather than the highest.
    """
    finite = {label: value for label, value in values.items() if np.isfinite(value)}
    order = sorted(finite, key=lambda label: finite[label], reverse=not least)
    if not order:
        return "no values"
    numbers = ", ".join(f"{label} {short(finite[label])}{unit}" for label in order)
    if len(order) == 1 or finite[order[0]] == finite[order[1]]:
        return numbers
    ahead = short(abs(finite[order[0]] - finite[order[1]]))
    by = f"{ahead} points" if unit == " %" else f"{ahead}{unit}"
    return f"{numbers}; {order[0]} is {'lowest' if least else 'highest'} by {by}"


def _labels(frame: pd.DataFrame) -> dict[str, str]:
    names = optimizers_in(frame)
    return {name: style_of(name, names).label for name in names}


def _of_each(frame: pd.DataFrame, of: Callable[[pd.DataFrame], float]) -> dict[str, float]:
    """Compute a number for each optimizer, by its label."""
    return {label: float(of(frame[frame["optimizer"] == name])) for name, label in _labels(frame).items()}


def _unit(column: str, frame: pd.DataFrame) -> str:
    if is_of_the_loss(column):
        return f" {loss_unit_in(frame)}".rstrip()
    return written(column.partition("/")[2]).unit


def _sentence(name: str, words: str) -> str:
    return f"{name[:1].upper()}{name[1:]}: {words}."


def _differences(frame: pd.DataFrame) -> str:
    from tune_sam.reporting.claim_figures import HEADINGS

    score = score_in(frame)
    how, questions = written(score), []
    for question, rows in frame.groupby("question", sort=False):
        claims = []
        for row in rows.to_dict("records"):
            half = how.factor * (row["high"] - row["low"]) / 2
            value, low, high = (
                signed(how.factor * row[name], half, how.difference) for name in ("difference", "low", "high")
            )
            interval = f" ({low} to {high})" if np.isfinite(row["low"]) else ""
            verdict = "shown" if row["shown"] else "not shown" if interval else "no interval"
            claims.append(f"{row['label']} {value}{interval}, {verdict}")
        questions.append(f"{HEADINGS[str(question)]}: {'; '.join(claims)}")
    unit = " in percentage points" if how.factor == 100 else ""
    return f"Differences in test {score}{unit}. {'. '.join(questions)}."


def _seeds(frame: pd.DataFrame) -> str:
    score = score_in(frame)
    column, how = f"test/{score}", written(score)
    means = (how.factor * frame.groupby("label", sort=False)[column].mean()).to_dict()
    counts = frame.groupby("label")[column].count()
    fewest, most = counts.min(), counts.max()
    seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"Mean test {score} over {seeds} seeds: {ranked(means, how.unit, least=less_is_better(column, frame))}."


def _f1(frame: pd.DataFrame) -> str:
    said = []
    for label, rows in frame.groupby("label", sort=False):
        means = rows.groupby("class")["f1"].mean()
        said.append(
            f"{label}: highest for {means.idxmax()} ({means.max():.3f}), "
            f"lowest for {means.idxmin()} ({means.min():.3f})"
        )
    return f"F1 of each class on the test set. {'; '.join(said)}."


def _bests(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Find the best complete trial of each optimizer that has one."""
    value = objective_in(frame)
    frame = shown(frame, value)
    frame = frame[counts_in(frame)]
    places = [
        rows[value].idxmin() if less_is_better(value, frame) else rows[value].idxmax()
        for _, rows in frame.groupby("optimizer", sort=False)
    ]
    labels = _labels(frame)
    return [row | {"label": labels[str(row["optimizer"])]} for row in frame.loc[places].to_dict("records")]


def _trials(frame: pd.DataFrame) -> str:
    """Say how many trials there are, how many of them are hollow, and which optimizer's best is ahead."""
    value, hollow = objective_in(frame), int((~counts_in(frame)).sum())
    bests = {str(best["label"]): float(best[value]) for best in _bests(frame)}
    hollows = f", {hollow} of them not complete" if hollow else ""
    found = ranked(bests, _unit(value, frame), least=less_is_better(value, frame))
    return f"{len(frame)} trials{hollows}. Best {name_of(value, loss_unit_in(frame)).partition(' (')[0]}: {found}."


def _configurations(frame: pd.DataFrame) -> str:
    """Say what :func:`_trials` says, and where the best of each optimizer lies."""
    said = []
    for best in _bests(frame):
        rho = f"ρ = {short(best['rho'])}, " if np.isfinite(best["rho"]) else ""
        size = f", batch size {best['batch_size']:g}" if "batch_size" in best else ""
        more = "".join(f", {name} {text}" for name in further_in(frame) for text in cells(best, [name], 3) if text)
        said.append(f"{best['label']} at {rho}learning rate {short(best['lr'])}{size}{more}")
    return f"{_trials(frame)} The best lie at: {'; '.join(said) or 'none is complete'}."


def _importance(frame: pd.DataFrame) -> str:
    table = frame.set_index(frame.columns[0])
    said = []
    for name in table:
        column = table[name].dropna().sort_values(ascending=False)
        said.append(
            f"{name}: {', '.join(f'{NAMES.get(str(what), str(what))} {value:.2f}' for what, value in column.items())}"
        )
    return f"Share of the variance that each hyperparameter explains. {'; '.join(said)}."


def _pareto(frame: pd.DataFrame) -> str:
    score = score_in(frame)
    value, how, unit = f"val/{score}", written(score), _unit("val/sharpness", frame)
    rows = frame[counts_in(frame) & np.isfinite(frame[[value, "val/sharpness"]]).all(axis=1)]
    if rows.empty:
        return f"{len(frame)} trials, none of which is complete with a finite sharpness."
    good = rows.loc[rows[value].idxmin() if less_is_better(value, frame) else rows[value].idxmax()]
    flat = rows.loc[rows["val/sharpness"].idxmin()]
    values = [
        f"{how.factor * row[value]:.1f}{how.unit}" if how.factor == 100 else short(row[value]) for row in (good, flat)
    ]
    what = "most accurate" if score == "accuracy" else "best"
    return (
        f"{len(rows)} complete trials. The {what}, of {good['optimizer']}, has {values[0]} and a sharpness of "
        f"{short(good['val/sharpness'])}{unit}; the flattest, of {flat['optimizer']}, {values[1]} and "
        f"{short(flat['val/sharpness'])}{unit}."
    )


def _last(frame: pd.DataFrame, column: str) -> str:
    """Rank the optimizers by a column's mean over the seeds in the last epoch."""
    found = shown(frame, column)
    if found.empty:
        return ""
    values = _of_each(found, lambda rows: rows[rows["epoch"] == rows["epoch"].max()][column].mean())
    return _sentence(
        f"{name_of(column, loss_unit_in(frame)).partition(' (')[0]} after the last epoch",
        ranked(values, _unit(column, frame), least=less_is_better(column, frame)),
    )


def _curves(frame: pd.DataFrame) -> str:
    some = "val" if frame["val/loss"].notna().any() else "train"
    return f"{_last(frame, f'{some}/loss')} {_last(frame, f'{some}/{score_in(frame)}')}"


def _compute(frame: pd.DataFrame) -> str:
    costs = _of_each(frame, lambda rows: rows["gradients"].max())
    cost = ", ".join(f"{label} {value:,.0f}" for label, value in costs.items())
    return f"{_last(frame, f'val/{score_in(frame)}')} Gradients of a sample until then: {cost}."


def _measures(frame: pd.DataFrame) -> str:
    rows = frame[counts_in(frame)]
    said = [
        f"{measure}: {ranked(_of_each(part, lambda one: one['value'].mean()))}"
        for measure, part in rows.groupby("measure", sort=False)
    ]
    return f"Means of the resolved values. {'. '.join(said)}."


def _radii(frame: pd.DataFrame) -> str:
    """Say the mean of each measure at every ρ, and the base optimizer's."""
    rows, labels, said = frame[counts_in(frame)], _labels(frame), []
    for measure, part in rows.groupby("measure", sort=False):
        cells = part.groupby([part["optimizer"], part["rho"].fillna(0)], sort=False)["value"].mean()
        means = (
            f"{labels[name]}{f' at ρ = {short(rho)}' if rho else ''} {short(value)}"
            for (name, rho), value in cells.items()
        )
        said.append(f"{measure}: {', '.join(means)}")
    return f"Means over the seeds. {'. '.join(said)}."


def _landscape(frame: pd.DataFrame) -> str:
    finite = frame[np.isfinite(frame["loss"])]
    bottom = _of_each(finite[np.isclose(finite["x"], 0) & np.isclose(finite["y"], 0)], lambda rows: rows["loss"].mean())
    top = _of_each(finite, lambda rows: rows["loss"].max())
    unit, over = _unit("loss", frame), len(frame) - len(finite)
    said = f"Loss at the minimum: {ranked(bottom, unit, least=True)}. Highest loss on the grid: {ranked(top, unit)}."
    return f"{said} At {over} points it is not finite, which this leaves out." if over else said


def _near(frame: pd.DataFrame) -> str:
    said = []
    for number, along, across in ((1, "x", "y"), (2, "y", "x")):
        rows = frame[np.isclose(frame[across], 0) & (frame[along].abs() <= NEAR + 1e-9) & np.isfinite(frame["loss"])]
        rises = _of_each(rows, lambda one: one["loss"].max() - one["loss"].min())
        said.append(f"along direction {number}: {ranked(rises, _unit('loss', frame))}")
    return f"Rise of the loss within {NEAR:g} filter norms of the minimum, {'; '.join(said)}."


def _lines(frame: pd.DataFrame) -> str:
    between = frame[(frame["position"] >= 0) & (frame["position"] <= 1)]
    barriers = _of_each(
        between,  # a barrier with a point that is not finite has no height
        lambda one: one["loss"].max(skipna=False) - max(one.sort_values("position")["loss"].iloc[[0, -1]]),
    )
    found = ranked(barriers, _unit("loss", frame))
    return f"Height of the barrier from the minimum of {frame['start'].iloc[0]} to that of: {found}."


def _spectrum(frame: pd.DataFrame) -> str:
    column = "lambda_max" if "lambda_max" in frame else "eigenvalue"
    return f"Largest eigenvalue: {ranked(_of_each(frame, lambda rows: rows[column].max()))}."


WORDS: Mapping[str, Callable[[pd.DataFrame], str]] = {
    "differences": _differences,
    "seeds": _seeds,
    "f1": _f1,
    "history": _trials,
    "over-rho": _configurations,
    "lr-rho": _configurations,
    "parallel-coordinates": _configurations,
    "importance": _importance,
    "pareto": _pareto,
    "learning-curves": _curves,
    "accuracy-compute": _compute,
    "gap-flatness": _measures,
    "batch-size": _measures,
    "radius": _radii,
    "contours": _landscape,
    "surfaces": _landscape,
    "near-minimum": _near,
    "lines": _lines,
    "spectral-density": _spectrum,
}
"""By the figure's name."""
