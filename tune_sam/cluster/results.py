"""Where Ray's results are: a folder that all nodes see, or a URI such as s3://BUCKET/PATH."""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyarrow.fs import FileSystem

from tune_sam.checkpoint import FILE, Damaged, check_whole
from tune_sam.errors import Refused, masked, shorten
from tune_sam.files import nearest
from tune_sam.home import Home, absolute, inside

if TYPE_CHECKING:
    from tune_sam.study.records import Study

log = logging.getLogger(__name__)


def chosen_storage(asked: str | None, home: Home) -> str:
    """Give the folder or URI for Ray's results, as an absolute one; the home's where none was asked for.

    Raises:
        Refused: nothing can be written there.
    """
    if not asked:
        return home.storage
    storage = absolute(asked)
    with probe(storage):
        pass
    return storage


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
        there = storage if "://" in storage else str(nearest(Path(storage)))
        place = inside(there, f"tune_sam-{secrets.token_hex(4)}.check")
        filesystem, path = FileSystem.from_uri(place)
        with filesystem.open_output_stream(path) as file:
            file.write(content)
        if read(place) != content:
            raise OSError("what is read there is not what was written")
    except (OSError, ValueError) as error:
        raise Refused(
            f"--storage {shorten(storage)} cannot be used ({shorten(str(error), 500)}); give a folder that can be "
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
    place = inside(study.own_results, path)
    try:
        filesystem, folder = FileSystem.from_uri(place)
        filesystem.delete_dir(folder)
    except OSError as error:
        log.warning("the old checkpoint %s could not be removed (%s)", masked(place), error)


def state_of(checkpoint: str) -> Literal["whole", "damaged", "gone"]:
    """Say whether a checkpoint can be loaded; all of it is read.

    Args:
        checkpoint: its folder or URI.

    Raises:
        Refused: the storage does not answer.
    """
    try:
        filesystem, path = FileSystem.from_uri(inside(checkpoint, FILE))
        with filesystem.open_input_file(path) as file:
            check_whole(file)
    except (FileNotFoundError, NotADirectoryError):
        return "gone"
    except Damaged:
        return "damaged"
    except OSError as error:
        raise Refused(
            f"the checkpoint {masked(checkpoint)} cannot be read ({masked(str(error))}); mend the storage or its "
            "address."
        ) from None
    return "whole"
