"""Running out of a GPU's memory, told by what an error says: torch, whose errors these are, is not imported."""

import re
import traceback

_SIGNS = re.compile(r"torch\.OutOfMemoryError|(CUDA|HIP) error: out of memory|_STATUS_ALLOC_FAILED")
"""Of torch's allocator; of the driver, which a context or a kernel asks for more; of cuBLAS, cuDNN and their like."""


def gpu_ran_out(error: BaseException | str) -> bool:
    """Whether a GPU's memory was too little, by an exception or, where that is lost, by its line in a traceback."""
    return bool(_SIGNS.search(error if isinstance(error, str) else "".join(traceback.format_exception_only(error))))
