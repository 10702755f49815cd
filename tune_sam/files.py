"""Files and folders that are there whole or not at all, whenever the process is killed."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished"
"""End of the name of a file or folder that is being written. The next writer may remove what bears it."""


def nearest(path: Path) -> Path:
    """Give a path, absolute, if something is there; else the nearest folder or file above it.

    `Path.exists` does not tell: from Python 3.14 on it is false of what nobody may look at and of what no path can be.

    Raises:
        OSError: it may not be looked at, or is too long.
        ValueError: it has the character number 0 in it.
    """
    for part in (path, *path.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            part.stat()
            return part
    raise FileNotFoundError(path)  # it is relative


def identity(file: Path) -> tuple[int, int] | None:
    """Tell a file from another that has its name later: device and inode; None if there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def link_below(folder: Path, allowed: Callable[[Path], bool] = lambda link: False) -> Path | None:
    """Find a symbolic link among all that is below a folder; None if there is none.

    Args:
        folder: to look through; what a link leads to is not looked at.
        allowed: whether a link may be there.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (path := Path(parent, name)).is_symlink() and not allowed(path):
                return path
    return None


def write_whole(file: Path, text: str) -> None:
    """Write a text file under another name, then rename it. One process at a time may do so.

    Args:
        file: to make or to replace; its folder is made.
        text: its content, as UTF-8.
    """
    with replaced_file(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def replaced_file(file: Path) -> Iterator[Path]:
    """Write a new file that takes the place of `file` at the end. One process at a time may do so.

    Args:
        file: to make or to replace; its folder is made. If the block raises, the file stays as it was.

    Yields:
        The path to write to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + UNFINISHED)
    try:
        yield unfinished
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(file)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Fill a new folder that takes the place of `folder` at the end. One process at a time may do so.

    Args:
        folder: to make or to replace; if the block raises, it stays as it was.

    Yields:
        The empty folder to fill.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
