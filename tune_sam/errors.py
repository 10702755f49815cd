"""The errors that a person reads, and texts without logins."""

import re


class Refused(ValueError):
    """A request that cannot be carried out. Its text is one sentence that names the value and the way out."""


class NothingComplete(LookupError):
    """A question that only a complete trial can answer, about a study that has none."""


def masked(text: str) -> str:
    """Hide user and password of a URI in a text, also where they hold a slash or stand in the URI's options."""
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(?i)([?&][\w-]*(?:user|password|secret|key|token)[\w-]*=)[^&\s]*", r"\1***", text)
