import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.operations.doctor import diagnose
from tune_sam.operations.import_ import rename_in_files
from tune_sam.study.records import every_study, open_study
from tune_sam.study.transfer import with_names, with_names_in_table


def runs_of(home):
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments()]
    return client.search_runs(experiments, max_results=1000)


@pytest.mark.slow
def test_all_records_have_the_new_name_and_what_follows_finds_the_rest(refitted):
    before = tune_sam.refit("one", home=refitted, seeds=2, executor=INLINE).table()
    study = tune_sam.rename("one", "two", home=refitted)
    assert study.name == "two"
    assert sorted(one.name for one in every_study(refitted)) == ["two", "two.refit", "two.twice"]
    assert sorted(one.name for one in (refitted / "studies").iterdir()) == ["two", "two.refit", "two.twice"]
    assert not [one for one in diagnose("two", home=refitted) if one.trouble]
    said = [{run.info.run_name, *run.data.tags.values()} for run in runs_of(refitted)]
    assert not [
        value for values in said for value in values if value.startswith("one/") or value in ("one", "one.refit")
    ]
    assert study.best().load_model()
    again = tune_sam.refit("two", home=refitted, seeds=2, executor=INLINE).table()
    assert again["test/accuracy"].tolist() == before["test/accuracy"].tolist()
    resumed = tune_sam.resume("two", home=refitted, trials=4, executor=INLINE)
    assert resumed.counts() == {"complete": 8}
    assert not [one for one in diagnose("two", home=refitted) if one.trouble]


@pytest.mark.parametrize(
    ("name", "new", "said"),
    [
        ("one", "one", "there is a study one"),
        ("one", "../two", "can be no study's name"),
        ("one", "x" * 81, "can be no study's name: .* at most 80 characters"),
        ("one", "𝒳" * 80, "can be no study's name: it has 320 bytes, too many"),
        ("none", "two", "there is no study"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_nothing_changes(searched, name, new, said):
    with pytest.raises(Refused, match=said):
        tune_sam.rename(name, new, home=searched)
    assert len(open_study("one", searched).records()) == 6


def test_names_beyond_ascii_are_renamed_in_json_and_in_csv():
    names = {"größe": "maß", "größe.refit": "maß.refit"}
    document = {"study": {"name": "größe.refit", "refit_of": "größe"}, "keys": ["größe.refit/sam/0", "größen/sam/0"]}
    assert json.loads(with_names(json.dumps(document), names)) == {
        "study": {"name": "maß.refit", "refit_of": "maß"},
        "keys": ["maß.refit/sam/0", "größen/sam/0"],
    }
    for before, after in (("größe", "maß"), ("one", "maß"), ("größe", "one"), ("sam", "one")):
        of_it = {before: after, f"{before}.refit": f"{after}.refit"}
        table = f'key,study,optimizer,said\n{before}/sam/0,{before},sam,"{before}, of {before}.refit/sam/1"\n'
        assert with_names_in_table(table, of_it) == (
            f'key,study,optimizer,said\n{after}/sam/0,{after},sam,"{before}, of {after}.refit/sam/1"\n'
        )
        assert json.loads(with_names(json.dumps({"study": before}), of_it)) == {"study": after}


def test_a_measurement_is_whole_wherever_a_renaming_is_cut_off(tmp_path, monkeypatch):
    (tmp_path / "analysis.json").write_text('{"study": "one"}')
    (tmp_path / "other.json").write_text('{"study": "three"}')
    before = (tmp_path / "other.json").stat().st_mtime_ns

    def cut_off(self, *_, **__):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_off)
        patch.setattr("os.replace", cut_off)
        with pytest.raises(OSError, match="no space"):
            rename_in_files(tmp_path, {"one": "two"})
    assert (tmp_path / "analysis.json").read_text() == '{"study": "one"}'
    rename_in_files(tmp_path, {"one": "two"})
    assert (tmp_path / "analysis.json").read_text() == '{"study": "two"}'
    assert (tmp_path / "other.json").stat().st_mtime_ns == before
