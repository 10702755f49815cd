"""Where the command line prints: results to stdout, progress and errors to stderr."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from tune_sam.errors import Stopped

# Without emoji, since a range may read a:b:c. A pipe has no width that a table would have to be cut to.
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, emoji=False)


@contextmanager
def resumable(how: Callable[[], str]) -> Iterator[None]:
    """Say how what is interrupted or stopped inside is resumed: nothing that was done is lost.

    Args:
        how: gives the rest of a sentence, when it is needed.
    """
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"Interrupted; {how()}.", soft_wrap=True, markup=False)
        raise
    except Stopped as error:
        raise Stopped(f"{error}; {how()}.") from None


def print_json(document: Any) -> None:
    """Print a document as strict JSON: NaN and infinities, which that does not know, become null."""
    json.dump(_strict(document), sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    sys.stdout.write("\n")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
