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


OWN = "SHA256SUMS"
"""A file beside data that are not the published ones and are meant to be so, as `sha256sum` writes it."""


def own_sums(folder: Path) -> dict[str, str]:
    """Read the SHA-256 of each file of data that a person says are their own; nothing where nobody says so.

    Raises:
        Refused: the file that says so cannot be read.
    """
    file = folder / OWN
    try:
        lines = [line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {name.strip().lstrip("*"): checksum for checksum, name in lines}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        raise Refused(f"{file} cannot be read; make it with `sha256sum * > {OWN}`, or remove it.") from None


def too_deep(path: Path) -> Path | None:
    """Find the folder that a person meant who named one inside of it: `path` has its last folders twice then.

    Returns:
        The folder to give; None if no such file is there.
    """
    parts = path.parts
    for end in range(len(parts) - 1, 0, -1):
        for begin in range(end - 1, 0, -1):
            block = parts[begin:end]
            rest = parts[end : 2 * end - begin]
            if block == rest and Path(*parts[:begin], *parts[end:]).exists():
                return Path(*parts[:begin])
    return None


@contextmanager
def reading(path: Path, way_out: str) -> Iterator[None]:
    """Turn the system's errors about `path` into one sentence that ends with the way out.

    Raises:
        Refused: the file is missing or cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        if folder := too_deep(path):
            raise Refused(
                f"the data file {path} is missing, for --data or TUNE_SAM_DATA names a folder inside the one that "
                f"holds the data; give {folder}."
            ) from None
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
