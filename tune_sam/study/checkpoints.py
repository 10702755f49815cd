"""Which checkpoints of a trial are kept: the last, and the one before it, until the last is known to be whole."""

from collections.abc import Mapping
from typing import Any

LAST, BEFORE = "checkpoint", "checkpoint_before"
"""User attributes of the trial's Optuna trial."""


def checkpoints_in(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the places of a trial's checkpoints among the attributes of its Optuna trial, the last first."""
    found = (attributes.get(LAST), attributes.get(BEFORE))
    return tuple(dict.fromkeys(place for place in found if place))
