"""The errors that a person reads."""

from tune_sam.logins import masked as masked


class Refused(ValueError):
    """A request that cannot be carried out. Its text is one sentence that names the value and the way out.

    Args:
        text: the sentence; a login in it is hidden.
    """

    def __init__(self, text: str) -> None:
        super().__init__(masked(text))


class NothingComplete(LookupError):
    """A question that only a complete trial can answer, about a study that has none."""


class Stopped(BaseException):
    """The end of work that cannot go on here and now, for a reason that is not its own, such as a full disk.

    Nothing that was done is lost. Its text is the beginning of a sentence: what is wrong, and what to do about it; the
    command line adds how to resume. As with KeyboardInterrupt, no `except Exception` stands in its way, such as Tune's.
    """

    def __init__(self, text: str) -> None:
        super().__init__(masked(text))


def shorten(text: str, most: int = 100) -> str:
    """Give a text as a sentence about it shows it: its first `most` characters, if it is longer."""
    return text if len(text) <= most else f"{text[:most]}…"
