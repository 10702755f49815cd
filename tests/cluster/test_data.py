from tune_sam.cluster.data import data_folder
from tune_sam.home import Home
from tune_sam.study.records import Study


def test_a_study_whose_records_are_elsewhere_shares_its_data_in_a_home_that_is_new_here(tmp_path):
    home = Home(tmp_path / "not yet", "postgresql://host/studies")
    study = Study("one", home, None, "", "", "1", "1234567890", "s3://bucket/results")
    assert data_folder(study).is_dir()
    (data_folder(study) / "left by a killed driver").touch()
    assert not list(data_folder(study).iterdir())
