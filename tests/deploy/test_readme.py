"""What deploy/README.md tells a reader to type."""

import re
from pathlib import Path

import pytest
from command_lines import check_tune_sam

PAGE = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()


def test_its_commands_have_the_options_that_they_are_given():
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^(?:tune-sam|sbatch deploy/slurm.sbatch) .*$", "".join(blocks), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        check_tune_sam(line.replace("sbatch deploy/slurm.sbatch", "tune-sam"))
    with pytest.raises(Exception, match="--trails"):
        check_tune_sam(lines[1].replace("sbatch deploy/slurm.sbatch", "tune-sam").replace("--trials", "--trails"))
