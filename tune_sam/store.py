"""Where batches come from: samples in memory as tensors, or a data set of torch that is asked for them one by one."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from tune_sam.trees import alike, joined, moved

Pair = Callable[[Any], tuple[Any, Any]]
"""From a batch to the network's inputs and the targets."""


@dataclass(frozen=True)
class TensorStore:
    """n samples as one tensor, from which batches are indexed; a :class:`tune_sam.workload.Store`.

    Attributes:
        x: inputs, [n, ...].
        y: targets, [n, ...]; of a classifier the class of each sample, int64 [n].
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Copy the inputs and targets at `indices` (int64 [n])."""
        return self.x[indices], self.y[indices]

    def subset(self, indices: Tensor) -> Self:
        """Make a store of the samples at `indices` alone."""
        return replace(self, x=self.x[indices], y=self.y[indices])

    def joined(self, other: Self) -> Self:
        """Make a store of these samples, followed by those of `other`."""
        return replace(self, x=torch.cat([self.x, other.x]), y=torch.cat([self.y, other.y]))

    def to(self, device: torch.device) -> Self:
        """Move the samples to `device`."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))


@dataclass(frozen=True)
class DatasetStore:
    """The samples of a map-style `torch.utils.data.Dataset`, which may be larger than memory.

    Samples are asked for as batches need them, so a data set that reads a folder is read again in every epoch. Which
    samples make a batch is the Trainer's choice, by the trial's seed.

    Attributes:
        dataset: with `__getitem__` and `__len__`; the same sample every time.
        collate: makes a batch of a list of samples; torch's by default.
        pair: from such a batch to inputs and targets; see :meth:`tune_sam.workload.Workload.pair`.
        workers: processes that read ahead while training, 0 by default: the trial's own reads.
        device: to which batches are moved.
    """

    dataset: "Dataset[Any]"
    collate: Callable[[list[Any]], Any]
    pair: Pair
    workers: int = 0
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @cached_property
    def y(self) -> Any:
        """The targets of all samples, for which all of them are read."""
        parts = torch.arange(len(self)).split(1024)
        return joined([targets for _, targets in self.walk(parts)]) if len(self) else torch.empty(0)

    def batch(self, indices: Tensor) -> tuple[Any, Any]:
        """Read the samples at `indices` (int64 [n])."""
        return self._on_device(self.collate([self.dataset[index] for index in indices.tolist()]))

    def walk(self, parts: Iterable[Tensor]) -> Iterator[tuple[Any, Any]]:
        """Read a batch for each of `parts`, ahead of their use where there are workers."""
        if not self.workers:
            return map(self.batch, parts)
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=[part.tolist() for part in parts],
            collate_fn=self.collate,
            num_workers=self.workers,
            worker_init_fn=_keep_inherited,
            generator=torch.Generator(),  # else it draws from the caller's
        )
        return map(self._on_device, loader)

    def subset(self, indices: Tensor) -> Self:
        """Make a store of the samples at `indices` alone."""
        return replace(self, dataset=Subset(self.dataset, indices.tolist()))

    def joined(self, other: Self) -> Self:
        """Make a store of these samples, followed by those of `other`."""
        return replace(self, dataset=ConcatDataset([self.dataset, other.dataset]))

    def to(self, device: torch.device) -> Self:
        """Give a store whose batches are on `device`."""
        return replace(self, device=device)

    def _on_device(self, batch: Any) -> tuple[Any, Any]:
        inputs, targets = self.pair(batch)
        return moved(inputs, self.device), moved(targets, self.device)


def _keep_inherited(_: int) -> None:
    """In a worker: collect nothing that the process it was forked from had.

    Another thread there may have held a lock of SQLite's in that moment, which nobody here releases: to close a
    connection then waits for ever.
    """
    gc.freeze()


def as_store(given: Any, pair: Pair) -> Any:
    """Give what a workload returned for a split as a store.

    Args:
        given: a store, a map-style data set, or a loader of one, whose order and batch size do not count.
        pair: from a batch of a data set to inputs and targets.

    Raises:
        ValueError: it is none of these, or draws its samples in a way of its own.
    """
    if all(hasattr(given, name) for name in ("batch", "subset", "to")):
        return given
    if isinstance(given, DataLoader):
        return _of_loader(given, pair)
    if type(given) is TensorDataset and len(given.tensors) == 2:  # a subclass may give other samples than its tensors
        inputs, targets = pair(list(given.tensors))
        if inputs is given.tensors[0] and targets is given.tensors[1]:
            return TensorStore(inputs, targets)
    if isinstance(given, tuple) and all(hasattr(part, "shape") for part in given):
        what, how = ("tensors", "") if all(isinstance(part, Tensor) for part in given) else ("arrays", AS_TENSORS)
        raise ValueError(f"a tuple of {len(given)} {what} is no data set; return a TensorDataset of them{how}")
    if isinstance(given, IterableDataset) or not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise ValueError(
            f"{type(given).__name__} has no samples that can be asked for by number; return a map-style Dataset, with "
            "__getitem__ and __len__, or a DataLoader of one"
        )
    return DatasetStore(given, _collate_of(given), pair)


def of_one_kind(one: Any, other: Any) -> tuple[Any, Any]:
    """Give two splits as stores that can be joined, as a refit does: beside a data set, tensors are one, too.

    Args:
        one, other: stores, as :func:`as_store` gives them. Tensors stay as they are where the data set's
            collate function or `pair` would make others of them.
    """
    if isinstance(one, TensorStore) and isinstance(other, DatasetStore):
        return _beside(one, other), other
    if isinstance(other, TensorStore) and isinstance(one, DatasetStore):
        return one, _beside(other, one)
    return one, other


def _beside(tensors: TensorStore, store: DatasetStore) -> TensorStore | DatasetStore:
    made, some = replace(store, dataset=TensorDataset(tensors.x, tensors.y)), torch.arange(min(4, len(tensors)))
    try:
        return made if alike(made.batch(some), tensors.batch(some)) else tensors
    except Exception:  # of code for batches of another form
        return tensors


def _of_loader(loader: "DataLoader[Any]", pair: Pair) -> DatasetStore:
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError("the loader's data set is a stream, whose samples have no numbers; use a map-style Dataset")
    if own := _own_way(loader):
        raise ValueError(f"the loader draws samples by {own}, and a trial draws them by its seed; leave that out")
    collate = loader.collate_fn or default_collate
    return DatasetStore(loader.dataset, collate, pair, workers=loader.num_workers)


def _own_way(loader: "DataLoader[Any]") -> str:
    """Name what a loader draws otherwise than each sample once, in batches; empty if it does not."""
    batches = loader.batch_sampler
    if type(batches) is not BatchSampler:
        return "batches of its own" if batches is None else f"a {type(batches).__name__}"
    # That of the batches: beside a batch sampler that it was given, a loader shows another one as its own.
    sampler: Any = batches.sampler
    if type(sampler) not in (RandomSampler, SequentialSampler):
        return f"a {type(sampler).__name__}"
    if len(sampler) != len(loader.dataset) or getattr(sampler, "replacement", False):  # type: ignore[arg-type]
        return f"a {type(sampler).__name__} that gives not each sample once"
    return ""


def _collate_of(dataset: Any) -> Callable[[list[Any]], Any]:
    """Choose torch's collate function, or PyG's for its graphs."""
    if len(dataset) and hasattr(dataset[0], "edge_index"):
        from torch_geometric.data import Batch

        collate: Callable[[list[Any]], Any] = Batch.from_data_list
        return collate
    return default_collate


def walk(store: Any, parts: Iterable[Tensor]) -> Iterator[tuple[Any, Any]]:
    """Yield the batch of each of `parts`, indices int64 [n] on the store's device."""
    return store.walk(parts) if isinstance(store, DatasetStore) else map(store.batch, parts)


def paired(batch: Any) -> tuple[Any, Any]:
    """Tell the inputs of a batch from its targets, as most collate functions leave them.

    Args:
        batch: `(inputs, targets)`; `(input, input, …, targets)`; a mapping with one of :data:`TARGETS`, the rest of
            which are the inputs; or an object with the targets as `y`, such as a PyG `Batch`, which is the input.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(batch, Mapping):
        if target := next((name for name in TARGETS if name in batch), None):
            return {name: value for name, value in batch.items() if name != target}, batch[target]
        raise ValueError(
            f"a batch with {', '.join(map(str, batch))} has none of {', '.join(TARGETS)} as its targets; {TELL}"
        )
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) > 1:
        return batch[0] if len(batch) == 2 else tuple(batch[:-1]), batch[-1]
    if getattr(batch, "y", None) is not None:
        return batch, batch.y
    raise ValueError(f"a batch is a {type(batch).__name__}, of which inputs and targets are not known; {TELL}")


TARGETS = ("labels", "label", "targets", "target", "y")
"""Keys under which a mapping has its targets; the first that is there counts. Hugging Face's models have `labels`."""


AS_TENSORS = " as tensors, which torch.from_numpy makes of NumPy's"
TELL = "tell inputs and targets apart in pair()"
