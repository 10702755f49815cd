import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_geometric.datasets

from tune_sam.errors import Refused
from tune_sam.trainables.data import mutagenicity

ATOMS = [53856, 10645, 1312, 58205, 6006, 240, 299, 654, 119, 23, 112, 14, 1, 2]  # C O Cl H N F Br S P I Na K Li Ca


def write_files(root, word="1"):
    """Files with the published numbers of lines, and nothing of use in them."""
    raw = mutagenicity.raw_folder(root)
    raw.mkdir(parents=True)
    for name, rows in mutagenicity.ROWS.items():
        (raw / name).write_text(f"{word}\n" * rows)


def say_own(root):
    """What `sha256sum *.txt > SHA256SUMS` does."""
    raw = mutagenicity.raw_folder(root)
    sums = [f"{hashlib.sha256((raw / name).read_bytes()).hexdigest()}  {name}\n" for name in mutagenicity.ROWS]
    (raw / "SHA256SUMS").write_text("".join(sums))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Such files, taken for the published ones."""
    sums = {name: hashlib.sha256(b"1\n" * rows).hexdigest() for name, rows in mutagenicity.ROWS.items()}
    monkeypatch.setattr(mutagenicity, "SHA256", sums)
    write_files(tmp_path / "data")
    return tmp_path / "data"


def tree(folder):
    """Everything in a folder, with the times of its last changes; those of folders tell of files that came and went."""
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_whole_files_pass(root):
    before = tree(root)
    mutagenicity.check(root)
    assert tree(root) == before


@pytest.mark.parametrize("name", mutagenicity.ROWS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:1000], "has 500 lines in place of {rows}"),
        (lambda content: content[:-2], "has {less} lines in place of {rows}"),
        (lambda content: content + b"1\n", "has {more} lines in place of {rows}"),
        (lambda content: b"0" + content[1:], "is not the published one, by its SHA-256"),
    ],
    ids=["empty", "cut", "a line less", "a line more", "another label"],
)
def test_a_damaged_file_is_named_with_a_way_out(root, name, damage, said):
    path, rows = mutagenicity.raw_folder(root) / name, mutagenicity.ROWS[name]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refused) as refused:
        mutagenicity.check(root)
    assert f"the data file {path} {said.format(rows=rows, less=rows - 1, more=rows + 1)}; " in str(refused.value)
    assert f"put the TUDataset files of Mutagenicity into {path.parent}" in str(refused.value)


@pytest.mark.parametrize("name", mutagenicity.ROWS)
def test_the_last_newline_may_be_missing(root, name):
    path = mutagenicity.raw_folder(root) / name
    path.write_bytes(path.read_bytes()[:-1])
    mutagenicity.check(root)


def test_files_that_a_person_says_are_their_own_are_taken_and_held_to_it(root):
    labels = mutagenicity.raw_folder(root) / "Mutagenicity_graph_labels.txt"
    labels.write_text("0\n1\n")
    with pytest.raises(Refused, match="has 2 lines in place of 4337.*say it with `sha256sum .*> SHA256SUMS`"):
        mutagenicity.check(root)
    say_own(root)
    mutagenicity.check(root)
    labels.write_text("1\n1\n")
    with pytest.raises(Refused, match="graph_labels.txt is not the one that SHA256SUMS beside it names"):
        mutagenicity.check(root)
    (labels.parent / "SHA256SUMS").write_text("what\n")
    with pytest.raises(Refused, match="SHA256SUMS cannot be read; make it with"):
        mutagenicity.check(root)


@pytest.mark.parametrize("inside", ["Mutagenicity", "Mutagenicity/raw"])
def test_a_folder_inside_the_one_that_is_meant_is_told_which_one(root, inside):
    with pytest.raises(Refused, match=f"names a folder inside the one that holds the data; give {root}."):
        mutagenicity.check(root / inside)


@pytest.mark.parametrize("name", mutagenicity.ROWS)
def test_a_missing_file_is_named_with_a_way_out(root, name):
    path = mutagenicity.raw_folder(root) / name
    path.unlink()
    with pytest.raises(Refused) as refused:
        mutagenicity.check(root)
    assert f"the data file {path} is missing; put the TUDataset files" in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(root):
    path = mutagenicity.raw_folder(root) / "Mutagenicity_A.txt"
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match="Mutagenicity_A.txt cannot be read"):
        mutagenicity.check(root)


@pytest.mark.parametrize("below", ["", "Mutagenicity", "Mutagenicity/raw"])
def test_a_file_in_place_of_a_folder_is_a_missing_file(tmp_path, below):
    place = tmp_path / "data" / below
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    with pytest.raises(Refused, match="Mutagenicity_A.txt is missing"):
        mutagenicity.check(tmp_path / "data")


@pytest.mark.parametrize("load", [mutagenicity.check, mutagenicity.load])
def test_a_cut_file_is_refused_before_it_is_parsed(root, load):
    (mutagenicity.raw_folder(root) / "Mutagenicity_A.txt").write_text("1, 2\n")
    with pytest.raises(Refused, match="has 1 lines in place of 266894"):
        load(root)


def test_files_without_sense_are_refused(tmp_path):
    write_files(tmp_path, word="?")
    say_own(tmp_path)
    with pytest.raises(Refused, match="are damaged"):
        mutagenicity.load(tmp_path)


@pytest.mark.data
def test_one_other_label_is_noticed_unless_it_is_meant(real_data, tmp_path):
    for name in mutagenicity.ROWS:
        content = (mutagenicity.raw_folder(real_data) / name).read_bytes()
        mutagenicity.raw_folder(tmp_path).mkdir(parents=True, exist_ok=True)
        (mutagenicity.raw_folder(tmp_path) / name).write_bytes(content.rstrip(b"\n"))
    published = mutagenicity.load(tmp_path)
    labels = mutagenicity.raw_folder(tmp_path) / "Mutagenicity_graph_labels.txt"
    labels.write_text(labels.read_text().replace("1", "0", 1))
    with pytest.raises(Refused, match="graph_labels.txt is not the published one, by its SHA-256"):
        mutagenicity.load(tmp_path)
    say_own(tmp_path)
    changed = mutagenicity.load(tmp_path)
    assert (changed.y != published.y).sum() == 1
    assert torch.equal(changed.x, published.x)


def pretend(monkeypatch, download):
    """Put `download(folder)` in the place of PyG's; returns the folders it was given."""
    asked = []

    def dataset(folder, name):
        assert name == "Mutagenicity"
        asked.append(Path(folder))
        download(Path(folder))

    monkeypatch.setattr(torch_geometric.datasets, "TUDataset", dataset)
    return asked


def fail(folder):
    raise OSError("no route to host")


def stop_halfway(folder):
    write_files(folder)
    (mutagenicity.raw_folder(folder) / "Mutagenicity_edge_labels.txt").write_text("1\n")


@pytest.mark.parametrize(("download", "said"), [(fail, "no route to host"), (stop_halfway, "has 1 lines")])
def test_a_download_that_fails_leaves_nothing(monkeypatch, tmp_path, root, download, said):
    asked = pretend(monkeypatch, download)
    with pytest.raises(Refused, match=f"could not be downloaded.*{said}.*--data"):
        mutagenicity.download(tmp_path / "home" / "data")
    assert list(tmp_path.iterdir()) == [root]
    assert not asked[0].exists()


def test_a_download_appears_whole(monkeypatch, tmp_path, root):
    asked = pretend(monkeypatch, write_files)
    mutagenicity.download(tmp_path / "new")
    mutagenicity.check(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new" / "Mutagenicity").iterdir()] == ["raw"]
    assert not asked[0].exists()


def test_a_download_leaves_the_files_of_a_faster_process(monkeypatch, tmp_path, root):
    def late(folder):
        write_files(folder)
        write_files(tmp_path, word="2")

    pretend(monkeypatch, late)
    mutagenicity.download(tmp_path)
    assert (mutagenicity.raw_folder(tmp_path) / "Mutagenicity_graph_labels.txt").read_text().startswith("2")
    assert [path.name for path in (tmp_path / "Mutagenicity").iterdir()] == ["raw"]


@pytest.fixture(scope="module")
def copy(real_data, tmp_path_factory):
    """The real files, in a folder that nobody may write to."""
    root = tmp_path_factory.mktemp("molecules")
    raw = shutil.copytree(mutagenicity.raw_folder(real_data), mutagenicity.raw_folder(root))
    places = [*raw.iterdir(), raw, raw.parent, root]
    for path in places:
        path.chmod(0o555)
    yield root
    for path in reversed(places):
        path.chmod(0o755)


@pytest.fixture(scope="module")
def store(copy):
    before = tree(copy)
    store = mutagenicity.load(copy)
    assert tree(copy) == before, "loading writes nothing next to the files"
    return store


def column(copy, name):
    return np.loadtxt(mutagenicity.raw_folder(copy) / f"Mutagenicity_{name}.txt", dtype=np.int64, delimiter=",")


@pytest.mark.data
def test_the_molecules_are_the_published_ones(store):
    assert len(store) == 4337
    assert store.x.shape == (131_488, 14)
    assert store.x.dtype == torch.float32
    assert store.edge_index.shape == (2, 266_894)
    assert torch.bincount(store.y).tolist() == [2401, 1936]
    assert store.x.sum(0).tolist() == ATOMS
    assert torch.equal(store.x.sum(1), torch.ones(131_488)), "an atom is of one type"
    sizes = store.node_start.diff()
    assert (sizes.min(), sizes.max()) == (4, 417)


@pytest.mark.data
def test_the_molecules_are_as_the_files_say(store, copy):
    assert store.y.tolist() == column(copy, "graph_labels").tolist()
    assert store.x.argmax(1).tolist() == column(copy, "node_labels").tolist()
    graph = column(copy, "graph_indicator")
    assert store.node_start.tolist() == np.searchsorted(graph, np.arange(1, 4339)).tolist()
    start = torch.repeat_interleave(store.node_start[:-1], store.edge_start.diff())
    numbered = set(map(tuple, (store.edge_index + start + 1).T.tolist()))
    assert len(numbered) == 266_894
    assert numbered == set(map(tuple, column(copy, "A").tolist()))


@pytest.mark.data
def test_the_molecules_are_pygs(store, real_data, tmp_path):
    shutil.copytree(mutagenicity.raw_folder(real_data), mutagenicity.raw_folder(tmp_path))
    theirs = torch_geometric.datasets.TUDataset(str(tmp_path), "Mutagenicity")
    assert len(theirs) == len(store)
    for index in [0, 4336, *np.random.default_rng(0).integers(4337, size=300).tolist()]:
        batch, label = store.batch(torch.tensor([index]))
        assert torch.equal(batch.x, theirs[index].x)
        assert torch.equal(batch.edge_index, theirs[index].edge_index)
        assert torch.equal(label, theirs[index].y)
