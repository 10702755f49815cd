"""What is printed, also where standard output lacks characters, room or a reader."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console

from tune_sam.cli.console import open_streams, print_json, resumable
from tune_sam.cli.main import main
from tune_sam.cli.tables import plain_table, show_reasons, show_table
from tune_sam.display import PLAIN
from tune_sam.errors import Stopped


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_character_is_written_in_some_spelling(monkeypatch, encoding):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
    open_streams()
    text = "ρ = 0.05 ± 0.01, λ_max, → ü \ud800"
    sys.stdout.write(text)
    sys.stdout.flush()
    written = buffer.getvalue().decode(encoding)
    if encoding == "ascii":
        assert written == "rho = 0.05 +- 0.01, lambda_max, \\u2192 \\xfc \\ud800"
    elif encoding == "latin-1":
        assert written == "rho = 0.05 ± 0.01, lambda_max, \\u2192 ü \\ud800"
    else:
        assert written.startswith("ρ" if encoding == "utf-8" else "rho")


def test_plain_spellings_are_plain():
    assert all(spelling.isascii() for spelling in PLAIN.values())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_the_same_document_in_every_encoding(monkeypatch, encoding):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding=encoding))
    open_streams()
    document = {"ρ": "λ ± 🙂", "n": 1}
    print_json(document)
    sys.stdout.flush()
    assert json.loads(buffer.getvalue().decode(encoding)) == document


@pytest.fixture
def command(searched, monkeypatch, capsys):
    """Runs the command line in this process, with a standard output of its own; gives its status and what it says."""
    monkeypatch.setenv("TUNE_SAM_HOME", str(searched))

    def run(stdout, *words):
        monkeypatch.setattr(sys, "argv", ["tune-sam", *words])
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as left:
            main()
        monkeypatch.undo()
        monkeypatch.setenv("TUNE_SAM_HOME", str(searched))
        return left.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [["workloads"], ["best", "one"], ["trials", "one", "--csv"], ["search", "ρ"]])
def test_commands_print_where_there_are_no_greek_letters(command, encoding, words):
    buffer = io.BytesIO()
    status, said = command(io.TextIOWrapper(buffer, encoding=encoding, write_through=True), *words)
    assert status == (2 if words[0] == "search" else 0), said
    assert "Traceback" not in said
    if words[0] in ("workloads", "best"):
        assert b"rho" in buffer.getvalue()


@pytest.mark.parametrize("words", ["studies --json", "trials one --csv", "best one", "best one --yaml", "--help"])
def test_a_full_standard_output_is_one_sentence(command, words):
    with open("/dev/full", "w") as full:
        status, said = command(full, *words.split())
    assert (status, len(said.strip().splitlines())) == (1, 1)
    assert "cannot be written to standard output (No space left on device)" in said


def test_a_reader_that_has_left_is_no_error_to_be_read(command):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as left:
        assert command(left, "trials", "one", "--json") == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_written_nowhere(searched, closed):
    words = f'exec "{sys.executable}" -c "from tune_sam.cli.main import main; main()" trials one {closed}'
    before = (searched / "optuna.db").read_bytes()
    done = subprocess.run(
        ["sh", "-c", words], env={**os.environ, "TUNE_SAM_HOME": str(searched)}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (searched / "optuna.db").read_bytes() == before


def test_an_interrupt_is_told_with_how_to_resume(capsys):
    with pytest.raises(SystemExit, match="130"), resumable(lambda: "resume it with `tune-sam resume s`"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "Interrupted; resume it with `tune-sam resume s`.\n"


def test_what_stops_says_why_and_how_to_resume(capsys):
    with (
        pytest.raises(Stopped, match="^the disk is full; make room; the same command resumes it.$"),
        resumable(lambda: "the same command resumes it"),
    ):
        raise Stopped("the disk is full; make room")
    assert not capsys.readouterr().err, "the command line prints it, as it does a refusal"


@pytest.mark.parametrize("width", [200, 20])
def test_brackets_in_a_table_are_what_they_are(width):
    table = plain_table("trial", "norm", "trouble", folds=("trouble",))
    table.add_row("sam/0", "[add]", "install it with `pip install 'tune-sam[graphs]'`, not [/data/x]")
    written = io.StringIO()
    show_table(table, Console(file=written, width=width))
    text = " ".join(written.getvalue().split())
    assert "[add]" in text
    assert "'tune-sam[graphs]'`, not [/data/x]" in text


@pytest.mark.parametrize(
    ("end", "status", "says"), [(KeyboardInterrupt, 130, ""), (EOFError, 1, "Nothing is deleted.")]
)
def test_an_end_of_the_question_deletes_nothing(command, monkeypatch, end, status, says):
    def asked(*_, **__):
        try:
            raise end
        except end:
            raise typer.Abort from None

    monkeypatch.setattr(typer, "confirm", asked)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    found, said = command(io.StringIO(), "delete", "one")
    assert found == status
    assert says in said
    assert "Traceback" not in said


def test_why_trials_failed_or_diverged_is_said_once_a_reason():
    why = {"failed": "it broke", "diverged": "a loss was not finite in epoch 1"}
    trials = [
        SimpleNamespace(key=f"one/sam/{number}", state=state, reason=why.get(state, ""))
        for number, state in enumerate(("failed", "complete", "diverged", "failed", "diverged"))
    ]
    told = io.StringIO()
    show_reasons(trials, Console(file=told, width=200))
    assert told.getvalue().splitlines() == [
        "Failed: sam/0, sam/3: it broke; see `tune-sam logs one sam/0`.",
        "Diverged: sam/2, sam/4: a loss was not finite in epoch 1.",
    ]
