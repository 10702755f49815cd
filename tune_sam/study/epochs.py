"""What each epoch of a trial gave: a user attribute of its Optuna trial each, so that the ledger has every epoch."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

SECONDS = "time/epoch_s"
"""The metric of an epoch that says how long it took."""

GRADIENTS = "compute/gradients"
"""The metric of an epoch that says how many gradients of single samples the training took so far."""

_PREFIX = "epoch:"

_ADOPTED = "epochs:"
"""Begins the attribute of a study that has the epochs of a trial which release 0.1 trained: Optuna takes no more
attributes of a trial that has ended."""


class Epoch(NamedTuple):
    """The metrics of one epoch, and when they reached the ledger, in milliseconds since 1970."""

    time: int
    metrics: dict[str, float]


def epoch_attribute(epoch: int, metrics: Mapping[str, float]) -> tuple[str, dict[str, Any]]:
    """Give name and value of the attribute that keeps an epoch which ended now."""
    return f"{_PREFIX}{epoch}", {"time": time.time_ns() // 1_000_000, "metrics": dict(metrics)}


def epochs_in(attributes: Mapping[str, Any]) -> dict[int, Epoch]:
    """Read the epochs among the attributes of an Optuna trial, in their order.

    There are none of a trial that release 0.1 trained: it gave them to MLflow alone; see :func:`adopted_attribute`.
    """
    found = {
        int(name.removeprefix(_PREFIX)): Epoch(value["time"], value["metrics"])
        for name, value in attributes.items()
        if name.startswith(_PREFIX)
    }
    return dict(sorted(found.items()))


def adopted_attribute(number: int) -> str:
    """Name the attribute of an Optuna study that keeps the epochs of a trial of release 0.1, once MLflow gave them."""
    return f"{_ADOPTED}{number}"
