"""What a shell is offered at a Tab, as bash asks for it."""

import os
import subprocess
import sys

import pytest

ASKED = """
import sys
from tune_sam.cli.main import main
try:
    main()
finally:
    heavy = {"torch", "ray", "mlflow", "optuna", "pandas"} & set(sys.modules)
    print(sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("best ", ["one"]),
        ("refit o", ["one"]),
        ("trials x", []),
        ("search g", ["gcn"]),
        ("search gcn --optimizer as", ["asam", "asam-all"]),
        ("best one --optimizer b", ["base"]),
        ("best --home /nowhere ", []),
    ],
)
def test_names_are_completed_and_nothing_heavy_is_imported(searched, words, offered):
    typed = f"tune-sam {words}"
    asked = {"_TUNE_SAM_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['tune-sam']\n{ASKED}"],
        env={**os.environ, **asked, "TUNE_SAM_HOME": str(searched)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == offered
    assert done.stderr == "[]\n", "what was imported"
