"""The section with all comparisons of scores on the test set, by question."""

import math
from collections.abc import Mapping

from tune_sam.evaluation.answer import why_not_known
from tune_sam.evaluation.claims import ASKED, OF_A_GRID, OF_EACH_BATCH_SIZE, Answers, Question
from tune_sam.evaluation.refit import Refit, test_results
from tune_sam.reporting.comparisons import HEADER, claim_rows
from tune_sam.reporting.sections import Section, Table
from tune_sam.scores import standard_error, written
from tune_sam.study.records import Study, refits_of

TITLE = "Does it help?"


def answer_section(study: Study, refit: Refit | None, found: Answers, names: Mapping[str, str]) -> Section:
    """Tabulate the paired differences by question, or say why there are none.

    Args:
        study: whose page it is.
        refit: its tested refit; None if there is none.
        found: what was compared.
        names: what the refit's rows are called.
    """
    if refit is None:
        return Section(TITLE, (why_not_known(study, refit, "use"),))
    how = written(refit.score)
    unit = ", in percentage points" if how.factor == 100 else ""
    sentences = [
        f"Paired differences in test {refit.score} over {len(refit.seeds)} seeds{unit}. "
        "The comparisons of one question are one family: p is corrected by Holm's method, and a difference is shown "
        "where it is below 0.05.",
        _of_one_test_set(study, refit),
    ]
    if refit.left_out:
        which = "; ".join(f"{key} {how}" for key, how in refit.left_out.items())
        sentences.append(
            "Seeds are left out where a training did not end complete, of a control and at equal compute from "
            f"comparisons with it alone, which may favour that training's optimizer: {which}."
        )
    if (readings := sum(bool(test_results(other)) for other in refits_of(study, "refit"))) > 1:
        what = "accuracies are too high" if how.factor == 100 else "results are too good"
        sentences.append(
            f"{readings} refits of this study have been tested, and this page shows one of them. If it was chosen by "
            f"its test results, its {what}."
        )
    rows: list[tuple[str, ...]] = []
    for question, claims in found.asked.items():
        unknown = "" if claims else f" {why_not_known(study, refit, question)}"
        rows.append((f"{_asked(refit, question)}{unknown}",))
        rows += claim_rows(claims, names, how.factor, how.difference)
    return Section(TITLE, tuple(sentences), (Table(HEADER, tuple(rows)),))


def _asked(refit: Refit, question: Question) -> str:
    """Say what a question compares in this refit."""
    if question == "use" and refit.choice.planned:
        return OF_A_GRID
    same_size = OF_EACH_BATCH_SIZE if refit.choice.each_batch_size and question != "rho" else ""
    return f"{ASKED[question]}{same_size}"


def _of_one_test_set(study: Study, refit: Refit) -> str:
    """Say what intervals over seeds leave out, the choice of the test samples, and how large it is for an accuracy."""
    samples, score = study.workload.datasets[study.settings.dataset].test, refit.score
    given = f" {samples:,}" if samples else ""
    said = f"Intervals and p-values are over seeds, with the same{given} test samples"
    first = next(iter(refit.summary().values()))[f"test/{score}"].value
    error = standard_error(score, first, samples) if samples else math.nan
    if math.isnan(error):
        return f"{said}; what others would give is not in them."
    return (
        f"{said}; by the choice of these an accuracy varies by ±{100 * error:.2g} points (one binomial standard "
        "error), and a difference by up to 1.4 times that: by less, the more alike the networks' mistakes are."
    )
