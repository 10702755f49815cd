from dataclasses import replace

import pytest

from tune_sam.cluster.data import data_folder, prepared, written
from tune_sam.cluster.sharing import _mapped
from tune_sam.home import Home
from tune_sam.settings import SearchOptions
from tune_sam.study.records import Study
from tune_sam.tuning.plan import define
from tune_sam.workload import find_workload


def test_a_study_whose_records_are_elsewhere_shares_its_data_in_a_home_that_is_new_here(tmp_path):
    home = Home(tmp_path / "not yet", "postgresql://host/studies")
    study = Study("one", home, None, "", "", "1", "1234567890", "s3://bucket/results")
    assert data_folder(study).is_dir()
    (data_folder(study) / "left by a killed driver").touch()
    assert not list(data_folder(study).iterdir())


def test_what_a_worker_still_maps_does_not_stand_in_the_way_as_on_nfs(tmp_path, monkeypatch):
    study = Study("one", Home(tmp_path), None, "", "", "1", "1234567890", "s3://bucket/results")
    monkeypatch.setattr("os.rmdir", lambda *_, **__: (_ for _ in ()).throw(OSError("Directory not empty")))
    assert data_folder(study) == data_folder(study)


@pytest.mark.parametrize(
    ("given", "kind", "alone", "train", "validation", "wrong"),
    [
        ({}, "search", False, 1078, 179, 0),
        ({}, "refit", False, 1257, 0, 0),
        ({"train_subset": 200, "label_noise": 0.2}, "search", False, 200, 179, 40),
        ({"train_subset": 200, "label_noise": 0.2}, "refit", True, 200, 0, 40),
        ({"train_subset": 200, "label_noise": 0.2}, "refit", False, 379, 0, 40),  # of an earlier release
    ],
)
def test_a_study_trains_on_the_share_that_it_was_given(tmp_path, given, kind, alone, train, validation, wrong):
    workload = find_workload("gcn")
    settings = define(SearchOptions.read({"workload": "gcn", "dataset": "digits", **given}), Home.at(tmp_path))
    settings = replace(settings, kind=kind, train_alone=alone)
    right = replace(settings, label_noise=None)
    noisy, clean = (prepared(workload.read("digits", None), workload, one) for one in (settings, right))
    assert (len(noisy.train), len(noisy.validation)) == (train, validation)
    assert int((noisy.train.y != clean.train.y).sum()) == wrong
    assert settings.trained_samples(workload.datasets["digits"]) == train


def test_batches_of_a_sample_have_all_classes_of_data_that_are_stored_by_class(tmp_path):
    """One batch's λ_max would otherwise be that of one class."""

    class Sorted(type(find_workload("gcn"))):
        def splits(self, dataset, root):
            found = super().splits(dataset, root)
            return replace(found, train=found.train.subset(found.train.y.argsort()))

    settings = define(SearchOptions.read({"workload": "gcn", "dataset": "digits"}), Home.at(tmp_path))
    written(Sorted(), settings, tmp_path, 500, tmp_path / "sample")
    train = _mapped(tmp_path / "sample").train
    assert len(train) == 500
    assert all(len(part.unique()) == 10 for part in train.y.split(100))
