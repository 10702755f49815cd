"""Run: search, refit, analyze and report, one after the other, each from where it was left."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from tune_sam.cluster.executor import Executor, RayExecutor
from tune_sam.evaluation.selection import check_seeds
from tune_sam.operations.analyze import analyze
from tune_sam.operations.refit import refit
from tune_sam.reporting.page import Report, report
from tune_sam.settings import SAMPLE, SEEDS, SearchKeywords, SearchOptions, takes_options
from tune_sam.tuning.listener import SearchListener
from tune_sam.tuning.plan import planned
from tune_sam.tuning.progress import heard_by
from tune_sam.tuning.runner import launch
from tune_sam.workload import Workload

log = logging.getLogger(__name__)


@takes_options
def run(
    workload: str | type[Workload],
    *,
    config: str | Path | None = None,
    seeds: int | Sequence[int] = SEEDS,
    refit_epochs: int | None = None,
    controls: bool = True,
    sample: int = SAMPLE,
    listener: SearchListener | None = None,
    progress: bool | None = None,
    executor: Executor | None = None,
    **options: Unpack[SearchKeywords],
) -> Report:
    """Search a workload, refit the best with several seeds and test them, measure flatness, and write the page.

    Called again with the same name and options, it resumes: what is trained, tested or measured is kept, and only what
    is missing is done. With more trials, seeds or samples it does those.

    Args:
        workload: name of a workload, `package.module:Class`, or the class itself.
        config: a YAML file of options; those given here come on top.
        seeds: how many of the refit, or which; see :func:`tune_sam.operations.refit.refit`.
        refit_epochs: of each training of the refit; the search's by default.
        controls: train the refit's matched controls, too; see :func:`tune_sam.operations.refit.refit`.
        sample: training samples that flatness is measured on.
        listener: follows all of it, in place of the screen.
        progress: whether the screen shows how it goes; see :func:`tune_sam.search`.
        executor: what runs the trainings and measurements; by default Ray at the address that the options have.
        options: of the search, each below.

    Returns:
        Where the page is; `undelivered` says what MLflow lacks of any stage.

    Raises:
        Refused: an option is wrong, or a stage cannot be done; what is done is kept.
        NothingComplete: a training of the refit did not end complete.
        KeyboardInterrupt: it was interrupted; the same call with the study's name resumes it.
    """
    check_seeds(seeds)  # before the search, which takes long
    chosen = SearchOptions.read({"workload": workload, **options}, config)
    executor = executor or RayExecutor(chosen.address, chosen.max_concurrent, chosen.dashboard)
    with heard_by(listener, progress) as hears, executor.ahead() as begin:
        hears.stage("Checking options, data and services")
        study, read = planned(chosen, begin)
        name, home = study.name, study.home
        with executor.opened(hears.stage):  # once for all that follows
            launch(study, executor, hears, read)
            hears.announced(f"== refit of {name}")
            trained = refit(
                name,
                home=home,
                seeds=seeds,
                epochs=refit_epochs,
                controls=controls,
                listener=hears,
                executor=executor,
            )
            hears.announced(f"== flatness of the refit of {name}")
            best = analyze(name, home=home, sample=sample, listener=hears, executor=executor)
            hears.announced(f"== flatness of all trials of {name}")
            every = analyze(name, home=home, sample=sample, every=True, listener=hears, executor=executor)
        for trial, why in every.failed.items():
            log.warning("%s cannot be measured: %s", trial, why)
        hears.announced(f"== page of {name}")
        hears.stage("Writing the page")
        page = report(name, home=home)
    undelivered = [stage.undelivered for stage in (trained, best, every, page) if stage.undelivered]
    return replace(page, undelivered="; ".join(dict.fromkeys(undelivered)))
