"""Reading the log of a trial, which :mod:`tune_sam.cluster.logs` writes."""

import re


def heading(attempt: str) -> str:
    """Write the line with which what an attempt prints begins."""
    return f"--- attempt {attempt} ---\n"


def read_log(place: str) -> str | None:
    """Read a log; None if there is none, or :func:`is_hidden`.

    Args:
        place: file or URI.
    """
    from pyarrow.fs import FileSystem  # not for every command

    try:
        filesystem, path = FileSystem.from_uri(place)
        with filesystem.open_input_stream(path) as file:
            content: bytes = file.readall()
    except (OSError, ValueError):
        return None
    return content.decode(errors="replace")


def is_hidden(place: str) -> bool:
    """Whether a log may not be read here: it is for the user alone whose training wrote it.

    Args:
        place: file or URI.
    """
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(place)
        filesystem.open_input_stream(path).close()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return False


def last_attempt(text: str) -> str:
    """Give what the last attempt of a trial printed, of the whole log."""
    return re.split(r"^--- attempt .* ---\n", text, flags=re.MULTILINE)[-1]


def printable(text: str) -> str:
    """Give a log as a terminal may show it: what moves the cursor, sets colours or asks the terminal is left out.

    Of a line that was written over again and again, as by a progress bar, the last state stays.
    """
    plain = re.sub(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", "", text)
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in plain.split("\n")]
    return re.sub(r"[^\t\n\x20-\x7e\xa0-\U0010ffff]", "", "\n".join(lines))
