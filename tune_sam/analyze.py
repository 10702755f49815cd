"""The flatness of a study's best trials: measured on the cluster, kept, logged and drawn."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tune_sam import tracking
from tune_sam.cluster import check_offer, connected
from tune_sam.settings import NothingComplete, Refused
from tune_sam.study import Study, Trial, note_run, open_storage, open_study
from tune_sam.workload import Workload, find_workload

if TYPE_CHECKING:
    from tune_sam.flatness import Flatness
    from tune_sam.sharing import Shared

log = logging.getLogger(__name__)

SEED = 0
"""Of the sample and of the random directions."""

CHUNK = 64
"""Points of a loss surface that one task evaluates."""


@dataclass(frozen=True)
class Plan:
    """What is measured. Results of one plan are kept in one folder of the study.

    Attributes:
        trials: whose networks are measured.
        sample: training samples, chosen once for all, with the classes' shares.
        grid: points along a side of the loss surface.
        cheap: the cheap measures alone, without surfaces.
    """

    trials: tuple[Trial, ...]
    sample: int
    grid: int
    cheap: bool

    @property
    def folder(self) -> str:
        return f"flatness/{'cheap-' if self.cheap else ''}{self.sample}"


@dataclass(frozen=True)
class Analysis:
    """What :func:`analyze` found.

    Attributes:
        study: whose.
        folder: where numbers, figures and their data are.
        flatness: of each trial that was measured, by its key.
        trials: in the order of the study's optimizers, the best first.
        figures: files of the figures that were drawn.
    """

    study: Study
    folder: Path
    flatness: "dict[str, Flatness]"
    trials: tuple[Trial, ...]
    figures: tuple[Path, ...]


def analyze(name: str, *, home: str | Path | None = None, optimizers: Sequence[str] = (), top: int = 1,
            sample: int = 2048, grid: int = 21, every: bool = False, address: str | None = None,
            say: Callable[[str], None] = lambda _: None) -> Analysis:
    """Measure how flat the minima of a study's best trials are; goes on where an earlier call was interrupted.

    Args:
        name: of the study.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        optimizers: of the study; all by default.
        top: complete trials of each optimizer, the best by validation accuracy first.
        sample: training samples that are measured on; all if there are fewer.
        grid: points along a side of the loss surface, which is drawn for the best trial of each optimizer.
        every: measure every complete trial instead, by the cheap measures and without surfaces.
        address: Ray cluster to use; one is started here by default.
        say: called with a line for each step that ended.

    Raises:
        Refused: an option is wrong, or a checkpoint is gone.
        NothingComplete: no trial is complete.
    """
    study = open_study(name, home)
    plan = Plan(_chosen(study, optimizers, None if every else top), sample, grid, every)
    settings = study.settings
    check_offer(settings.cpus_per_trial, settings.gpus_per_trial or 0, address)
    folder = study.home.study(study.name) / plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [trial for trial in plan.trials if not _file(folder, trial).exists()]
    surfaces = [] if every else [trial for trial in _best_of_each(plan.trials)
                                 if not _surface_file(folder, trial, grid).exists()]
    if waiting or surfaces:
        with connected(address), _sample(study, plan, other_nodes=bool(address)) as data:
            _measure(study, plan, waiting, data, folder, say)
            _survey(study, plan, surfaces, data, folder, say)
    flatness = {trial.key: _read(_file(folder, trial)) for trial in plan.trials}
    from tune_sam.pictures import draw

    figures = tuple(draw(study, plan.trials, flatness, _surfaces(folder, plan), folder))
    _log(study, plan.trials, flatness, folder, say)
    return Analysis(study, folder, flatness, plan.trials, figures)


def _chosen(study: Study, optimizers: Sequence[str], top: int | None) -> tuple[Trial, ...]:
    """The complete trials of each optimizer, the best first; the first `top` of them."""
    found: list[Trial] = []
    for optimizer in optimizers or study.settings.optimizers:
        complete = [trial for trial in study.records(optimizer) if trial.value is not None]
        found += sorted(complete, key=lambda trial: -(trial.value or 0))[:top]
    if not found:
        raise NothingComplete(f"study {study.name} has no complete trial yet; go on with `tune-sam resume {study.name}`.")
    return tuple(found)


def _best_of_each(trials: Sequence[Trial]) -> list[Trial]:
    return list({trial.optimizer: trial for trial in reversed(trials)}.values())[::-1]


@contextmanager
def _sample(study: Study, plan: Plan, other_nodes: bool) -> "Iterator[Shared]":
    """The training samples that all networks are measured on."""
    from tune_sam.sharing import share
    from tune_sam.store import with_train_subset

    settings = study.settings
    workload = find_workload(settings.workload)
    workload.check_data(settings.dataset, Path(settings.data))
    trained = with_train_subset(workload.splits(settings.dataset, Path(settings.data)), settings.train_subset)
    taken = with_train_subset(trained, min(plan.sample, len(trained.train)), SEED)
    del trained
    with share(taken, other_nodes=other_nodes) as data:
        del taken
        yield data


def _measure(study: Study, plan: Plan, waiting: Sequence[Trial], data: "Shared", folder: Path,
             say: Callable[[str], None]) -> None:
    """Measure each trial in a task of its own, and keep each as soon as it is there."""
    task = _task(study, _flatness_of)
    pending = {task.remote(study.settings.workload, trial, data, plan.cheap): trial for trial in waiting}
    for done, (trial, result) in enumerate(_as_they_come(pending), start=1):
        _write(_file(folder, trial), result.to_json())
        say(f"{trial.key}: measured in {result.seconds:.0f} s, {done} of {len(waiting)}")


def _survey(study: Study, plan: Plan, trials: Sequence[Trial], data: "Shared", folder: Path,
            say: Callable[[str], None]) -> None:
    """Evaluate the loss surface of each trial, in chunks that the cluster shares; directions are of the first."""
    from analysis.landscape import grid

    task = _task(study, _losses_at)
    points = grid(2, steps=plan.grid)
    reference = plan.trials[0]
    for trial in trials:
        chunks = np.array_split(points, max(len(points) // CHUNK, 1))
        pending = {task.remote(study.settings.workload, trial, reference, data, chunk): index
                   for index, chunk in enumerate(chunks)}
        parts: dict[int, Any] = {}
        for index, part in _as_they_come(pending):
            parts[index] = part
            say(f"{trial.key}: loss surface, {len(parts)} of {len(chunks)} parts")
        surface = np.column_stack([points, np.concatenate([parts[index] for index in range(len(chunks))])])
        _write(_surface_file(folder, trial, plan.grid), surface.tolist())


def _as_they_come(pending: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """What each task is for, and its result.

    Raises:
        Refused: a task found that its network or data cannot be measured.
    """
    import ray

    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        what = pending.pop(ready)
        try:
            yield what, ray.get(ready)
        except (ValueError, Refused) as error:
            name = what.key if isinstance(what, Trial) else "the loss surface"
            reason = str(error).strip().splitlines()[-1]
            raise Refused(f"{name} cannot be measured: {reason}") from None


def _task(study: Study, function: Callable[..., Any]) -> Any:
    """A function as a Ray task with a trial's resources; each worker process serves one, so that threads are its own."""
    import ray

    from tune_sam.trainable import gpu_share

    settings = study.settings
    share = gpu_share(find_workload(settings.workload), {"gpus_per_trial": settings.gpus_per_trial})
    return ray.remote(num_cpus=settings.cpus_per_trial, num_gpus=share)(function)


def _flatness_of(name: str, trial: Trial, data: "Shared", cheap: bool) -> "Flatness":
    from tune_sam.flatness import batches_of, measure, measure_cheaply

    workload, model, store = _loaded(name, trial, data)
    measured = measure_cheaply if cheap else measure
    assert trial.config
    return measured(trial.key, model, workload.loss, batches_of(store), trial.config)


def _losses_at(name: str, trial: Trial, reference: Trial, data: "Shared", points: Any) -> Any:
    from analysis.landscape import losses, random_directions
    from tune_sam.flatness import batches_of

    workload, model, store = _loaded(name, trial, data)
    directions = random_directions(reference.load_model(), SEED)
    return losses(model, workload.loss, batches_of(store), directions, points)


def _loaded(name: str, trial: Trial, data: "Shared") -> tuple[Workload, Any, Any]:
    """Workload, trained network and samples, on this process's device."""
    from tune_sam.training import default_device

    device = default_device()
    return find_workload(name), trial.load_model().to(device), data.splits().train.to(device)


def _log(study: Study, trials: Sequence[Trial], flatness: "dict[str, Flatness]", folder: Path,
         say: Callable[[str], None]) -> None:
    """Give MLflow each trial's numbers, once, and the study's run the figures and their data."""
    run = tracking.StudyRun(study.experiment_id, study.mlflow_run_id)
    storage = open_storage(study.home)
    tracker = tracking.Tracker(study.tracking_uri, study.home.study(study.name), run,
                               lambda key, run_id: note_run(storage, key, run_id))
    for trial in trials:
        tracker.log(trial.key, flatness[trial.key].metrics(), trial.epochs)
    tracker.end_study("FINISHED")
    if kept := tracker.close(60):
        say(f"{kept} events could not be delivered to {study.tracking_uri}; they are kept, and the next command "
            "delivers them.")
        return
    from mlflow import MlflowClient

    MlflowClient(study.tracking_uri).log_artifacts(study.mlflow_run_id, str(folder), folder.relative_to(
        study.home.study(study.name)).as_posix())


def _surfaces(folder: Path, plan: Plan) -> dict[str, Any]:
    """Loss surfaces by optimizer: rows of x, y, loss."""
    if plan.cheap:
        return {}
    return {trial.optimizer: json.loads(_surface_file(folder, trial, plan.grid).read_text())
            for trial in _best_of_each(plan.trials)}


def _file(folder: Path, trial: Trial) -> Path:
    return folder / f"{trial.optimizer}-{trial.number}.json"


def _surface_file(folder: Path, trial: Trial, grid: int) -> Path:
    return folder / f"surface-{trial.optimizer}-{trial.number}-{grid}.json"


def _read(file: Path) -> "Flatness":
    from tune_sam.flatness import Flatness

    return Flatness.from_json(json.loads(file.read_text()))


def _write(file: Path, content: Any) -> None:
    """Whole or not at all."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content))
    os.replace(unfinished, file)
