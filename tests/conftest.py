import os
from pathlib import Path

import pytest

from trainables.data import mutagenicity


@pytest.fixture(scope="session")
def molecules():
    """The folder that holds the real Mutagenicity; for tests marked `data`."""
    root = Path(os.environ.get("TUNE_SAM_DATA") or "/nonexistent")
    if not mutagenicity.raw_folder(root).is_dir():
        pytest.skip("$TUNE_SAM_DATA names no folder that holds Mutagenicity")
    return root
