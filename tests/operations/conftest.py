import sys

import pytest

from tune_sam.cli.main import main


@pytest.fixture
def cli(monkeypatch, capsys, home):
    """The command line in this process, over the home of the module: status, output, errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tune-sam", *words, "--home", str(home)])
        with pytest.raises(SystemExit) as left:
            main()
        found = capsys.readouterr()
        return left.value.code, found.out, found.err

    return call
