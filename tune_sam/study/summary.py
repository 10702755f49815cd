"""The numbers that a search comes to once it is refitted and measured, kept in its ledger for who compares studies."""

import math

from tune_sam.study.records import Study, attributes_in, stored

_SUMMARY = "summary"


def note_summary(study: Study, numbers: dict[str, float]) -> None:
    """Keep the numbers of a study, by name, in place of earlier ones.

    Earlier ones that are no more are kept as unknown: MLflow forgets no name, and would show the old number beside new
    ones.

    Args:
        study: whose lock this process holds.
        numbers: finite, by names such as `refit/sam/test_accuracy`.
    """
    storage, keeper = stored(study, study.settings.optimizers[0])
    storage.set_study_user_attr(keeper, _SUMMARY, {**dict.fromkeys(noted_summary(study)), **numbers})


def noted_summary(study: Study) -> dict[str, float]:
    """Read what :func:`note_summary` kept of a study, nan for what is no more; nothing if it was not refitted."""
    found: dict[str, float | None] = attributes_in(study, study.settings.optimizers[0]).get(_SUMMARY, {})
    return {name: math.nan if number is None else number for name, number in found.items()}
