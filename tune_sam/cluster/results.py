"""Where Ray's results are: a folder that all nodes see, or a URI such as s3://BUCKET/PATH."""

import json
import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from pyarrow.fs import FileSelector, FileSystem

from tune_sam.cluster.ray_internals import STATE_FILE, read_states
from tune_sam.errors import Refused, masked
from tune_sam.home import Home, inside

if TYPE_CHECKING:
    from tune_sam.study.records import Study

log = logging.getLogger(__name__)

CLOSED = "closed.json"
"""The file beside Tune's with what `tune-sam doctor --fix` closed."""


def chosen_storage(asked: str | None, home: Home) -> str:
    """Give the folder or URI for Ray's results, as an absolute one; the home's where none was asked for.

    Raises:
        Refused: nothing can be written there.
    """
    if not asked:
        return str(home.path / "studies")
    storage = absolute(asked)
    with probe(storage):
        pass
    return storage


def absolute(storage: str) -> str:
    """Make a folder's path absolute; a URI is that already."""
    return storage if "://" in storage else str(Path(storage).expanduser().absolute())


@contextmanager
def probe(storage: str) -> Iterator[tuple[str, bytes]]:
    """Write a file there and read it back: permissions do not tell everything, least of all to root.

    Yields:
        The file's place and what is in it, so that others can read it too; it goes at the end.

    Raises:
        Refused: one of these fails.
    """
    content = secrets.token_bytes(16)
    try:
        there = (
            storage
            if "://" in storage
            else str(next(part for part in (Path(storage), *Path(storage).parents) if part.exists()))
        )
        place = inside(there, f"tune_sam-{secrets.token_hex(4)}.check")
        filesystem, path = FileSystem.from_uri(place)
        with filesystem.open_output_stream(path) as file:
            file.write(content)
        if read(place) != content:
            raise OSError("what is read there is not what was written")
    except (OSError, ValueError) as error:
        raise Refused(
            f"--storage {masked(storage)} cannot be used ({masked(str(error))}); give a folder that can be "
            "written to, or a URI such as s3://BUCKET/PATH."
        ) from None
    try:
        yield place, content
    finally:
        filesystem.delete_file(path)


def read(place: str) -> bytes:
    """Read a file, or what is at a URI."""
    filesystem, path = FileSystem.from_uri(place)
    with filesystem.open_input_stream(path) as file:
        content: bytes = file.readall()
        return content


def without_login(place: str) -> str:
    """Remove user, password and the secrets among its options from a URI; a folder stays as it is."""
    if "://" not in place:
        return place
    parts = urlsplit(place)
    return urlunsplit(
        parts._replace(
            netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/"), query=masked(f"?{parts.query}")
        )
    )


def delete(study: "Study", path: str) -> None:
    """Remove a checkpoint that nothing needs any more. One that stays costs space and nothing else.

    Args:
        study: whose.
        path: below the study's results, as :meth:`tune_sam.study.records.Study.below_results` gives it.

    Raises:
        ValueError: the path leads out of them.
    """
    if study.below_results(path) != path:
        raise ValueError(f"{path} is no path below the results of study {study.name}, so it is not removed")
    place = inside(study.results, path)
    try:
        filesystem, folder = FileSystem.from_uri(place)
        filesystem.delete_dir(folder)
    except OSError as error:
        log.warning("the old checkpoint %s could not be removed (%s)", masked(place), error)


def tune_states(study: "Study") -> dict[str, str]:
    """Read what Ray Tune's own files say about each trial of a study.

    Tune writes them some seconds after the events, so those of a driver that was killed lag behind; what
    :func:`close` noted counts in their place.

    Returns:
        TERMINATED, ERROR, or one of Tune's words for a trial that has not ended, by the trial's key.

    Raises:
        Refused: the storage cannot be read.
    """
    try:
        found: dict[str, tuple[int, str]] = {}
        for place in _state_files(study):
            for key, attempt in read_states(read(place)).items():
                # Each launch of a study has written files of its own: a trial's last attempt counts.
                found[key] = max(attempt, found.get(key, attempt))
        return {key: status for key, (_, status) in found.items()} | _closed(study)
    except (OSError, ValueError, KeyError) as error:  # the latter two of a file that a killed driver has half written
        raise Refused(
            f"the results of study {study.name} in {masked(study.storage)} cannot be read "
            f"({masked(str(error))}); mend the storage or its address."
        ) from None


def close(study: "Study", statuses: Mapping[str, str]) -> None:
    """Note how trials ended of which Tune's own files, whose driver was killed, do not say it. Those stay as they are.

    Args:
        study: whose results these are.
        statuses: TERMINATED or ERROR, by the trial's key.
    """
    content = json.dumps(_closed(study) | dict(statuses)).encode()
    filesystem, path = FileSystem.from_uri(inside(study.results, CLOSED))
    filesystem.create_dir(str(Path(path).parent))
    with filesystem.open_output_stream(f"{path}.part") as file:
        file.write(content)
    filesystem.move(f"{path}.part", path)


def _closed(study: "Study") -> dict[str, str]:
    try:
        closed: dict[str, str] = json.loads(read(inside(study.results, CLOSED)))
    except FileNotFoundError:
        return {}
    return closed


def _state_files(study: "Study") -> list[str]:
    """Tune's files on a study's trials; before the first launch has written some, there are none."""
    places = []
    for optimizer in study.settings.optimizers:
        folder = inside(study.results, optimizer)
        filesystem, path = FileSystem.from_uri(folder)
        there = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
        places += [inside(folder, one.base_name) for one in there if STATE_FILE.fullmatch(one.base_name)]
    return places
