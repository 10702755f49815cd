"""The numbers that a search comes to once it is refitted and measured, kept in its ledger for who compares studies."""

from tune_sam.study.records import Study, attributes_in, stored

_SUMMARY = "summary"


def note_summary(study: Study, numbers: dict[str, float]) -> None:
    """Keep the numbers of a study, by name, in place of earlier ones.

    Args:
        study: whose lock this process holds.
        numbers: finite, by names such as `refit/sam/test_accuracy`.
    """
    storage, keeper = stored(study, study.settings.optimizers[0])
    storage.set_study_user_attr(keeper, _SUMMARY, numbers)


def noted_summary(study: Study) -> dict[str, float]:
    """Read what :func:`note_summary` kept of a study; nothing if it was not refitted."""
    found: dict[str, float] = attributes_in(study, study.settings.optimizers[0]).get(_SUMMARY, {})
    return found
