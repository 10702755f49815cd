"""Lengths of time as a person writes and reads them: 90, 45s, 30m, 2h, 1h30m."""

import math
import re
from datetime import timedelta
from typing import Any

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
"""Seconds in what a letter stands for."""

OFF = 0.0
"""The time limit that there is none."""

_NUMBER = r"\d+(?:\.\d*)?"
_WRITTEN = re.compile(rf"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>{_NUMBER})s)?")


def parse_limit(given: Any) -> float:
    """Return the seconds of a time limit.

    Args:
        given: seconds, a timedelta, or a text such as 90, 30m, 1h30m; `off` for no limit, which YAML reads as False.

    Returns:
        Seconds above 0, or :data:`OFF`.

    Raises:
        ValueError: it is none of these.
    """
    if given is False or str(given).strip().lower() == "off":
        return OFF
    if isinstance(given, timedelta):
        given = given.total_seconds()
    try:
        seconds = _seconds(str(given).strip().lower())
    except OverflowError:  # of a number with hundreds of digits
        seconds = math.inf
    if given is True or not 0 < seconds < math.inf:
        raise ValueError("a time above 0 such as 90, 30m or 1h30m is possible, or off")
    return seconds


def _seconds(text: str) -> float:
    if re.fullmatch(_NUMBER, text):
        return float(text)
    found = _WRITTEN.fullmatch(text)
    if not text or not found:
        return math.nan
    return sum(float(found[unit]) * seconds for unit, seconds in UNITS.items() if found[unit])


def written(seconds: float) -> str:
    """Write a length of time so that :func:`parse_limit` reads it: 1h30m, 45s, 0.5s; `off` for no limit."""
    if seconds == OFF:
        return "off"
    if seconds < 1:
        return f"{seconds:.2g}s"
    left, parts = round(seconds), []
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def clock(seconds: float) -> str:
    """Write hours, minutes and seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
