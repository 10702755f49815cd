"""One copy of the data on each node for all trials there, which no trial can change.

Splits are written to a file once, and every trial maps that file into its memory, copy on write: the system holds each
page once for all processes, and a page that a trial writes to becomes that trial's own. The object store of Ray, which
also holds one copy for each node, gives no such promise: `torch.from_numpy` of a shared array makes a tensor that can
be written, and a write reaches every trial. The store carries the file to nodes that cannot see it.
"""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from filelock import FileLock
from ray import cloudpickle

from tune_sam.workload import Splits


@dataclass(frozen=True)
class Shared:
    """Splits in a file. :func:`share` makes one; it may be sent to any node.

    Attributes:
        path: of the file on the node that made it.
        content: the file's bytes in Ray's object store, for other nodes; None if there are none.
    """

    path: Path
    content: ray.ObjectRef | None = None

    def splits(self) -> Splits:
        """The splits, with tensors over the mapped file on the CPU. Writes to them stay with the caller."""
        # Our own file, and a workload's stores are its own classes, which torch does not know.
        return torch.load(self._here(), mmap=True, weights_only=False)

    def forget(self) -> None:
        """Remove a copy that this node made of another's file; what is mapped stays readable."""
        self._copy().unlink(missing_ok=True)

    def _here(self) -> Path:
        """The file as this node sees it; fetched once for all processes of the node if it does not."""
        if self.path.exists():
            return self.path
        copy = self._copy()
        with FileLock(copy.with_suffix(".lock")):
            if not copy.exists():
                if self.content is None:
                    raise FileNotFoundError(f"the shared data {self.path} are not on this node and were not sent to it")
                unfinished = copy.with_suffix(".unfinished")
                ray.get(self.content).tofile(unfinished)
                unfinished.rename(copy)
        return copy

    def _copy(self) -> Path:
        return Path(tempfile.gettempdir()) / self.path.name


@contextmanager
def share(splits: Splits, *, other_nodes: bool = False) -> Iterator[Shared]:
    """Share splits for as long as the context lasts; drop your own inside it.

    Example: `with share(workload.splits(dataset, folder)) as data:` and then
    `tune.with_parameters(GCNTrainable, data=data)`.

    Args:
        splits: of a workload.
        other_nodes: also put them into Ray's object store, for nodes that do not see this node's temporary files; that
            is a second copy on this node.
    """
    with tempfile.TemporaryDirectory(prefix="tune_sam-") as folder:
        path = Path(folder) / f"tune_sam-{secrets.token_hex(8)}.pt"
        torch.save(splits, path, pickle_module=cloudpickle)
        del splits
        yield Shared(path, ray.put(np.fromfile(path, np.uint8)) if other_nodes else None)
