"""One copy of the data on each node for all trials there, which no trial can change.

Splits are written to a file once, and every trial maps that file into its memory, copy on write: the system holds each
page once for all processes, and a page that a trial writes to becomes that trial's own. The object store of Ray, which
also holds one copy for each node, gives no such promise: `torch.from_numpy` of a shared array makes a tensor that can
be written, and a write reaches every trial. The store carries the file to nodes that cannot see it.
"""

import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from filelock import FileLock

from tune_sam.files import replaced_file
from tune_sam.workload import Splits


@dataclass(frozen=True)
class Shared:
    """Splits in a file. :func:`share` makes one; it may be sent to any node.

    Attributes:
        path: of the file on the node that made it.
        content: the file's bytes in Ray's object store, for other nodes; None if there are none.
    """

    path: Path
    content: "ray.ObjectRef[Any] | None" = None

    def splits(self) -> Splits:
        """Map the splits: tensors on the CPU over the file's pages. Writes to them stay with the caller.

        Raises:
            FileNotFoundError: this node cannot see the file, and it was not sent.
        """
        if self.path.exists():
            return _mapped(self.path)
        with self._lock():  # the first process fetches for all of its node, and none forgets before another has mapped
            if not self._copy().exists():
                self._fetch()
            return _mapped(self._copy())

    def forget(self) -> None:
        """Remove a copy that this node made of another's file; what is mapped stays readable."""
        if self.path.exists():
            return
        if self._copy().exists():
            with self._lock():
                self._copy().unlink(missing_ok=True)

    def _fetch(self) -> None:
        if self.content is None:
            raise FileNotFoundError(f"the shared data {self.path} are not on this node and were not sent to it")
        with replaced_file(self._copy()) as unfinished:
            ray.get(self.content).tofile(unfinished)

    def _lock(self) -> FileLock:
        return FileLock(self._copy().with_suffix(".lock"))

    def _copy(self) -> Path:
        return _own_folder() / self.path.name


def _own_folder() -> Path:
    """Give a folder on this node in which nobody else can put a file: what is read from one may run code.

    Raises:
        PermissionError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"tune_sam-data-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} can be written by others than its user; set TMPDIR to a folder of your own")
    return folder


def _mapped(path: Path) -> Splits:
    import torch

    # Our own file, and a workload's stores are its own classes, which torch does not know.
    splits: Splits = torch.load(path, mmap=True, weights_only=False)
    return splits


@contextmanager
def share(splits: Splits, *, folder: Path | None = None, other_nodes: bool = False) -> Iterator[Shared]:
    """Share splits for as long as the context lasts; drop your own inside it.

    Example: `with share(workload.read(dataset, folder)) as data:` and then
    `tune.with_parameters(GCNTrainable, data=data)`.

    Args:
        splits: of a workload.
        folder: for the file; the system's for temporary files by default.
        other_nodes: also put them into Ray's object store, for nodes that do not see that folder; that is a second
            copy on this node.
    """
    write = partial(save, splits)
    del splits
    with sharing(write, folder=folder, other_nodes=other_nodes) as data:
        del write
        yield data


@contextmanager
def sharing(
    write: Callable[[Path], None], *, folder: Path | None = None, other_nodes: bool = False
) -> Iterator[Shared]:
    """Share splits, as :func:`share` does, that a function writes to a file.

    Args:
        write: is called with the file's path, and forgotten.
        folder, other_nodes: as of :func:`share`.
    """
    # On NFS a file that is removed stays, under another name, while a worker still maps it.
    with tempfile.TemporaryDirectory(prefix="tune_sam-", dir=folder, ignore_cleanup_errors=True) as own:
        path = Path(own) / f"tune_sam-{secrets.token_hex(8)}.pt"
        write(path)
        del write
        yield Shared(path, ray.put(np.fromfile(path, np.uint8)) if other_nodes else None)


def save(splits: Splits, file: Path) -> None:
    """Write splits as :class:`Shared` reads them."""
    import torch
    from ray import cloudpickle

    torch.save(splits, file, pickle_module=cloudpickle)
