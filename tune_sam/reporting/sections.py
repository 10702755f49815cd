"""What a page consists of: sections of sentences, tables, pictures and text to copy."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Link:
    """A text that leads to an address."""

    text: str
    url: str

    def __str__(self) -> str:
        return self.text


Cell = str | Link


@dataclass(frozen=True)
class Table:
    """Cells as they are read. An empty one was not measured; a row of one cell is a heading of the rows below it.

    Attributes:
        header: of the columns.
        rows: the first cell of each is its name.
        caption: what the table shows; empty where its section's title says it.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def without_empty_columns(self) -> "Table":
        """Leave out the columns in which no row has anything."""
        filled = [
            place
            for place in range(len(self.header))
            if place == 0 or any(row[place] for row in self.rows if len(row) > 1)
        ]
        rows = tuple(row if len(row) == 1 else tuple(row[place] for place in filled) for row in self.rows)
        return Table(tuple(self.header[place] for place in filled), rows, self.caption)


@dataclass(frozen=True)
class Picture:
    """A PNG, what to see in it, and its data as CSV beside it.

    Attributes:
        name: the file's, without `.png`.
        caption: what to see.
        png: the file.
        alternative: what is seen, for who does not see it.
        interactive: the same for plotly, as JSON; empty where the PNG is all there is.
    """

    name: str
    caption: str
    png: Path
    alternative: str = ""
    interactive: str = ""

    @property
    def csv(self) -> Path:
        """Name the file with the data, beside the PNG."""
        return self.png.with_suffix(".csv")


@dataclass(frozen=True)
class Section:
    """A heading, and below it sentences, tables, pictures and text to copy, in this order.

    Attributes:
        title: the heading.
        sentences: a paragraph each.
        tables, pictures: as they follow each other.
        code: to be copied.
        folded: only the heading is seen until it is opened.
    """

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    code: str = ""
    folded: bool = False
