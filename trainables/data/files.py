"""Files of data sets: read with an error that names the way out, downloaded completely or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tune_sam.errors import Refused


def way_out(what: str, folder: Path) -> str:
    """Say what to do about a missing or damaged file, in a folder that a person named or in the home's."""
    return (
        f"put {what} into {folder}, or let them be downloaded: move that folder away if it exists, and name none "
        "with --data or TUNE_SAM_DATA"
    )


@contextmanager
def reading(path: Path, way_out: str) -> Iterator[None]:
    """Turn the system's errors about `path` into one sentence that ends with the way out.

    Raises:
        Refused: the file is missing or cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(f"the data file {path} is missing; {way_out}.") from None
    except OSError as error:
        raise Refused(f"the data file {path} cannot be read ({error.strerror}); {way_out}.") from None


def download(name: str, fetch: Callable[[Path], None], folder: str, root: Path) -> None:
    """Let `fetch` fill a temporary folder, and move its `folder` below `root`: it appears complete or not at all.

    Args:
        name: of the data set, for the error.
        fetch: downloads into the folder that it is called with, and checks the files.
        folder: path below that folder, and below `root`.
        root: where the data are to be.

    Raises:
        Refused: the download failed, or `root` cannot be written.
    """
    with tempfile.TemporaryDirectory() as fetched:
        try:
            fetch(Path(fetched))
        except Exception as error:  # libraries raise whatever their HTTP and file layers raise
            raise Refused(f"{name} could not be downloaded ({error}); give --data a folder that holds it.") from None
        target = root / folder
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as unfinished:
                whole = shutil.copytree(Path(fetched) / folder, Path(unfinished) / target.name)
                try:
                    whole.rename(target)
                except OSError:
                    if not target.exists():  # else another process was first, and its files are the same
                        raise
        except OSError as error:  # of many files together it has no text of its own
            raise Refused(
                f"{name} cannot be written below {root} ({error.strerror or error}); give --home a "
                "folder with room that you may write to."
            ) from None
