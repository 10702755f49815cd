import pytest

from tune_sam.cli.console import resumable
from tune_sam.errors import Stopped


def test_an_interrupt_is_told_with_how_to_resume(capsys):
    with pytest.raises(KeyboardInterrupt), resumable(lambda: "resume it with `tune-sam resume s`"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "Interrupted; resume it with `tune-sam resume s`.\n"


def test_what_stops_says_why_and_how_to_resume(capsys):
    with (
        pytest.raises(Stopped, match="^the disk is full; make room; the same command resumes it.$"),
        resumable(lambda: "the same command resumes it"),
    ):
        raise Stopped("the disk is full; make room")
    assert not capsys.readouterr().err, "the command line prints it, as it does a refusal"
