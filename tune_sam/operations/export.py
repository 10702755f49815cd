"""A study as one file, to be kept or given to somebody, whose `import` takes nothing in it on trust."""

import io
import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tune_sam.errors import Refused, masked
from tune_sam.files import UNFINISHED, replaced_file
from tune_sam.home import HERE, Place, folder_of, inside
from tune_sam.study.lock import is_going
from tune_sam.study.logs import is_hidden
from tune_sam.study.records import Study, open_search, refits_of
from tune_sam.study.transfer import ledger_of

log = logging.getLogger(__name__)

FORMAT = 1
"""Of an archive."""

CONTENT = "study.json"
"""The first file of an archive: the records and ledgers of its studies."""

FOLDERS = ("test", "flatness", "report")
"""What of a study's folder is in an archive, beside logs and checkpoints from Ray's results."""


def export(name: str, file: str | Path, *, home: Place = None, checkpoints: bool = True) -> Path:
    """Write a study with its refits, analyses, page and logs into one archive, a `.tar.gz`. The home is only read.

    Logs that are another user's and may not be read are left out, with a warning.

    Args:
        name: the study's.
        file: the archive, which is not there yet.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        checkpoints: whether the networks of its trials are in it, so that they can be loaded and resumed.

    Returns:
        The archive.

    Raises:
        Refused: there is no such study, a process drives it now, the file is there or cannot be written, or something
            else of the study may not be read.
    """
    study = open_search(name, home)
    target = folder_of(file, "FILE")
    if target.exists():
        raise Refused(f"{target} exists; give another file, or remove it.")
    studies = [study, *refits_of(study)]
    for one in studies:
        if is_going(one.home, one.name):
            raise Refused(f"study {one.name} is in use by another process; wait for it, or stop it.")
        one.home.refuse_links(one.name)
    content = {
        "format": FORMAT,
        "name": name,
        "studies": [
            {"name": one.name, "record": _record(one), "ledger": ledger_of(one, checkpoints=checkpoints)}
            for one in studies
        ],
    }
    try:
        with replaced_file(target) as unfinished, _private_archive(unfinished) as archive:
            text = json.dumps(content).encode()
            _add(archive, CONTENT, io.BytesIO(text), len(text))
            for one in studies:
                for path, source in _files(one, checkpoints):
                    _copy(archive, f"files/{one.name}/{path}", source)
    except OSError as error:
        raise Refused(
            f"study {name} cannot be written to {target} ({masked(str(error))}); mend that, or give another file."
        ) from None
    return target


def _record(study: Study) -> dict[str, Any]:
    """Give a record that names nothing of the home that it comes from."""
    record = study.to_record()
    return record | {
        "settings": record["settings"] | {"data": None},
        "tracking_uri": f"sqlite:///{HERE}/mlflow.db",
        "storage": f"{HERE}/studies",
        "experiment_id": "",
        "mlflow_run_id": "",
        "folder": study.results_folder,
    }


def _files(study: Study, checkpoints: bool) -> Iterator[tuple[str, str]]:
    """Give the path below the study's folder, and the file or URI, of each file that is exported."""
    own = study.home.study(study.name)
    for name in FOLDERS:
        for file in sorted((own / name).rglob("*")):
            if file.is_file() and UNFINISHED not in str(file.relative_to(own)):
                yield file.relative_to(own).as_posix(), str(file)
    logs = [trial.log for trial in study.records() if trial.log]
    places = [place for place in logs if not is_hidden(place)]
    if left_out := len(logs) - len(places):
        log.warning(
            "%d of %d logs of study %s may not be read by you, and are left out.", left_out, len(logs), study.name
        )
    if checkpoints:
        places += [place for kept in study.checkpoints().values() for place in kept]
    for place in places:
        for path in _below(study, place):
            yield f"{study.results_folder}/{path}", inside(study.results, path)


def _below(study: Study, place: str) -> Iterator[str]:
    """Give the paths, below the study's results, of the files at a place in them; nothing where it is gone."""
    from pyarrow.fs import FileSelector, FileSystem, FileType

    start = study.below_results(place)
    filesystem, path = FileSystem.from_uri(place)
    kind = filesystem.get_file_info(path)
    if start and kind.type == FileType.File:
        yield start
    elif start and kind.type == FileType.Directory:
        for one in filesystem.get_file_info(FileSelector(path, recursive=True)):
            if one.type == FileType.File:
                yield f"{start}/{one.path.removeprefix(path).lstrip('/')}"


def _private_archive(file: Path) -> tarfile.TarFile:
    """Open a new archive that is its owner's alone, as the logs in it are: a program may print anything."""
    file.touch(0o600)
    return tarfile.open(file, "w:gz", compresslevel=1)


def _copy(archive: tarfile.TarFile, path: str, source: str) -> None:
    from pyarrow.fs import FileSystem

    filesystem, place = FileSystem.from_uri(source)
    try:
        opened = filesystem.open_input_file(place)
    except PermissionError:
        raise Refused(f"{masked(source)} may not be read by you; ask whose it is to export the study.") from None
    with opened as content:
        _add(archive, path, content, content.size())


def _add(archive: tarfile.TarFile, path: str, content: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(path)
    member.size = size
    archive.addfile(member, content)
