import pytest

from tune_sam.cluster import results
from tune_sam.home import Home, inside


def test_results_go_to_a_folder_that_every_process_finds(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert results.chosen_storage("results", Home(tmp_path)) == str(tmp_path / "results")
    assert results.chosen_storage(None, Home(tmp_path)) == str(tmp_path / "studies")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("/home/studies", "/home/studies/s/ray"),
        ("s3://bucket/p", "s3://bucket/p/s/ray"),
        ("s3://b/?endpoint_override=127.0.0.1:1", "s3://b/s/ray?endpoint_override=127.0.0.1:1"),
    ],
)
def test_results_lie_inside_the_storage_before_its_options(storage, expected):
    assert inside(storage, "s/ray") == expected
