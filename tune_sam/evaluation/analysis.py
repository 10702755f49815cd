"""The flatness of a study's networks: measured by tasks, each of whose results is kept."""

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.cluster.connection import check_offer
from tune_sam.cluster.data import ensure_data, shared
from tune_sam.cluster.executor import Executor, RayExecutor
from tune_sam.cluster.pulse import alive
from tune_sam.cluster.tasks import Listener, Task, has_result, made_by, prepare_worker, result_of, run_tasks
from tune_sam.display import html_table
from tune_sam.errors import Refused
from tune_sam.evaluation.refit import test_results, tested_refit
from tune_sam.home import Place
from tune_sam.provenance import versions
from tune_sam.settings import GRID, SAMPLE
from tune_sam.study.lock import study_lock
from tune_sam.study.records import Study, Trial, best_of_each, load, open_study
from tune_sam.tuning.delivery import adopt_epochs, deliver
from tune_sam.workload import Criterion, Workload

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import nn

    from tune_sam.cluster.sharing import Shared
    from tune_sam.flatness import Flatness


log = logging.getLogger(__name__)

SEED = 0
"""Seed of the random directions, and of whatever the measures draw."""

CHUNK = 64
"""Points of a loss surface that one task evaluates."""

LINE = tuple(round(-0.5 + 0.05 * step, 2) for step in range(41))
"""Places on the line between two minima, which lie at 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of a study is measured; see :func:`tune_sam.operations.analyze.analyze`."""

    optimizers: tuple[str, ...] = ()
    top: int | None = None
    sample: int = SAMPLE
    grid: int = GRID
    every: bool = False
    verify: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan(Extent):
    """What is measured.

    A task's result is kept under what it measures, so that any plan can use it. An analysis has a folder of its own.
    """

    study: Study
    trials: tuple[Trial, ...]

    @property
    def path(self) -> str:
        """The folder of the results, below the study's: named after the sample and the options."""
        more = [f"top{self.top}"] * (self.top is not None) + [f"grid{self.grid}"] * (self.grid != GRID)
        return "-".join([f"flatness/{self._of}", *more, *self.optimizers])

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.study.home.study(self.study.name) / self.path

    def number_file(self, trial: Trial) -> Path:
        """Name the file with a trial's numbers."""
        return self._kept(trial.study) / f"{_short(trial)}.json"

    def surface_files(self, trial: Trial) -> list[Path]:
        """Name the files with a surface, which hold :data:`CHUNK` points each.

        The first trial's network determines the directions, so its name is in theirs.
        """
        chunks = math.ceil(self.grid**2 / CHUNK)
        name = f"{_short(trial)}-along-{self._first_for(trial)}-{self.grid}"
        return [self._kept(trial.study) / f"{name}-{chunk}.json" for chunk in range(chunks)]

    def line_file(self, trial: Trial) -> Path:
        """Name the file with the line from the first trial's network to another's.

        An earlier release kept it as `…-from-…`, also where it led to another function of the weights.
        """
        return self._kept(trial.study) / f"{_short(trial)}-line-from-{self._first_for(trial)}.json"

    def check_file(self, trial: Trial) -> Path:
        """Name the file with what PyHessian says about one batch of a trial's network."""
        return self._kept(trial.study) / f"{_short(trial)}-by-pyhessian.json"

    def _first_for(self, trial: Trial) -> str:
        """Name the first trial beside another: a control is beside those of several refits, told by their beginning."""
        first = self.trials[0]
        began = "" if first.study == trial.study else f"-{re.sub('[^0-9]', '', first.started or '')}"
        return f"{_short(first)}{began}"

    @property
    def _of(self) -> str:
        return f"{'all-' if self.every else ''}{self.sample}"

    def _kept(self, study: str) -> Path:
        return self.study.home.study(study) / "flatness" / "parts" / self._of


@dataclass(frozen=True, repr=False)
class Analysis:
    """How flat the networks of a study are.

    Attributes:
        plan: what was measured.
        flatness: of each trial, by its key.
        surfaces: losses at the points of a grid, by optimizer; empty if all trials are measured.
        lines: losses on the lines from the first trial's network to the others', by their optimizers; empty if all
            trials are measured, and without networks of another shape than the first.
        failed: why other trials could not be measured, by their keys.
        undelivered: why MLflow does not have the numbers; empty if it has.
        checks: what PyHessian says about one batch of each optimizer's best network, as
            :meth:`tune_sam.analysis.peer.CrossCheck.to_json` gives it, by the trial's key; empty unless asked for.
    """

    plan: Plan
    flatness: "dict[str, Flatness]"
    surfaces: dict[str, list[float]]
    lines: dict[str, list[float]]
    failed: dict[str, str]
    undelivered: str = ""
    checks: dict[str, dict[str, float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Analysis {self._in_words()}>"

    def _repr_html_(self) -> str:
        columns = list(dict.fromkeys(name for found in self.flatness.values() for name in found.measures))
        rows = [
            (trial.key, *(self.flatness[trial.key].measures.get(name) for name in columns)) for trial in self.trials
        ]
        return html_table(f"Analysis {self._in_words()}", ("trial", *columns), rows)

    def _in_words(self) -> str:
        samples = {found.samples for found in self.flatness.values()}
        return f"of {self.study.name}: {len(self.trials)} trials on {', '.join(map(str, samples))} training samples"

    @property
    def study(self) -> Study:
        """The study whose networks were measured."""
        return self.plan.study

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The measured trials in the order of the study's optimizers, the best of each first.

        Of a refit those of each configuration by seed, and then those of its matched controls, which have a study of
        their own.
        """
        return self.plan.trials

    @property
    def folder(self) -> Path:
        """The folder of the figures, their data and the numbers."""
        return self.plan.folder

    def table(self) -> "DataFrame":
        """Tabulate a row for each trial: its configuration, accuracies and gaps, and each measure.

        A measure has three columns: itself, `…_error` and `…_resolved`. Nothing should be read off a measure that is
        not resolved.
        """
        import pandas

        from tune_sam.flatness import columns

        studies = {name: open_study(name, self.study.home) for name in dict.fromkeys(t.study for t in self.trials)}
        found = pandas.concat([study.trials() for study in studies.values()]).set_index("key", drop=False)
        rows = found.loc[[trial.key for trial in self.trials]].reset_index(drop=True)
        if self.study.settings.kind != "search":  # its gaps are those to the test set
            tested = {key: result for study in studies.values() for key, result in test_results(study).items()}
            rows = rows.merge(
                pandas.DataFrame.from_dict(tested, orient="index"), left_on="key", right_index=True, how="left"
            )
        return rows.merge(columns(self.flatness.values()), on="key")


def _short(trial: Trial) -> str:
    return f"{trial.optimizer}-{trial.number}"


@contextmanager
def measured(
    name: str, home: Place, extent: Extent, address: str | None, executor: Executor | None, listener: Listener
) -> Iterator[Analysis]:
    """Measure a study's networks, and hold the study's lock while the block uses the results.

    Args:
        name, home, address, executor, listener: as for :func:`tune_sam.operations.analyze.analyze`.
        extent: how much is measured.

    Raises:
        Refused: there is no such study, it is in use, or a network cannot be measured; of `every`, if none can.
        NothingComplete: no trial is complete.
    """
    listener.stage("Opening the records")
    study = open_study(name, home)
    study.refuse_unnamed()
    controls: tuple[Study, ...] = ()
    if not extent.every and (refit := tested_refit(study)):
        study, controls = refit.studies[0], tuple(one for one in refit.studies if one.settings.kind == "control")
    check_offer(study.settings.cpus_per_trial, study.settings.gpu_fraction or 0, address)
    _chosen(study, controls, extent)  # refuses what there is not, before MLflow is waited for
    with ExitStack() as locks:
        for one in (study, *controls):
            locks.enter_context(study_lock(one.home, one.name))
            deliver(one, patience=5)  # trials that were not delivered to MLflow have no run yet
        adopt_epochs(study)  # the learning curves of release 0.1
        ensure_data(study)
        plan = Plan(**asdict(extent), study=study, trials=_chosen(study, controls, extent))
        failed = run_tasks(
            study,
            _tasks(plan),
            lambda other_nodes: shared(study, other_nodes, extent.sample),
            executor or RayExecutor(address),
            listener,
            "Measuring flatness",
        )
        kept = tuple(trial for trial in plan.trials if trial.key not in failed)
        # Where a cross-check fails, what it was to check is still given.
        broken = failed.keys() - {_check_of(trial) for trial in plan.trials}
        if broken and not (extent.every and kept):
            what, reason = next((what, reason) for what, reason in failed.items() if what in broken)
            raise Refused(f"{what} cannot be measured: {reason}")
        yield _read(replace(plan, trials=kept), failed)


def _chosen(study: Study, controls: Sequence[Study], extent: Extent) -> tuple[Trial, ...]:
    """Choose the trials that are measured.

    Of a search those are the best `top` of each optimizer, by default one. Of a refit they are the first `top` seeds of
    each configuration, by default all, and the same of its controls unless only other optimizers are asked for.
    """
    found: list[Trial] = []
    tested = {} if study.settings.kind == "search" else test_results(study)
    seeds = sorted({trial.config.seed for trial in study.records() if trial.config and trial.key in tested})[
        : extent.top
    ]
    for optimizer in extent.optimizers or study.settings.optimizers:
        if tested:
            found += _of_seeds(study, optimizer, tested, seeds)
        else:
            found += study.ranked(study.records(optimizer))[: None if extent.every else extent.top or 1]
    for control in controls if "base" in (extent.optimizers or ("base",)) else ():
        found += _of_seeds(control, "base", test_results(control), seeds)
    if not found:
        raise study.nothing_complete(*extent.optimizers)
    return tuple(found)


def _of_seeds(study: Study, optimizer: str, tested: Mapping[str, Any], seeds: Sequence[int]) -> list[Trial]:
    """Choose an optimizer's tested trainings with some seeds."""
    return [
        trial
        for trial in study.records(optimizer)
        if trial.config and trial.key in tested and trial.config.seed in seeds
    ]


def _tasks(plan: Plan) -> list[Task]:
    numbers = [
        Task(trial.key, trial, plan.number_file(trial), _flatness, (plan.study, trial, plan.every))
        for trial in plan.trials
    ]
    if plan.verify:
        numbers += [
            Task(_check_of(trial), trial, plan.check_file(trial), _checked, (plan.study, trial))
            for trial in best_of_each(plan.trials)
        ]
    if plan.every:
        return numbers
    surfaces = [
        Task(
            f"{trial.key}, part {index + 1} of its loss surface",
            trial,
            file,
            _losses,
            (plan.study, trial, plan.trials[0], plan.grid, index),
        )
        for trial in best_of_each(plan.trials)
        for index, file in enumerate(plan.surface_files(trial))
    ]
    lines = [
        Task(f"{trial.key}, the line to it", trial, plan.line_file(trial), _line, (plan.study, plan.trials[0], trial))
        for trial in best_of_each(plan.trials)[1:]
    ]
    return numbers + surfaces + lines


def _check_of(trial: Trial) -> str:
    return f"{trial.key}, by PyHessian"


def _flatness(study: Study, trial: Trial, cheap: bool, workload: Workload, data: "Shared") -> dict[str, Any]:
    from tune_sam.flatness import measure

    model, loss, batches = _prepared(study, trial, workload, data)
    assert trial.config
    return measure(trial.key, model, loss, batches, trial.config, cheap=cheap).to_json()


def _checked(study: Study, trial: Trial, workload: Workload, data: "Shared") -> dict[str, float]:
    from tune_sam.analysis.memory import is_shortage
    from tune_sam.analysis.peer import cross_check

    model, loss, batches = _prepared(study, trial, workload, data)
    try:
        return cross_check(model, loss, batches[0]).to_json()
    except Exception as error:
        if isinstance(error, ValueError) or is_shortage(error):
            raise
        # A mistake of another's program takes nothing else with it.
        raise ValueError(f"PyHessian cannot measure it: {type(error).__name__}: {error}") from error


def _losses(
    study: Study, trial: Trial, reference: Trial, side: int, part: int, workload: Workload, data: "Shared"
) -> list[float]:
    """Evaluate the losses at one chunk of a surface's points.

    Where a search has made networks of several shapes, those that the reference's directions do not fit have their own.
    """
    from tune_sam.analysis.landscape import grid, losses, random_directions

    model, loss, batches = _prepared(study, trial, workload, data)
    shared = reference.load_model(workload)
    directions = random_directions(shared if _alike(shared, model) else trial.load_model(workload), SEED)
    points = grid(2, steps=side)[part * CHUNK : (part + 1) * CHUNK]
    return list(map(float, losses(model, loss, batches, directions, points)))


def _line(study: Study, start: Trial, end: Trial, workload: Workload, data: "Shared") -> list[float]:
    """Evaluate the losses on the line from one minimum to another.

    There is no line between networks of different shapes, nor to one that is another function of its weights, as with
    another activation or label smoothing: with the weights at its end, the first network is not the other minimum.
    """
    from tune_sam.analysis.landscape import line_between, losses

    one, other = start.load_model(workload), end.load_model(workload)
    if not _alike(one, other):
        return []
    line = line_between(one, other)
    found = list(map(float, losses(*_prepared(study, start, workload, data), [line], LINE)))
    (there,) = losses(*_prepared(study, end, workload, data), [line], [0.0])
    return found if math.isclose(found[LINE.index(1.0)], there, rel_tol=1e-3, abs_tol=1e-6) else []


def _alike(one: "nn.Module", other: "nn.Module") -> bool:
    """Say whether two networks have the same parameters and buffers, but for their values."""
    shapes = [
        {name: tensor.shape for name, tensor in (*network.named_parameters(), *network.named_buffers())}
        for network in (one, other)
    ]
    return shapes[0] == shapes[1]


def _prepared(study: Study, trial: Trial, workload: Workload, data: "Shared") -> tuple[Any, Any, Any]:
    """Prepare network, loss and batches, on this process's device."""
    from tune_sam.flatness import batch_size, batches_of

    device = prepare_worker(study, workload)
    batches = batches_of(data.splits().train.to(device), batch_size(workload), device)
    found = load(trial, workload)
    return found.model.to(device), _Living(found.workload), batches


class _Living(Criterion):
    """A workload's loss, each call of which is a sign of life."""

    __call__ = alive(Criterion.__call__)


def _read(plan: Plan, failed: dict[str, str]) -> Analysis:
    """Read what the tasks have kept."""
    from tune_sam.flatness import Flatness

    found = {trial.key: Flatness.from_json(result_of(plan.number_file(trial))) for trial in plan.trials}
    best = best_of_each(plan.trials)
    surfaces = (
        {}
        if plan.every
        else {
            trial.optimizer: [loss for file in plan.surface_files(trial) for loss in result_of(file)] for trial in best
        }
    )
    lines = {} if plan.every else {trial.optimizer: result_of(plan.line_file(trial)) for trial in best[1:]}
    # One that is not there has failed, or was of another trial, whose network then could not be measured.
    files = [(trial, plan.check_file(trial)) for trial in best if plan.verify]
    checks = {trial.key: result_of(file) for trial, file in files if has_result(file, trial)}
    between = {optimizer: line for optimizer, line in lines.items() if line}
    return Analysis(plan, found, surfaces, between, failed, checks=checks)


def provenance(analysis: Analysis) -> dict[str, Any]:
    """Say what the numbers rest on."""
    from tune_sam.flatness import COMMON_RHO, SIGMA, batch_size

    plan, found = analysis.plan, analysis.flatness
    settings = plan.study.settings
    some = next(iter(found.values()))
    made, now = {trial.key: made_by(plan.number_file(trial)) for trial in plan.trials}, versions()
    if others := sum(then != now for then in made.values()):
        log.warning(
            "%d of the numbers were measured before, by other versions than these (see analysis.json); to "
            "measure them anew, remove %s.",
            others,
            plan.number_file(plan.trials[0]).parent,
        )
    split = "training and validation splits" if settings.together else "training split"
    return {
        "study": plan.study.to_json(),
        "sample": plan.sample,
        "samples": some.samples,
        "of": split,
        "data": str(plan.study.data),
        "batch": batch_size(plan.study.workload),
        "seed": SEED,
        "rho": COMMON_RHO,
        "sigma": SIGMA,
        "optimizers": plan.optimizers,
        "top": plan.top,
        "every": plan.every,
        "surface": None if plan.every else {"grid": plan.grid, "directions_of": plan.trials[0].key},
        "measured_by": {key: then | {"device": found[key].device} for key, then in made.items()},
    }
