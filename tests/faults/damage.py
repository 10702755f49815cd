"""Ways in which a checkpoint is damaged."""

import shutil
from pathlib import Path

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
    content[len(content) // 2] ^= 1
    (folder / FILE).write_bytes(content)


def without_file(folder: Path) -> None:
    (folder / FILE).unlink()


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


DAMAGES = (truncated, emptied, flipped, without_file, removed)
