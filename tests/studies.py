"""Finished studies, made in this process: by the ledger, the tracker and the Trainer, without Ray."""

from pathlib import Path

import tune_sam
from tune_sam.cluster.executor import Executor, InlineExecutor
from tune_sam.study.records import Study
from tune_sam.tuning.listener import SearchListener

INLINE = InlineExecutor()


def searched_study(
    home: Path,
    executor: Executor = INLINE,
    listener: SearchListener | None = None,
    name: str = "one",
    train_subset: int | None = 256,
    **options: object,
) -> Study:
    """Search a few of the digits as the study `one`: two optimizers, three complete trials each."""
    return tune_sam.search(
        "gcn",
        dataset="digits",
        train_subset=train_subset,
        optimizers=["base", "sam"],
        trials=3,
        epochs=2,
        scheduler="none",
        name=name,
        home=home,
        executor=executor,
        listener=listener,
        **options,
    )
