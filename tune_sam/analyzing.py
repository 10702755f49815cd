"""The flatness of a study's networks: measured by Ray tasks, kept as each is there, logged and drawn."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam import tracking
from tune_sam.cluster import check_offer
from tune_sam.launch import only_driver, shared, terminate_as_interrupt, versions
from tune_sam.settings import NothingComplete, Refused
from tune_sam.study import Study, Trial, best_of_each, is_going, note_run, open_storage, open_study, refit_of
from tune_sam.tasks import Part, Progress, find_out, prepare_worker, write
from tune_sam.workload import find_workload

if TYPE_CHECKING:
    from pandas import DataFrame

    from tune_sam.flatness import Flatness
    from tune_sam.sharing import Shared

SEED = 0
"""Of the random directions, and of whatever the measures draw."""

CHUNK = 64
"""Points of a loss surface that one task evaluates."""

@dataclass(frozen=True)
class Analysis:
    """How flat the networks of a study are.

    Attributes:
        study: whose.
        trials: that were measured, in the order of the study's optimizers, the best of each first; of a refit in the
            order of its seeds.
        flatness: of each, by its key.
        folder: where the figures, their data and the numbers are.
        undelivered: why MLflow does not have them; empty if it has.
    """

    study: Study
    trials: tuple[Trial, ...]
    flatness: "dict[str, Flatness]"
    folder: Path
    undelivered: str

    def table(self) -> "DataFrame":
        """A row for each trial: its configuration, accuracies and gaps, and each measure.

        A measure has three columns: itself, `…_error` and `…_resolved`; nothing should be read off one that is not
        resolved.
        """
        import pandas

        from tune_sam.flatness import columns
        from tune_sam.refit import test_results

        found = self.study.trials().set_index("key", drop=False)
        rows = found.loc[[trial.key for trial in self.trials]].reset_index(drop=True)
        if self.study.settings.refit_of:  # its gaps are those to the test part
            tested = pandas.DataFrame.from_dict(test_results(self.study), orient="index")
            rows = rows.merge(tested, left_on="key", right_index=True, how="left")
        return rows.merge(columns(self.flatness.values()), on="key")


@dataclass(frozen=True)
class _Plan:
    """What is measured, and where it is kept: with each number a file, so that no plan takes another's for its own."""

    study: Study
    trials: tuple[Trial, ...]
    sample: int
    grid: int
    every: bool

    @property
    def folder(self) -> Path:
        return self.study.home.study(self.study.name) / self.path

    @property
    def path(self) -> str:
        return f"flatness/{'all-' if self.every else ''}{self.sample}"

    def number_file(self, trial: Trial) -> Path:
        return self._kept / f"{trial.optimizer}-{trial.number}.json"

    def surface_files(self, trial: Trial) -> list[Path]:
        """A file for each part of a surface, whose directions are made from the first trial's network."""
        reference, parts = self.trials[0], math.ceil(self.grid**2 / CHUNK)
        name = f"{trial.optimizer}-{trial.number}-along-{reference.optimizer}-{reference.number}-{self.grid}"
        return [self._kept / f"{name}-{part}.json" for part in range(parts)]

    @property
    def _kept(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-parts")


def analyze(name: str, *, home: str | Path | None = None, optimizers: Sequence[str] = (), top: int = 1,
            sample: int = 2048, grid: int = 21, every: bool = False, address: str | None = None,
            progress: Progress = lambda *_: None) -> Analysis:
    """Measure how flat the minima of a study's refit are, or those of its best trials where it has no refit.

    What an earlier call has measured is not done again.

    Everything is measured on the same part of the training samples, as they are, without augmentation, in eval mode and
    float32. Numbers go to the trials' MLflow runs as `flatness/…`, figures and their data to the study's run.

    Args:
        name: of the study.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        optimizers: of the study; all by default.
        top: trials of each optimizer: the best by validation accuracy, or the first seeds of a refit.
        sample: training samples, chosen once for all networks, with the classes' shares; all if there are fewer.
        grid: points along a side of the loss surface of the best trial of each optimizer. All surfaces have the same
            directions, and their scale is that of the first optimizer's best network.
        every: measure every complete trial of the search instead, by the cheap measures and without surfaces.
        address: Ray cluster to use; one is started here by default.
        progress: called as parts are done.

    Raises:
        Refused: there is no such study, it is in use, or a network, the data or a checkpoint cannot be measured.
        NothingComplete: no trial is complete.
    """
    study = open_study(name, home)
    if not every:
        study = refit_of(study) or study
    settings = study.settings
    check_offer(settings.cpus_per_trial, settings.gpus_per_trial or 0, address)
    find_workload(settings.workload).check_data(settings.dataset, Path(settings.data))
    if not is_going(study.home, study.name):
        _deliver_what_a_search_left(study)
    plan = _Plan(study, _chosen(study, optimizers, None if every else top), sample, grid, every)
    with only_driver(study), terminate_as_interrupt():
        find_out(study, _parts(plan), lambda other_nodes: shared(study, other_nodes, sample), address, progress)
        return _results(plan)


def _chosen(study: Study, optimizers: Sequence[str], top: int | None) -> tuple[Trial, ...]:
    """The complete trials of each optimizer, the best first, or in the order of a refit's seeds; the first `top`."""
    found: list[Trial] = []
    for optimizer in dict.fromkeys(optimizers) or study.settings.optimizers:
        complete = [trial for trial in study.records(optimizer) if trial.value is not None]
        if not study.settings.refit_of:
            complete.sort(key=lambda trial: -(trial.value or 0))
        found += complete[:top]
    if not found:
        which = f"complete trial of {' or '.join(optimizers)}" if optimizers else "complete trial"
        raise NothingComplete(f"study {study.name} has no {which} yet; go on with `tune-sam resume {study.name}`.")
    return tuple(found)


def _deliver_what_a_search_left(study: Study) -> None:
    """Trials of a search that MLflow could not be told of have no run yet."""
    storage = open_storage(study.home)
    tracking.deliver(study.tracking_uri, study.home.study(study.name), 5,
                     lambda key, run_id: note_run(storage, key, run_id))


def _parts(plan: _Plan) -> list[Part]:
    numbers = [Part(trial.key, plan.number_file(trial), _flatness, (plan.study, trial, plan.every))
               for trial in plan.trials]
    if plan.every:
        return numbers
    surfaces = [Part(f"{trial.key}, part {index + 1} of its loss surface", file, _losses,
                      (plan.study, trial, plan.trials[0], plan.grid, index))
                for trial in best_of_each(plan.trials) for index, file in enumerate(plan.surface_files(trial))]
    return numbers + surfaces


# ------------------------------------------------------------------------------------------------- in Ray's workers


def _flatness(study: Study, trial: Trial, cheap: bool, data: "Shared") -> dict[str, Any]:
    from tune_sam.flatness import measure, measure_cheaply

    model, loss, batches = _prepared(study, trial, data)
    assert trial.config
    return (measure_cheaply if cheap else measure)(trial.key, model, loss, batches, trial.config).to_json()


def _losses(study: Study, trial: Trial, reference: Trial, side: int, part: int, data: "Shared") -> list[float]:
    """The losses of one part of a surface."""
    from analysis.landscape import grid, losses, random_directions

    model, loss, batches = _prepared(study, trial, data)
    directions = random_directions(reference.load_model(), SEED)
    points = grid(2, steps=side)[part * CHUNK : (part + 1) * CHUNK]
    return losses(model, loss, batches, directions, points).tolist()


def _prepared(study: Study, trial: Trial, data: "Shared") -> tuple[Any, Any, Any]:
    """Network, loss and batches, on this process's device."""
    from tune_sam.flatness import batches_of

    device = prepare_worker(study)
    batches = batches_of(data.splits().train.to(device))
    return trial.load_model().to(device), find_workload(trial.workload).loss, batches


# ------------------------------------------------------------------------------------------------------ the results


def _results(plan: _Plan) -> Analysis:
    """Draw, log and return what has been measured."""
    from tune_sam.flatness import Flatness
    from tune_sam.pictures import draw

    found = {trial.key: Flatness.from_json(json.loads(plan.number_file(trial).read_text())) for trial in plan.trials}
    analysis = Analysis(plan.study, plan.trials, found, plan.folder, "")
    plan.folder.mkdir(parents=True, exist_ok=True)
    write(plan.folder / "flatness.csv", analysis.table().to_csv(index=False))
    write(plan.folder / "analysis.json", json.dumps(_provenance(plan), indent=2))
    draw(analysis, _surfaces(plan), plan.grid)
    return Analysis(plan.study, plan.trials, found, plan.folder, _publish(plan, found))


def _provenance(plan: _Plan) -> dict[str, Any]:
    """What the numbers rest on."""
    from tune_sam.flatness import BATCH, COMMON_RHO, SIGMA

    settings = plan.study.settings
    return {"study": plan.study.to_json(), "trials": [trial.key for trial in plan.trials], "sample": plan.sample,
            "split": "train", "batch": BATCH, "seed": SEED, "rho": COMMON_RHO, "sigma": SIGMA,
            "surface": None if plan.every else {"grid": plan.grid, "directions_of": plan.trials[0].key},
            "data": settings.data, "versions": versions()}


def _surfaces(plan: _Plan) -> dict[str, list[float]]:
    """The losses at the points of the grid, by optimizer."""
    if plan.every:
        return {}
    return {trial.optimizer: [loss for file in plan.surface_files(trial) for loss in json.loads(file.read_text())]
            for trial in best_of_each(plan.trials)}


def _publish(plan: _Plan, found: "dict[str, Flatness]") -> str:
    """Log everything; why it could not be, or nothing."""
    runs = {trial.mlflow_run_id: found[trial.key].metrics() for trial in plan.trials if trial.mlflow_run_id}
    try:
        tracking.publish(plan.study.tracking_uri, tracking.StudyRun(plan.study.experiment_id, plan.study.mlflow_run_id),
                         runs, plan.folder, plan.path)
    except Refused as error:
        return str(error)
    without = [trial.key for trial in plan.trials if not trial.mlflow_run_id]
    return f"MLflow has no run of {', '.join(without)}" if without else ""
