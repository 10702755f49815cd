import math
from dataclasses import replace

import pytest

from tune_sam.evaluation.claims import OF_OTHER_LOSSES, answers
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.refit import Refit, tested_refit
from tune_sam.reporting.answer import answer_section
from tune_sam.reporting.published import PublishedRow, PublishedStudy
from tune_sam.reporting.results import chance_in_words, results_section
from tune_sam.scores import standard_error
from tune_sam.study.records import open_study

ROWS = {"digits": (PublishedRow("SGD", test_accuracy=90.0), PublishedRow("SAM"))}


@pytest.mark.parametrize(
    ("sizes", "said"), [({"digits": 900}, "900 test samples, SGD 90.00 ± 1.00"), ({}, "SGD 90.00")]
)
def test_published_accuracies_have_the_binomial_error_of_their_own_test_set(refitted, sizes, said):
    study = open_study("one", refitted)
    published = PublishedStudy("Doe 2024", "J. Doe", "One seed.", ROWS, sizes)
    (sentence,) = chance_in_words(study, tested_refit(study), published)
    assert sentence.startswith("Test sets differ, so our accuracies and those of Doe 2024 are of other samples.")
    assert said in sentence
    assert ("as if it had as many" in sentence) is not bool(sizes)
    assert chance_in_words(study, None, published) == []


def test_without_a_published_accuracy_nothing_is_said_of_chance(refitted):
    study = open_study("one", refitted)
    published = PublishedStudy("Doe 2024", "J. Doe", "One seed.", {"digits": (PublishedRow("SGD"),)})
    assert chance_in_words(study, tested_refit(study), published) == []


def test_a_study_of_code_that_nobody_names_is_passed_over(refitted, monkeypatch, caplog):
    study = open_study("one", refitted)
    found = tested_refit(study)

    def unnamed(one):
        return replace(one, settings=replace(one.settings, workload="mynets:ResNet", dataset="cifar10"))

    other = unnamed(study)
    theirs = replace(found, of=other, studies=tuple(map(unnamed, found.studies)))
    published = PublishedStudy("Doe 2024", "J. Doe", "One seed.", ROWS | {"cifar10": ROWS["digits"]})
    monkeypatch.setattr("tune_sam.reporting.results.published_studies", lambda _: [published])
    monkeypatch.setattr("tune_sam.reporting.results.every_study", lambda _: [other])
    monkeypatch.setattr("tune_sam.reporting.results.tested_refit", lambda _: theirs)
    section = results_section(study, found, None)
    assert section.sentences[-1] == "Of the other data sets of Doe 2024, cifar10 was not run here."
    assert "The page lacks rows: the workload 'mynets:ResNet' is code" in caplog.text


def test_a_mean_of_fewer_seeds_than_the_others_says_of_how_many(refitted, monkeypatch):
    """As where some tests are of a release without the negative log-likelihood."""
    found = tested_refit(open_study("one", refitted))
    table = found.table()
    table.loc[table["seed"] == found.seeds[0], "test/nll"] = math.nan
    monkeypatch.setattr(Refit, "table", lambda self: table)
    shown = results_section(found.of, found, None).tables[0]
    row = dict(zip(shown.header, shown.rows[0], strict=True))
    assert row["NLL"].endswith(" (n = 1)")
    assert "n =" not in row["test loss"] + row["ECE"]


@pytest.mark.parametrize(("smoothing", "said"), [((0.0, 0.0), False), ((0.0, 0.2), True), ((None, 0.2), True)])
def test_losses_of_other_smoothing_are_called_other_functions(refitted, monkeypatch, smoothing, said):
    found = tested_refit(open_study("one", refitted))
    table = found.table()
    table["label_smoothing"] = [smoothing[optimizer == "sam"] for optimizer in table["optimizer"]]
    monkeypatch.setattr(Refit, "table", lambda self: table)
    assert (OF_OTHER_LOSSES in results_section(found.of, found, None).sentences) is said


def test_what_intervals_over_seeds_leave_out_is_said(refitted):
    study = open_study("one", refitted)
    found = tested_refit(study)
    section = answer_section(study, found, answers(study, found), names_of(found))
    samples = study.workload.datasets["digits"].test
    accuracy = next(iter(found.summary().values()))["test/accuracy"].value
    error = 100 * standard_error("accuracy", accuracy, samples)
    said = f"with the same {samples} test samples; by the choice of these an accuracy varies by ±{error:.2g} points"
    assert sum(said in sentence for sentence in section.sentences) == 1
