"""The ledger of a study as JSON, to carry it from one home's storage to another's, or to another name."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tune_sam.study.checkpoints import BEFORE, LAST
from tune_sam.study.optuna_internals import continue_sequence, sequence_of, trial_from_json, trial_to_json
from tune_sam.study.records import Study, attributes_in, is_run_attribute, stored, trials_in
from tune_sam.study.settings import trial_key
from tune_sam.study.storage import open_storage

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def ledger_of(study: Study, *, checkpoints: bool = True) -> dict[str, Any]:
    """Give the ledger of a study, without what holds in its own home alone: its record and its runs in MLflow.

    Args:
        study: whose.
        checkpoints: whether trials keep the places of their checkpoints, which are below the study's results.

    Returns:
        `attributes`, `sequence` and `trials` by optimizer.
    """
    found = {}
    for optimizer in study.settings.optimizers:
        attributes = attributes_in(study, optimizer)
        found[optimizer] = {
            "attributes": {
                name: value for name, value in attributes.items() if name != "record" and not is_run_attribute(name)
            },
            "sequence": sequence_of(*stored(study, optimizer)),
            "trials": [
                _as_json(frozen, study.below_results if checkpoints else lambda _: None)
                for frozen in trials_in(study, optimizer)
            ],
        }
    return found


def _as_json(frozen: "FrozenTrial", below: Callable[[str], str | None]) -> dict[str, Any]:
    attributes = dict(frozen.user_attrs)
    for name in (LAST, BEFORE):
        if (place := attributes.pop(name, None)) and (kept := below(place)):
            attributes[name] = kept
    return trial_to_json(frozen) | {"user_attrs": attributes}


def write_ledger(study: Study, ledger: Mapping[str, Any]) -> None:
    """Write what :func:`ledger_of` gave as that of a new study, whose record is to be written last.

    Args:
        study: it has no trials in the storage yet, and its lock is held.
        ledger: perhaps somebody else's.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no ledger.
    """
    from optuna.study import StudyDirection

    storage = open_storage(study.home)
    directions = [StudyDirection[way.upper()] for way in study.settings.directions.values()]
    for optimizer in study.settings.optimizers:
        part = ledger[optimizer]
        trials = [
            _from_json(trial, trial_key(study.name, optimizer, number)) for number, trial in enumerate(part["trials"])
        ]
        one = storage.create_new_study(directions, f"{study.name}/{optimizer}")
        for trial in trials:
            storage.create_new_trial(one, trial)
        for name, value in part["attributes"].items():
            if name != "record" and not is_run_attribute(name):
                storage.set_study_user_attr(one, name, value)
        continue_sequence(storage, one, part.get("sequence", {}))


def _from_json(trial: Mapping[str, Any], key: str) -> "FrozenTrial":
    attributes = dict(trial["user_attrs"])
    found = trial_from_json({**trial, "user_attrs": attributes | ({"key": key} if "key" in attributes else {})})
    if str(found.number) != key.rpartition("/")[2]:
        raise ValueError(f"trial {found.number} stands where {key} should be")
    return found


def with_names(text: str, names: Mapping[str, str]) -> str:
    """Give the text of a JSON file of a study's with other names of studies, by those that it has.

    They stand at the beginning of trials' keys, and as the values of `name`, `study` and `refit_of`. A letter beyond
    ASCII may be there as its escape.
    """
    escaped = {name: json.dumps(name)[1:-1] for name in (*names, *names.values())}
    names = {form: escaped[other] for name, other in names.items() for form in (name, escaped[name])}
    some = _any_of(names)
    values = rf'("(?:name|study|refit_of)": ?")({some})(?=")'
    text = _with_keys(text, names)
    return re.sub(values, lambda found: found[1] + names[found[2]], text)


def with_names_in_table(text: str, names: Mapping[str, str]) -> str:
    """Give the text of a CSV file of a study's with other names of studies, in keys of trials and a column `study`."""
    header, *rows = csv.reader(io.StringIO(text)) if text else [[]]
    place = header.index("study") if "study" in header else None
    found = io.StringIO()
    writer = csv.writer(found, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = [_with_keys(cell, names) for cell in row]
        writer.writerow([names.get(cell, cell) if index == place else cell for index, cell in enumerate(cells)])
    return found.getvalue() if text else text


def _with_keys(text: str, names: Mapping[str, str]) -> str:
    return re.sub(rf'(?<![\w./-])({_any_of(names)})(?=/[^\s"/,]+/\d)', lambda found: names[found[1]], text)


def _any_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def placed_again(study: Study, optimizer: str, key: Callable[[int], str]) -> dict[int, dict[str, Any]]:
    """Give the attributes of each trial that have the study's name in them, for another name of it, by its number.

    Args:
        study: whose, under its name of now.
        optimizer: one of the study's.
        key: gives the new key of a trial.
    """
    found = {}
    for frozen in trials_in(study, optimizer):
        kept = {
            name: study.below_results(frozen.user_attrs[name]) for name in (LAST, BEFORE) if name in frozen.user_attrs
        }
        found[frozen.number] = {"key": key(frozen.number)} | {name: place for name, place in kept.items() if place}
    return found
