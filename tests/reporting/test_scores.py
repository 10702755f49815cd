"""Pages, tables and answers of a study whose score is no accuracy."""

import math
import re
from dataclasses import replace

import pytest
from foreign_workload import Regression
from mlflow import MlflowClient
from studies import INLINE

import tune_sam
from tune_sam.cli.tables import trial_table
from tune_sam.evaluation.answer import short_answer
from tune_sam.evaluation.claims import Claim, answers
from tune_sam.evaluation.refit import tested_refit
from tune_sam.evaluation.statistics import Difference, Mean, family
from tune_sam.reporting.page import report
from tune_sam.scores import signed, standard_error
from tune_sam.study.records import open_study

pytestmark = [pytest.mark.usefixtures("blank_figures", "coarse_measures"), pytest.mark.slow]


@pytest.fixture(scope="module", params=["val/r2", "val/mae"])
def home(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("regression")
    options = {"home": home, "executor": INLINE}
    tune_sam.search(
        Regression, name="one", optimizers=["base", "sam"], trials=3, epochs=2, objective=request.param,
        scheduler="none", **options,
    )  # fmt: skip
    tune_sam.refit("one", seeds=3, **options)
    tune_sam.analyze("one", sample=40, grid=3, **options)
    return home


def test_the_best_trial_is_that_with_the_better_score(home):
    study = open_study("one", home)
    values = [trial.value for trial in study.complete("sam")]
    assert values == sorted(values, reverse=study.settings.objective == "val/r2")


def test_the_page_speaks_of_the_score_and_of_no_accuracy(home):
    page = report("one", home=home).page.with_name("report.md").read_text()
    words = re.sub(r"\(figures/[^)]*\)", "", page)  # the names of files
    score = open_study("one", home).settings.score
    assert f"in test {score}" in words
    assert open_study("one", home).loss_unit == ""
    assert not re.search("accurac|percentage points|nats", words)


def test_the_losses_of_a_classifier_are_in_nats_whatever_it_is_judged_by(tmp_path):
    options = {"home": tmp_path / "home", "executor": INLINE}
    tune_sam.search(
        "attention", dataset="digits", name="one", optimizers=["base", "sam"], trials=2, epochs=2, train_subset=100,
        objective="val/macro_f1", **options,
    )  # fmt: skip
    tune_sam.refit("one", seeds=1, controls=False, **options)
    page = report("one", home=tmp_path / "home").page.with_name("report.md").read_text()
    assert "Losses in nats, means with 95 % intervals" in page
    assert re.search(r"Validation loss after the last epoch: \w+ [\d.]+ nats, \w+ [\d.]+ nats", page)
    assert open_study("one", tmp_path / "home").loss_unit == "nats"


def test_gaps_are_above_zero_where_the_test_is_worse(home):
    refit = tested_refit(open_study("one", home))
    score, table = refit.score, refit.table()
    sign = 1 if score == "r2" else -1
    expected = sign * (table[f"train/{score}"] - table[f"test/{score}"])
    assert table[f"gap/{score}"].tolist() == pytest.approx(expected.tolist())


def test_tables_of_the_terminal_have_the_score(home):
    study = open_study("one", home)
    table = trial_table(study.records(), study.settings)
    assert study.settings.score in [column.header for column in table.columns]


def test_mlflow_has_the_numbers_of_the_score(home):
    study = open_study("one", home)
    score = study.settings.score
    metrics = MlflowClient(study.tracking_uri).get_run(study.mlflow_run_id).data.metrics
    assert {f"best/sam/val_{score}", f"refit/sam/test_{score}", f"val/{score}"} <= metrics.keys()


@pytest.mark.parametrize("better", [True, False])
def test_the_answer_knows_which_way_is_better(home, better):
    refit = tested_refit(open_study("one", home))
    study, score = refit.of, refit.score
    rows = refit.table().drop_duplicates("row")
    sam, base = (rows[rows["optimizer"] == name]["row"].iloc[0] for name in ("sam", "base"))
    step = (0.2 if score == "r2" else -0.2) * (1 if better else -1)
    ours, theirs = [0.5 + step, 0.51 + step, 0.522 + step], [0.5, 0.511, 0.52]
    difference = family([Difference.of(ours, theirs)])[0]
    claim = Claim(sam, base, "sam", f"test/{score}", Mean.of(ours), Mean.of(theirs), difference)
    line = short_answer(study, refit, replace(answers(study, refit), help=(claim,))).help
    assert line.sign == ("yes" if better else "no")
    assert f"in test {score} at equal epochs: {difference.mean.value:+.3g} (95 %" in line.sentence


@pytest.mark.parametrize("accuracy", [91.25, -0.5])
def test_an_accuracy_that_is_no_share_has_no_standard_error(accuracy):
    assert math.isnan(standard_error("accuracy", accuracy, 100))


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.516, 0.2, "+0.52"),
        (0.004, 0.001, "+0.0040"),
        (-0.0044, 0.0041, "-0.0044"),
        (0.004, 0.3, "+0.00"),
        (0.5, math.nan, "+0.50"),
        (0.0, 0.0, "+0.00"),
    ],
)
def test_an_interval_narrower_than_two_decimals_is_written_with_more(value, half, text):
    assert signed(value, half, "+.2f") == text


@pytest.mark.parametrize(
    ("value", "half", "texts"),
    [
        (12.346, 0.0018, ("+12.3442", "+12.3460", "+12.3478")),
        (12345, 20, ("+12325", "+12345", "+12365")),
        (1.05, 0.04, ("+1.01", "+1.05", "+1.09")),
        (9.8, 0.3, ("+9.5", "+9.8", "+10.1")),
        (0.0, 0.5, ("-0.5", "+0", "+0.5")),
    ],
)
def test_an_interval_narrower_than_three_digits_is_written_with_more(value, half, texts):
    assert tuple(signed(one, half, "+.3g") for one in (value - half, value, value + half)) == texts
