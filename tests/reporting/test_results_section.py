from dataclasses import replace

import pytest

from tune_sam.evaluation.refit import tested_refit
from tune_sam.reporting.published import PublishedRow, PublishedStudy
from tune_sam.reporting.results import chance_in_words, results_section
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
