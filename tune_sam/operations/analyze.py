"""Analyze: measure the flatness of a study's networks, draw what came of it, and log both."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from tune_sam.cluster.executor import Executor
from tune_sam.evaluation.analysis import Analysis, Extent, measured, provenance
from tune_sam.evaluation.summary import log_summary
from tune_sam.files import replaced_folder
from tune_sam.home import Place
from tune_sam.settings import GRID, SAMPLE
from tune_sam.study.records import PLACES, open_search
from tune_sam.tuning.delivery import publish
from tune_sam.tuning.listener import SearchListener
from tune_sam.tuning.progress import heard_by


def analyze(
    name: str,
    *,
    home: Place = None,
    optimizers: Sequence[str] = (),
    top: int | None = None,
    sample: int = SAMPLE,
    grid: int = GRID,
    every: bool = False,
    verify: bool = False,
    address: str | None = None,
    listener: SearchListener | None = None,
    progress: bool | None = None,
    executor: Executor | None = None,
) -> Analysis:
    """Measure how flat the minima of a study's refit are, or those of its best trials where it has no refit.

    What an earlier call has measured is not done again.

    Everything is measured on the same part of the training samples, as they are, without augmentation, in eval mode and
    float32. Numbers go to the trials' MLflow runs as `flatness/…`, those of `every` as `flatness/all/…`, with the
    number of samples as their step; figures and their data go to the study's run.

    Args:
        name: of the study.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        optimizers: of the study; all by default.
        top: the best trials of each optimizer, one by default; of a refit so many seeds of each of its configurations,
            all by default. The matched controls of a refit are measured, too.
        sample: training samples, chosen once for all networks, with the classes' shares; all if there are fewer.
        grid: points along a side of the loss surface of the best trial of each optimizer. All surfaces have the same
            directions, and their scale is that of the first optimizer's best network. From that one the line to each
            other best network is measured too.
        every: measure every complete trial of the search instead, by the cheap measures and without surfaces.
        verify: also measure one batch with each optimizer's best network by PyHessian, another's program, to see
            whether both say the same: see `checks` of the result.
        address: Ray cluster to use; one is started here by default.
        listener: is told as measurements are done, in place of the screen.
        progress: whether the screen shows how it goes; see :func:`tune_sam.search`.
        executor: what runs the tasks; by default Ray at `address`.

    Raises:
        Refused: there is no such study, it is in use, or a network cannot be measured; of `every`, if none can.
        NothingComplete: no trial is complete.
    """
    extent = Extent(
        optimizers=tuple(dict.fromkeys(optimizers)), top=top, sample=sample, grid=grid, every=every, verify=verify
    )
    with (
        heard_by(listener, progress) as hears,
        measured(name, home, extent, address, executor, hears) as analysis,
    ):
        hears.stage("Drawing figures")
        from tune_sam.reporting.plots import draw  # needs matplotlib, which a refusal does not wait for

        with replaced_folder(analysis.folder) as folder:
            analysis.table().drop(columns=[*PLACES]).to_csv(folder / "flatness.csv", index=False)
            draw(analysis, folder)
            figures = sorted(file.stem for file in folder.glob("*.png"))
            about = {**provenance(analysis), "figures": figures, "measured": datetime.now(UTC).isoformat()}
            (folder / "analysis.json").write_text(json.dumps(about, indent=2))
        hears.stage("Bringing MLflow up to date")
        undelivered = _log(analysis)
        search = open_search(analysis.study.settings.refit_of or name, analysis.study.home)
    left = log_summary(search)  # whatever MLflow took, for the ledger gets the numbers
    return replace(analysis, undelivered=undelivered or left)


def _log(analysis: Analysis) -> str:
    """Log everything to MLflow; say why it could not be, or nothing."""
    plan, found = analysis.plan, analysis.flatness
    group = "flatness/all" if plan.every else "flatness"
    runs = {
        trial.mlflow_run_id: {f"{group}/{name}": value for name, value in found[trial.key].metrics().items()}
        for trial in plan.trials
        if trial.mlflow_run_id
    }
    samples = next(iter(found.values())).samples
    without = [trial.key for trial in plan.trials if not trial.mlflow_run_id]
    lacks = f"MLflow has no run of {', '.join(without)}" if without else ""
    return publish(plan.study, runs, samples, plan.folder, plan.path) or lacks
