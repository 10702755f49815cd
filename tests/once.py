"""What several processes of the tests need, and one of them makes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A file or a folder that is made once for all processes of the tests, and only copied from then on."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(root / f"{name}.lock"):
        if not (root / name).exists():
            make(root / f"{name}-unfinished")
            (root / f"{name}-unfinished").rename(root / name)
    return root / name
