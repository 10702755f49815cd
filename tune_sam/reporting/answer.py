"""The section that answers: does sharpness-aware minimization help?"""

from collections.abc import Sequence

from tune_sam.evaluation.claims import ASKED, Answers, Claim, Question
from tune_sam.evaluation.refit import Refit, test_results
from tune_sam.evaluation.statistics import difference_in_words
from tune_sam.reporting.sections import Section
from tune_sam.study.records import Study, refits_of

TITLE = "Does it help?"


def answer_section(study: Study, refit: Refit | None, found: Answers) -> Section:
    """Say what the paired differences show, or what is left to do before anything can be said."""
    if refit is None:
        return Section(
            TITLE,
            (
                "This cannot be said yet: the best of a search is chosen among many and looks better than it is. "
                f"tune-sam refit {study.name} trains each optimizer's best configuration with several seeds and tests "
                "each.",
            ),
        )
    sentences = [
        f"On the test set, over {len(refit.seeds)} seeds that all rows share, in percentage points of accuracy. The "
        "comparisons of one question are one family: their p-values are corrected by Holm's method, and a difference "
        "is shown where the corrected one is below 0.05."
    ]
    if refit.left_out:
        which = "; ".join(f"{key} {how}" for key, how in refit.left_out.items())
        sentences.append(
            "Seeds are left out where a training did not end complete, which may favour that training's optimizer: "
            f"{which}."
        )
    sentences += answers_in_words(refit, found)
    if (readings := sum(bool(test_results(other)) for other in refits_of(study, "refit"))) > 1:
        sentences.append(
            f"{readings} refits of this study have been tested, and this page shows one of them. If it was chosen by "
            "its test results, its accuracies are too high."
        )
    return Section(TITLE, tuple(sentences))


def answers_in_words(refit: Refit, found: Answers) -> list[str]:
    """Say for each question about the test accuracy what is compared, and what each comparison shows."""
    answered: dict[Question, Sequence[Claim]] = {
        "use": found.help,
        "compute": found.help_at_equal_compute,
        "rho": found.by_rho,
    }
    sentences = []
    for question, claims in answered.items():
        sentences.append(f"{ASKED[question]}{'' if claims else f' {_why_none(refit, question)}'}")
        sentences += [f"{claim.row} against {claim.to}: {difference_in_words(claim.difference)}" for claim in claims]
    return sentences


def _why_none(refit: Refit, question: Question) -> str:
    """Say why a question has no comparisons."""
    optimizers = refit.studies[0].settings.optimizers
    if optimizers == ("base",):
        return "Only the base optimizer was trained."
    if question == "rho":
        return f"No matched controls are trained; tune-sam refit {refit.of.name} trains them, and nothing else again."
    if "base" not in optimizers:
        return "The base optimizer was not searched, so there is nothing to compare with."
    return "A grid with several points of the base optimizer has no best one, so there is nothing to compare with."
