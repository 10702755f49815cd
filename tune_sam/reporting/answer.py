"""The section with all comparisons of scores on the test set, by question."""

from collections.abc import Mapping

from tune_sam.evaluation.answer import why_not_known
from tune_sam.evaluation.claims import ASKED, OF_EACH_BATCH_SIZE, Answers
from tune_sam.evaluation.refit import Refit, test_results
from tune_sam.reporting.comparisons import HEADER, claim_rows
from tune_sam.reporting.sections import Section, Table
from tune_sam.scores import written
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
        "where it is below 0.05."
    ]
    if refit.left_out:
        which = "; ".join(f"{key} {how}" for key, how in refit.left_out.items())
        sentences.append(
            "Seeds are left out where a training did not end complete, of a control from comparisons with it alone, "
            f"which may favour that training's optimizer: {which}."
        )
    if (readings := sum(bool(test_results(other)) for other in refits_of(study, "refit"))) > 1:
        what = "accuracies are too high" if how.factor == 100 else "results are too good"
        sentences.append(
            f"{readings} refits of this study have been tested, and this page shows one of them. If it was chosen by "
            f"its test results, its {what}."
        )
    rows: list[tuple[str, ...]] = []
    for question, claims in found.asked.items():
        same_size = OF_EACH_BATCH_SIZE if refit.choice.each_batch_size and question != "rho" else ""
        unknown = "" if claims else f" {why_not_known(study, refit, question)}"
        rows.append((f"{ASKED[question]}{same_size}{unknown}",))
        rows += claim_rows(claims, names, how.factor, how.difference)
    return Section(TITLE, tuple(sentences), (Table(HEADER, tuple(rows)),))
