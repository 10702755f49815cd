"""Waiting for a database that is busy or away, and saying so meanwhile."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for a database that another process holds, or that was there before and is away."""

FIRST_WORD, NEXT_WORD = 5.0, 15.0
"""Seconds of waiting before a person is told, and between two words."""

PAUSE = 0.1
"""Seconds between two attempts."""

Result = TypeVar("Result")


def patiently(attempt: Callable[[], Result], passing: Callable[[Exception], bool], trouble: str) -> Result:
    """Attempt something until it succeeds, for a minute at most.

    Args:
        attempt: what is called.
        passing: whether an error of it is one that may pass.
        trouble: what a person reads who waits, such as "the file is locked by another process".

    Raises:
        Exception: the attempt's last error, if that passes not or not in time.
    """
    begin = time.monotonic()
    word = begin + FIRST_WORD
    while True:
        try:
            return attempt()
        except Exception as error:
            now = time.monotonic()
            if not passing(error) or now - begin >= PATIENCE:
                raise
        if now >= word:
            log.warning("%s; waiting for it, %.0f of %.0f s so far.", trouble, now - begin, PATIENCE)
            word = now + NEXT_WORD
        time.sleep(PAUSE)
