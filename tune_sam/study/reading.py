"""What a record holds, compared with what it has to hold: it may be of another release, damaged, or anybody's."""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tune_sam.errors import Refused


def check_fields(kind: type[Any], given: Mapping[str, Any]) -> None:
    """Compare what a record holds with the fields of the dataclass that is made of it.

    Args:
        kind: the dataclass.
        given: values by the names of its fields.

    Raises:
        ValueError: a field is unknown, missing or of another type; the text says which.
    """
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    readers: dict[str, TypeAdapter[Any]] = _readers(kind)  # type: ignore[arg-type]  # a class is hashable
    if unknown := sorted(given.keys() - readers.keys()):
        raise ValueError(f"it has an unknown field {unknown[0]!r}, as if of another release")
    if missing := sorted(needed - given.keys()):
        raise ValueError(f"it lacks {missing[0]!r}")
    for name, value in given.items():
        try:
            readers[name].validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            raise ValueError(f"its {name!r} is {value!r:.60}, and {said[:1].lower()}{said[1:]}") from None
        for part in value.values() if isinstance(value, dict) else (value,):
            if is_dataclass(part):
                check_fields(type(part), vars(part))


@contextmanager
def reading(what: str, way_out: str = "put back a copy of it") -> Iterator[None]:
    """Turn whatever comes of a record that is not as it should be into a refusal.

    Args:
        what: the record, as in "the record of study one".
        way_out: what the person can do.

    Raises:
        Refused: it cannot be read.
    """
    try:
        yield
    except Refused:
        raise
    except KeyError as error:
        raise Refused(f"{what} cannot be read (it lacks {error}); {way_out}.") from None
    except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, csv.Error) as error:
        raise Refused(f"{what} cannot be read ({' '.join(str(error).split())}); {way_out}.") from None


@cache
def _readers(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind)
    return {field.name: TypeAdapter(hints[field.name]) for field in fields(kind)}
