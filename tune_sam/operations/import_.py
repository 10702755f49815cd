"""A study from an archive, which may be anybody's: it is read as data, and nothing in it says where anything is put."""

import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune_sam.errors import Refused, shorten
from tune_sam.files import write_whole
from tune_sam.home import Home, Place, folder_of
from tune_sam.logins import with_login
from tune_sam.operations.delete import delete
from tune_sam.operations.export import CONTENT, FOLDERS, FORMAT
from tune_sam.settings import is_name, wrong_with_name
from tune_sam.study.lock import study_lock
from tune_sam.study.optuna_internals import attributes_of_studies
from tune_sam.study.reading import reading
from tune_sam.study.records import Study
from tune_sam.study.storage import open_storage
from tune_sam.study.transfer import with_names, with_names_in_table, write_ledger
from tune_sam.tuning.delivery import PATIENCE, deliver
from tune_sam.tuning.plan import store, study_run

LONGEST_CONTENT = 2**31
"""Bytes of the ledgers in an archive; a study of a hundred thousand trials has fewer."""


def import_(file: str | Path, *, name: str | None = None, home: Place = None, data: str | Path | None = None) -> Study:
    """Make a study of an archive that :func:`tune_sam.export` wrote, with its refits; MLflow's side is made anew.

    Links, and paths that lead elsewhere, are refused, no code is imported, and nothing outside of the home is written.

    Args:
        file: the archive.
        name: of the study from now on; as in the archive by default.
        home: where it is to live; $TUNE_SAM_HOME, else ~/.tune_sam.
        data: folder that holds the data set here; $TUNE_SAM_DATA by default, else the home's.

    Returns:
        The study, which is logged nowhere but in MLflow.

    Raises:
        Refused: the file is no such archive, or a study of that name is there; nothing was made.
    """
    place = Home.at(home)
    source = folder_of(file, "FILE")
    given = data or os.environ.get("TUNE_SAM_DATA")
    at = str(folder_of(given, "--data")) if given else None
    with place.made(), _folder(place) as folder:
        content = _unpacked(source, Path(folder))
        with reading(f"archive {source}", "have it exported again"):
            new_names = _new_names(content, name)
            studies = [_study(one, new_names, place, at) for one in content["studies"]]
            if studies[0].settings.kind != "search":
                raise ValueError("its first study is no search")
        _remove_unfinished(studies, place)
        _refuse_taken(studies, place)
        try:
            with ExitStack() as locks:
                for study in studies:
                    locks.enter_context(study_lock(place, study.name))
                studies = [
                    _made(study, one, Path(folder) / "files", new_names, source)
                    for study, one in zip(studies, content["studies"], strict=True)
                ]
                for study in reversed(studies):  # the search at last: while it has no record, there is none of it
                    store(study)
                for study in studies:
                    deliver(study, PATIENCE, restore=True)
        except BaseException:
            for study in reversed(studies):
                with suppress(Refused):
                    delete(study.name, home=place)
            raise
    return studies[0]


@contextmanager
def _folder(place: Home) -> Iterator[str]:
    """Make a folder to unpack into, and remove those of imports that were killed: one at a time is at it in a home."""
    for left in place.path.glob(f"{UNPACKED}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=UNPACKED, dir=place.path) as folder:
        yield folder


UNPACKED = ".import-"
"""How the names of such folders begin."""


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r:gz") as archive:
            yield archive
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise Refused(
            f"{file} is no archive of `tune-sam export`, or cannot be read or unpacked here ({error}); give another."
        ) from None


def _unpacked(file: Path, folder: Path) -> dict[str, Any]:
    """Unpack the files of an archive into a folder, and give its first, the studies."""
    with _opened(file) as archive:
        first = archive.next()
        if first is None or first.name != CONTENT or not first.isreg() or first.size > LONGEST_CONTENT:
            raise tarfile.TarError(f"it does not begin with {CONTENT}")
        content = json.load(archive.extractfile(first))  # type: ignore[arg-type]  # a regular file has one
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise tarfile.TarError(f"it has no format {FORMAT}, as if of another release")
        while member := archive.next():
            path = member.name.split("/")
            plain = path[0] == "files" and len(path) > 3 and not {"", ".", ".."} & {*path} and "\0" not in member.name
            if not member.isreg() or not plain:
                what = "a link or device" if not member.isreg() else "a path that leads elsewhere"
                raise tarfile.TarError(f"it has {what}, {shorten(member.name)!r}")
            if member.size > shutil.disk_usage(folder).free:
                raise OSError(f"there is no room for {shorten(member.name)!r}")
            target = folder.joinpath(*path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(0o600 if target.suffix == ".log" else 0o666, exist_ok=False)  # as a training's log is made
            with target.open("wb") as there:
                shutil.copyfileobj(archive.extractfile(member), there)  # type: ignore[arg-type]  # a regular file has one
    return content


def _new_names(content: dict[str, Any], name: str | None) -> dict[str, str]:
    """Give the new name of each study by that in the archive: those of refits begin with the search's."""
    old = content["name"]
    new = old if name is None else name
    names = [one["name"] for one in content["studies"]]
    if wrong := wrong_with_name(new):
        raise Refused(f"{shorten(new)!r} can be no study's name: {wrong}; give it another --name.")
    if names[0] != old or len(set(names)) < len(names):
        raise ValueError("its studies are not those that it names")
    found = {old: new, **{one: f"{new}.{one.removeprefix(f'{old}.')}" for one in names[1:]}}
    if not all(is_name(one) for one in (*found, *found.values())) or len({*found.values()}) < len(found):
        raise ValueError("a name in it can be no study's")
    return found


def _study(part: dict[str, Any], names: dict[str, str], place: Home, data: str | None) -> Study:
    """Read a study's record, with the places of this home and without its loggers, which may send what they get."""
    record = part["record"]
    of = record["settings"]["refit_of"]
    here: dict[str, Any] = {"data": data, "log": [], "refit_of": None if of is None else names[of]}
    own = {
        "settings": record["settings"] | here,
        "storage": place.kept(place.storage),
        "tracking_uri": place.kept(place.named_tracking_uri or place.tracking_uri),
        "experiment_id": "",
        "mlflow_run_id": "",
    }
    study = Study.from_record(names[part["name"]], place, {**record, **own})
    return replace(study, tracking_uri=with_login(study.tracking_uri), folder=study.results_folder)


def _remove_unfinished(studies: list[Study], place: Home) -> None:
    """Remove what an import of the same studies left that was killed: ledgers without a record, and what is with them.

    Raises:
        Refused: another process is making them.
    """
    begun = _begun(place)
    if begun.get(studies[0].name) is False:
        for study in reversed(studies):
            if begun.get(study.name) is False:
                delete(study.name, home=place)  # with refits of it that have their record already


def _begun(place: Home) -> dict[str, bool]:
    """Say of each name in the ledger whether there is a record of a study."""
    found: dict[str, bool] = {}
    for full_name, attributes in attributes_of_studies(open_storage(place)).items():
        name = full_name.rpartition("/")[0]
        found[name] = found.get(name, False) or isinstance(attributes, ValueError) or "record" in attributes
    return found


def _refuse_taken(studies: list[Study], place: Home) -> None:
    begun = _begun(place)
    for study in studies:
        folder = place.study(study.name)
        used = folder.exists() and any(entry.suffix != ".lock" for entry in folder.iterdir())
        if study.name in begun or used:
            raise Refused(f"there is a study {study.name} in {place.path}; give the new one another --name.")


def _made(study: Study, part: dict[str, Any], files: Path, names: dict[str, str], source: Path) -> Study:
    """Make all of one study but its record: its ledger, its files and its run in MLflow."""
    with reading(f"archive {source}", "have it exported again"):
        write_ledger(study, part["ledger"])
        study.records()
    own = study.home.study(study.name)
    own.mkdir(parents=True, exist_ok=True)  # a lock in a database makes none
    for name in (*FOLDERS, study.results_folder):
        unpacked = files / part["name"] / name
        if not unpacked.is_dir():
            continue
        if name == "flatness" and part["name"] != study.name:
            with reading(f"archive {source}", "have it exported again"):
                rename_in_files(unpacked, names)
        if name != "report" or part["name"] == study.name:  # a page says the name in many places; `report` writes it
            unpacked.rename(own / name)
    run = study_run(study.name, study.settings, study.home, study.tracking_uri)
    return replace(study, experiment_id=run.experiment_id, mlflow_run_id=run.run_id)


def rename_in_files(folder: Path, names: dict[str, str]) -> None:
    """Have the numbers that were measured name studies and trials by other names; see :func:`with_names`."""
    for file in (*folder.rglob("*.json"), *folder.rglob("*.csv")):
        before = file.read_text(encoding="utf-8")
        renamed = with_names if file.suffix == ".json" else with_names_in_table
        if (after := renamed(before, names)) != before:
            write_whole(file, after)
