"""Tables as a person, a spreadsheet and a program get them; names are whole in each."""

import csv
import io
import json
import re
import sys

import pytest
import typer
from rich.console import Console

from tune_sam.cli.app import app
from tune_sam.cli.main import main
from tune_sam.cli.tables import plain_table, show_table
from tune_sam.display import PLAIN
from tune_sam.evaluation.answer import SYMBOLS

NAME = "mutagenicity-gcn-2026-11-24T101500"


@pytest.fixture
def run(searched, monkeypatch, capsys):
    """The command line in this process: what it prints."""
    monkeypatch.setenv("TUNE_SAM_HOME", str(searched))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tune-sam", *words])
        with pytest.raises(SystemExit) as left:
            main()
        found = capsys.readouterr()
        assert left.value.code == 0, found.err
        return found.out

    return call


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("studies", 1),
        ("workloads", None),
        ("optimizers", None),
        ("status one", None),
        ("best one", 2),
        ("best one --optimizer sam", 1),
        ("trials one", 6),
        ("logs one", None),
    ],
)
def test_every_table_is_also_json_and_comma_separated_values(run, words, count):
    document = json.loads(run(*words.split(), "--json"))
    rows = list(csv.DictReader(io.StringIO(run(*words.split(), "--csv"))))
    assert rows
    assert count in (None, len(rows))
    assert not any(None in row for row in rows), "as many values as columns"
    if isinstance(document, list) and words != "workloads":
        assert len(document) == len(rows)


@pytest.mark.slow
def test_a_search_ends_with_the_answer_and_the_next_command(run):
    same = (
        "--dataset digits --train-subset 256 --optimizer base --optimizer sam --trials 3 --epochs 2 --scheduler none "
        "--name one"
    )
    printed_lines = run("search", "gcn", *same.split()).splitlines()
    begun = next(index for index, line in enumerate(printed_lines) if "Help?" in line)
    answer = "\n".join(printed_lines[begun:])
    assert re.search(r"Help\?.*not known: .*Which ρ\?.*Flatter\?.*not known: .*Next: ", answer, re.DOTALL)
    assert printed_lines[-1].startswith("  tune-sam ")
    assert set(json.loads(run("search", "gcn", *same.split(), "--json"))) == {"base", "sam"}, "and nothing else"


def test_signs_have_a_spelling_everywhere():
    assert all(symbol.isascii() or symbol in PLAIN for symbol in SYMBOLS.values())


WITHOUT_TABLE = {"sync", "submit", "ui", "delete", "rename", "export", "import", "enqueue"}


def test_whatever_has_json_has_comma_separated_values_too():
    options = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in typer.main.get_command(app).commands.items()
    }
    assert {name for name in options if "--json" in options[name]} == set(options) - WITHOUT_TABLE
    assert all(("--csv" in found) == ("--json" in found) for found in options.values())


def test_what_is_nested_has_columns_of_its_own(run):
    (row,) = csv.DictReader(io.StringIO(run("studies", "--csv")))
    assert (row["name"], row["optimizers"], row["counts/complete"]) == ("one", "base sam", "6")


def printed(width, *rows, folds=("states",)):
    out = Console(record=True, width=width, force_terminal=False, file=io.StringIO())
    table = plain_table("study", "workload", "data set", "states", "created", folds=folds)
    for row in rows:
        table.add_row(*row)
    show_table(table, out)
    return out.export_text()


ROW = (NAME, "gcn", "mutagenicity", "40 complete, 17 pruned, 2 diverged, 1 failed", "2026-11-24 10:15")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_name_is_cut_however_narrow_the_terminal_is(width):
    text = printed(width, ROW, (f"{NAME}.refit", *ROW[1:]))
    words = text.replace(",", " ").split()
    assert {NAME, f"{NAME}.refit"} <= set(words)
    assert "…" not in text
    assert words.count("mutagenicity") == 2
    assert " ".join(words).count("diverged") == 2


def test_a_table_that_fits_has_a_line_for_each_row():
    assert len(printed(200, ROW).splitlines()) == 2


def test_a_row_that_does_not_fit_is_its_name_and_what_is_known_below_it():
    assert printed(60, ROW).splitlines() == [
        NAME,
        "  workload gcn, data set mutagenicity, states 40 complete,",
        "  17 pruned, 2 diverged, 1 failed, created 2026-11-24 10:15",
    ]


def test_a_path_that_is_longer_than_a_line_is_whole():
    path = f"/home/somebody/{'studies/' * 10}log"
    assert f"  {path}" in printed(40, (NAME, path, "", "", "")).replace("workload ", "")
