"""Files and folders that are there whole or not at all."""

import pytest

from tune_sam import files


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "a" / "b.json"
    files.write_whole(file, "ρ")
    files.write_whole(file, "ρ = 1")
    assert file.read_text(encoding="utf-8") == "ρ = 1"
    assert [path.name for path in file.parent.iterdir()] == ["b.json"]


def test_the_nearest_of_a_path_is_what_is_there_of_it(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "a" / "b", tmp_path / "broken" / "a"):
        assert files.nearest(path) == tmp_path
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        assert files.nearest(path) == tmp_path / "file"
    with pytest.raises(OSError, match="too long"):
        files.nearest(tmp_path / ("x" * 300) / "a")
    with pytest.raises(ValueError, match="null"):
        files.nearest(tmp_path / "a\0b")


def fail_halfway(folder):
    with files.replaced_folder(folder) as unfinished:
        (unfinished / "half").touch()
        raise KeyboardInterrupt


def test_a_folder_is_replaced_by_what_was_filled_and_stays_where_filling_failed(tmp_path):
    folder = tmp_path / "report"
    for content in ("old", "new"):
        with files.replaced_folder(folder) as unfinished:
            (unfinished / content).touch()
            assert not (folder / content).exists()
    assert [path.name for path in folder.iterdir()] == ["new"]
    with pytest.raises(KeyboardInterrupt):
        fail_halfway(folder)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
