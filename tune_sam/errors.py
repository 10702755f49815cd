"""What is refused, what cannot be answered yet, and texts without the logins in them."""

import re


class Refused(ValueError):
    """A request that cannot be carried out. The text is one sentence that names the value and the way out."""


class NothingComplete(LookupError):
    """A question that only a complete trial answers, asked of a study that has none."""


def masked(text: str) -> str:
    """The text without the user and password of a URI in it, also where they hold a slash or are options of it."""
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(?i)([?&][\w-]*(?:user|password|secret|key|token)[\w-]*=)[^&\s]*", r"\1***", text)
