"""What release 0.1 kept in files for MLflow: read once, delivered with what the ledger has, and removed.

That release wrote each event of a search as a JSON line, and those that MLflow refused to a second file. All but the
metrics of epochs is in the ledger, too.
"""

import json
from pathlib import Path
from typing import Any

from tune_sam.errors import Refused, masked
from tune_sam.tracking.client import connect_to_read, metric_history, run_state
from tune_sam.tracking.content import Point, renamed

FILES = ("mlflow.jsonl", "mlflow.rejected.jsonl", "mlflow.offset")


def points_left(folder: Path) -> dict[str, list[Point]]:
    """Read the metrics that release 0.1 could not deliver.

    Args:
        folder: the study's.

    Returns:
        Metrics by the key of their trial, in the order in which they were logged; of a step that was logged twice, the
        first.
    """
    found: dict[str, dict[tuple[str, int], Point]] = {}
    for file in FILES[:2]:
        for event in _events(folder / file):
            if event.get("event") == "log":
                for name, value in event["metrics"].items():
                    name = renamed(name)
                    point = Point(name, value, event["time"], event["step"])
                    found.setdefault(event["key"], {}).setdefault((name, point.step), point)
    return {key: sorted(points.values(), key=lambda point: point.step) for key, points in found.items()}


def epochs_in_mlflow(uri: str, run_id: str) -> dict[int, dict[str, float]]:
    """Read the metrics of each epoch of a trial that release 0.1 gave to MLflow alone.

    Args:
        uri: see :func:`tune_sam.tracking.client.check`.
        run_id: the trial's.

    Raises:
        Refused: MLflow cannot be reached, or gives no answer.
    """
    found: dict[int, dict[str, float]] = {}
    try:
        store = connect_to_read(uri)
        for name in run_state(store, run_id).metrics:
            if not name.startswith(("flatness/", "test/")):
                for point in metric_history(store, run_id, name):
                    found.setdefault(point.step, {})[renamed(name)] = point.value
    except Refused:
        raise
    except Exception as error:  # whatever the client of a store raises
        raise Refused(
            f"MLflow at {masked(uri)} gives no epochs of run {run_id}; it says {masked(str(error))}"
        ) from error
    return dict(sorted(found.items()))


def remove(folder: Path) -> None:
    """Remove the files, once MLflow has what they hold."""
    for file in FILES:
        (folder / file).unlink(missing_ok=True)


def _events(file: Path) -> list[dict[str, Any]]:
    lines = file.read_bytes().splitlines() if file.exists() else []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # of a line that a kill or a full disk has broken
            continue
        events.append(event.get("event") if isinstance(event.get("event"), dict) else event)
    return events
