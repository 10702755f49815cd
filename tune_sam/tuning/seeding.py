"""What another study found out, for a sampler that begins with it.

The finished trials of that study are kept as an attribute of the new one's ledger, and never as its trials: so they
count in no budget, table or page, and a resume suggests the same when that study is deleted, or the home is a copy.
"""

import logging
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.space import IN_WORDS, Space
from tune_sam.study.optuna_internals import trial_from_json, trial_to_json
from tune_sam.study.reading import reading
from tune_sam.study.records import Study, attributes_in, open_search, trials_in
from tune_sam.study.settings import StudySettings
from tune_sam.tuning.history import distribution_of

log = logging.getLogger(__name__)

SEEDS = "seeds"
"""The attribute of an optimizer's Optuna study that holds the finished trials of another study."""

MODELS = ("tpe", "gp", "cmaes")
"""The samplers that learn from trials, so that those of another study help them."""

SAME = ("workload", "dataset", "split_seed", "preset", "objective", "score", "score_direction")
"""The settings that both studies have the same, for otherwise what was good there says nothing here."""

TOLD = {
    "epochs": "",
    "train_subset": "of all",
    "label_noise": "none",
    "precision": "of an earlier release (fp32 on a CPU)",  # which recorded none where none was asked for
}
"""The settings in which they may differ, which a person is told, each with what it is called where it is not given."""


def source_of(settings: StudySettings, home: Home) -> Study:
    """Find the study whose trials a new one is to be seeded with.

    Args:
        settings: of the new study; its `from_study` is a name.
        home: where both live.

    Raises:
        Refused: there is none, or its trials are of another search; the sentence says what is different.
    """
    assert settings.from_study is not None
    source = open_search(settings.from_study, home)
    if settings.sampler not in MODELS:
        raise Refused(
            f"--from {source.name} changes nothing with --sampler {settings.sampler}, which learns from no trial; give "
            f"--sampler {' or '.join(MODELS)}, or leave it out."
        )
    for name in SAME:
        theirs, ours = getattr(source.settings, name), getattr(settings, name)
        if theirs != ours:
            raise Refused(
                f"--from {source.name} has {name.replace('_', ' ')} {theirs or 'none'}, and this search "
                f"{ours or 'none'}; name a study of the same search."
            )
    for optimizer, space in settings.spaces.items():
        if difference := _difference(source.settings.spaces.get(optimizer), space, optimizer):
            raise Refused(f"--from {source.name} {difference}; give the same ranges, or leave it out.")
        if not _finished(source, optimizer):
            raise Refused(f"--from {source.name} has no finished trial of {optimizer} to begin with; leave it out.")
    return source


def seeds_for(settings: StudySettings, optimizer: str, home: Home) -> list[dict[str, Any]]:
    """Give what a sampler learns from the finished trials of one optimizer, as JSON holds it.

    Raises:
        Refused: as :func:`source_of`.
    """
    return [trial_to_json(trial) | {"user_attrs": {}} for trial in _finished(source_of(settings, home), optimizer)]


def seeds_in(attributes: Mapping[str, Any], name: str) -> list[FrozenTrial]:
    """Read what :func:`seeds_for` gave from the attributes of an optimizer's Optuna study.

    Raises:
        Refused: they are damaged.
    """
    with reading(f"the trials that study {name} was seeded with"):
        return [trial_from_json(trial) for trial in attributes.get(SEEDS, ())]


def count_seeds(study: Study) -> dict[str, int]:
    """Count the trials of another study that the sampler began with, by optimizer."""
    return {optimizer: len(attributes_in(study, optimizer)[SEEDS]) for optimizer in study.settings.optimizers}


def tell_other_training(settings: StudySettings, source: Study) -> None:
    """Say in which ways the other study trained otherwise, so that its scores are not the same as here."""
    differences = [
        f"{name.replace('_', ' ')} {theirs}, not {ours}"
        for name, absent in TOLD.items()
        if (theirs := getattr(source.settings, name) or absent) != (ours := getattr(settings, name) or absent)
    ]
    if differences:
        log.warning(
            "Study %s trained with %s; the sampler takes its scores as they are.",
            source.name,
            " and ".join(differences),
        )


def _finished(study: Study, optimizer: str) -> list[FrozenTrial]:
    return trials_in(study, optimizer, (TrialState.COMPLETE, TrialState.PRUNED))


def _difference(theirs: Space | None, ours: Space, optimizer: str) -> str:
    """Say how the space of another study differs; nothing where it is the same."""
    if theirs is None:
        return f"did not search {optimizer}"
    for name in (*ours.domains, *theirs.domains):
        one, other = theirs.domains.get(name), ours.domains.get(name)
        if not (one and other and distribution_of(one) == distribution_of(other)):
            where = [domain or "as the workload has it" for domain in (one, other)]
            return f"searched {optimizer} with {IN_WORDS.get(name, name)} {where[0]}, and this search has {where[1]}"
    return ""
