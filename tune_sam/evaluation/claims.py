"""What a study shows: whether SAM helps, with which ρ, and whether the minimum is flatter.

Three questions are kept apart, because each compares with another row of the base optimizer. "What should I use?"
compares the best with the best. "What does it cost?" compares with the base optimizer at equal compute. "What does ρ
do?" compares a row with its matched control, which differs from it in ρ alone. All comparisons of one question are one
family, whose p-values are corrected by Holm's method.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tune_sam.evaluation.refit import Refit
from tune_sam.evaluation.selection import Choice
from tune_sam.evaluation.statistics import CONFIDENCE, FEWEST, SIGNIFICANT, Difference, Mean, family, holm
from tune_sam.scores import standard_error
from tune_sam.study.records import Study

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Question = Literal["use", "compute", "rho"]

ASKED: dict[Question, str] = {
    "use": "What should I use? The best of each optimizer against the base optimizer's best, for the same epochs.",
    "compute": "What does it cost? The same against the base optimizer at equal compute, trained for as "
    "many epochs as cost the same: twice as many for SAM.",
    "rho": "What does ρ do? Each row against its matched control: the base optimizer with its learning rate and batch "
    "size.",
}
"""The questions, and what each compares."""

OF_EACH_BATCH_SIZE = " Each row is the best of its batch size, and is compared with that of the same batch size."
"""What a question compares, too, where a refit has the best of each batch size."""

OF_A_GRID = "What should I use? Each point of the grid against that of the base optimizer, for the same epochs."
"""What the first question compares where a refit has all points of a grid."""

OF_OTHER_LOSSES = (
    "The loss has the label smoothing in it: losses, gaps and curvature of configurations that differ in it are of "
    "different functions, and only scores and the negative log-likelihood can be compared."
)
"""What has to be said of numbers of such configurations."""

CLEARLY = 1.5
"""By which factor a ρ differs from another so that trials with it tell of other values than trials with the other."""

FLATNESS = ("lambda_max", "trace", "worst_case", "average_case")
"""Measures of flatness that are compared; the first is that of the answer."""


@dataclass(frozen=True)
class Claim:
    """One comparison of two rows.

    Attributes:
        row, to: names of the rows, as in :meth:`tune_sam.evaluation.refit.Refit.table`.
        optimizer: of `row`.
        measure: that is compared, such as `test/accuracy` or `lambda_max`.
        values, others: means of both rows over the seeds.
        difference: of `row` minus `to` over the seeds that both have, corrected for the comparisons of its question.
    """

    row: str
    to: str
    optimizer: str
    measure: str
    values: Mean
    others: Mean
    difference: Difference


@dataclass(frozen=True)
class EqualLoss:
    """λ_max of a row and its control at equal training loss.

    A regression of log λ_max on the training loss over the networks of both, with one slope and a level for each. The
    seeds are not paired in it.

    Attributes:
        row, to, optimizer: as in :class:`Claim`.
        factor: of λ_max of `row` by that of `to` at equal training loss; nan where the losses do not overlap, or there
            are too few networks.
        low, high: its 95 % interval.
        p: for a factor of 1.
        corrected: the same by Holm's method over all rows.
        common: how many of the networks have a training loss within the range of both rows. Where none has, nothing
            can be said; where few have, the comparison rests on the regression's line more than on networks.
        networks: of both rows.
    """

    row: str
    to: str
    optimizer: str
    factor: float
    low: float
    high: float
    p: float
    corrected: float
    common: int
    networks: int

    @property
    def overlap(self) -> bool:
        """Whether the training losses of both rows overlap."""
        return self.common > 0

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the corrected p-value is below 0.05."""
        return self.corrected < SIGNIFICANT


@dataclass(frozen=True)
class Radius:
    """The ρ that a search chose for an optimizer.

    Attributes:
        optimizer: whose.
        value: ρ of its best trial.
        low, high: the smallest and the largest ρ among its complete trials whose validation accuracy is within one
            standard error of the best one's (binomial, see :func:`tune_sam.scores.standard_error`); nan where the score
            is no accuracy, whose error one training does not tell.
        tried: the number of values of ρ among its complete trials.
        end: `smallest` or `largest` if `value` is that among them; empty otherwise.
        beyond: how many values clearly beyond that end, by :data:`CLEARLY`, were tried, too, in trials that were pruned
            or diverged.
    """

    optimizer: str
    value: float
    low: float
    high: float
    tried: int
    end: Literal["smallest", "largest", ""]
    beyond: int = 0

    @property
    def is_open(self) -> bool:
        """Whether a better one may lie beyond the end, where nothing was tried."""
        return bool(self.end) and not self.beyond


@dataclass(frozen=True)
class Answers:
    """The three answers of a study. What was not trained or measured is empty.

    Attributes:
        help: the best of each optimizer against the base optimizer's best, for the same epochs; in the study's score.
        help_at_equal_compute: the same against the base optimizer at equal compute.
        by_rho: each row against its matched control, in the study's score.
        radii: which ρ the search chose, of each optimizer that has one.
        flatter: each row against its matched control in each of :data:`FLATNESS`; below 0 where the row is flatter.
        flatter_at_equal_loss: the same for λ_max at equal training loss.
        measured: whether the flatness of any of the refit's networks was measured, comparable or not.
    """

    help: tuple[Claim, ...] = ()
    help_at_equal_compute: tuple[Claim, ...] = ()
    by_rho: tuple[Claim, ...] = ()
    radii: tuple[Radius, ...] = ()
    flatter: tuple[Claim, ...] = ()
    flatter_at_equal_loss: tuple[EqualLoss, ...] = ()
    measured: bool = False

    @property
    def asked(self) -> dict[Question, tuple[Claim, ...]]:
        """The comparisons of scores on the test set, by question."""
        return {"use": self.help, "compute": self.help_at_equal_compute, "rho": self.by_rho}


def answers(study: Study, refit: Refit | None, networks: "DataFrame | None" = None) -> Answers:
    """Answer the three questions about a study, as far as they were measured.

    Args:
        study: a search.
        refit: its tested refit; None if there is none.
        networks: what :meth:`tune_sam.evaluation.analysis.Analysis.table` gives of the refit's networks; None if they
            were not measured.
    """
    if refit is None:
        return Answers(radii=chosen_radii(study))
    table, choice = refit.table(), refit.choice
    found = {question: claims(table, pairs(table, choice, question), (f"test/{refit.score}",)) for question in ASKED}
    measured = with_flatness(table, networks)
    by_rho = pairs(table, choice, "rho")
    return Answers(
        help=found["use"],
        help_at_equal_compute=found["compute"],
        by_rho=found["rho"],
        radii=chosen_radii(study),
        flatter=claims(measured, by_rho, FLATNESS),
        flatter_at_equal_loss=at_equal_loss(measured, by_rho),
        measured=networks is not None,
    )


def pairs(table: "DataFrame", choice: Choice, question: Question) -> list[tuple[str, str]]:
    """List the rows that a question compares, each with what it is compared with.

    Args:
        table: of a refit; see :meth:`tune_sam.evaluation.refit.Refit.table`.
        choice: of the refit. If it has the best of each batch size, rows of one batch size are compared. A grid's rows
            are compared with its one point of the base optimizer; if it has several, none is known to be best.
        question: one of :data:`ASKED`.
    """
    rows = table.drop_duplicates("row")
    refitted = rows[rows["kind"] == "refit"]
    others = refitted[refitted["optimizer"] != "base"]
    best_of = ["optimizer", "batch_size"] if choice.each_batch_size else ["optimizer"]
    if question == "rho":
        same = ["matched"]
        references = rows[(rows["optimizer"] == "base") & (rows["kind"] != "equal-compute")]
    else:
        same = ["batch_size"] if choice.each_batch_size else []
        others = others if choice.planned else others.drop_duplicates(best_of)
        kind = "refit" if question == "use" else "equal-compute"
        references = rows[(rows["optimizer"] == "base") & (rows["kind"] == kind)]
        if not choice.best_of(refitted.index[refitted["optimizer"] == "base"].tolist()):
            references = references.iloc[:0]
        references = references.drop_duplicates([*best_of, "base_epochs"])
        same += ["base_epochs"] if question == "compute" else []
    suffixes = ("", "_to")
    found = (
        others.merge(references, on=same, suffixes=suffixes)
        if same
        else others.merge(references, how="cross", suffixes=suffixes)
    )
    return list(zip(found["row"].astype(str), found["row_to"].astype(str), strict=True))


def claims(table: "DataFrame", compared: Sequence[tuple[str, str]], measures: Sequence[str]) -> tuple[Claim, ...]:
    """Compare pairs of rows in each measure, as one family.

    Args:
        table: with `row`, `optimizer`, `seed` and the measures, nan where one was not measured or is not resolved.
        compared: what :func:`pairs` lists.
        measures: columns of the table; those that it lacks are left out.
    """
    from pandas import concat

    found = []
    rows = {str(row): part.set_index("seed") for row, part in table.groupby("row", sort=False)}
    for measure in (name for name in measures if name in table):
        for row, to in compared:
            both = concat([rows[row][measure], rows[to][measure]], axis=1, join="inner").dropna()
            if len(both):
                one, other = both.iloc[:, 0].tolist(), both.iloc[:, 1].tolist()
                optimizer = str(rows[row]["optimizer"].iloc[0])
                found.append(
                    Claim(row, to, optimizer, measure, Mean.of(one), Mean.of(other), Difference.of(one, other))
                )
    corrected = family([claim.difference for claim in found])
    return tuple(replace(claim, difference=one) for claim, one in zip(found, corrected, strict=True))


def with_flatness(table: "DataFrame", networks: "DataFrame | None") -> "DataFrame":
    """Put the measures of flatness beside a refit's trainings; what is not resolved is nan.

    Args:
        table: of the refit.
        networks: of the analysis; None if there is none.
    """
    if networks is None:
        return table
    found = networks[["key"]].copy()
    for name in FLATNESS:
        if name in networks:
            found[name] = networks[name].where(networks[f"{name}_resolved"].astype(bool))
    return table.merge(found, on="key", how="left")


def at_equal_loss(table: "DataFrame", compared: Sequence[tuple[str, str]]) -> tuple[EqualLoss, ...]:
    """Compare λ_max of rows with their controls at equal training loss.

    Args:
        table: with `row`, `optimizer`, `lambda_max` and `train/loss`.
        compared: pairs of rows.
    """
    if "lambda_max" not in table:
        return ()
    found = []
    for row, to in compared:
        of_row, of_control = (
            table[(table["row"] == name) & (table["lambda_max"] > 0)][["train/loss", "lambda_max", "optimizer"]]
            for name in (row, to)
        )
        if len(of_row) and len(of_control):
            optimizer = str(of_row["optimizer"].iloc[0])
            found.append(_regressed(row, to, optimizer, of_row, of_control))
    corrected = holm([one.p for one in found])
    return tuple(replace(one, corrected=p) for one, p in zip(found, corrected, strict=True))


def _regressed(row: str, to: str, optimizer: str, of_row: "DataFrame", of_control: "DataFrame") -> EqualLoss:
    import numpy as np
    from statsmodels.regression.linear_model import OLS

    losses: list[Series] = [part["train/loss"] for part in (of_row, of_control)]
    loss = np.concatenate([one.to_numpy() for one in losses])
    low, high = max(one.min() for one in losses), min(one.max() for one in losses)
    common = int(((low <= loss) & (loss <= high)).sum())
    if not common or min(len(of_row), len(of_control)) < FEWEST:
        return EqualLoss(row, to, optimizer, math.nan, math.nan, math.nan, math.nan, math.nan, common, len(loss))
    of = np.concatenate([np.ones(len(of_row)), np.zeros(len(of_control))])
    logs = np.log(np.concatenate([of_row["lambda_max"], of_control["lambda_max"]]))
    fit = OLS(logs, np.column_stack([np.ones(len(loss)), loss - loss.mean(), of])).fit()
    factor, low, high = (math.exp(one) for one in (fit.params[2], *fit.conf_int(alpha=1 - CONFIDENCE)[2]))
    p = float(fit.pvalues[2])
    return EqualLoss(row, to, optimizer, factor, low, high, p, p, common, len(loss))


def chosen_radii(study: Study, optimizers: Sequence[str] | None = None) -> tuple[Radius, ...]:
    """Say which ρ a search chose for each optimizer that has one, and how far others are as good.

    Args:
        study: a search.
        optimizers: of the study; all by default.
    """
    samples, score = study.workload.datasets[study.settings.dataset].validation, study.settings.score
    found = []
    for optimizer in optimizers or study.settings.optimizers:
        trials = study.records(optimizer)
        tried = [
            (trial.config.rho, trial.metrics.get(f"val/{score}")) for trial in study.ranked(trials) if trial.config
        ]
        points = [(rho, value) for rho, value in tried if rho is not None and value is not None]
        if points:
            stopped = {
                trial.config.rho
                for trial in trials
                if trial.state in ("pruned", "diverged") and trial.config and trial.config.rho is not None
            }
            found.append(_radius(optimizer, points, stopped, standard_error(score, points[0][1], samples)))
    return tuple(found)


def _radius(optimizer: str, points: Sequence[tuple[float, float]], stopped: set[float], error: float) -> Radius:
    """Judge the ρ and the score of an optimizer's complete trials, the best trial first.

    Args:
        optimizer: whose.
        points: ρ and score of each.
        stopped: ρ of its trials that were pruned or diverged.
        error: the standard error of the best score.
    """
    (value, best), radii = points[0], sorted({rho for rho, _ in points})
    near = [rho for rho, other in points if other >= best - error] or [math.nan]
    end: Literal["smallest", "largest", ""] = ""
    if len(radii) > 1:
        end = "smallest" if value == radii[0] else "largest" if value == radii[-1] else ""
    beyond = {
        "smallest": {rho for rho in stopped if rho * CLEARLY <= value},
        "largest": {rho for rho in stopped if rho >= value * CLEARLY},
    }
    return Radius(optimizer, value, min(near), max(near), len(radii), end, len(beyond.get(end, ())))
