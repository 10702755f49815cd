"""Results in the form that is asked for: tables for a person, one JSON document, or comma-separated values."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_sam.cli.console import print_json, results
from tune_sam.errors import Refused

if TYPE_CHECKING:
    from pandas import DataFrame

FORMS = {
    "as_json": Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")],
    "as_csv": Annotated[bool, typer.Option("--csv", help="Print comma-separated values and nothing else.")],
}


@dataclass(frozen=True)
class Output:
    """Where a command's results go, and in which form.

    Attributes:
        as_json: as one document.
        as_csv: as comma-separated values; otherwise for a person.
    """

    as_json: bool = False
    as_csv: bool = False

    @property
    def for_a_person(self) -> bool:
        """Whether somebody reads it, and not a program."""
        return not (self.as_json or self.as_csv)

    def give(
        self,
        document: Any,
        show: Callable[[], object],
        rows: "Callable[[], Sequence[Any] | DataFrame] | None" = None,
    ) -> None:
        """Print results.

        Args:
            document: of what JSON holds.
            show: prints them for a person.
            rows: gives the lines of the comma-separated values, where they are not the document or its members: a
                list of them, or a frame. What is nested in one has a column of its own, named as `counts/complete`.
        """
        if self.as_json:
            print_json(document)
        elif self.as_csv:
            _print_csv(rows() if rows else document)
        else:
            show()


def _print_csv(rows: "Sequence[Any] | DataFrame | dict[str, Any]") -> None:
    import pandas

    frame = rows if isinstance(rows, pandas.DataFrame) else pandas.json_normalize(rows, sep="/")
    joined = frame.map(lambda value: " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)
    joined.to_csv(results, index=False)


def prints(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command --json and --csv, which it receives as one `output`."""
    signature = inspect.signature(command, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    forms = [inspect.Parameter(name, keyword, default=False, annotation=form) for name, form in FORMS.items()]
    others = [parameter for name, parameter in signature.parameters.items() if name != "output"]

    @wraps(command)
    def with_forms(*arguments: Any, as_json: bool, as_csv: bool, **options: Any) -> None:
        if as_json and as_csv:
            raise Refused("--json and --csv exclude each other; give one of them.")
        command(*arguments, output=Output(as_json, as_csv), **options)

    with_forms.__signature__ = signature.replace(parameters=[*others, *forms])  # type: ignore[attr-defined]
    return with_forms
