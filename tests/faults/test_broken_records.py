"""Records that are damaged, or of another release: each study stands alone."""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from studies import INLINE

from tune_sam.cli.main import main
from tune_sam.cluster.tasks import result_of
from tune_sam.errors import Refused
from tune_sam.evaluation.measured import measurements
from tune_sam.home import Home
from tune_sam.study.records import open_study, studies
from tune_sam.study.storage import open_storage
from tune_sam.tuning.runner import resume, search


@pytest.fixture
def home(searched, tmp_path):
    """A home with the study `one`, and with `two`, whose record is to be damaged."""
    home = Path(shutil.copytree(searched, tmp_path / "home"))
    storage = open_storage(Home(home))
    for study in storage.get_all_studies():
        made = storage.create_new_study(study.directions, study.study_name.replace("one/", "two/"))
        storage.set_study_user_attr(made, "record", study.user_attrs["record"])
    return home


def damage(home, change):
    """Change the JSON of each record of the study `two`."""
    with sqlite3.connect(home / "optuna.db") as connection:
        rows = connection.execute(
            "SELECT study_user_attribute_id, value_json FROM study_user_attributes JOIN studies USING (study_id) "
            "WHERE study_name LIKE 'two/%' AND key = 'record'"
        ).fetchall()
        for row, text in rows:
            connection.execute(
                "UPDATE study_user_attributes SET value_json = ? WHERE study_user_attribute_id = ?",
                (change(json.loads(text)), row),
            )


def settings(**changes):
    return lambda record: json.dumps(record | {"settings": record["settings"] | changes})


def lacking(name):
    return lambda record: json.dumps({key: value for key, value in record.items() if key != name})


DAMAGED = {
    "an unknown field": (settings(colour="red"), "it has an unknown field 'colour', as if of another release"),
    "a missing field": (lacking("storage"), "it lacks 'storage'"),
    "a missing setting": (lambda record: json.dumps(record | {"settings": {"spaces": {}}}), "it lacks 'data'"),
    "a wrong type": (settings(trials="many"), "its 'trials' is 'many'"),
    "a place that is a number": (lambda record: json.dumps(record | {"storage": 3}), "int"),
    "an optimizer that is a path": (settings(optimizers=["../x"]), "its optimizers are ../x"),
    "an objective": (settings(objective="beauty"), "'beauty'"),
    "no number of trials": (settings(trials=0), "no trials"),
    "control characters": (settings(workload="\x1b]0;x\x07"), "'workload' is '\\\\x1b"),
    "a list": (lambda record: "[]", "it is no JSON object"),
    "no JSON": (lambda record: "{", "is no JSON"),
    "a later release": (lambda record: json.dumps(record | {"format": 99}), "of a later release of tune_sam"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_record_that_cannot_be_read_is_named_with_what_is_wrong_and_no_other_study_suffers(
    home, what, monkeypatch, capsys
):
    change, said = DAMAGED[what]
    damage(home, change)
    assert [study.name for study in studies(home)] == ["one"]
    assert open_study("one", home).counts() == {"complete": 6}
    with pytest.raises(Refused, match=f"study two .*{said}"):
        open_study("two", home)
    for again in ({"trials": 3}, {"trials": 4}):
        with pytest.raises(Refused, match="study two"):  # it is not taken for one that is not there
            search("gcn", dataset="digits", name="two", home=home, executor=INLINE, **again)
    monkeypatch.setattr(sys, "argv", ["tune-sam", "studies", "--json", "--home", str(home)])
    with pytest.raises(SystemExit) as left:
        main()
    out, err = capsys.readouterr()
    assert left.value.code == 0
    assert [study["name"] for study in json.loads(out)] == ["one"]
    assert "study two" in err


TRIALS = {
    "no JSON": ("UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'record'", "trials of two/base"),
    "no state": (
        "DELETE FROM trial_user_attributes WHERE key = 'state'",
        "two/base/0 cannot be read .it lacks 'state'",
    ),
    "another state": ("UPDATE trial_user_attributes SET value_json = '\"x\"' WHERE key = 'state'", "its state is 'x'"),
    "a wrong type": (
        "UPDATE trial_user_attributes SET value_json = json_set(value_json, '$.seconds', 'long') WHERE key = 'record'",
        "two/base/0 cannot be read .its 'seconds' is 'long'",
    ),
}


@pytest.mark.parametrize("what", TRIALS)
def test_a_trial_that_cannot_be_read_is_named(searched, tmp_path, what, monkeypatch, capsys):
    home = Path(shutil.copytree(searched, tmp_path / "home"))
    statement, said = TRIALS[what]
    with sqlite3.connect(home / "optuna.db") as connection:
        connection.execute("UPDATE studies SET study_name = replace(study_name, 'one/', 'two/')")
        connection.execute(statement)
    study = open_study("two", home)
    with pytest.raises(Refused, match=said):
        study.records()
    with pytest.raises(Refused, match=said):
        resume("two", home=home, trials=4, executor=INLINE)
    monkeypatch.setattr(sys, "argv", ["tune-sam", "studies", "--home", str(home)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert "two/base" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"result": 1}'])
def test_a_result_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "base-0.json"
    file.write_text(content)
    with pytest.raises(Refused, match=f"the result {file} cannot be read .*; remove it"):
        result_of(file)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_an_analysis_that_cannot_be_read_is_named(searched, tmp_path, content):
    home = Path(shutil.copytree(searched, tmp_path / "home"))
    file = home / "studies" / "one" / "flatness" / "2048" / "analysis.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(Refused, match=f"{file} cannot be read .*; remove {file.parent}"):
        measurements(open_study("one", home), None)
