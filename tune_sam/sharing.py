"""One copy of the data on each node for all trials there, which no trial can change.

Ray maps NumPy arrays of its object store into every process without a copy; torch tensors it copies. So splits travel
with their tensors as arrays and become tensors over the same memory again where they arrive. Ray's arrays are
read-only, but a tensor over one is not, and a write would reach every trial of the node. Tensors made in inference mode
refuse writes, which makes a mistake an error in the trial that makes it; batches are copies and may be written to.
"""

import io
import pickle
import warnings
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle
from torch import Tensor

from tune_sam.workload import Splits


class Shared:
    """Splits in a form that processes share: the arrays of all their tensors, and a pickle of what is around them.

    Args:
        splits: any, with the samples in tensors or arrays; the memory of the tensors is used, not copied.
    """

    def __init__(self, splits: Splits) -> None:
        self.arrays: list[np.ndarray] = []
        frame = io.BytesIO()
        _Pickler(frame, self.arrays).dump(splits)
        self.frame = frame.getvalue()

    def splits(self, device: torch.device) -> Splits:
        """The splits with tensors that refuse writes: on a CPU over the shared memory, elsewhere one copy on `device`.

        In-place operations on such a tensor raise a RuntimeError that names inference mode.
        """
        return _Unpickler(io.BytesIO(self.frame), self.arrays, device).load()


def share(splits: Splits) -> ray.ObjectRef:
    """Put splits into the object store of the connected cluster, for `setup` of every trial; drop your own after it.

    Example: `tune.with_parameters(GCNTrainable, splits=share(workload.splits(dataset, folder)))`.
    """
    return ray.put(Shared(splits))


class _Pickler(cloudpickle.Pickler):
    """Puts arrays and tensors aside, each once, and leaves their number."""

    def __init__(self, file: Any, arrays: list[np.ndarray]) -> None:
        super().__init__(file)
        self.arrays = arrays
        self.seen: dict[int, tuple[str, int]] = {}
        self.kept: list[Any] = []  # an id is an object's own only while it lives

    def persistent_id(self, obj: Any) -> tuple[str, int] | None:
        if not isinstance(obj, Tensor | np.ndarray) or _is_opaque(obj):
            return None
        if id(obj) not in self.seen:
            array = obj.detach().cpu().numpy() if isinstance(obj, Tensor) else obj
            self.seen[id(obj)] = ("tensor" if isinstance(obj, Tensor) else "array", len(self.arrays))
            self.arrays.append(np.asarray(array, order="C"))
            self.kept.append(obj)
        return self.seen[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, arrays: list[np.ndarray], device: torch.device) -> None:
        super().__init__(file)
        self.arrays, self.device = arrays, device

    def persistent_load(self, pid: tuple[str, int]) -> Any:
        kind, place = pid
        array = self.arrays[place]
        if kind == "array":
            view = array.view()
            view.flags.writeable = False
            return view
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(array)
            return tensor if self.device.type == "cpu" else tensor.to(self.device)


def _is_opaque(obj: Any) -> bool:
    """Whether this is no plain block of numbers that NumPy and torch both know: it is pickled as such then."""
    if isinstance(obj, np.ndarray):
        return obj.dtype.hasobject
    return obj.layout != torch.strided or obj.dtype == torch.bfloat16 or obj.is_quantized
