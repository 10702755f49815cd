"""Ways in which a checkpoint is damaged."""

import shutil
from pathlib import Path
from zipfile import ZipFile

from tune_sam.checkpoint import FILE


def truncated(folder: Path) -> None:
    """As by a power cut, before all of it was on the disk."""
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[: len(content) // 2])


def emptied(folder: Path) -> None:
    (folder / FILE).write_bytes(b"")


def flipped(folder: Path) -> None:
    """One bit of the weights: torch reads the file without a word."""
    content = bytearray((folder / FILE).read_bytes())
    with ZipFile(folder / FILE) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    # Before its bytes stand a header of 30 bytes, the name and what is there for alignment.
    begin = largest.header_offset
    lengths = (int.from_bytes(content[begin + at : begin + at + 2], "little") for at in (26, 28))
    content[begin + 30 + sum(lengths) + largest.file_size // 2] ^= 1
    (folder / FILE).write_bytes(content)


def without_file(folder: Path) -> None:
    (folder / FILE).unlink()


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


DAMAGES = (truncated, emptied, flipped, without_file, removed)
