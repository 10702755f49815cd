"""A study's data: there, read once, and shared with all of its trials."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.study.records import Study

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


@contextmanager
def shared(study: Study, other_nodes: bool, sample: int | None = None) -> "Iterator[Shared]":
    """Share a study's data, which are read once for all its trials; this process keeps none.

    Call it inside :func:`tune_sam.study.lock.study_lock`.

    Args:
        study: whose.
        other_nodes: whether they may be needed on other nodes.
        sample: so many of its training samples, chosen once; all by default.
    """
    from tune_sam.cluster.sharing import share
    from tune_sam.samples import with_label_noise, with_train_subset

    settings = study.settings
    ensure_data(study)
    splits = study.workload.read(settings.dataset, study.data)
    splits = with_label_noise(with_train_subset(splits, settings.train_subset), settings.label_noise)
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
