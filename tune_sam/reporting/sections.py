"""What a page consists of: sections of sentences, tables, pictures and text to copy."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """Cells as they are read. An empty one was not measured."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG, what to see in it, and its data as CSV beside it.

    Attributes:
        name: the file's, without `.png`.
        caption: what to see.
        png: the file.
    """

    name: str
    caption: str
    png: Path

    @property
    def csv(self) -> Path:
        """Name the file with the data, beside the PNG."""
        return self.png.with_suffix(".csv")


@dataclass(frozen=True)
class Section:
    """A heading, and below it sentences, tables, pictures and text to copy, in this order."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    code: str = ""
