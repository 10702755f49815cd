"""The numbers that a search comes to once it is refitted and measured, kept in its ledger for who compares studies."""

from typing import TYPE_CHECKING

from tune_sam.study.storage import open_storage

if TYPE_CHECKING:
    from tune_sam.study.records import Study

_SUMMARY = "summary"


def note_summary(study: "Study", numbers: dict[str, float]) -> None:
    """Keep the numbers of a study, by name, in place of earlier ones.

    Args:
        study: whose lock this process holds.
        numbers: finite, by names such as `refit/sam/test_accuracy`.
    """
    storage = open_storage(study.home)
    storage.set_study_user_attr(storage.get_study_id_from_name(_keeper(study)), _SUMMARY, numbers)


def noted_summary(study: "Study") -> dict[str, float]:
    """Read what :func:`note_summary` kept of a study; nothing if it was not refitted."""
    storage = open_storage(study.home)
    attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(_keeper(study)))
    found: dict[str, float] = attributes.get(_SUMMARY, {})
    return found


def _keeper(study: "Study") -> str:
    return f"{study.name}/{study.settings.optimizers[0]}"
