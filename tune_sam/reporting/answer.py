"""The section that answers: does sharpness-aware minimization help?"""

from tune_sam.evaluation.refit import Refit, test_results
from tune_sam.evaluation.statistics import difference_in_words
from tune_sam.reporting.sections import Section
from tune_sam.study.records import Study, refits_of

TITLE = "Does it help?"


def answer_section(study: Study, refit: Refit | None) -> Section:
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
        f"On the test set, over {len(refit.seeds)} seeds that all rows share, in percentage points of accuracy; each "
        "p-value is of one comparison alone."
    ]
    if not refit.references:
        sentences.append("The base optimizer was not searched, so there is nothing to compare with.")
    if refit.left_out:
        which = "; ".join(f"{key} {how}" for key, how in refit.left_out.items())
        sentences.append(
            "Seeds are left out where a training did not end complete, which may favour that training's optimizer: "
            f"{which}."
        )
    for reference in refit.references:
        sentences += [
            f"{row} against {reference}: {difference_in_words(difference)}"
            for row, difference in refit.differences(reference).items()
        ]
    if (readings := sum(bool(test_results(other)) for other in refits_of(study, "refit"))) > 1:
        sentences.append(
            f"{readings} refits of this study have been tested, and this page shows one of them. If it was chosen by "
            "its test results, its accuracies are too high."
        )
    return Section(TITLE, tuple(sentences))
