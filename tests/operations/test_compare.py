import csv
import io
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pandas as pd
import pytest
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.evaluation import comparison
from tune_sam.evaluation.comparison import Row, _counterpart, compared
from tune_sam.evaluation.refit import tested_refit
from tune_sam.evaluation.statistics import holm
from tune_sam.evaluation.summary import summarize
from tune_sam.reporting.side_by_side import best_table, write_comparison
from tune_sam.space import Configuration
from tune_sam.study.records import Study
from tune_sam.trainables.gcn import GCN

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def home(refitted):
    """A home with `one`, and `two` with other optimizers and fewer epochs; both are refitted with two seeds."""
    options = {
        "dataset": "digits",
        "train_subset": 256,
        "scheduler": "none",
        "home": refitted,
        "executor": INLINE,
        "trials": 1,
    }
    tune_sam.search("gcn", optimizers=["sam", "asam"], epochs=1, name="two", **options)
    tune_sam.refit("two", home=refitted, seeds=2, controls=False, executor=INLINE)
    return refitted


def test_the_best_of_each_optimizer_stands_beside_its_refit(home):
    found = tune_sam.compare(["one", "two"], home=home)
    assert [(row.study, row.optimizer) for row in found.rows] == [
        ("one", "base"),
        ("one", "sam"),
        ("two", "sam"),
        ("two", "asam"),
    ]
    study = tune_sam.open_study("one", home)
    refit = tested_refit(study)
    for row in found.rows[:2]:
        best = study.best(row.optimizer)
        assert (row.config, row.validation) == (best.config, best.metrics["val/accuracy"])
        tested = refit.summary()[row.row]["test/accuracy"]
        assert asdict(row.test) == pytest.approx(asdict(tested), abs=0, rel=0, nan_ok=True)
        assert (row.trials, row.lambda_max) == (3, None)
    assert found.comparable
    assert {one.name for one in found.differing} >= {"epochs", "trials"}
    assert any("not the same in" in note and "epochs" in note for note in found.notes)


def test_refits_with_the_same_seeds_are_compared_in_pairs_as_one_family(home):
    found = tune_sam.compare(["one", "two"], home=home)
    assert [(claim.row.split()[:2], claim.to.split()[:2]) for claim in found.claims] == [
        (["two:", "sam"], ["one:", "sam"]),
        (["two:", "asam"], ["one:", "base"]),
    ]
    for claim in found.claims:
        assert claim.difference.mean.n == len(SEEDS)
    assert [claim.difference.corrected for claim in found.claims] == pytest.approx(
        holm([claim.difference.p for claim in found.claims]), nan_ok=True
    )


def test_the_order_of_the_studies_decides_the_sign_alone(home):
    there, back = (tune_sam.compare(names, home=home).claims for names in (["one", "two"], ["two", "one"]))
    numbers = [
        {
            frozenset((claim.row, claim.to)): (abs(claim.difference.mean.value), claim.difference.among)
            for claim in claims
        }
        for claims in (there, back)
    ]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 2


@pytest.mark.slow
def test_of_each_batch_size_the_one_that_validation_chose_is_the_best(searched):
    sizes = [16, 64]
    study = tune_sam.search(
        "gcn", name="sizes", home=searched, dataset="digits", train_subset=128, optimizers=["base"], trials=4, epochs=1,
        batch_size=sizes, grid=False, scheduler="none", sampler="random", seed=4, executor=INLINE,
    )  # fmt: skip
    best = study.best("base")
    assert best.config.batch_size == max(sizes), "for the table begins with the smallest"
    tune_sam.refit("sizes", home=searched, seeds=2, each_batch_size=True, executor=INLINE)
    row = tune_sam.compare(["one", "sizes"], home=searched).rows[-1]
    assert (row.config.point, row.validation) == (best.config.point, best.metrics["val/accuracy"])
    of_it = tested_refit(study).table().query("kind == 'refit' and batch_size == 64")
    assert row.test.value == pytest.approx(of_it["test/accuracy"].mean())
    assert summarize(study)["refit/base/test_accuracy"] == pytest.approx(row.test.value)


@pytest.mark.slow
def test_refits_without_a_common_seed_are_not_compared_and_it_is_said(home, tmp_path, cli, blank_figures):
    options = {"dataset": "digits", "train_subset": 128, "home": home, "executor": INLINE, "trials": 1, "epochs": 1}
    tune_sam.search("gcn", optimizers=["sam"], name="three", **options)
    tune_sam.refit("three", home=home, seeds=[5, 6, 7], controls=False, executor=INLINE)
    found = tune_sam.compare(["one", "two", "three"], home=home, output=tmp_path / "page")
    assert [note for note in found.notes if "seed in common" in note] == [
        f"The refits of {name} and three have no seed in common ({name}: 10000, 10001; three: 5, 6, 7), so there are "
        "no pairs of them to compare."
        for name in ("one", "two")
    ]
    assert not any("three" in claim.row for claim in found.claims)
    alone = tune_sam.compare(["two", "three"], home=home, output=tmp_path / "page")
    assert alone.claims == ()
    assert "What differs between the refits" not in (tmp_path / "page" / "index.html").read_text()
    status, said, _ = cli("compare", "two", "three")
    assert status == 0
    assert said.count("no seed in common") == 1
    assert "interval" not in said
    assert found.to_json()["rows"][-1]["test"] is not None


def test_studies_of_other_data_only_stand_side_by_side(home):
    one, two = (tune_sam.open_study(name, home) for name in ("one", "two"))
    found = compared([one, replace(two, settings=replace(two.settings, workload="attention"))])
    assert not found.comparable
    assert found.claims == ()
    assert [one.name for one in found.differing if one.excludes] == ["workload"]
    assert "cannot be compared" in found.notes[0]


def test_scores_of_studies_that_are_judged_by_others_stand_under_no_name_but_their_own(home):
    one, two = (tune_sam.open_study(name, home) for name in ("one", "two"))
    found = compared([one, two])
    assert found.score_in_words == "accuracy %"
    other = replace(two, settings=replace(two.settings, score="macro_f1"))
    mixed = replace(found, studies=(one, other))
    table = best_table(mixed)
    assert [title for title in table.header if "validation" in title or "test" in title] == [
        "validation score",
        "test score",
    ]
    assert [row[0] for row in table.rows if len(row) == 1] == ["one, accuracy %", "two, macro_f1"]
    assert "accuracy" not in mixed._repr_html_()


def test_what_ran_at_another_precision_and_what_was_measured_on_another_sample_is_told(home, monkeypatch):
    studies = [tune_sam.open_study(name, home) for name in ("one", "two")]
    auto = [replace(study, settings=replace(study.settings, precision="auto")) for study in studies[:1]]
    told = [one.name for one in compared([*auto, studies[1]]).differing]
    assert not {"precision", "samples of λ_max"} & {*told}, "both ran in fp32"
    records = Study.records

    def half(study, optimizer=None):
        found = records(study, optimizer)
        return [replace(trial, precision="bf16") for trial in found] if study.name == "two.refit" else found

    def measured(study, _):
        about = {"samples": 512 if study.name == "one" else 4096, "of": "training split"}
        return SimpleNamespace(about=about, table=lambda: pd.DataFrame({"key": []}))

    monkeypatch.setattr(Study, "records", half)
    monkeypatch.setattr(comparison, "measured_of", measured)
    told = {one.name: one.values for one in compared(studies).differing}
    assert told["precision"] == ("fp32", "bf16")
    assert told["samples of λ_max"] == ("512 of the training split", "4096 of the training split")


def test_each_form_has_the_rows(cli):
    status, said, _ = cli("compare", "one", "two", "--csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(said)))
    assert [row["optimizer"] for row in rows] == ["base", "sam", "sam", "asam"]
    status, said, _ = cli("compare", "one", "two", "--json")
    assert status == 0
    document = json.loads(said)
    assert [row["test"] for row in document["rows"]] == [float(row["test"]) for row in rows]
    assert len(document["differences"]) == 2
    status, said, _ = cli("compare", "one", "two")
    assert status == 0
    assert "two: SAM" in said
    assert "test accuracy, points" in said, "differences are not in %"


def test_a_page_is_written_that_needs_no_other_file(home, tmp_path, blank_figures):
    tune_sam.compare(["one", "two"], home=home, output=tmp_path / "page")
    written = {file.name for file in (tmp_path / "page").iterdir()}
    assert written == {"index.html", "report.md", "table.csv", "figures"}
    page = (tmp_path / "page" / "index.html").read_text()
    assert "What differs between the refits" in page
    assert "two: ASAM" in page
    assert page.count("data:image/png") == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(Refused, match="has file in it"):
        tune_sam.compare(["one", "two"], home=home, output=tmp_path / "mine")
    with pytest.raises(Refused, match="cannot be used .File name too long"):
        tune_sam.compare(["one", "two"], home=home, output=tmp_path / ("x" * 300))
    with pytest.raises(Refused, match="--output .* cannot be used .it has the character number 0 in it"):
        tune_sam.compare(["one", "two"], home=home, output="a\0b")


def test_the_command_of_a_page_names_a_workload_of_ones_own_code(home, tmp_path, blank_figures):
    code = f"{GCN.__module__}:{GCN.__name__}"  # stands for one's own, since it goes by its module and class
    studies = [tune_sam.open_study(name, home) for name in ("one", "two")]
    own = [replace(study, settings=replace(study.settings, workload=code)) for study in studies]
    write_comparison(compared(own), tmp_path / "page")
    written = (tmp_path / "page" / "report.md").read_text()
    assert f"tune-sam compare one two --workload {code} --output page\n" in written


def test_each_workload_that_a_person_names_is_imported(cli):
    status, _, said = cli("compare", "one", "two", "--workload", "nowhere:Own", "--workload", f"{GCN.__module__}:GCN")
    assert status == 2
    assert "nowhere:Own" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [(["one"], "two studies or more"), (["one", "one"], "each once"), (["one", "none"], "no study 'none'")],
)
def test_less_than_two_studies_are_refused(home, names, said):
    with pytest.raises(Refused, match=said):
        tune_sam.compare(names, home=home)


def test_of_several_rows_the_same_points_are_compared_whichever_study_is_named_first():
    def row(study, optimizer, lr):
        return Row(
            study,
            optimizer,
            optimizer,
            Configuration(optimizer, None, lr, 64, 0),
            *[None] * 4,
            1,
            1.0,
            1,
            f"{optimizer} {lr}",
        )

    one = [row("one", "sam", 0.01)]
    two = [row("two", "sam", 0.1), row("two", "sam", 0.01)]
    assert _counterpart(one[0], one, two) is two[1]
    assert [_counterpart(own, two, one) for own in two] == [None, one[0]]
    assert _counterpart(one[0], one, two[:1]) is two[0], "the only one of both"


def test_a_small_score_is_written_with_its_digits(home):
    found = tune_sam.compare(["one", "two"], home=home)
    small = [replace(row, validation=3.5e-7) for row in found.rows]
    mae = replace(found.studies[0].settings, score="mae")
    studies = tuple(replace(study, settings=mae) for study in found.studies)
    assert "0.00000035" in str(best_table(replace(found, rows=tuple(small), studies=studies)))
