"""What Ray does not promise to keep: everything here may move with a release, and a test says which.

`setup.cfg` bounds Ray from above for this module's sake.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

STATE_FILE = re.compile(r"experiment_state-.*\.json")
"""The names of Tune's own files on a study's trials."""

DRIVER_STAYS_HERE: dict[str, Any] = {"_remote": False}
"""An argument of `ray.tune.run`. Over Ray's client Tune would send searcher and callbacks to the head by default, where
their databases are not."""


@contextmanager
def session_folder() -> Iterator[None]:
    """Give Tune a folder for what it keeps beside its driver, which Ray's client, unlike a session, does not have."""
    import ray.train._internal.storage  # noqa: F401

    with (
        tempfile.TemporaryDirectory(prefix="tune_sam-") as folder,
        patch("ray.train._internal.storage._get_ray_train_session_dir", lambda: folder),
    ):
        yield


def gpus_of(trial: Any) -> float:
    """Read the GPUs that one of Tune's trials was given."""
    resources: Mapping[str, float] = trial.placement_group_factory.required_resources
    return resources.get("GPU", 0)


def error_of(trial: Any) -> BaseException | None:
    """Read the exception that ended one of Tune's trials; None if Ray keeps none that this process can read."""
    from ray import cloudpickle
    from ray.exceptions import RayTaskError

    # Tune's own accessor reads the copy in the storage, which is written later.
    file = trial.pickled_error_file
    if not file or not Path(file).exists():
        return None
    try:
        error: BaseException = cloudpickle.loads(Path(file).read_bytes())
    except Exception:  # of a package that this process lacks
        return None
    return error.as_instanceof_cause() if isinstance(error, RayTaskError) else error


def failure_of(trial: Any) -> str:
    """Say in one line what ended one of Tune's trials: its exception, or what Ray says first of a process that died."""
    # Tune's own accessor reads the copy in the storage, which is written later.
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    exceptions = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return exceptions[-1] if exceptions else lines[1] if len(lines) > 1 else "the worker gave no reason"


def could_not_start(error: BaseException | None) -> bool:
    """Whether a trial's process ended while its training was built."""
    from ray.exceptions import RayActorError

    return isinstance(error, RayActorError) and error.actor_init_failed


def read_states(content: bytes) -> dict[str, tuple[int, str]]:
    """Read one of Tune's own files: attempt and status of each trial, by its key.

    Raises:
        ValueError, KeyError: it is half written, as by a driver that was killed.
    """
    found = {}
    for state, _ in json.loads(content)["trial_data"]:
        told = json.loads(state)
        found[told["custom_trial_name"]] = int(told["custom_dirname"].partition(".")[2]), told["status"]
    return found


def write_states(states: Mapping[str, tuple[int, str]]) -> bytes:
    """Give what :func:`read_states` reads, for trials that ran without Tune."""
    data = [
        (json.dumps({"custom_trial_name": key, "custom_dirname": f"0.{attempt}", "status": status}), "{}")
        for key, (attempt, status) in states.items()
    ]
    return json.dumps({"trial_data": data}).encode()
