import hashlib
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets

from tune_sam.errors import Refused
from tune_sam.trainables.data import cifar10
from tune_sam.workload import find_workload

WIDERESNET = find_workload("wideresnet")
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
FILES = [*TRAIN, "test_batch", "batches.meta"]
SHA256 = {
    "train images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "test images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "train labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}  # of the arrays in C order, labels as bytes


def contents(seed=0):
    """A few images in the form of the published files."""
    random = np.random.default_rng(seed)
    files = {
        name: {
            "data": random.integers(256, size=(count, 3072), dtype=np.uint8),
            "labels": random.integers(10, size=count).tolist(),
        }
        for name, count in zip([*TRAIN, "test_batch"], (4, 3, 5, 4, 2, 6), strict=True)
    }
    return {**files, "batches.meta": {"label_names": list(cifar10.CLASSES)}}


def write_files(root):
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    for name, content in contents().items():
        (folder / name).write_bytes(pickle.dumps(content))


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The small files pass for the published ones."""
    write_files(tmp_path / "published")
    sums = {
        path.name: hashlib.md5(path.read_bytes()).hexdigest()
        for path in (tmp_path / "published" / cifar10.FOLDER).iterdir()
    }
    shutil.rmtree(tmp_path / "published")
    monkeypatch.setattr(cifar10, "MD5", sums)
    theirs = torchvision.datasets.CIFAR10
    monkeypatch.setattr(theirs, "train_list", [[name, sums[name]] for name in TRAIN])
    monkeypatch.setattr(theirs, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": sums["batches.meta"]})


@pytest.fixture
def root(published, tmp_path):
    """A data folder with the small files."""
    write_files(tmp_path / "data")
    return tmp_path / "data"


def tree(folder):
    """Everything in a folder, with the times of its last changes; those of folders tell of files that came and went."""
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_the_checksums_are_torchvisions():
    theirs = torchvision.datasets.CIFAR10
    assert theirs.base_folder == cifar10.FOLDER
    assert {**dict(theirs.train_list + theirs.test_list), theirs.meta["filename"]: theirs.meta["md5"]} == cifar10.MD5
    assert sorted(cifar10.MD5) == sorted(FILES)


def test_whole_files_pass(root):
    before = tree(root)
    cifar10.check(root)
    assert tree(root) == before


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_a_way_out(root, name):
    path = root / cifar10.FOLDER / name
    path.unlink()
    with pytest.raises(Refused) as refused:
        cifar10.check(root)
    assert str(refused.value) == (
        f"the data file {path} is missing; put the Python version of CIFAR-10 into "
        f"{path.parent}, or let them be downloaded: move that folder away if it exists, "
        "and name none with --data or TUNE_SAM_DATA."
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content[:30] + bytes([content[30] ^ 1]) + content[31:],
    ],
    ids=["empty", "cut", "longer", "one bit"],
)
def test_a_damaged_file_is_named_with_a_way_out(root, name, damage):
    path = root / cifar10.FOLDER / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refused) as refused:
        cifar10.check(root)
    assert f"the data file {path} is damaged (its MD5 is " in str(refused.value)
    assert f"not {cifar10.MD5[name]}); put the Python version of CIFAR-10 into {path.parent}" in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(root):
    path = root / cifar10.FOLDER / "test_batch"
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match="test_batch cannot be read .*; put the Python version of CIFAR-10"):
        cifar10.check(root)


@pytest.mark.parametrize("below", ["", cifar10.FOLDER])
def test_a_file_in_place_of_a_folder_is_a_missing_file(tmp_path, below):
    place = tmp_path / "data" / below
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    with pytest.raises(Refused, match="data_batch_1 is missing"):
        cifar10.check(tmp_path / "data")


@pytest.mark.parametrize("train", [True, False])
def test_nothing_is_unpickled_before_it_is_checked(root, train):
    marker = root / "marker"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    (root / cifar10.FOLDER / "batches.meta").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(Refused, match="batches.meta is damaged"):
        cifar10.load(root, train)
    assert not marker.exists()


@pytest.mark.parametrize(("train", "names"), [(True, TRAIN), (False, ["test_batch"])])
def test_images_come_in_the_order_of_the_files(root, train, names):
    before = tree(root)
    store = cifar10.load(root, train)
    assert tree(root) == before, "loading writes nothing next to the files"
    rows = np.concatenate([contents()[name]["data"] for name in names])
    assert (store.x.dtype, store.y.dtype) == (torch.uint8, torch.int64)
    assert store.x.shape == (len(rows), 32, 32, 3)
    for channel in range(3):  # a row of a file holds one channel after the other
        plane = rows[:, 1024 * channel : 1024 * (channel + 1)].reshape(-1, 32, 32)
        assert (store.x[..., channel].numpy() == plane).all()
    assert store.y.tolist() == [label for name in names for label in contents()[name]["labels"]]
    assert (store.mean, store.std) == (cifar10.MEAN, cifar10.STD)


@pytest.mark.parametrize("train", [True, False])
def test_batches_of_loaded_images_are_channels_last(root, train):
    store = cifar10.load(root, train)
    indices = torch.tensor([1, 0, 3])
    for part in (store, store.subset(torch.arange(4))):
        images, _ = part.batch(indices)
        assert images.is_contiguous(memory_format=torch.channels_last)


# -- the workload


def test_a_missing_file_is_refused_by_check_and_by_splits(tmp_path):
    for call in (WIDERESNET.check_data, WIDERESNET.splits, WIDERESNET.test_split):
        with pytest.raises(Refused, match="data_batch_1 is missing"):
            call("cifar10", tmp_path)
    WIDERESNET.check_data("digits", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "there", "fetched"), [("cifar10", False, True), ("cifar10", True, False), ("digits", False, False)]
)
def test_only_what_is_not_there_is_fetched(monkeypatch, tmp_path, dataset, there, fetched):
    asked = []
    monkeypatch.setattr(cifar10, "download", asked.append)
    if there:
        (tmp_path / cifar10.FOLDER).mkdir()
    WIDERESNET.fetch(dataset, tmp_path)
    assert asked == [tmp_path] * fetched


# -- downloads


def pretend(monkeypatch, download):
    """Put `download(folder)` in the place of torchvision's; returns the folders it was given."""
    asked = []

    def dataset(folder, download):
        assert download is True
        asked.append(Path(folder))
        fetch(Path(folder))

    fetch = download
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", dataset)
    return asked


def fail(folder):
    (folder / "cifar-10-python.tar.gz").write_bytes(b"half of it")
    raise OSError("no route to host")


def stop_halfway(folder):
    write_files(folder)
    (folder / cifar10.FOLDER / "data_batch_4").write_bytes(b"?")


def lose_one(folder):
    write_files(folder)
    (folder / cifar10.FOLDER / "batches.meta").unlink()


@pytest.mark.parametrize(
    ("download", "said"),
    [(fail, "no route to host"), (stop_halfway, "data_batch_4 is damaged"), (lose_one, "batches.meta is missing")],
)
@pytest.mark.usefixtures("published")
def test_a_download_that_fails_leaves_nothing(monkeypatch, tmp_path, download, said):
    asked = pretend(monkeypatch, download)
    with pytest.raises(Refused, match=f"CIFAR-10 could not be downloaded.*{said}.*--data"):
        cifar10.download(tmp_path / "home" / "data")
    assert not asked[0].exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("published")
def test_a_download_appears_whole(monkeypatch, tmp_path, capsys):
    target = tmp_path / "home" / "data"

    def download(folder):
        write_files(folder)
        (folder / "cifar-10-python.tar.gz").write_bytes(b"what was unpacked")
        print("Extracting")
        assert not (target / cifar10.FOLDER).exists()

    asked = pretend(monkeypatch, download)
    cifar10.download(target)
    cifar10.check(target)
    assert [path.name for path in target.iterdir()] == [cifar10.FOLDER]
    assert not asked[0].exists()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Extracting\n")


@pytest.mark.usefixtures("published")
def test_a_download_leaves_the_files_of_a_faster_process(monkeypatch, tmp_path):
    target = tmp_path / "data"

    def late(folder):
        write_files(folder)
        write_files(target)
        (target / cifar10.FOLDER / "theirs").touch()

    pretend(monkeypatch, late)
    cifar10.download(target)
    cifar10.check(target)
    assert [path.name for path in target.iterdir()] == [cifar10.FOLDER]
    assert (target / cifar10.FOLDER / "theirs").exists()


# -- the real files


@pytest.fixture(scope="module")
def real(real_data):
    """Training and test images; the folder of the files stays as it is."""
    before = tree(real_data / cifar10.FOLDER)
    stores = {"train": cifar10.load(real_data, train=True), "test": cifar10.load(real_data, train=False)}
    assert tree(real_data / cifar10.FOLDER) == before
    return stores


@pytest.fixture(scope="module")
def splits(real_data):
    return WIDERESNET.splits("cifar10", real_data)


@pytest.mark.data
@pytest.mark.parametrize(("part", "count"), [("train", 50_000), ("test", 10_000)])
def test_the_images_are_the_published_ones(real, part, count):
    store = real[part]
    assert store.x.shape == (count, 32, 32, 3)
    assert torch.bincount(store.y).tolist() == [count // 10] * 10
    assert hashlib.sha256(store.x.contiguous().numpy()).hexdigest() == SHA256[f"{part} images"]
    assert hashlib.sha256(store.y.to(torch.uint8).numpy()).hexdigest() == SHA256[f"{part} labels"]


@pytest.mark.data
def test_the_classes_have_the_published_names(real_data):
    assert tuple(torchvision.datasets.CIFAR10(str(real_data), train=False).classes) == cifar10.CLASSES
    assert WIDERESNET.settings["cifar10"].classes == cifar10.CLASSES


@pytest.mark.data
def test_mean_and_deviation_are_those_of_the_training_images(real):
    levels = np.arange(256) / 255
    for channel, (mean, std) in enumerate(zip(cifar10.MEAN, cifar10.STD, strict=True)):
        shares = np.bincount(real["train"].x[..., channel].flatten().numpy(), minlength=256) / (50_000 * 32 * 32)
        assert round(shares @ levels, 4) == mean
        assert round(np.sqrt(shares @ levels**2 - (shares @ levels) ** 2), 4) == std


def counted(*stores):
    """How often each image occurs, with its class."""
    return Counter(
        (hashlib.sha256(pixels.tobytes()).digest(), label)
        for store in stores
        for pixels, label in zip(store.x.numpy(), store.y.tolist(), strict=True)
    )


@pytest.mark.data
def test_a_tenth_of_each_class_validates(real, splits):
    assert torch.bincount(splits.train.y).tolist() == [4500] * 10
    assert torch.bincount(splits.validation.y).tolist() == [500] * 10
    assert counted(splits.train, splits.validation) == counted(real["train"])


@pytest.mark.data
def test_the_test_part_is_the_official_one(real_data):
    test = WIDERESNET.test_split("cifar10", real_data)
    assert hashlib.sha256(test.x.contiguous().numpy()).hexdigest() == SHA256["test images"]
    assert hashlib.sha256(test.y.to(torch.uint8).numpy()).hexdigest() == SHA256["test labels"]


@pytest.mark.data
def test_training_images_are_normalised(splits):
    images, _ = splits.train.batch(torch.arange(0, 45_000, 9))
    assert images.mean((0, 2, 3)).abs().max() < 0.03
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.03


@pytest.mark.data
@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_a_flipped_byte_is_refused(real_data, tmp_path, name):
    folder = tmp_path / cifar10.FOLDER
    folder.mkdir()
    for other in FILES:
        (folder / other).symlink_to(real_data / cifar10.FOLDER / other)
    cifar10.check(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[1_000_000] ^= 1
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    for call in (WIDERESNET.check_data, WIDERESNET.splits, WIDERESNET.test_split):
        with pytest.raises(Refused, match=f"{name} is damaged"):
            call("cifar10", tmp_path)
