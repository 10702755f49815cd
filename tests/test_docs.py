"""What the pages tell a reader to type works as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_workload_of_the_page_keeps_the_contract_and_can_be_searched(tmp_path):
    module, contract = blocks("own-workload.md")
    (tmp_path / "mlp.py").write_text(module)
    (tmp_path / "test_mlp.py").write_text(contract)
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q", "test_mlp.py"], cwd=tmp_path, capture_output=True,
                            text=True, check=False)
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout
    command = re.search(r"^tune-sam search .*$", (DOCS / "own-workload.md").read_text(), re.MULTILINE).group()
    searched = subprocess.run([sys.executable, "-c", "from tune_sam.cli import main; main()", *command.split()[1:],
                               "--json"], cwd=tmp_path, capture_output=True, text=True, check=False,
                              env={**os.environ, "TUNE_SAM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)})
    assert searched.returncode == 0, searched.stderr
    best = json.loads(searched.stdout)
    assert set(best) == {"base", "sam", "asam"}
    assert all(trial["value"] > 0.9 for trial in best.values())
