"""Another name for a study and its refits: in MLflow, in its folders and in the ledger, the last of which decides.

Whatever interrupts it, the same command does the rest: runs in MLflow are found by their ids, files by what has not
moved yet, and the ledger has the old name until all of it has the new one at once.
"""

import shutil
from contextlib import ExitStack
from functools import partial
from typing import Any

from tune_sam.errors import Refused, masked, shorten
from tune_sam.home import Home, Place
from tune_sam.operations.import_ import rename_in_files
from tune_sam.settings import wrong_with_name
from tune_sam.study.lock import study_lock
from tune_sam.study.optuna_internals import attributes_of_studies, rename_studies
from tune_sam.study.records import Study, open_search, open_study, refits_of
from tune_sam.study.settings import trial_key
from tune_sam.study.storage import open_storage
from tune_sam.study.transfer import placed_again
from tune_sam.tracking.client import HOME_TAG, STUDY_TAG
from tune_sam.tracking.content import KEY_TAG
from tune_sam.tracking.runs import tag_runs
from tune_sam.tuning.delivery import PATIENCE, deliver
from tune_sam.tuning.plan import told


def rename(name: str, new: str, *, home: Place = None) -> Study:
    """Give a study another name, and its refits, whose names begin with it.

    Its page, which says the old name in many places, is removed; :func:`tune_sam.report` writes it anew.

    Args:
        name: the study's.
        new: its name from now on.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Returns:
        The study under its new name.

    Raises:
        Refused: there is no such study, the new name is taken or can be none, a process uses it, its results are
            outside of the home, or MLflow cannot be reached.
    """
    place = Home.at(home)
    study = open_search(name, place)
    studies = [study, *refits_of(study)]
    names = {
        one.name: f"{new}{one.name.removeprefix(name)}" for one in studies if one.name == name or _follows(one, name)
    }
    _refuse(study, new, names, place)
    moving = [one for one in studies if one.name in names]
    with ExitStack() as new_locks:
        with ExitStack() as old_locks:
            for one in moving:
                old_locks.enter_context(study_lock(place, one.name))
                new_locks.enter_context(study_lock(place, names[one.name]))
            tag_runs(study.mlflow, {run: tags for one in moving for run, tags in _tags(one, names).items()})
            for one in moving:
                _move_files(one, names)
            rename_studies(open_storage(place), *_in_ledger(studies, names))
            for one in moving:
                shutil.rmtree(place.study(one.name))  # with the lock alone in it, and the page
        for now in names.values():
            renamed = open_study(now, place)
            tag_runs(renamed.mlflow, {renamed.mlflow_run_id: told(renamed.settings)})  # of a refit, also whose it is
            deliver(renamed, PATIENCE, thorough=False)
    return open_study(new, place)


def _follows(refit: Study, name: str) -> bool:
    return refit.name.startswith(f"{name}.")


def _refuse(study: Study, new: str, names: dict[str, str], place: Home) -> None:
    if wrong := wrong_with_name(new):
        raise Refused(f"{shorten(new)!r} can be no study's name: {wrong}.")
    taken = {full_name.rpartition("/")[0] for full_name in attributes_of_studies(open_storage(place))}
    for old, name in names.items():
        begun = not any(place.study(old).glob("ray-*"))  # an earlier attempt has moved them already
        if name in taken or (place.study(name).exists() and not begun):
            raise Refused(f"there is a study {name} in {place.path} already; give another name.")
    if study.storage != place.storage:
        raise Refused(
            f"Ray's results of study {study.name} are in {masked(study.storage)}, where folders have its name and "
            "cannot be renamed; leave it its name."
        )


def _tags(study: Study, names: dict[str, str]) -> dict[str, dict[str, str]]:
    """Give what says the name in MLflow, by run."""
    new = names[study.name]
    trials = {run: {KEY_TAG: f"{new}/{key.removeprefix(f'{study.name}/')}"} for key, run in study.run_ids().items()}
    return {study.mlflow_run_id: {STUDY_TAG: new, HOME_TAG: study.home.identity}, **trials}


def _move_files(study: Study, names: dict[str, str]) -> None:
    """Move what a study's folder has to the new one, its results first; the page and locks stay."""
    old, new = study.home.study(study.name), study.home.study(names[study.name])
    for folder in (old, new):
        folder.mkdir(parents=True, exist_ok=True)  # a lock in a database makes none
    for entry in sorted(old.iterdir(), key=lambda entry: not entry.name.startswith("ray-")):
        if entry.suffix != ".lock" and entry.name != "report":
            entry.rename(new / entry.name)
    rename_in_files(new / "flatness", names)


def _in_ledger(
    studies: list[Study], names: dict[str, str]
) -> tuple[dict[str, str], dict[str, dict[str, Any]], dict[str, dict[int, dict[str, Any]]]]:
    """Give the new names of Optuna's studies, their records and what of their trials' attributes has the name."""
    full, records, trials = {}, {}, {}
    for study in studies:
        new, record = names.get(study.name, study.name), study.to_record()
        settings = record["settings"]
        of = settings["refit_of"]
        for optimizer in study.settings.optimizers:
            one = f"{study.name}/{optimizer}"
            full[one] = f"{new}/{optimizer}"
            records[one] = record | {
                "settings": settings | {"refit_of": names.get(of, of)},
                "folder": study.results_folder,
            }
            trials[one] = placed_again(study, optimizer, partial(trial_key, new, optimizer))
    return full, records, trials
