"""The errors that a person reads, and texts without logins."""

import re


class Refused(ValueError):
    """A request that cannot be carried out. Its text is one sentence that names the value and the way out."""


class NothingComplete(LookupError):
    """A question that only a complete trial can answer, about a study that has none."""


class Stopped(BaseException):
    """The end of work that cannot go on here and now, for a reason that is not its own, such as a full disk.

    Nothing that was done is lost. Its text is the beginning of a sentence: what is wrong, and what to do about it; the
    command line adds how to resume. As with KeyboardInterrupt, no `except Exception` stands in its way, such as Tune's.
    """


def masked(text: str) -> str:
    """Hide user and password of a URI in a text, also where they hold a slash or stand in the URI's options."""
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(?i)([?&][\w-]*(?:user|password|secret|key|token)[\w-]*=)[^&\s]*", r"\1***", text)
