import errno
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from tune_sam.cluster.sharing import Shared, share
from tune_sam.store import TensorStore
from tune_sam.workload import Splits, find_workload


@dataclass(frozen=True)
class Mixed:
    """A store with everything that one might hold."""

    y: torch.Tensor
    halves: torch.Tensor
    table: np.ndarray
    names: tuple[str, ...]


def mixed():
    return Mixed(torch.arange(5), torch.ones(3, dtype=torch.bfloat16), np.arange(6.0).reshape(2, 3), ("one",))


def some_splits(samples=6):
    part = TensorStore(torch.arange(samples * 4.0).reshape(samples, 4), torch.arange(samples) % 2)
    return Splits(part, part.subset(torch.arange(2)))


def images():
    """As many bytes as the training images of CIFAR-10."""
    x = torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = TensorStore(x, torch.zeros(len(x), dtype=torch.int64))
    return Splits(part, part.subset(torch.arange(9)))


def test_splits_come_back_as_they_were():
    given = some_splits()
    with share(given) as data:
        back = data.splits()
    assert type(back.train) is TensorStore
    for ours, theirs in ((given.train, back.train), (given.validation, back.validation)):
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)


def test_a_store_may_hold_other_things_too():
    given = mixed()
    with share(Splits(given, given)) as data:
        back = data.splits().train
    assert torch.equal(back.y, given.y)
    assert torch.equal(back.halves, given.halves)
    assert (back.table == given.table).all()
    assert back.names == given.names


def test_a_store_may_be_defined_anywhere():
    @dataclass(frozen=True)
    class Local(TensorStore):
        word: str

    part = Local(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64), "here")
    with share(Splits(part, part)) as data:
        assert data.splits().train.word == "here"


def test_workloads_can_be_shared():
    with share(find_workload("gcn").splits("digits", None)) as data:
        part = data.splits().train
    graphs, classes = part.batch(torch.tensor([3, 1]))
    assert graphs.num_graphs == 2
    assert classes.tolist() == part.y[[3, 1]].tolist()


@pytest.mark.parametrize(
    "write",
    [
        lambda part: part.x.zero_(),
        lambda part: part.x[0].fill_(1),
        lambda part: torch.from_numpy(part.x.numpy()).zero_(),
        lambda part: part.x.data.add_(1),
        lambda part: part.y.mul_(0),
    ],
    ids=["in place", "through a view", "through an array", "data", "targets"],
)
def test_a_write_stays_with_the_trial(write):
    given = some_splits()
    with share(given) as data:
        ours, neighbours = data.splits().train, data.splits().train
        write(ours)
        assert not (torch.equal(ours.x, given.train.x) and torch.equal(ours.y, given.train.y))
        for others in (neighbours, data.splits().train):
            assert torch.equal(others.x, given.train.x)
            assert torch.equal(others.y, given.train.y)


def test_nothing_stays_behind():
    with share(some_splits()) as data:
        back = data.splits()
        assert data.path.exists()
    assert not data.path.parent.exists()
    assert back.train.x.sum() == some_splits().train.x.sum(), "what is mapped stays readable"


def test_a_file_that_a_worker_still_maps_may_stay_as_on_nfs(tmp_path, monkeypatch):
    def busy(place, **_):
        raise OSError(errno.ENOTEMPTY, "Directory not empty", place)

    with monkeypatch.context() as patch, share(some_splits(), folder=tmp_path) as data:
        patch.setattr("os.rmdir", busy)
    assert not data.path.exists()


def test_a_node_that_cannot_see_the_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"elsewhere.pt are not on this node"):
        Shared(tmp_path / "elsewhere.pt").splits()


@dataclass(frozen=True)
class Arriving:
    """Stands for the reference of Ray's object store, and counts how often the bytes arrive."""

    log: Path
    content: np.ndarray


def _read_elsewhere(data, folder, results):
    import tempfile

    from tune_sam.cluster import sharing

    def get(arriving):
        with arriving.log.open("a") as file:
            file.write("x")
        return arriving.content

    sharing.ray = type("ray", (), {"get": staticmethod(get)})
    tempfile.tempdir = str(folder)
    results.put(float(data.splits().train.x.sum()))


def test_on_another_node_the_first_process_fetches_for_all(tmp_path):
    with share(some_splits()) as data:
        content = np.fromfile(data.path, np.uint8)
    away = Shared(Path("/nonexistent") / data.path.name, Arriving(tmp_path / "log", content))
    node = tmp_path / "node"
    node.mkdir()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_read_elsewhere, args=(away, node, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [float(some_splits().train.x.sum())] * 4
    for process in processes:
        process.join()
    assert (tmp_path / "log").read_text() == "x"
    (own,) = node.iterdir()
    assert {path.suffix for path in own.iterdir()} == {".pt", ".lock"}
    assert own.stat().st_mode & 0o077 == 0, "nobody else can put a file there that this process would read"


def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"tune_sam-data-{os.getuid()}").mkdir()
    (tmp_path / f"tune_sam-data-{os.getuid()}").chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others than its user; set TMPDIR to a folder of your"):
        Shared(Path("/nonexistent/a.pt")).splits()


@pytest.mark.slow
def test_processes_of_a_node_share_one_copy(cluster):
    class Reader:
        """A process that uses shared splits as a trial does."""

        def __init__(self):
            import tune_sam.cluster.sharing  # noqa: F401  (with torch, which is not what is measured)

            self.before = self.private()

        def private(self):
            """Memory of this process that it shares with no other, in MiB."""
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

        def read(self, data):
            self.part = data.splits().train
            return sum(int(self.part.batch(some)[0].sum()) for some in torch.arange(len(self.part)).split(64))

        def grown(self):  # once all have read: a page that one process alone has mapped counts as its own
            return self.private() - self.before

        def write(self):
            torch.from_numpy(self.part.x.numpy()).zero_()
            return self.grown()

    whole = images()
    size, total = whole.train.x.numel() / (1 << 20), int(whole.train.x.sum())
    with share(whole) as data:
        readers = [ray.remote(num_cpus=0.1)(Reader).remote() for _ in range(2)]
        assert ray.get([reader.read.remote(data) for reader in readers]) == [total] * 2
        grown = ray.get([reader.grown.remote() for reader in readers])
        assert size > 140
        assert max(grown) < size / 3, grown  # batches, and what torch sets up
        assert ray.get(readers[0].write.remote()) > size, "the one who writes pays for it"
        assert ray.get([reader.read.remote(data) for reader in readers]) == [total] * 2
