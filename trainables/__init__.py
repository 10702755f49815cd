"""The architectures that come with tune_sam: a description in each module, and folders for networks and data.

The trainables are made on first use, because they need Ray, which the descriptions do not.
"""

from typing import Any

__all__ = ["AttentionTrainable", "GCNTrainable", "WideResNetTrainable"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tune_sam.trainable import trainable_for

    return trainable_for(name.removesuffix("Trainable").lower())
