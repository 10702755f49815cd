"""The numbers by which studies are compared in MLflow: what a search's refit and the measures of flatness came to.

Those of its best trials are read from the ledger, see :class:`tune_sam.tuning.delivery.Content`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tune_sam.errors import Refused, masked
from tune_sam.evaluation.claims import FLATNESS, Answers, Claim, answers, with_flatness
from tune_sam.evaluation.measured import measured_of
from tune_sam.evaluation.refit import tested_refit
from tune_sam.evaluation.statistics import Difference
from tune_sam.study.lock import is_going, study_lock
from tune_sam.study.records import Study
from tune_sam.study.summary import note_summary
from tune_sam.tuning.delivery import deliver

if TYPE_CHECKING:
    from pandas import DataFrame


def tested(score: str) -> tuple[str, ...]:
    """List the columns of a refit's table whose means over the seeds are in a summary."""
    return f"test/{score}", "test/loss", "test/nll", "test/ece", f"gap/{score}", "gap/loss"


PATIENCE = 5.0
"""Seconds to wait for a tracking server that is away; what it lacks then, `sync` delivers."""


def summarize(study: Study) -> dict[str, float]:
    """Collect the numbers of a search's latest tested refit and of its networks' flatness, as far as there are any.

    Args:
        study: a search.

    Returns:
        Finite numbers by name; none of an optimizer of which a grid has several points, for nothing chose one.
        `refit/sam/test_accuracy` is the mean over the seeds of SAM's best configuration, and
        `refit/sam/difference` that to the base optimizer's best, with `difference_low`, `difference_high`, and the
        corrected `difference_p`; the same under `equal_compute/` and, against the matched control, `control/`.
        `flatness/sam/lambda_max` is a mean, and `flatness/sam/lambda_max_difference` that to the control; the other
        measures are means alone.

    Raises:
        Refused: files of the refit or of its measures are gone or damaged.
    """
    refit = tested_refit(study)
    if refit is None:
        return {}
    measured = measured_of(study, refit)
    networks = measured.table() if measured else None
    found = answers(study, refit, networks)
    best = refit.best_rows
    means = _means(with_flatness(refit.table(), networks), tested(refit.score), best)
    to_best = replace(found, help=tuple(claim for claim in found.help if claim.to == best.get("base")))
    numbers = {**dict(means), **dict(_differences(to_best, [*best.values()]))}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def log_summary(study: Study) -> str:
    """Note the numbers of a search in its ledger, and give MLflow what it lacks of the search.

    Returns:
        Why MLflow does not have all of it; empty if it has, and of a study that a process searches now, which delivers
        on its own.
    """
    if is_going(study.home, study.name):
        return ""
    try:
        with study_lock(study.home, study.name):
            note_summary(study, summarize(study))
            left = deliver(study, PATIENCE, thorough=False)
    except Refused as error:
        return str(error)
    where = masked(study.tracking_uri)
    return f"MLflow at {where} lacks results of study {study.name}, which its ledger keeps." if left else ""


def _means(table: "DataFrame", tested: Sequence[str], best: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Average over the seeds: of the best configuration of each optimizer, and of the base optimizer's twice."""
    of_best = (table["kind"] == "refit") & table["row"].isin([*best.values()])
    at_equal_compute = (table["kind"] == "equal-compute") & ("base" in best)
    rows = table[of_best | at_equal_compute].sort_values("epochs", ascending=False, kind="stable")
    rows = rows.drop_duplicates(["kind", "optimizer"])
    for row, kind, optimizer in zip(rows["row"], rows["kind"], rows["optimizer"], strict=True):
        part = table[table["row"] == row]
        of_kind = str(kind).replace("-", "_")
        for name in tested:
            if name in part:
                yield f"{of_kind}/{optimizer}/{name.replace('/', '_')}", part[name].mean()
        for name in FLATNESS if kind == "refit" else ():
            if name in part:
                yield f"flatness/{optimizer}/{name}", part[name].mean()


def _differences(found: Answers, best: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Name the differences of each optimizer's best configuration."""
    of_score = (
        ("refit", found.help),
        ("equal_compute", found.help_at_equal_compute),
        ("control", found.by_rho),
    )
    for group, claims in of_score:
        for claim in _first(claims, best):
            yield from _of_difference(f"{group}/{claim.optimizer}/difference", claim.difference)
    for claim in _first([one for one in found.flatter if one.measure == FLATNESS[0]], best):
        yield from _of_difference(f"flatness/{claim.optimizer}/{claim.measure}_difference", claim.difference)


def _first(claims: Sequence[Claim], best: Sequence[str]) -> list[Claim]:
    """Take the first claim of each optimizer's best row, which at equal compute may have several."""
    return list({claim.optimizer: claim for claim in reversed(claims) if claim.row in best}.values())


def _of_difference(name: str, difference: Difference) -> Iterator[tuple[str, float]]:
    yield name, difference.mean.value
    yield f"{name}_low", difference.mean.low
    yield f"{name}_high", difference.mean.high
    yield f"{name}_p", difference.corrected
