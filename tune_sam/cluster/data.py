"""A study's data: there, read once, and shared with all of its trials."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.cluster.beside import called
from tune_sam.config import TrialConfig
from tune_sam.errors import Refused
from tune_sam.study.records import Study
from tune_sam.study.settings import StudySettings
from tune_sam.workload import Splits, Workload

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
    try:
        workload.check_data(dataset, study.data)
    except Refused:
        if study.settings.data is None or study.data.exists():
            raise
        raise Refused(
            f"the data of study {study.name} were in {study.settings.data}, which this machine has not; set "
            "TUNE_SAM_DATA to the folder that has them here."
        ) from None


class Read:
    """A study's data, read before it has a folder, which are kept until they are taken, once.

    Args:
        write: writes them to a file; see :func:`tune_sam.cluster.sharing.sharing`.
    """

    def __init__(self, write: Callable[[Path], None]) -> None:
        self._write: Callable[[Path], None] | None = write

    def taken(self) -> Callable[[Path], None] | None:
        """Give what writes them and forget it; None if it was taken."""
        write, self._write = self._write, None
        return write


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
        read: its data, all of them, where they were read already.
    """
    from tune_sam.cluster.sharing import sharing

    write = read.taken() if read else None
    if write is None:
        ensure_data(study)
        write = partial(called, f"{__name__}:written", study.workload, study.settings, study.data, sample)
    with sharing(write, folder=data_folder(study), other_nodes=other_nodes) as data:
        del write
        yield data


def written(workload: Workload, settings: StudySettings, root: Path, sample: int | None, file: Path) -> None:
    """Read the data of a study, and write to a file what its trials train on.

    Args:
        workload: the study's, split by its seed.
        settings: the study's.
        root: folder of the data set, which is there.
        sample: so many of the training samples, chosen once; None for all.
        file: to write.
    """
    from tune_sam.cluster.sharing import save
    from tune_sam.samples import shuffled, with_train_subset

    splits = prepared(workload.read(settings.dataset, root), workload, settings)
    if sample:  # whose single batches are measured, too
        splits = shuffled(with_train_subset(splits, min(sample, len(splits.train))))
    save(splits, file)


def prepared(splits: Splits, workload: Workload, settings: StudySettings | TrialConfig) -> Splits:
    """Give the splits of a workload as trials train on them: a part, with noise, one or both splits.

    Raises:
        Refused: the subset or the noise cannot be had of these data.
    """
    from tune_sam.samples import with_label_noise, with_train_subset

    subset = with_train_subset(splits, settings.train_subset)
    noisy = with_label_noise(subset, settings.label_noise, ignored=workload.ignored)
    return noisy.together() if settings.together else noisy.alone() if settings.train_alone else noisy


def data_folder(study: Study) -> Path:
    """Make a folder of the study for data that are shared; what another driver left there is removed, if it can be."""
    folder = study.home.study(study.name) / "data"
    shutil.rmtree(folder, ignore_errors=True)
    # The home may be new here, of a study whose records are in a database elsewhere.
    folder.mkdir(parents=True, exist_ok=True)
    return folder
