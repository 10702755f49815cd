import pytest

from tune_sam.errors import Refused
from tune_sam.trainables.data.files import download, reading


def fetch(folder):
    (folder / "set" / "raw").mkdir(parents=True)
    (folder / "set" / "raw" / "a.txt").write_text("a")
    (folder / "archive.zip").write_text("left behind")


def test_what_is_fetched_appears_without_the_rest(tmp_path):
    download("a set", fetch, "set/raw", tmp_path / "new" / "data")
    assert [path.name for path in (tmp_path / "new" / "data").rglob("*")] == ["set", "raw", "a.txt"]


def test_what_another_process_fetched_stays(tmp_path):
    (tmp_path / "set" / "raw").mkdir(parents=True)
    (tmp_path / "set" / "raw" / "a.txt").write_text("earlier")
    download("a set", fetch, "set/raw", tmp_path)
    assert (tmp_path / "set" / "raw" / "a.txt").read_text() == "earlier"
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["raw"]


def test_a_download_that_fails_leaves_nothing(tmp_path):
    def broken(folder):
        fetch(folder)
        raise ConnectionError("the line is dead")

    with pytest.raises(Refused, match="a set could not be downloaded .the line is dead.; give --data a folder"):
        download("a set", broken, "set/raw", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(Refused, match=r"a set cannot be written below .*data .*; give --home"):
        download("a set", fetch, "set/raw", tmp_path / "data")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(), "is missing"),
        (NotADirectoryError(), "is missing"),
        (PermissionError(13, "Permission denied"), "cannot be read .Permission"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_a_way_out(tmp_path, error, said):
    with (
        pytest.raises(Refused, match=f"the data file {tmp_path} {said}.*; fetch it again.$"),
        reading(tmp_path, "fetch it again"),
    ):
        raise error
