"""Every number of results/README.md, and of the results in README.md, is recomputed from the files beside it.

What the pages say in numbers is written here once more, as f-strings around the cells that the numbers come from. Each
must stand in its page to the digit; and of the rest of a page no fraction is allowed but :data:`SETTINGS`.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS
from typer.main import get_command

from tune_sam.cli.app import app
from tune_sam.evaluation.claims import EqualLoss, at_equal_loss, claims
from tune_sam.evaluation.statistics import Correlation, Difference, Mean, family, holm, with_interval
from tune_sam.home import Home
from tune_sam.scores import standard_error
from tune_sam.settings import SearchOptions
from tune_sam.tuning.plan import define

ROOT = Path(__file__).parents[1]

SETTINGS = (
    *("2.14.1", "2.8.1", "2.60.0", "5.0.0"),  # versions
    *("80.41", "81.11", "94.64", "94.26", "95.43 / 95.97"),  # the published study's
    *(
        "ρ = 0.05",
        "σ = 0.05",
        "has 12.2 and 16.8,",
        "a rate of 0.01, in bf16",
        "(ρ = 0.01)",
        "(ρ = 0.02)",
        "is below 0.05",
    ),
    *("at a rate of 0.0004 to", "at 0.01,", "rate was 0.01;"),
    *(
        "0.0015, 0.0045 and 0.0135",
        "All at 0.0045",
        "rate is 0.0045",
        "0.0005 to 0.0045",
        "rate 0.0135",
        "0.001 to 1,",
        "0.001 to 1;",
        "from 0.00001 to 0.03",
        "The best below 0.001",
    ),
    *(
        "One rate, 0.001,",
        "flatter. At 0.01 SAM's",
        "from 0.001 on that is shown.",
        "t 0.001,",
        "average from 0.001 on,",
        "At 0.03 it cannot",
        "at 0.03.",
        "lower from 0.001 on",
        "lower from 0.01 on",
        "of ρ = 0.0003,",
        "LookSAM** at ρ = 0.03",
        "Adam, SAM at ρ = 0.01 and",
    ),
    "9.2 s with SGD and 18.2 s with ASAM",  # timed by hand
    *("2203.02714", "2405.03676"),  # papers
)
"""Fractions that are no results: what was chosen, what others published, and what no file holds."""

NAMES = {"base": "Adam", "sam": "SAM", "asam": "ASAM", "asam-all": "asam-all"}
CLIMBING = ("sam", "asam", "asam-all")
FLAT = {"lambda_max": 0, "trace": 0, "worst_case": 3, "average_case": 5}
"""Measures of flatness, and their decimals."""


@cache
def file(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / name)


def mean(rows: pd.DataFrame, column: str, decimals: int, unit: float = 1) -> str:
    resolved = rows[rows.get(f"{column}_resolved", pd.Series(True, rows.index)).astype(bool)]
    return with_interval(Mean.of(resolved[column].tolist()), unit, decimals)


def percent(rows: pd.DataFrame, column: str = "test/accuracy") -> str:
    return mean(rows, column, 2, 100)


def probability(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.01 else f"{p:.2g}"


def interval(found: Mean, decimals: int, unit: float = 1) -> str:
    return f"{unit * found.low:+.{decimals}f} to {unit * found.high:+.{decimals}f}"


def table_row(*cells: str) -> str:
    return " ".join(f"| {cell}" if cell else "|" for cell in cells) + " |"


@cache
def molecules() -> dict[tuple[str, str], pd.DataFrame]:
    """The trainings of each row, by optimizer and kind, beside what was measured of their networks.

    Kinds are `refit`, `twice`, which is Adam at equal compute, and `control`, of the optimizer's row.
    """
    of = file("gcn/trainings.csv").merge(file("gcn/refit-flatness.csv")[["key", *FLAT]], on="key", how="left")
    rows = {row: part.sort_values("seed") for row, part in of.groupby("row")}
    found = {(part["optimizer"].iloc[0], "refit"): part for part in rows.values() if part["kind"].iloc[0] == "refit"}
    controls = {part["matched"].iloc[0]: part for part in rows.values() if part["kind"].iloc[0] == "control"}
    found |= {(one, "control"): controls[found[one, "refit"]["matched"].iloc[0]] for one in CLIMBING}
    return found | {("base", "twice"): rows["base lr=0.00112 batch=64 twice"]}


@cache
def compared(measures: tuple[str, ...], to: str, kind: str) -> dict[tuple[str, str], Difference]:
    """The differences of one question, by optimizer and measure; `to` is an optimizer, or `own`."""
    of = molecules()
    pairs = [(of[one, "refit"]["row"].iloc[0], of[one if to == "own" else to, kind]["row"].iloc[0]) for one in CLIMBING]
    table = pd.concat(of.values())
    return {(one.optimizer, one.measure): one.difference for one in claims(table, pairs, measures)}


def of_both_pages() -> Iterator[str]:
    for optimizer, published in zip(NAMES, ("80.41", "", "", "81.11"), strict=True):
        rows = molecules()[optimizer, "refit"]
        yield table_row(published, percent(rows), mean(rows, "lambda_max", 0))
    for optimizer, published in (("base", "94.64"), ("asam-all", "94.26")):
        rows = beats()[optimizer]
        yield table_row(published, percent(rows), mean(rows, "lambda_max", 1))
    images = file("images/trainings.csv")
    for optimizer in ("base", "sam", "asam"):
        yield f"| | {percent(images[(images['optimizer'] == optimizer) & (images['kind'] == 'refit')])}"


def of_the_first_page() -> Iterator[str]:
    of = molecules()
    asam, control = (of["asam", kind]["lambda_max"].mean() for kind in ("refit", "control"))
    yield f"λ_max is {asam / control:.2f} of Adam's at the same learning"
    worst = max(one.corrected for one in compared(("lambda_max",), "base", "refit").values())
    assert worst < 0.01
    yield "(p < 0.01 by Holm's method)"
    yield f"{ratios_at_one_rate()}, shown at every size"


def of_the_molecules() -> Iterator[str]:
    of = molecules()
    adam, twice = of["base", "refit"], of["base", "twice"]
    seconds = file("gcn/seconds.csv").groupby("row")["seconds"].mean()
    for optimizer, kind in [
        *((one, "refit") for one in NAMES),
        ("base", "twice"),
        *((one, "control") for one in CLIMBING),
    ]:
        rows = of[optimizer, kind]
        row = rows["row"].iloc[0]
        yield table_row(
            f"control of {optimizer}, {row.removesuffix(' control')}" if kind == "control" else row,
            mean(rows, "train/loss", 3),
            percent(rows, "train/accuracy"),
            mean(rows, "test/loss", 3),
            percent(rows),
            mean(rows, "gap/loss", 3),
            f"{seconds[row]:.0f}" if row in seconds else "",
            f"{rows['gradients'].mean():,.0f}",
        )
    questions = {
        "What should I use? | SAM | Adam": ("base", "refit"),
        "What does it cost? | SAM | Adam for 400 epochs": ("base", "twice"),
        "What does ρ do? | SAM | its control": ("own", "control"),
    }
    for begins, to in questions.items():
        for (optimizer, _), found in compared(("test/accuracy",), *to).items():
            yield table_row(*(begins.split(" | ") if optimizer == "sam" else ("", NAMES[optimizer], "")), *cells(found))
    longer = Difference.of(twice["test/accuracy"].tolist(), adam["test/accuracy"].tolist())
    yield table_row("Adam for 400 epochs", "Adam", *cells(longer)).removesuffix(" |") + ", alone |"
    by_rho = compared(("test/accuracy",), "own", "control")
    yield f"more than {max(abs(100 * one.mean.value) for one in by_rho.values()):.1f} points from its control's"
    room = max(abs(100 * end) for one in by_rho.values() for end in (one.mean.low, one.mean.high))
    yield f"leave room for {room:.1f}."
    accuracy = adam["test/accuracy"].tolist()
    rates = family([Difference.of(of[one, "control"]["test/accuracy"].tolist(), accuracy) for one in CLIMBING])
    below = [-100 * one.mean.value for one in rates]
    (p,) = {probability(one.corrected) for one in rates}
    yield f"is {min(below):.1f} to {max(below):.1f} points below Adam's best"
    yield f"not shown either (corrected p = {p} each)"
    questions_too = [compared(("test/accuracy",), *to).values() for to in questions.values()]
    whole = family([*(one for part in questions_too for one in part), longer])
    assert len(whole) == 10
    yield f"all ten rows of the table p would be {probability(whole[-1].corrected)}"
    elsewhere = on_other_splits()
    there = Difference.of(elsewhere["base equal-compute"].tolist(), elsewhere["base refit"].tolist())
    yield (
        f"the difference is {100 * there.mean.value:+.2f} points ({interval(there.mean, 2, 100)}, p = "
        f"{probability(there.p)})"
    )
    took = [seconds[twice["row"].iloc[0]] / seconds[of[one, "refit"]["row"].iloc[0]] for one in CLIMBING]
    assert 1.2 < min(took) < max(took) < 1.25, "a fifth more seconds"
    yield f"has a standard error of {100 * (0.83 * 0.17 / 1302) ** 0.5:.1f} points"
    yield f"rises to {100 * twice['train/accuracy'].mean():.2f} % and its gap to {twice['gap/loss'].mean():.3f}."
    every = of["asam-all", "refit"]
    below = [100 * rows["test/accuracy"].mean() - one for rows, one in ((adam, 80.41), (every, 81.11))]
    rates = [of[one, "refit"]["lr"].iloc[0] for one in NAMES]
    yield f"chose {min(rates):.3f} to {max(rates):.3f}."
    yield f"lie {below[0]:.1f} points (Adam) and {below[1]:.1f} points (its SAM) below"
    asam = by_rho["asam", "test/accuracy"].mean
    yield f"differs from its control's by {100 * asam.value:+.2f} points ({interval(asam, 2, 100)})"


def of_calibration() -> Iterator[str]:
    of = molecules()
    questions = (("base", "refit"), ("base", "twice"), ("own", "control"))
    error, likely = ({to: compared((name,), *to) for to in questions} for name in ("test/ece", "test/nll"))
    use, longer, by_rho = error.values()
    assert not any(one.shown for one in [*use.values(), *(one for part in likely.values() for one in part.values())])
    assert [one.shown for one in by_rho.values()] == [False, True, False]
    assert [one.shown for one in longer.values()] == [True, True, False]
    asam = by_rho["asam", "test/ece"]
    yield (
        f"calibration error, {percent(of['asam', 'refit'], 'test/ece')} %, is higher than its control's by "
        f"{100 * asam.mean.value:.2f} points ({interval(asam.mean, 2, 100)}, corrected p = "
        f"{probability(asam.corrected)})"
    )
    adam, twice = (of["base", kind]["test/ece"].tolist() for kind in ("refit", "twice"))
    epochs = Difference.of(adam, twice)
    sam, asam = longer["sam", "test/ece"], longer["asam", "test/ece"]
    yield f"Against Adam for 400 epochs, {percent(of['base', 'twice'], 'test/ece')} %, it is higher for SAM"
    yield (
        f"by {100 * sam.mean.value:.2f} and {100 * asam.mean.value:.2f} points (p = {probability(sam.corrected)} and "
        f"{probability(asam.corrected)}), but so it is for Adam for 200, by {100 * epochs.mean.value:.2f} "
        f"(p = {probability(epochs.p)}, alone)"
    )
    of_all = [(key, one) for found in (error, likely) for to in questions for key, one in found[to].items()]
    together = family([one for _, one in of_all])
    assert len(together) == 18
    assert [one for one in together if one.shown] == [together[4]]
    assert of_all[4][1] is asam


def cells(found: Difference) -> tuple[str, ...]:
    return (
        f"{100 * found.mean.value:+.2f}",
        interval(found.mean, 2, 100),
        f"{found.deviations:+.1f}",
        probability(found.corrected),
    )


@cache
def on_other_splits() -> pd.DataFrame:
    """Test accuracies, a split a line: each has one training of each row, so that what is paired are splits."""
    of = file("gcn-splits/trainings.csv")
    table = of.assign(row=of["optimizer"] + " " + of["kind"]).pivot(index="split_seed", columns="row")
    return table["test/accuracy"][["base refit", "sam refit", "asam refit", "base equal-compute"]]


def of_other_splits() -> Iterator[str]:
    accuracy = on_other_splits()
    for split, values in accuracy.iterrows():
        yield table_row(str(split), *(f"{100 * value:.2f}" for value in values))
    yield table_row("mean", *(with_interval(Mean.of(accuracy[one].tolist()), 100, 2) for one in accuracy))
    for to, name in (("base refit", "Adam"), ("base equal-compute", "Adam for 400 epochs")):
        pairs = [Difference.of(accuracy[one].tolist(), accuracy[to].tolist()) for one in ("sam refit", "asam refit")]
        for optimizer, found in zip(("SAM", "ASAM"), family(pairs), strict=True):
            yield table_row(optimizer, name, *cells(found))
    seeds = molecules()["base", "refit"]["test/accuracy"]
    assert accuracy["base refit"].max() < seeds.min(), (
        "all five of Adam's values are below the lowest of its five seeds"
    )
    adam, sam, asam, longer = (f"{100 * accuracy[one].std():.2f}" for one in accuracy)
    yield f"varies by {adam} (Adam), {sam} (SAM), {asam} (ASAM) and {longer} points (Adam for 400 epochs)"
    yield f"Adam's varies by {100 * seeds.std():.2f}."


# Grids with wrong labels and few data

DIGITS = {
    "digits": "all labels right",
    "digits-noise-20": "20 % wrong",
    "digits-noise-40": "40 % wrong",
    "digits-few-323": "323 graphs",
    "digits-few-108": "108 graphs",
}
"""Studies of the digits, as their table calls them."""

FEW_MOLECULES = {"few-260": "260 graphs", "few-781": "781 graphs"}
"""Studies of few molecules, as their table calls them."""

WRONG_MOLECULES = {"noise-0.2": "20 % wrong", "noise-0.4": "40 % wrong"}
"""Studies of molecules with wrong labels, as their table calls them."""

Grids = dict[tuple[str, str, str], pd.DataFrame]
"""The trainings of each row of some studies, by study, optimizer and kind, as :func:`molecules` has them."""


@cache
def grids(folder: str) -> Grids:
    found = {}
    for study, of in file(f"{folder}/trainings.csv").groupby("study"):
        rows = [part.sort_values("seed") for _, part in of.groupby("row")]
        known = {(part["optimizer"].iloc[0], part["kind"].iloc[0], part["matched"].iloc[0]): part for part in rows}
        for (optimizer, kind, matched), part in known.items():
            if kind == "control":
                continue
            found[study, optimizer, kind] = part
            if optimizer != "base":  # Adam's own row is the control of one with its rate
                own = known.get(("base", "control", matched))
                found[study, optimizer, "control"] = known["base", "refit", matched] if own is None else own
    return found


def of_grid_means(of: Grids, names: dict[str, str]) -> Iterator[str]:
    for study, name in names.items():
        base, twice = of[study, "base", "refit"], of[study, "base", "equal-compute"]
        chosen = [
            f"{percent(rows)}; {rows['rho'].iloc[0]:g}, {rows['lr'].iloc[0]:g}"
            for rows in (of[study, one, "refit"] for one in ("sam", "asam"))
        ]
        yield table_row(name, f"{percent(base)}; {base['lr'].iloc[0]:g}", *chosen, percent(twice))


def grid_differences(of: Grids, names: dict[str, str]) -> dict[str, list[Difference]]:
    """SAM's and ASAM's of each study in turn, one family a question."""
    each = [(study, optimizer) for study in names for optimizer in ("sam", "asam")]
    questions = {
        "Adam": [of[study, "base", "refit"] for study, _ in each],
        "Adam for twice the epochs": [of[study, "base", "equal-compute"] for study, _ in each],
        "Adam at the same rate": [of[study, optimizer, "control"] for study, optimizer in each],
    }
    ours = [of[study, optimizer, "refit"] for study, optimizer in each]
    return {
        question: family(
            [
                Difference.of(one["test/accuracy"].tolist(), other["test/accuracy"].tolist())
                for one, other in zip(ours, others, strict=True)
            ]
        )
        for question, others in questions.items()
    }


def of_grid_differences(of: Grids, names: dict[str, str]) -> Iterator[str]:
    first = next(iter(names))
    for question, found in grid_differences(of, names).items():
        for study, sam, asam in zip(names, found[::2], found[1::2], strict=True):
            yield table_row(
                question if study == first else "",
                names[study],
                *(f"{cells(one)[0]}, {cells(one)[1]}, {cells(one)[3]}" for one in (sam, asam)),
            )


def of_wrong_labels_and_few_data() -> Iterator[str]:
    of = grids("digits")
    yield from of_grid_means(of, DIGITS)
    yield from of_grid_differences(of, DIGITS)
    found = grid_differences(of, DIGITS)
    best = found["Adam"]
    above = {DIGITS[study]: one.mean.value for study, one in zip(DIGITS, best[::2], strict=True)}
    assert [study for study, value in above.items() if value > 0] == ["108 graphs"]
    yield f"with 108 graphs alone, by {100 * above['108 graphs']:.2f} points, and ASAM's nowhere."
    assert 100 * max(one.mean.value for one in best[1::2]) < 0.005, "a tie, to a hundredth of a point"
    assert all(one.mean.value < 0 for one in found["Adam for twice the epochs"])
    assert [one.shown for one in found["Adam for twice the epochs"]] == [index == 4 for index in range(10)]
    longer = [
        100
        * (
            of[study, "base", "equal-compute"]["test/accuracy"].mean()
            - of[study, "base", "refit"]["test/accuracy"].mean()
        )
        for study in DIGITS
    ]
    yield f"twice the epochs add {min(longer):.1f} to {max(longer):.1f} points to Adam's accuracy"
    tried = file("digits/trials.csv").groupby("optimizer")["rho"]
    assert {one: sorted(rhos.dropna().unique()) for one, rhos in tried if one != "base"} == {
        "sam": [0.003, 0.01, 0.03, 0.1, 0.3],
        "asam": [0.03, 0.1, 0.3, 1, 3],
    }
    best = {
        (study, one): part[part["value"] == part["value"].max()]
        for (study, one), part in file("digits/trials.csv").groupby(["study", "optimizer"])
    }
    smallest = [key for key, part in best.items() if key[1] != "base" and part["rho"].min() == tried.min()[key[1]]]
    assert all(of[*key, "refit"]["rho"].iloc[0] == best[key]["rho"].min() for key in smallest)
    alone = [key for key in smallest if best[key]["rho"].nunique() == 1]
    assert (len(alone), sorted(set(smallest) - set(alone))) == (
        6,
        [("digits-few-108", "sam"), ("digits-noise-20", "sam")],
    )
    rates = [key for key, part in best.items() if part["lr"].nunique() > 1 and part["rho"].nunique() < 2]
    assert sorted(rates) == [("digits-few-108", "asam"), ("digits-noise-20", "base")]
    for study, right in (("digits-noise-20", 80), ("digits-noise-40", 60)):
        short, long = (of[study, "base", kind] for kind in ("refit", "equal-compute"))
        yield percent(short, "train/accuracy")
        yield f"has {right}, and {100 * long['train/accuracy'].mean():.2f} after twice the epochs"
    states = file("digits/trials.csv")["state"]
    assert set(states) == {"complete"}, "every trial was trained to its end"


def of_few_molecules() -> Iterator[str]:
    of = grids("gcn-few")
    yield from of_grid_means(of, FEW_MOLECULES)
    yield from of_grid_differences(of, FEW_MOLECULES)
    found = grid_differences(of, FEW_MOLECULES)
    assert not any(one.shown for name in ("Adam", "Adam at the same rate") for one in found[name])
    assert [one.shown for one in found["Adam for twice the epochs"]] == [False, False, False, True]
    short, long = of["few-781", "base", "refit"], of["few-781", "base", "equal-compute"]
    yield f"training loss of {mean(long, 'train/loss', 3)} against {mean(short, 'train/loss', 3)}"
    yield f"test loss of {mean(long, 'test/loss', 3)} against {mean(short, 'test/loss', 3)}"
    cost = Difference.of(long["test/accuracy"].tolist(), short["test/accuracy"].tolist())
    yield f"{100 * cost.mean.value:+.2f} points ({interval(cost.mean, 2, 100)}, p = {probability(cost.p)})"
    assert all(of["few-781", one, "control"] is short for one in ("sam", "asam")), "Adam's best is both their controls"
    sam, asam = (of["few-260", one, "refit"] for one in ("sam", "asam"))
    own = of["few-260", "sam", "control"]
    assert own is of["few-260", "asam", "control"], "one control of both"
    rate = Difference.of(own["test/accuracy"].tolist(), of["few-260", "base", "refit"]["test/accuracy"].tolist())
    yield f"its mean is {percent(own)}, {100 * rate.mean.value:+.2f} points ({interval(rate.mean, 2, 100)}) above"
    gap = Difference.of(asam["gap/loss"].tolist(), own["gap/loss"].tolist())
    yield f"ASAM's gap is then {mean(asam, 'gap/loss', 3)}, its control's {mean(own, 'gap/loss', 3)}"
    yield f"({interval(gap.mean, 3)}, p = {gap.p:.2g})"
    yield f"training accuracy of {percent(asam, 'train/accuracy')} against {percent(own, 'train/accuracy')}"
    losses = [rows["test/loss"].tolist() for rows in (asam, own, of["few-260", "base", "refit"])]
    written = [with_interval(Mean.of(one), 1, 3) for one in losses]
    beside = [Difference.of(losses[0], other).p for other in losses[1:]]
    yield f"its test loss is lower, too, {written[0]} against {written[1]} (p = {beside[0]:.1g})"
    yield f"that of Adam's best, {written[2]} (p = {beside[1]:.2g})"
    every = file("gcn-few/trials.csv")
    assert set(every["state"]) == {"complete"}
    assert set(every[every["study"] == "few-781"]["precision"]) == {"bf16"}
    tied = every[(every["study"] == "few-781") & (every["optimizer"] == "base")]
    assert (len(tied), tied["value"].nunique(), short["lr"].iloc[0]) == (2, 1, 0.001)
    yield "tied in validation, and the first, 0.001, was taken"
    trials = every[every["study"] == "few-260"]
    assert [len(trials[trials["optimizer"] == one]) for one in ("sam", "asam", "base")] == [10, 10, 2]
    best = {one: part.loc[part["value"].idxmax()] for one, part in trials.groupby("optimizer")}
    slow, fast = trials[trials["optimizer"] == "base"].sort_values("lr")["value"]
    assert round(433 * (slow - fast)) == 4, "graphs of the validation split"
    yield f"preferred 0.001 for Adam by {100 * (slow - fast):.1f} points"
    assert best["base"]["lr"] == 0.001
    assert best["sam"]["lr"] == best["asam"]["lr"] == 0.003
    assert [rows["rho"].iloc[0] for rows in (sam, asam)] == [best[one]["rho"] for one in ("sam", "asam")]


def of_wrong_molecules() -> Iterator[str]:
    of = grids("gcn-noise")
    yield from of_grid_means(of, WRONG_MOLECULES)
    yield from of_grid_differences(of, WRONG_MOLECULES)
    found = [one for question in grid_differences(of, WRONG_MOLECULES).values() for one in question]
    assert not any(one.shown for one in found)
    a_fifth = [one for question in grid_differences(of, WRONG_MOLECULES).values() for one in question[:2]]
    yield f"differences lie within {100 * max(abs(one.mean.value) for one in a_fifth):.2f} points of 0"
    for study in WRONG_MOLECULES:
        learned = of[study, "base", "refit"], of[study, "base", "equal-compute"]
        yield percent(learned[0], "train/accuracy")
        yield f"{100 * learned[1]['train/accuracy'].mean():.2f} after twice as many"
    trials = file("gcn-noise/trials.csv")
    fast = trials[(trials["study"] == "noise-0.4") & (trials["lr"] == 0.003)]
    assert (len(fast), fast["value"].nunique()) == (11, 1), "all of one class"
    yield "at the rate of 0.003 none of the eleven trials learned anything"
    assert set(trials["state"]) == {"complete"}
    assert set(trials["precision"]) == {"bf16"}


def of_their_flatness() -> Iterator[str]:
    of = molecules()
    searched = file("gcn/flatness.csv")
    adam = searched[searched["optimizer"] == "base"].sort_values("lr")
    slow, fast = adam.iloc[0], adam.iloc[-1]
    assert (f"{slow['lr']:.4f}", f"{fast['lr']:.2f}") == ("0.0004", "0.01")
    yield f"falls from {slow['lambda_max']:.0f} at a rate of 0.0004 to {fast['lambda_max']:.0f} at 0.01,"
    for optimizer, kind in [*((one, "refit") for one in NAMES), *((one, "control") for one in CLIMBING)]:
        rows = of[optimizer, kind]
        yield table_row(
            f"{'control of ' if kind == 'control' else ''}{NAMES[optimizer]}",
            *(mean(rows, name, decimals) for name, decimals in FLAT.items()),
            mean(rows, "train/loss", 3),
        )
    found = compared(tuple(FLAT), "own", "control")
    pairs = [tuple(of[one, kind]["row"].iloc[0] for kind in ("refit", "control")) for one in CLIMBING]
    ratios = {one.optimizer: one for one in at_equal_loss(pd.concat(of.values()), pairs)}
    for optimizer in CLIMBING:
        ratio = ratios[optimizer]
        yield table_row(
            NAMES[optimizer],
            *(
                f"{one.mean.value:+.{decimals}f}, {interval(one.mean, decimals)}, {probability(one.corrected)}"
                for name, decimals in FLAT.items()
                for one in (found[optimizer, name],)
            ),
            f"× {ratio.factor:.2f}, {ratio.low:.2f} to {ratio.high:.2f}, {probability(ratio.corrected)}; {ratio.common}"
            if ratio.overlap
            else "the losses do not overlap",
        )
    level = {key: rows["lambda_max"].mean() for key, rows in of.items()}
    yield f"λ_max is {level['asam', 'refit'] / level['asam', 'control']:.2f} of its control's**, its trace a third"
    assert f"{of['asam', 'refit']['trace'].mean() / of['asam', 'control']['trace'].mean():.2f}" == "0.33"
    yield f"At equal training loss its λ_max is {ratios['sam'].factor:.2f} of its control's"
    factor, low, high, p = paired_ratio(of["sam", "refit"], of["sam", "control"])
    assert f"{factor:.2f}" == f"{ratios['sam'].factor:.2f}", "the ratio is the same"
    yield f"({low:.2f} to {high:.2f}, p = {probability(p)})"
    trials = file("gcn/trials.csv").merge(file("gcn/flatness.csv")[["key", "lambda_max"]], on="key")
    trials = trials[trials["optimizer"] == "asam"]
    tied = trials[trials["value"] == trials["value"].max()].sort_values("number")
    assert len(tied) == 4
    assert tied["rho"].iloc[0] == tied["rho"].max() == of["asam", "refit"]["rho"].iloc[0], "the first"
    yield f"with ρ from {tied['rho'].min():.4f} to {tied['rho'].max():.3f}."
    first, *others = tied["lambda_max"]
    yield f"the lowest λ_max, {first:.0f} against {min(others):.0f} to {max(others):.0f}."
    scaled = file("gcn/refit-flatness.csv").set_index("key")
    cases = [
        [scaled.loc[of[one, kind]["key"], name].tolist() for kind in ("refit", "control")]
        for name in ("worst_case_adaptive", "average_case_adaptive")
        for one in CLIMBING
    ]
    found = family([Difference.of(*case) for case in cases])
    assert [one.shown for one in found] == [False] * 4 + [True, False]
    worst, average = (np.mean(ours) / np.mean(theirs) for ours, theirs in (cases[1], cases[4]))
    yield (
        f"ASAM's are {worst:.2f} and {average:.2f} of its control's, the average shown and the worst not (p = "
        f"{probability(found[1].corrected)} and {probability(found[4].corrected)}, corrected"
    )
    yield f"Its ρ of {of['sam', 'refit']['rho'].iloc[0]:.4f} lies"
    best = compared(("lambda_max",), "base", "refit")
    change = {one: best[one, "lambda_max"].mean.value for one in CLIMBING}
    by_rates = {one: level["base", "refit"] - level[one, "control"] for one in CLIMBING}
    levels = [probability(one.corrected) for one in best.values()]
    yield (
        f"({change['sam']:.0f}, {change['asam']:.0f} and {change['asam-all']:.0f} in λ_max, corrected p "
        f"{levels[0]}, {levels[1]} and {levels[2]})"
    )
    yield (
        f"at {level['sam', 'control']:.0f}, {level['asam', 'control']:.0f} and {level['asam-all', 'control']:.0f} in "
        f"place of {level['base', 'refit']:.0f}: {by_rates['sam']:.0f} of SAM's {-change['sam']:.0f}, "
        f"{by_rates['asam']:.0f} of ASAM's {-change['asam']:.0f} and {by_rates['asam-all']:.0f} of the "
        f"{-change['asam-all']:.0f} of asam-all."
    )
    networks = file("gcn/refit-flatness.csv").merge(file("gcn/trainings.csv")[["key", "row"]], on="key")
    ties = [
        Correlation.of(networks[name].tolist(), networks["gap/loss"].tolist(), networks["row"].tolist())
        for name in FLAT
    ]
    yield (
        f"over the {len(networks)} networks is {ties[0].tau:+.2f} with λ_max, {ties[1].tau:+.2f} with the trace, "
        f"{ties[2].tau:+.2f} with the worst and {ties[3].tau:+.2f} with the average case"
    )
    yield f"is shown (p = {', '.join(f'{one.p:.2f}' for one in ties)})"
    yield (
        f"it is {', '.join(f'{one.within:+.2f}' for one in ties[:3])} and {ties[3].within:+.2f} "
        f"(p = {', '.join(f'{one.within_p:.2f}' for one in ties)})"
    )


def paired_ratio(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[float, float, float, float]:
    """λ_max of a row by another's at equal training loss with the seeds paired, its interval and p.

    A regression of the difference in log λ_max on that in the loss, over the seeds.
    """
    loss = ours["train/loss"].to_numpy() - theirs["train/loss"].to_numpy()
    logs = np.log(ours["lambda_max"].to_numpy() / theirs["lambda_max"].to_numpy())
    fit = OLS(logs, np.column_stack([np.ones(len(loss)), loss])).fit()
    return *np.exp([fit.params[0], *fit.conf_int()[0]]), fit.pvalues[0]


@cache
def searched_again() -> dict[str, pd.DataFrame]:
    """SAM's row of the wider range of ρ and its control, beside Adam's of the first search: five seeds of each."""
    of = file("gcn-wide/trainings.csv").merge(file("gcn-wide/flatness.csv")[["key", *FLAT]], on="key")
    sam, control = (of[of["kind"] == kind].sort_values("seed") for kind in ("refit", "control"))
    adam = {kind: molecules()["base", kind] for kind in ("refit", "twice")}
    return {"SAM": sam, "its control": control, "Adam": adam["refit"], "Adam for 400 epochs": adam["twice"]}


@cache
def ratios_of_both_searches() -> dict[str, EqualLoss]:
    """λ_max of each row by its control's at equal training loss, one family: the first search's, and SAM's second."""
    of = molecules()
    pairs = {one: [of[one, kind] for kind in ("refit", "control")] for one in CLIMBING}
    pairs["again"] = [searched_again()[name] for name in ("SAM", "its control")]
    rows = [tuple(part["row"].iloc[0] for part in pair) for pair in pairs.values()]
    found = at_equal_loss(pd.concat([*of.values(), *pairs["again"]]), rows)
    return dict(zip(pairs, found, strict=True))


def of_sam_on_the_first_page() -> Iterator[str]:
    of = searched_again()
    pairs = [[molecules()["sam", kind] for kind in ("refit", "control")], [of["SAM"], of["its control"]]]
    before, again = (ours["lambda_max"].mean() / theirs["lambda_max"].mean() for ours, theirs in pairs)
    flatter = family([Difference.of(*(of[row][one].tolist() for row in ("SAM", "its control"))) for one in FLAT])
    assert flatter[0].shown, "the second shown"
    assert not compared(tuple(FLAT), "own", "control")["sam", "lambda_max"].shown, "the first not"
    (radius,) = {f"{rows['rho'].iloc[0]:.3f}" for rows in (molecules()["sam", "refit"], searched_again()["SAM"])}
    yield (
        f"in two searches that chose a ρ near {radius}, is {before:.2f} and {again:.2f} of its control's, the second "
        "shown, the first not."
    )


def of_a_wider_range() -> Iterator[str]:
    trials, of = file("gcn-wide/trials.csv"), searched_again()
    complete = trials[trials["state"] == "complete"]
    best = complete.loc[complete["value"].idxmax()]
    below = complete[complete["rho"] < 0.001]
    earlier = file("gcn/trials.csv")
    earlier = earlier[(earlier["optimizer"] == "sam") & (earlier["state"] == "complete")]
    yield f"no trial above {earlier['rho'].max():.4f} of which was complete"
    yield f"{len(complete)} of its {len(trials)} trials ran to their end, {len(below)} of them below 0.001."
    yield f"It chose ρ = {best['rho']:.3g} at a rate of {best['lr']:.3g} and batches of {best['batch_size']},"
    yield f"with a validation accuracy of {best['value']:.3f}; the best below 0.001 has {below['value'].max():.3f}"
    yield f"gave a best ρ near {best['rho']:.3f} again."
    yield f"chose one near {best['rho']:.3f} again."
    sam, control = of["SAM"], of["its control"]
    assert set(sam["rho"]) == {best["rho"]}
    for name, rows in of.items():
        if name in ("SAM", "its control"):
            shown = [mean(rows, one, decimals) for one, decimals in FLAT.items()]
            yield table_row(name, percent(rows), mean(rows, "train/loss", 3), *shown)
    accuracy = [
        Difference.of(sam["test/accuracy"].tolist(), rows["test/accuracy"].tolist()) for rows in [*of.values()][1:]
    ]
    for name, found in zip([*of][1:], family(accuracy), strict=True):
        yield table_row(name, *cells(found))
    flatter = family([Difference.of(sam[one].tolist(), control[one].tolist()) for one in FLAT])
    for (name, decimals), found in zip(FLAT.items(), flatter, strict=True):
        yield table_row(
            {"lambda_max": "λ_max", "trace": "trace", "worst_case": "worst case", "average_case": "average case"}[name],
            f"{found.mean.value:+.{decimals}f}",
            interval(found.mean, decimals),
            probability(found.corrected),
        )
    ahead, *others = complete["value"].sort_values(ascending=False)
    yield f"{433 * (ahead - others[0]):.0f} of 433 graphs ahead of the next"
    nearest = [
        complete[complete["rho"] < best["rho"]]["rho"].max(),
        complete[complete["rho"] > best["rho"]]["rho"].min(),
    ]
    yield f"between ρ = {nearest[0]:.3g} and {nearest[1]:.3g}."
    assert below["value"].max() == earlier["value"].max(), "just the accuracy of the first search's best"
    of_both = family([*flatter, *compared(tuple(FLAT), "own", "control").values()])
    assert [one.shown for one in of_both[:4]] == [one.shown for one in flatter] == [True, True, False, False]
    assert len(of_both) == 16
    earlier_trace = of_both[4 + [*compared(tuple(FLAT), "own", "control")].index(("sam", "trace"))]
    assert not earlier_trace.shown
    yield f"(p = {of_both[0].corrected:.3f} and {of_both[1].corrected:.3f})"
    yield f"no longer is ({earlier_trace.corrected:.3f})"
    ratios = ratios_of_both_searches()
    assert sum(one.overlap for one in ratios.values()) == 3
    again, before = ratios["again"], ratios["sam"]
    yield f"λ_max is × {again.factor:.2f} ({again.low:.2f} to {again.high:.2f}) of the control's"
    yield f"p is {again.corrected:.3f}, and {before.corrected:.3f} for the first search's × {before.factor:.2f}."
    higher = (sam["train/loss"] > control["train/loss"].max()).sum()
    yield f"above all of its control's in {higher} of {len(sam)} seeds"
    factor, low, high, p = paired_ratio(sam, control)
    assert f"{factor:.2f}" == f"{again.factor:.2f}", "the ratio is the same"
    yield f"({low:.2f} to {high:.2f}, p = {probability(p)})"
    scaled = file("gcn-wide/flatness.csv").set_index("key")
    cases = [
        Difference.of(*(scaled.loc[rows["key"], name].tolist() for rows in (sam, control)))
        for name in ("worst_case_adaptive", "average_case_adaptive")
    ]
    yield f"(p = {cases[0].p:.3f} and {cases[1].p:.3f}, before any correction)"


# ρ alone

OF_A_RADIUS = {
    "train/loss": (3, 1),
    "test/loss": (3, 1),
    "gap/loss": (3, 1),
    "test/nll": (3, 1),
    "test/accuracy": (2, 100),
    "lambda_max": (0, 1),
}
"""Columns of the table, their decimals and units."""


@cache
def radii() -> dict[str, pd.DataFrame]:
    """Adam, SAM at each ρ and Adam for twice the epochs, at one rate and batch size: five seeds of each."""
    flatness = file("gcn-rho/sam-flatness.csv")[["key", "lambda_max", "average_case"]]
    of = file("gcn-rho/sam-trainings.csv").merge(flatness, on="key", how="left").sort_values("seed")
    base, twice = (of[(of["optimizer"] == "base") & (of["kind"] == kind)] for kind in ("refit", "equal-compute"))
    return {"Adam": base} | {f"{rho:g}": part for rho, part in of.groupby("rho")} | {"Adam for 400 epochs": twice}


@cache
def of_radii(measure: str, to: str = "Adam") -> list[Difference]:
    """The differences of SAM's rows, the smallest ρ first, one family."""
    adam, *sam, _ = radii().values()
    return family([Difference.of(one[measure].tolist(), radii()[to][measure].tolist()) for one in sam])


def more_loss(rho: str) -> np.ndarray:
    """How much higher SAM's training loss is than Adam's, by seed."""
    return radii()[rho]["train/loss"].to_numpy() - radii()["Adam"]["train/loss"].to_numpy()


def of_the_radius() -> Iterator[str]:
    of = radii()
    names = [name for name in of if not name.startswith("Adam")]
    for name, rows in of.items():
        measured = {one: how for one, how in OF_A_RADIUS.items() if rows[one].notna().all()}
        yield table_row(name, *(mean(rows, one, *how) if one in measured else "" for one, how in OF_A_RADIUS.items()))
    compared = ("test/loss", "gap/loss", "test/accuracy", "lambda_max")
    found = {one: of_radii(one) for one in compared}
    for place, name in enumerate(names):
        written = []
        for measure in compared:
            decimals, unit = OF_A_RADIUS[measure]
            one = found[measure][place]
            change, p = f"{unit * one.mean.value:+.{decimals}f}", probability(one.corrected)
            written.append(f"{change}, {interval(one.mean, decimals, unit)}, {p}")
        yield table_row(name, *written)
    assert [one.shown for one in found["lambda_max"]] == [False, True, True, True, True], "from 0.001 on"
    assert [one.shown for one in found["gap/loss"]] == [False, False, False, True, True], "from 0.01 on"
    assert [one.shown for one in found["test/loss"]] == [False, False, False, True, True], "the same"
    assert not any(one.shown for one in found["test/accuracy"]), "none"
    assert not any(one.shown for one in of_radii("test/nll")), "none"
    level = {name: rows["lambda_max"].mean() for name, rows in of.items()}
    yield f"from {level['Adam']:.0f} to {level['0.03']:.0f}, {level['0.03'] / level['Adam']:.2f} of Adam's"
    sam = pd.concat([of[name] for name in names])
    slopes = [np.polyfit(np.log10(part["rho"]), part["test/accuracy"], 1)[0] for _, part in sam.groupby("seed")]
    trend = Difference.of(slopes, [0.0] * len(slopes))
    yield f"{100 * trend.mean.value:+.2f} points ({interval(trend.mean, 2, 100)}, p = {trend.p:.2g})"
    longer = of_radii("test/accuracy", "Adam for 400 epochs")
    assert [one.shown for one in longer] == [False, False, True, False, False]
    gains = [100 * one.mean.value for one in longer]
    yield f"by {min(gains):.2f} to {max(gains):.2f} points; corrected, one of the five is shown, {gains[2]:+.2f} at"
    yield f"0.003 (p = {longer[2].corrected:.2g})"
    together = family([*longer, *(one for column in found.values() for one in column)])
    assert not together[2].shown, "corrected for all of them together, this one would not be shown"
    tie = Correlation.of(sam["lambda_max"].tolist(), sam["gap/loss"].tolist(), sam["row"].tolist())
    even = Correlation.of(sam["average_case"].tolist(), sam["gap/loss"].tolist(), sam["row"].tolist())
    yield f"is {tie.tau:+.2f} with λ_max over SAM's {len(sam)} networks, and {tie.within:+.2f} within a ρ"
    yield f"with the average case it is {even.tau:+.2f} and {even.within:+.2f} (p = {even.within_p:.1g})"
    every = pd.concat(of.values())
    pairs = [(of[name]["row"].iloc[0], of["Adam"]["row"].iloc[0]) for name in names]
    ratios = at_equal_loss(every, pairs)
    assert [one.overlap for one in ratios] == [True, True, True, True, False]
    yield "λ_max is " + ", ".join(f"× {one.factor:.2f} ({probability(one.corrected)})" for one in ratios[:4])
    assert [one.shown for one in ratios[:4]] == [False, True, True, True]
    assert [one.common for one in ratios[:4]] == [8, 8, 8, 4]
    yield f"where the losses differ by {more_loss('0.001').mean():.3f}, networks"
    assert (more_loss("0.01") > 0).all(), "in every seed"
    assert sum(of["0.01"]["train/loss"] < of["Adam"]["train/loss"].max()) == 1, "one of its five"
    factor, low, high, _ = paired_ratio(of["0.01"], of["Adam"])
    yield f"paired is {factor:.2f} ({low:.2f} to {high:.2f})."
    scaled = file("gcn-rho/sam-flatness.csv").set_index("key")
    ends = []
    for case, first in (("worst_case_adaptive", 0), ("average_case_adaptive", 1)):
        adam, *by_rho = (scaled.loc[of[name]["key"], case].tolist() for name in ("Adam", *names))
        found = family([Difference.of(one, adam) for one in by_rho])
        assert [one.shown for one in found] == [place >= first for place in range(5)]
        ends.append(f"{np.mean(by_rho[-1]) / np.mean(adam):.2f}")
    yield f"to {' and '.join(ends)} of Adam's"
    flatness = file("gcn-rho/look-sam-flatness.csv")[["key", "lambda_max"]]
    look = file("gcn-rho/look-sam-trainings.csv").merge(flatness, on="key").sort_values("seed")
    lower = Difference.of(look["test/accuracy"].tolist(), of["0.03"]["test/accuracy"].tolist())
    yield f"accuracy {percent(look)}, training loss {mean(look, 'train/loss', 3)}, λ_max {mean(look, 'lambda_max', 0)}"
    yield f"{100 * lower.mean.value:+.2f} points ({interval(lower.mean, 2, 100)}, p {probability(lower.p)})"
    calibration = of_radii("test/ece")[-1]
    assert calibration.shown
    yield f"at 0.03 is higher by {100 * calibration.mean.value:.1f} points"


def rows_in_bf16(
    rows: dict[str, tuple[pd.DataFrame, pd.DataFrame]], measures: dict[str, tuple[int, float]]
) -> tuple[list[str], dict[str, list[Difference]]]:
    """Lines of a table, and the differences by measure: each row in bf16 beside the same in fp32, the seeds paired."""
    assert all(ours["seed"].tolist() == theirs["seed"].tolist() for ours, theirs in rows.values())
    found = {
        one: family([Difference.of(ours[one].tolist(), theirs[one].tolist()) for ours, theirs in rows.values()])
        for one in measures
    }
    lines = []
    for place, name in enumerate(rows):
        written = []
        for measure, (decimals, unit) in measures.items():
            one = found[measure][place]
            change, p = f"{unit * one.mean.value:+.{decimals}f}", probability(one.corrected)
            written.append(f"{change}, {interval(one.mean, decimals, unit)}, {p}")
        lines.append(table_row(name, *written))
    return lines, found


def of_bf16() -> Iterator[str]:
    bf16 = file("gcn-rho/bf16-trainings.csv").sort_values("seed")
    base, twice = (bf16[(bf16["optimizer"] == "base") & (bf16["kind"] == one)] for one in ("refit", "equal-compute"))
    fp32 = radii()
    rows = {
        "Adam": (base, fp32["Adam"]),
        "SAM": (bf16[bf16["optimizer"] == "sam"], fp32["0.01"]),
        "Adam for 400 epochs": (twice, fp32["Adam for 400 epochs"]),
    }
    measures = {name: OF_A_RADIUS[name] for name in ("train/loss", "test/loss", "test/nll", "test/accuracy")}
    lines, found = rows_in_bf16(rows, measures)
    yield from lines
    assert not any(one.shown for column in found.values() for one in column)
    lowest = min(one.mean.low for one in found["test/accuracy"][:2])
    yield f"the lower end of the intervals of equal epochs is {100 * lowest:.1f}."


def of_the_radius_on_the_first_page() -> Iterator[str]:
    level = {name: rows["lambda_max"].mean() for name, rows in radii().items()}
    accuracy = of_radii("test/accuracy")[-1].mean
    assert of_radii("lambda_max")[1].shown
    yield (
        f"where the mean training losses differ by {more_loss('0.001').mean():.3f}, it is "
        f"{level['0.001'] / level['Adam']:.2f} of Adam's, which is shown."
    )
    yield f"from Adam's {level['Adam']:.0f} to {level['0.03']:.0f} at ρ = 0.03"
    yield f"{100 * accuracy.value:+.2f} points ({interval(accuracy, 2, 100)})"


# Batch sizes


SIZES = (16, 32, 64, 128, 256)
BY_SIZE = ("base", "sam", "asam")

Cells = dict[tuple[str, int], pd.DataFrame]
"""Five networks of each optimizer and batch size, by seed."""


@cache
def at_best_rates() -> Cells:
    """The rates that validation chose: three seeds of the first study, or measured again, and two more."""
    first, more = (file(f"gcn-batch-size/{name}.csv") for name in ("flatness", "more-flatness"))
    found = {}
    for (optimizer, size), part in first.groupby(["optimizer", "batch_size"]):
        (rate,) = set(part["lr"])
        same = more[(more["optimizer"] == optimizer) & (more["batch_size"] == size) & (more["lr"] == rate)]
        found[optimizer, size] = pd.concat([same, part[~part["seed"].isin(same["seed"])]]).sort_values("seed")
    assert {tuple(part["seed"]) for part in found.values()} == {tuple(range(10_000, 10_005))}
    return found


@cache
def at_one_rate() -> Cells:
    """The batch sizes at the one rate of matched.yaml."""
    of = file("gcn-batch-size/more-flatness.csv").sort_values("seed")
    of = of[of["study"] == "batch-size-matched.refit"]
    assert set(of["lr"]) == {0.0045}
    return {(optimizer, size): part for (optimizer, size), part in of.groupby(["optimizer", "batch_size"])}


def slopes(cells: Cells, optimizer: str) -> list[float]:
    """The exponent of λ_max over the batch size, of each seed."""
    of = pd.concat([cells[optimizer, size] for size in SIZES])
    return [
        np.polyfit(np.log2(one["batch_size"]), np.log2(one["lambda_max"]), 1)[0]
        for _, one in of.groupby("seed", sort=True)
    ]


def over_sizes(cells: Cells, column: str, scale: Callable = np.asarray) -> dict[str, Difference]:
    """SAM's and ASAM's difference to Adam, averaged over the sizes first."""
    averages = {
        one: np.mean([scale(cells[one, size][column].to_numpy()) for size in SIZES], axis=0).tolist() for one in BY_SIZE
    }
    optimizers = ("sam", "asam")
    found = family([Difference.of(averages[one], averages["base"]) for one in optimizers])
    return dict(zip(optimizers, found, strict=True))


def at_each_size(cells: Cells, column: str, scale: Callable = np.asarray) -> dict[tuple[str, int], Difference]:
    """The ten differences to Adam."""
    keys = [(one, size) for one in ("sam", "asam") for size in SIZES]
    found = [
        Difference.of(scale(cells[key][column]).tolist(), scale(cells["base", key[1]][column]).tolist()) for key in keys
    ]
    return dict(zip(keys, family(found), strict=True))


def half(found: Mean, decimals: int, unit: float = 1) -> str:
    return f"{unit * found.value:+.{decimals}f} ± {unit * found.half:.{decimals}f}"


def factor(found: Mean) -> str:
    return f"{2**found.value:.2f} ({2**found.low:.2f} to {2**found.high:.2f})"


def times(found: Difference) -> str:
    """A difference of logarithms to base 2, as what one is of the other."""
    of = found.mean
    return f"× {2**of.value:.2f}, {2**of.low:.2f} to {2**of.high:.2f}, {probability(found.corrected)}"


def points(found: Difference) -> str:
    return f"{100 * found.mean.value:+.2f}, {interval(found.mean, 2, 100)}, {probability(found.corrected)}"


def rows_by_size(cells: Cells, rates: bool) -> Iterator[str]:
    for size in SIZES:
        for optimizer in BY_SIZE:
            rows = cells[optimizer, size]
            (rate,) = set(rows["lr"])
            yield table_row(
                str(size) if optimizer == "base" else " ",
                NAMES[optimizer],
                *([f"{rate}"] if rates else []),
                mean(rows, "lambda_max", 1),
                mean(rows, "worst_case", 3),
                mean(rows, "gap/loss", 4),
                percent(rows, "train/accuracy"),
                percent(rows),
            ).replace("|   |", "| |")


def ratios_by_size(cells: Cells) -> Iterator[str]:
    """The rows of λ_max by Adam's, and of the differences in test accuracy."""
    flatter, better = at_each_size(cells, "lambda_max", np.log2), at_each_size(cells, "test/accuracy")
    for size in SIZES:
        yield table_row(
            str(size),
            *(times(flatter[one, size]) for one in ("sam", "asam")),
            *(points(better[one, size]) for one in ("sam", "asam")),
        )
    whole, tested = over_sizes(cells, "lambda_max", np.log2), over_sizes(cells, "test/accuracy")
    yield table_row(
        "all, averaged",
        *(times(whole[one]) for one in ("sam", "asam")),
        *(points(tested[one]) for one in ("sam", "asam")),
    )


def changes(cells: Cells) -> dict[str, Difference]:
    """The factor of λ_max with a doubled batch, as a logarithm, of each optimizer against 1: one family."""
    found = [slopes(cells, one) for one in BY_SIZE]
    return dict(zip(BY_SIZE, family([Difference.of(one, [0.0] * len(one)) for one in found]), strict=True))


def steeper(cells: Cells) -> dict[str, Difference]:
    """The same of SAM and ASAM against Adam's, one family."""
    found = [Difference.of(slopes(cells, one), slopes(cells, "base")) for one in ("sam", "asam")]
    return dict(zip(("sam", "asam"), family(found), strict=True))


def ties_with_the_gap(cells: Cells) -> dict[str, Correlation]:
    """Kendall's τ of three measures with the gap in the loss, over the networks and within cells."""
    networks = pd.concat(cells.values())
    rows = [f"{one.optimizer} {one.batch_size}" for one in networks.itertuples()]
    return {
        name: Correlation.of(networks[name].tolist(), networks["gap/loss"].tolist(), rows)
        for name in ("lambda_max", "trace", "worst_case")
    }


def ratios_at_one_rate() -> str:
    flatter = at_each_size(at_one_rate(), "lambda_max", np.log2)
    assert all(one.shown for one in flatter.values())
    sam, asam = ([2 ** flatter[one, size].mean.value for size in SIZES] for one in ("sam", "asam"))
    return f"{min(sam):.2f} to {max(sam):.2f} of Adam's with SAM and {min(asam):.2f} to {max(asam):.2f} with ASAM"


def of_one_rate() -> Iterator[str]:
    cells = at_one_rate()
    yield from rows_by_size(cells, rates=False)
    yield from ratios_by_size(cells)
    flatter, better = at_each_size(cells, "lambda_max", np.log2), at_each_size(cells, "test/accuracy")
    assert all(one.shown for one in flatter.values())
    assert [key for key, one in better.items() if one.shown] == [("asam", 128)]
    yield ratios_at_one_rate()
    assert all(one.shown for one in at_each_size(cells, "lambda_max").values()), "as differences, too"
    assert all(one.mean.value < 0 for one in better.values()), "lower in the mean"
    table = pd.concat([part.assign(row=f"{one} {size}") for (one, size), part in cells.items()])
    equal = at_equal_loss(table, [(f"{one} {size}", f"base {size}") for one, size in flatter])
    apart = [one.row for one in equal if not one.overlap]
    assert apart == ["asam 64", "asam 128"]
    fair = [one for one in equal if one.overlap]
    assert all(one.shown for one in fair)
    ends = {
        (one, size): [cells[of, size]["train/loss"].agg(end) for of, end in ((one, "min"), ("base", "max"))]
        for one, size in flatter
    }
    assert sum(0 <= high - low < 0.0022 for low, high in ends.values()) == 4, "in four of them by little"
    yield (
        f"× {min(one.factor for one in fair):.2f} to × {max(one.factor for one in fair):.2f}, all eight shown "
        f"(corrected p at most {max(one.corrected for one in fair):.3f})"
    )
    fitted, gap = over_sizes(cells, "train/loss"), over_sizes(cells, "gap/loss")
    assert all(one.shown for one in [*fitted.values(), *gap.values()])
    yield (
        f"by {half(fitted['sam'].mean, 3)[1:]} with SAM and {half(fitted['asam'].mean, 3)[1:]} with ASAM "
        f"(corrected p = {probability(fitted['sam'].corrected)} each)"
    )
    assert probability(fitted["sam"].corrected) == probability(fitted["asam"].corrected)
    yield (
        f"SAM {half(gap['sam'].mean, 4)} (corrected p = {probability(gap['sam'].corrected)}), ASAM "
        f"{half(gap['asam'].mean, 4)} ({probability(gap['asam'].corrected)})"
    )
    loss = over_sizes(cells, "test/loss")
    yield f"test loss, SAM {half(loss['sam'].mean, 4)} and ASAM {half(loss['asam'].mean, 4)}"
    accuracy = over_sizes(cells, "test/accuracy").values()
    assert not any(one.shown for one in [*loss.values(), *at_each_size(cells, "test/loss").values(), *accuracy])
    assert {probability(one.corrected) for one in accuracy} == {"0.062"}
    assert {f"{one.p:.2f}" for one in accuracy} == {"0.03"}
    yield "neither is (p = 0.062 each, 0.03 before the correction)"
    rise, more = changes(cells), steeper(cells)
    assert [one.shown for one in rise.values()] == [False, True, True]
    assert not any(one.shown for one in more.values())
    yield (
        f"multiplies λ_max by {factor(rise['asam'].mean)} for ASAM, {factor(rise['sam'].mean)} for SAM and "
        f"{factor(rise['base'].mean)} for Adam"
    )
    assert probability(rise["sam"].corrected) == probability(rise["asam"].corrected)
    yield f"(corrected p = {probability(rise['sam'].corrected)} each)"
    yield f"Adam's is not ({probability(rise['base'].corrected)})"
    yield (
        f"the factor is {factor(more['asam'].mean)[:-1]}, p = {probability(more['asam'].corrected)}) for ASAM and "
        f"{factor(more['sam'].mean)[:-1]}, {probability(more['sam'].corrected)}) for SAM"
    )
    networks, ties = pd.concat(cells.values()), ties_with_the_gap(cells)
    assert not any(one.p < 0.05 or one.within_p < 0.05 for one in ties.values())
    yield (
        f"{ties['lambda_max'].tau:+.2f} with λ_max, {ties['trace'].tau:+.2f} with the trace and "
        f"{ties['worst_case'].tau:+.2f} with the worst case (p = "
        f"{', '.join(f'{one.p:.2f}' for one in ties.values())}, of the means of the fifteen cells)"
    )
    assert networks.groupby("optimizer")["worst_case_resolved"].all().to_dict() == {
        "asam": True,
        "base": False,
        "sam": True,
    }
    assert (~networks["worst_case_resolved"]).sum() == 1
    assert networks[["lambda_max_resolved", "trace_resolved"]].all(axis=None)
    again = networks.merge(file("gcn-batch-size/flatness.csv"), on=["optimizer", "batch_size", "lr", "seed"])
    assert len(again) == 18
    for name in ("train/loss", "train/accuracy", "test/accuracy"):
        assert (again[f"{name}_x"] == again[f"{name}_y"]).all(), "to the last digit"
    apart = {
        name: (again[f"{name}_x"] / again[f"{name}_y"] - 1).abs() for name in ("lambda_max", "trace", "worst_case")
    }
    assert apart["lambda_max"].max() < 3e-6, "to five digits"
    assert 0.07 < apart["trace"].max() < 0.075, "within 8 %"
    *most, one = apart["worst_case"].sort_values()
    assert (max(most) < 0.005, f"{one:.2f}") == (True, "0.10"), "within half a percent but one, 10 %"


def of_best_rates() -> Iterator[str]:
    cells = at_best_rates()
    yield from rows_by_size(cells, rates=True)
    yield from ratios_by_size(cells)
    flatter, better = at_each_size(cells, "lambda_max", np.log2), at_each_size(cells, "test/accuracy")
    assert all(one.shown for one in [*flatter.values(), *at_each_size(cells, "lambda_max").values()])
    assert not any(one.shown for one in [*better.values(), *at_each_size(cells, "test/loss").values()])
    sam, asam = ([2 ** flatter[one, size].mean.value for size in SIZES] for one in ("sam", "asam"))
    yield f"{min(sam):.2f} to {max(sam):.2f} of Adam's with SAM, {min(asam):.2f} to {max(asam):.2f} with ASAM"
    by_adams = [cells[key]["lr"].iloc[0] / cells["base", key[1]]["lr"].iloc[0] for key in flatter]
    assert sorted(round(one, 6) for one in by_adams) == [1] * 5 + [3] * 5
    rise, more = changes(cells), steeper(cells)
    assert all(one.shown for one in [*rise.values(), *more.values()])
    apart = [
        Difference.of(*(np.subtract(slopes(of, one), slopes(of, "base")).tolist() for of in (cells, at_one_rate())))
        for one in ("sam", "asam")
    ]
    assert not any(one.shown for one in family(apart))
    yield f"for ASAM × {factor(apart[1].mean)}"
    assert {cells[one, 128]["lr"].iloc[0] for one in BY_SIZE} == {0.0135}
    worse = [
        100 * (at_one_rate()[one, 128]["test/accuracy"].mean() - cells[one, 128]["test/accuracy"].mean())
        for one in BY_SIZE
    ]
    adam = at_one_rate()["base", 128]["lambda_max"].mean(), cells["base", 128]["lambda_max"].mean()
    yield f"{min(worse):.1f} to {max(worse):.1f} points worse at 128 than the 0.0045 of the part above"
    yield f"Adam's λ_max is {adam[1]:.0f} in place of {adam[0]:.0f}"
    yield (
        f"by {factor(rise['asam'].mean)} for ASAM, {factor(rise['sam'].mean)} for SAM and "
        f"{factor(rise['base'].mean)} for Adam"
    )
    yield (
        f"by {factor(more['asam'].mean)[:-1]}, p {probability(more['asam'].corrected)}) for ASAM and "
        f"{factor(more['sam'].mean)[:-1]}, {probability(more['sam'].corrected)}) for SAM"
    )
    for name in ("train/loss", "gap/loss", "test/loss"):
        sam, asam = over_sizes(cells, name).values()
        assert [sam.shown, asam.shown] == [name != "test/loss", True]
        yield (
            f"SAM {half(sam.mean, 4)} (corrected p = {probability(sam.corrected)}), ASAM "
            f"{half(asam.mean, 4)} ({probability(asam.corrected)})"
        )
    sam, asam = over_sizes(cells, "test/accuracy").values()
    assert [sam.shown, asam.shown] == [False, True]
    yield f"ASAM {half(asam.mean, 2, 100)} points, which is shown (corrected p {probability(asam.corrected)})"
    yield f"accuracy is {-100 * asam.mean.value:.2f} points lower"
    networks, ties = pd.concat(cells.values()), ties_with_the_gap(cells)
    assert not any(one.p < 0.05 or one.within_p < 0.05 for one in ties.values())
    yield (
        f"{ties['lambda_max'].tau:+.2f} with λ_max, {ties['trace'].tau:+.2f} with the trace, "
        f"{ties['worst_case'].tau:+.2f} with the worst case"
    )
    assert networks[["lambda_max_resolved", "trace_resolved"]].all(axis=None)


# Heartbeats


@cache
def beats() -> dict[str, pd.DataFrame]:
    """The trainings at the published study's settings, beside what was measured of their networks, by optimizer."""
    measured = file("attention/published-flatness.csv")
    columns = [name for name in measured if name.removesuffix("_resolved") in {*FLAT, "ratio"}]
    of = file("attention/published-trainings.csv").merge(measured[["key", *columns]], on="key", how="left")
    return {str(optimizer): part.sort_values("seed") for optimizer, part in of.groupby("optimizer")}


def of_the_beats() -> Iterator[str]:
    rows = beats()
    sgd, asam = rows["base"], rows["asam-all"]
    for of, name in ((sgd, "SGD"), (asam, "asam-all, ρ = 1")):
        yield table_row(
            name,
            mean(of, "train/loss", 3),
            percent(of, "train/accuracy"),
            mean(of, "test/loss", 3),
            percent(of),
            mean(of, "test/macro_f1", 3),
            mean(of, "test/nll", 3),
            mean(of, "test/ece", 1, 100),
            f"{of['seconds'].mean():,.0f}",
            f"{of['gradients'].mean():,.0f}",
        )
    better = {"train/accuracy": 1, "test/accuracy": 1, "test/macro_f1": 1}
    behind = {name: better.get(name, -1) * (sgd[name].mean() - asam[name].mean()) for name in OF_THE_BEATS}
    assert min(behind.values()) > 0, "behind in each other column"
    yield (
        f"{100 * behind['test/accuracy']:.2f} points below SGD in test accuracy and "
        f"{100 * behind['train/accuracy']:.2f} in training accuracy"
    )
    yield f"In the published study it is {94.64 - 94.26:.2f} points below."
    yield f"varies by ±{100 * standard_error('accuracy', sgd['test/accuracy'].mean(), 3935):.2f} points"
    sharp, flat = ({name: of[name].mean() for name in ("lambda_max", "worst_case", "ratio")} for of in (sgd, asam))
    assert not pd.concat(rows.values())["trace_resolved"].any()
    yield (
        f"λ_max is {flat['lambda_max']:.1f} against SGD's {sharp['lambda_max']:.1f}, "
        f"{flat['lambda_max'] / sharp['lambda_max']:.2f} of it, and the loss rises by at most "
        f"{flat['worst_case']:.3f} against {sharp['worst_case']:.3f} in a ball of radius 0.05. "
        f"|λ_max/λ_min| is {flat['ratio']:.1f} against {sharp['ratio']:.1f};"
    )
    f1 = {one: [of[f"test/f1/{one}"].mean() for of in (sgd, asam)] for one in "NF"}
    yield f"is {f1['N'][0]:.3f} and {f1['N'][1]:.3f}; of F, with 641, {f1['F'][0]:.3f} and {f1['F'][1]:.3f}."


OF_THE_BEATS = ("train/loss", "train/accuracy", "test/loss", "test/accuracy", "test/macro_f1", "test/nll", "test/ece")


def of_the_beats_on_the_first_page() -> Iterator[str]:
    sgd, asam = (beats()[one]["test/accuracy"].mean() for one in ("base", "asam-all"))
    yield f"ASAM ends {100 * (sgd - asam):.2f} points below SGD"


def of_the_beats_after_three_epochs() -> Iterator[str]:
    of = file("attention/trainings.csv")
    rows = {one: of[of["optimizer"] == one] for one in ("base", "asam-all")}
    for optimizer, name in (("base", "SGD"), ("asam-all", "asam-all, ρ = 1")):
        one = rows[optimizer]
        yield table_row(
            name,
            mean(one, "train/loss", 3),
            percent(one, "train/accuracy"),
            mean(one, "test/loss", 3),
            percent(one),
            f"{one['seconds'].mean():,.0f}",
            f"{one['gradients'].mean():,.0f}",
        )
    slower = Difference.of(*(rows[one]["test/accuracy"].tolist() for one in ("asam-all", "base")))
    yield f"more slowly, {half(slower.mean, 2, 100)} points (p = {slower.p:.3f})"
    f1 = {one: part["test/macro_f1"].mean() for one, part in rows.items()}
    yield f"macro-F1 is {f1['base']:.2f} and {f1['asam-all']:.2f}."


def of_the_beats_in_bf16() -> Iterator[str]:
    bf16, fp32 = (file(f"attention/{name}.csv").sort_values("seed") for name in ("bf16-trainings", "trainings"))
    rows = {
        name: (bf16[bf16["optimizer"] == one], fp32[fp32["optimizer"] == one])
        for one, name in (("base", "SGD"), ("asam-all", "asam-all, ρ = 1"))
    }
    measures = {"train/loss": (3, 1), "test/loss": (3, 1), "test/accuracy": (2, 100)}
    lines, found = rows_in_bf16(rows, measures)
    yield from lines
    assert not any(one.shown for column in found.values() for one in column)
    ours, theirs = (one["train/loss"].to_numpy() for one in rows["SGD"])
    assert (ours > theirs).all(), "in each of its three seeds"
    yield f"(p = {found['train/loss'][0].p:.2g} before the correction)"
    lowest = min(one.mean.low for one in found["test/accuracy"])
    yield f"the lower end of the wider interval is {100 * lowest:.1f} points"


# Images


def of_the_images() -> Iterator[str]:
    of = file("images/trainings.csv").sort_values("seed")
    sgd, sam, asam = (of[(of["optimizer"] == one) & (of["kind"] == "refit")] for one in ("base", "sam", "asam"))
    twice = of[of["kind"] == "equal-compute"]
    own = [
        of[(of["kind"] == "control") & (of["matched"] == part["matched"].iloc[0])]["test/accuracy"].tolist()
        for part in (sam, asam)
    ]
    for row, part in of.groupby("row", sort=False):
        yield table_row(
            str(row),
            mean(part, "train/loss", 3),
            mean(part, "test/loss", 3),
            percent(part),
            mean(part, "gap/loss", 3),
        )
    trials = file("images/trials.csv")
    assert sum(trials["epochs"] == 4) > len(trials) / 2, "most of which ASHA ended after four"
    ours = [part["test/accuracy"].tolist() for part in (sam, asam)]
    for name, others in {
        "SGD": [sgd["test/accuracy"].tolist()] * 2,
        "SGD for twice the epochs": [twice["test/accuracy"].tolist()] * 2,
        "SGD at the same rate": own,
    }.items():
        found = family([Difference.of(one, other) for one, other in zip(ours, others, strict=True)])
        assert [one.shown for one in found] == [name != "SGD at the same rate", True]
        yield table_row(
            name,
            *(
                f"{100 * one.mean.value:+.2f}, {interval(one.mean, 2, 100)}, {probability(one.corrected)}"
                for one in found
            ),
        )


# The search of the molecules


def of_the_search() -> Iterator[str]:
    trials, networks = file("gcn/trials.csv"), file("gcn/flatness.csv")
    complete = trials[trials["state"] == "complete"]
    yield f"{len(complete)} of {len(trials)} trials ran to their end"
    for optimizer, name in (("base", "base (Adam)"), *((one, one) for one in CLIMBING)):
        of = complete[complete["optimizer"] == optimizer].sort_values("number")
        best = of.loc[of["value"].idxmax()]
        flat = networks[networks["optimizer"] == optimizer]
        yield table_row(
            name,
            f"{best['value']:.3f}",
            "–" if optimizer == "base" else f"{best['rho']:.3g}",
            f"{best['lr']:.3g}",
            str(best["batch_size"]),
            f"{flat['lambda_max'].min():.0f} to {flat['lambda_max'].max():.0f} ({len(flat)})",
            f"{flat['gap/loss'].mean():.3f}",
        )
    accuracy = complete["value"].max()
    yield f"near 0.84 has a standard error of about {(0.84 * 0.16 / 433) ** 0.5:.3f}"
    assert abs(accuracy - 0.84) < 0.011
    yield f"no trial above {complete[complete['optimizer'] == 'sam']['rho'].max():.4f} is complete"
    level = networks.groupby("optimizer")["lambda_max"].mean()
    yield (
        f"a mean λ_max of {level['sam']:.0f}, {level['asam']:.0f} and {level['asam-all']:.0f} against "
        f"{level['base']:.0f} with Adam alone"
    )
    ties = [Correlation.of(networks[name].tolist(), networks["gap/loss"].tolist()) for name in list(FLAT)[:3]]
    within = [f"{one.low:+.2f} to {one.high:+.2f}" for one in ties]
    yield (
        f"over the {len(networks)} networks is {ties[0].tau:+.2f} with λ_max (95 % interval {within[0]}), "
        f"{ties[1].tau:+.2f} with the trace ({within[1]}), {ties[2].tau:+.2f} with the worst case ({within[2]})"
    )

    trends = [
        Correlation.of(part["rho"].tolist(), part["value"].tolist())
        for part in (complete[complete["optimizer"] == one] for one in CLIMBING)
    ]
    corrected = holm([one.p for one in trends])
    assert min(corrected) > 0.05
    yield (
        f"{trends[0].tau:.2f} for SAM, {trends[1].tau:.2f} for ASAM and {trends[2].tau:.2f} for asam-all "
        f"(corrected p = {probability(corrected[0])}, {probability(corrected[1])} and {probability(corrected[2])})"
    )


FIRST, RESULTS = ROOT / "README.md", ROOT / "results" / "README.md"

PAGES: dict[Path, tuple[Callable[[], Iterator[str]], ...]] = {
    FIRST: (
        of_both_pages,
        of_the_first_page,
        of_sam_on_the_first_page,
        of_the_radius_on_the_first_page,
        of_the_beats_on_the_first_page,
    ),
    RESULTS: (
        *(
            of_both_pages,
            of_the_molecules,
            of_calibration,
            of_other_splits,
            of_wrong_labels_and_few_data,
            of_few_molecules,
            of_wrong_molecules,
            of_their_flatness,
            of_a_wider_range,
            of_the_radius,
            of_bf16,
            of_one_rate,
            of_best_rates,
            of_the_beats,
            of_the_beats_after_three_epochs,
            of_the_beats_in_bf16,
            of_the_images,
            of_the_search,
        ),
    ),
}


def prose(page: Path) -> str:
    """A page without its blocks of code, in one line; of the first page its results, to the link to theirs."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    if page == FIRST:
        text = text[text.index("## Results") : text.index("[Results](results/README.md)")]
    return re.sub(r"\s+", " ", re.sub(r"`[^`]*`", "", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_says_is_what_its_files_hold(page):
    text = prose(page)

    missing = [said for part in PAGES[page] for said in part() if said not in text]

    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_number_without_a_source(page):
    text = prose(page)

    for said in [*(said for part in PAGES[page] for said in part()), *SETTINGS]:
        text = text.replace(said, " ")

    assert not [text[max(0, one.start() - 40) : one.end() + 20] for one in re.finditer(r"[+±-]?\d+\.\d+", text)]


@pytest.mark.parametrize("folder", ["gcn", "gcn-batch-size", "attention"])
def test_a_table_of_means_is_of_its_trainings(folder):
    table, trainings = file(f"{folder}/table.csv").set_index("row"), file(f"{folder}/trainings.csv")

    for row, part in trainings.groupby("row"):
        for column in (name for name in table if f"{name}_half" in table):
            found = Mean.of(part[column].tolist())
            assert table.loc[row, column] == pytest.approx(found.value, rel=1e-9, abs=1e-12)
            assert table.loc[row, f"{column}_half"] == pytest.approx(found.half, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("folder", ["digits", "gcn-few", "gcn-noise"])
def test_a_training_has_as_many_samples_as_its_gradients_are_of(folder):
    of = file(f"{folder}/trainings.csv")

    passes = of["optimizer"].map(lambda one: 1 if one == "base" else 2)

    assert (of["gradients"] == of["samples"] * of["epochs"] * passes).all()


def commands():
    """The commands of trainings.sh, as words; what a name of a study or a file is made of is not looked at."""
    for line in (ROOT / "results" / "trainings.sh").read_text().splitlines():
        yield from (
            shlex.split(part.split(">")[0])
            for part in line.removesuffix(" || exit 1").split(" && ")
            if part.startswith("tune-sam ")
        )


def test_a_command_that_takes_hours_makes_a_study_of_its_file(tmp_path, monkeypatch):
    monkeypatch.delenv("TUNE_SAM_DATA", raising=False)
    files = set()
    for _, name, *rest in commands():
        given = get_command(app).commands[name].make_context(name, rest).params
        file = given.get("config")
        if file and (ROOT / file).exists():  # or it is made by the command before
            files.add(file)
            options = {"workload": given.get("workload") or given["study"], "home": tmp_path}
            define(SearchOptions.read(options, ROOT / file), Home(tmp_path))
    assert len(files) > 10
