"""Data sets and loaders of torch as a workload's splits."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tune_sam.samples import with_train_subset
from tune_sam.store import DatasetStore, TensorStore, as_store, of_one_kind, paired, walk
from tune_sam.workload import Splits

X = torch.arange(24.0).reshape(12, 2)
Y = torch.arange(12) % 3


class Samples(Dataset):
    """Samples one by one, as a data set that reads files gives them."""

    def __init__(self, shape):
        self.shape = shape

    def __len__(self):
        return len(Y)

    def __getitem__(self, index):
        if not 0 <= index < len(Y):
            raise IndexError
        x, y = X[index], int(Y[index])
        return {"tuple": (x, y), "three": (x, 2 * x, y), "dict": {"x": x, "labels": y}}[self.shape]


def numbers(found):
    inputs, targets = found
    parts = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    return [part.tolist() for part in parts], targets.tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shape", ["tuple", "three", "dict"])
def test_a_data_set_gives_the_batches_of_a_store_in_memory(shape, workers):
    given = DataLoader(Samples(shape), batch_size=5, shuffle=True, num_workers=workers)
    store = as_store(given if workers else given.dataset, paired)
    parts = [torch.tensor([7, 0, 3]), torch.tensor([11])]
    inputs = {"tuple": lambda at: X[at], "three": lambda at: (X[at], 2 * X[at]), "dict": lambda at: {"x": X[at]}}[shape]
    expected = [numbers((inputs(at), Y[at])) for at in parts]
    assert [numbers(batch) for batch in walk(store, parts)] == expected
    assert [numbers(store.batch(at)) for at in parts] == expected
    assert store.y.equal(Y)
    some = store.subset(torch.tensor([4, 2]))
    assert numbers(some.joined(store.subset(parts[1])).batch(torch.arange(3))) == numbers(
        (inputs(torch.tensor([4, 2, 11])), Y[[4, 2, 11]])
    )


def test_reading_leaves_the_callers_random_state_alone():
    store = as_store(DataLoader(Samples("tuple"), num_workers=1), paired)
    before = torch.get_rng_state()
    assert len(list(walk(store, [torch.arange(3)]))) == 1
    assert torch.get_rng_state().equal(before)


def test_tensors_become_a_store_in_memory():
    assert isinstance(as_store(TensorDataset(X, Y), paired), TensorStore)
    assert isinstance(as_store(TensorDataset(X, X, Y), paired), DatasetStore)


class Halved(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x / 2, y


def test_tensors_are_given_as_their_data_set_and_the_workload_give_them():
    some = torch.tensor([3, 1])
    assert numbers(as_store(Halved(X, Y), paired).batch(some)) == numbers((X[some] / 2, Y[some]))

    def swapped(batch):
        return batch[1], batch[0]

    targets, inputs = as_store(TensorDataset(X, Y), swapped).batch(some)
    assert numbers((inputs, targets)) == numbers((X[some], Y[some]))


def test_loaders_that_give_each_sample_once_are_taken_in_whatever_batches():
    for loader in (
        DataLoader(Samples("tuple"), batch_size=5, shuffle=True, drop_last=True),
        DataLoader(Samples("tuple"), batch_sampler=BatchSampler(RandomSampler(Samples("tuple")), 4, drop_last=False)),
    ):
        assert len(as_store(loader, paired)) == 12


@pytest.mark.parametrize("first", ["tensors", "samples"])
def test_tensors_and_a_data_set_are_joined_as_a_refit_joins_them(first):
    splits = {"tensors": as_store(TensorDataset(X, Y), paired), "samples": as_store(Halved(2 * X, Y), paired)}
    (second,) = splits.keys() - {first}
    one, other = of_one_kind(splits[first], splits[second])
    assert numbers(one.joined(other).batch(torch.tensor([3, 13]))) == numbers((X[[3, 1]], Y[[3, 1]]))
    assert of_one_kind(splits["tensors"], splits["tensors"]) == (splits["tensors"], splits["tensors"])

    def swapped(batch):
        return batch[1], batch[0]

    tensors, samples = TensorStore(X, Y), as_store(Samples("tuple"), swapped)
    assert of_one_kind(tensors, samples) == (tensors, samples), "which pair() would turn round"
    scaled = as_store(DataLoader(Samples("tuple"), collate_fn=lambda some: list(zip(*some, strict=True))), paired)
    assert of_one_kind(scaled, tensors) == (scaled, tensors), "which the loader's function may change"


def test_graphs_of_pyg_are_collated_as_graphs():
    from torch_geometric.data import Data

    graphs = [Data(x=torch.ones(n, 1), edge_index=torch.zeros(2, 1, dtype=torch.long), y=n % 2) for n in (2, 3, 4)]
    inputs, targets = as_store(graphs, paired).batch(torch.tensor([2, 0]))
    assert inputs.x.shape == (6, 1)
    assert targets.tolist() == [0, 0]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Stream(), "Stream has no samples that can be asked for by number"),
        (DataLoader(Stream()), "the loader's data set is a stream"),
        (DataLoader(Samples("tuple"), sampler=WeightedRandomSampler([1.0] * 12, 4)), "by a WeightedRandomSampler"),
        (
            DataLoader(
                Samples("tuple"), batch_sampler=BatchSampler(WeightedRandomSampler([1.0] * 12, 12), 4, drop_last=False)
            ),
            "by a WeightedRandomSampler",
        ),
        (DataLoader(Samples("tuple"), batch_sampler=[[0, 1], [2]]), "by a list"),
        (DataLoader(Samples("tuple"), batch_size=None), "by batches of its own"),
        (
            DataLoader(Samples("tuple"), sampler=RandomSampler(Samples("tuple"), replacement=True)),
            "by a RandomSampler that gives not each sample once",
        ),
        (DataLoader(Samples("tuple"), sampler=SequentialSampler(range(5))), "by a SequentialSampler that gives not"),
        (7, "int has no samples"),
        ((X, X), "a tuple of 2 tensors is no data set; return a TensorDataset of them"),
    ],
)
def test_what_has_no_numbered_samples_is_refused_in_a_sentence(given, says):
    with pytest.raises(ValueError, match=says):
        as_store(given, paired)


@pytest.mark.parametrize("batch", [{"x": X}, X, "text"])
def test_a_batch_without_known_targets_is_refused_in_a_sentence(batch):
    with pytest.raises(ValueError, match=r"as its targets|of which inputs and targets are not known"):
        paired(batch)


def test_a_subset_of_sequences_padded_batch_by_batch_is_chosen_without_reading_all():
    class Sequences(Dataset):
        def __len__(self):
            return 1500

        def __getitem__(self, index):
            read.append(index)
            return torch.full((1 + index // 100,), index)

    def padded(samples):
        tokens = torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
        return tokens, tokens % 3

    read = []
    store = as_store(DataLoader(Sequences(), collate_fn=padded), paired)
    splits = with_train_subset(Splits(store, store.subset(torch.arange(2))), 512)
    assert len(splits.train) == 512
    assert len(read) == 1
