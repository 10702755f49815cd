import pytest

from tune_sam.errors import Refused
from tune_sam.reporting.published import PublishedRow, published_studies, read_published
from tune_sam.trainables.gcn import GCN
from tune_sam.workload import find_workload, workload_names


def test_the_published_studys_numbers_are_those_of_its_table():
    """Its gap between training and test loss, from the table as printed."""
    rows = read_published(GCN.published).rows
    gaps = {name: [round(row.gap, 4) for row in found] for name, found in rows.items()}
    assert gaps == {"cifar10": [0.0728, 0.0502], "mitbih": [0.0434, 0.0387], "mutagenicity": [0.0652, 0.0738]}


def test_each_installed_workload_brings_published_rows_of_its_default_data_set():
    for name in workload_names():
        workload = find_workload(name)
        assert workload.default_dataset in read_published(workload.published).rows


class Mine(GCN):
    name = "mine"


def test_a_workload_of_ones_own_brings_its_published_rows_before_those_of_the_installed(tmp_path, monkeypatch):
    file = tmp_path / "published.yaml"
    file.write_text(
        "name: Doe 2024\ncitation: J. Doe, Digits, 2024\nconditions: One seed.\n"
        "rows:\n  digits:\n    - {optimizer: SGD, test_accuracy: 97}\n"
    )
    monkeypatch.setattr(Mine, "published", file)
    mine, installed = published_studies(Mine())
    assert mine.rows == {"digits": (PublishedRow("SGD", test_accuracy=97.0),)}
    assert installed == read_published(GCN.published)


def test_a_workload_without_published_rows_has_those_of_the_installed(monkeypatch):
    monkeypatch.setattr(Mine, "published", None)
    assert [study.name for study in published_studies(Mine())] == ["the published study"]


@pytest.mark.parametrize(
    "text",
    [
        "rows: {}\n",
        "- a list\n",
        "name: [\n",
        "name: n\ncitation: c\nconditions: o\nrows: {digits: [{test_accuracy: 97}]}\n",
        "name: n\ncitation: c\nconditions: o\nrows: {digits: [{optimizer: SGD, accuracy: 97}]}\n",
        "name: n\ncitation: c\nconditions: o\nrows: {digits: [{optimizer: SGD, ratio: high}]}\n",
    ],
)
def test_a_file_that_holds_no_published_study_is_refused(tmp_path, text):
    file = tmp_path / "published.yaml"
    file.write_text(text)
    with pytest.raises(Refused, match=r"published\.yaml cannot be read .*; mend the file"):
        read_published(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"published\.yaml cannot be read"):
        read_published(tmp_path / "published.yaml")
