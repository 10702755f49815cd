"""Where the command line prints: results to stdout, progress and errors to stderr."""

import codecs
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console

from tune_sam.display import PLAIN
from tune_sam.errors import Stopped


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Spell what an encoding lacks; the rest is escaped, as Python does in its own messages."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end


codecs.register_error("tune_sam.plain", _spell)


class Unwritten(Exception):
    """Standard output takes no results. The text says why; it is empty where the reader has left, as `head` does."""


class _Stream:
    """Standard output or standard error, whichever that is now."""

    def __init__(self, name: str, lost: Callable[[OSError], None]) -> None:
        self._name, self._lost = name, lost

    def write(self, text: str) -> int:
        try:
            getattr(sys, self._name).write(text)
        except OSError as error:
            self._lost(error)
        return len(text)

    def flush(self) -> None:
        try:
            getattr(sys, self._name).flush()
        except OSError as error:
            self._lost(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys, self._name), name)


def _give_up(error: OSError) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python itself writes at the end
    raise Unwritten("" if isinstance(error, BrokenPipeError) else error.strerror)


results = cast(IO[str], _Stream("stdout", _give_up))
# What cannot be said must not end a search that only says it.
_progress = cast(IO[str], _Stream("stderr", lambda error: None))

# Without emoji, since a range may read a:b:c. A pipe has no width that a table would have to be cut to.
out = Console(file=results, highlight=False, emoji=False, width=None if sys.stdout and sys.stdout.isatty() else 200)
err = Console(file=_progress, highlight=False, emoji=False)


def open_streams() -> None:
    """Have every character be written in some spelling, and a closed stream take what is written nowhere.

    Without it the next file that is opened would get the number of the closed one, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115 (until the process ends)
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="tune_sam.plain")


@contextmanager
def resumable(how: Callable[[], str]) -> Iterator[None]:
    """Say how what is interrupted or stopped inside is resumed: nothing that was done is lost.

    Args:
        how: gives the rest of a sentence, when it is needed.

    Raises:
        SystemExit: it was interrupted, and that is said; its status is 130.
        Stopped: as inside, with how to resume.
    """
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"Interrupted; {how()}.", soft_wrap=True, markup=False)
        raise SystemExit(130) from None
    except Stopped as error:
        raise Stopped(f"{error}; {how()}.") from None


def print_json(document: Any) -> None:
    """Print a document as strict JSON: NaN and infinities, which that does not know, become null."""
    text = json.dumps(_strict(document), indent=2, allow_nan=False, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:  # the same document, with what the encoding lacks as JSON escapes it
        text = json.dumps(_strict(document), indent=2, allow_nan=False)
    results.write(f"{text}\n")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
