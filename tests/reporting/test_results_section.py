import pytest

from tune_sam.evaluation.refit import tested_refit
from tune_sam.reporting.published import PublishedRow, PublishedStudy
from tune_sam.reporting.results import chance_in_words
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
