"""A study's data: there, read once, and shared with all of its trials."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.study.records import Study
from tune_sam.workload import Splits

if TYPE_CHECKING:
    from tune_sam.cluster.sharing import Shared


def ensure_data(study: Study) -> None:
    """Check that a study's data are there, and download those that belong into its home.

    Raises:
        Refused: data are missing and cannot be fetched.
    """
    workload, dataset = study.workload, study.settings.dataset
    if study.data == study.home.data and not study.home.data_are_linked:
        with study.home.made():
            workload.fetch(dataset, study.data)
    workload.check_data(dataset, study.data)


class Read:
    """A study's splits as its workload gives them, which are kept until they are taken, once.

    Args:
        splits: that were read.
    """

    def __init__(self, splits: Splits) -> None:
        self._splits: Splits | None = splits

    def taken(self) -> Splits | None:
        """Give the splits and forget them; None if they were taken."""
        splits, self._splits = self._splits, None
        return splits


@contextmanager
def shared(
    study: Study, other_nodes: bool, sample: int | None = None, read: "Read | None" = None
) -> "Iterator[Shared]":
    """Share a study's data, which are read once for all its trials; this process keeps none.

    Call it inside :func:`tune_sam.study.lock.study_lock`.

    Args:
        study: whose.
        other_nodes: whether they may be needed on other nodes.
        sample: so many of its training samples, chosen once; all by default.
        read: its data, where they were read already.
    """
    from tune_sam.cluster.sharing import share
    from tune_sam.samples import with_label_noise, with_train_subset

    settings = study.settings
    splits = read.taken() if read else None
    if splits is None:
        ensure_data(study)
        splits = study.workload.read(settings.dataset, study.data)
    splits = with_label_noise(
        with_train_subset(splits, settings.train_subset), settings.label_noise, ignored=study.workload.ignored
    )
    if settings.kind != "search":
        splits = splits.together()
    if sample:
        splits = with_train_subset(splits, min(sample, len(splits.train)))
    with share(splits, folder=data_folder(study), other_nodes=other_nodes) as data:
        del splits
        yield data


def data_folder(study: Study) -> Path:
    """Make an empty folder of the study for data that are shared; what a killed driver left there is removed."""
    folder = study.home.study(study.name) / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)  # the home may be new here, of a study whose records are in a database elsewhere
    return folder
