"""Refits: the best configurations of a study, trained again with several seeds, and tested once."""

import logging
import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.cluster.data import data_folder, ensure_data
from tune_sam.cluster.executor import Executor
from tune_sam.cluster.tasks import Listener, Task, has_result, prepare_worker, result_of, run_tasks
from tune_sam.display import html_table
from tune_sam.errors import NothingComplete, Refused, masked
from tune_sam.evaluation.selection import (
    Choice,
    configurations,
    control_points,
    refit_settings,
    seeds_in,
    were_given,
)
from tune_sam.evaluation.statistics import Mean, with_interval
from tune_sam.scores import written
from tune_sam.space import Configuration, Point, text_of_value
from tune_sam.study.lock import study_lock
from tune_sam.study.patience import patiently
from tune_sam.study.records import Study, Trial, load, refits_of, study_names
from tune_sam.study.settings import Kind, StudySettings
from tune_sam.tracking.client import Away
from tune_sam.tuning.plan import create
from tune_sam.workload import DataSet, Workload, known_workload

if TYPE_CHECKING:
    from pandas import DataFrame

    from tune_sam.cluster.sharing import Shared

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Refit:
    """Trainings of chosen configurations with several seeds each, and what they show.

    Attributes:
        of: the search whose configurations they are.
        studies: the study of the refit; then, if the base optimizer was searched, that of the equal-compute baseline;
            then that of the matched controls, if there are any.
        tests: each training's results on the test set, by its key.
        seeds: the same for all configurations.
        undelivered: why MLflow does not have the test results; empty if it has.
    """

    of: Study
    studies: tuple[Study, ...]
    tests: dict[str, dict[str, float]]
    seeds: tuple[int, ...]
    undelivered: str

    def __repr__(self) -> str:
        return f"<Refit {self._in_words()}>"

    def _repr_html_(self) -> str:
        score, how = self.score, written(self.score)
        columns = ("row", f"test {score}{how.unit}", "test loss", "gap (loss)", "seconds")
        rows = [
            (
                row,
                with_interval(means[f"test/{score}"], how.factor, how.decimals),
                with_interval(means["test/loss"], 1, 3),
                with_interval(means["gap/loss"], 1, 3),
                f"{means['seconds'].value:.0f}",
            )
            for row, means in self.summary().items()
        ]
        return html_table(f"Refit {self._in_words()}, means with 95 % intervals", columns, rows)

    def _in_words(self) -> str:
        return f"of {self.of.name}: {len(self.tests)} trainings tested, seeds {', '.join(map(str, self.seeds))}"

    def table(self) -> "DataFrame":
        """Tabulate a row for each training: what was trained, its losses and accuracies, gaps, and cost.

        `test/nll` is the negative log-likelihood in nats, without the loss's smoothing, and `test/ece` the expected
        calibration error, 0 to 1; trainings that an earlier release tested have neither.

        `row` names what is compared: an optimizer with its configuration, or the base optimizer at equal compute or as
        a matched control. `kind` is that of its study: `refit`, `equal-compute` or `control`. A row and its matched
        control agree in `matched`, the base optimizer's configuration that both have but for the ascent.
        `gradients` counts gradients of single samples, whose cost does not depend on the batch size; SAM takes two of
        each sample in an epoch. `base_epochs` are those for which the base optimizer costs what the row costs.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> "DataFrame":
        """The table, read once: what was tested does not change."""
        import pandas

        table = pandas.DataFrame([row for study in self.studies for row in self._rows(study, self._digits)])
        if self.choice.each_batch_size:  # those that are compared stand together
            return table.sort_values(["epochs", "batch_size"], kind="stable", ignore_index=True)
        return table

    @cached_property
    def _digits(self) -> int:
        """The significant digits with which rows are named."""
        return significant_digits([trial.config for study in self.studies for trial in study.records() if trial.config])

    @property
    def best_rows(self) -> dict[str, str]:
        """The row of each optimizer's best configuration by validation; without those of which nothing chose one.

        Of a grid, whose points were given, an optimizer has one if it has one point alone.
        """
        return {
            optimizer: row_name(Configuration.at(optimizer, point), self._digits)
            for optimizer, points in configurations(self.studies[0].settings).items()
            for point in self.choice.best_of(points)
        }

    def summary(self) -> dict[str, dict[str, Mean]]:
        """Average each numeric column of :meth:`table` over the seeds, with its interval, by `row`."""
        table = self.table()
        columns = [name for name in table if name.startswith(("train/", "test/", "gap/")) or name in COSTS]
        return {
            str(row): {name: Mean.of(part[name].dropna().tolist()) for name in columns if part[name].notna().any()}
            for row, part in table.groupby("row", sort=False)
        }

    @property
    def epochs(self) -> int:
        """The epochs of each training but those at equal compute."""
        return self.studies[0].settings.epochs

    @property
    def more(self) -> list[str]:
        """The names of the further hyperparameters that some row has, sorted, which are columns of the table, too."""
        return sorted({name for study in self.studies for name in study.settings.more})

    @property
    def score(self) -> str:
        """The metric that rows are compared in, such as `accuracy`."""
        return self.of.settings.score

    @property
    def choice(self) -> Choice:
        """Which configurations of the search were trained."""
        return Choice(**(self.studies[0].settings.choice or {}))

    @property
    def listed(self) -> str:
        """The seeds as `--seeds` reads them; a number alone would be a count."""
        return ",".join(map(str, self.seeds)) + "," * (len(self.seeds) == 1)

    @property
    def command(self) -> str:
        """Compose the command that trains it on, without its seeds and without options that have their defaults."""
        choice = self.choice
        if choice.planned and not were_given(self.of):  # by its name alone, the best of the search would be trained
            return self.command_anew
        words = [
            *([f"--top {choice.top}"] if choice.top > 1 else []),
            *(["--each-batch-size"] if choice.each_batch_size else []),
        ]
        return self.of.command("refit", *words, *self._epochs)

    @property
    def command_anew(self) -> str:
        """Compose the command that trains it in a home that has not its study: of a grid by the page's `study.yaml`."""
        if not self.choice.planned:
            return self.command
        words = [f"tune-sam refit {self.of.settings.workload} --config study.yaml --name {self.of.name}"]
        return " ".join([*words, *self._epochs])

    @property
    def _epochs(self) -> list[str]:
        return [f"--epochs {self.epochs}"] if self.epochs != self.of.settings.epochs else []

    @property
    def stale(self) -> bool:
        """Whether the search was resumed since, so that the same choice would be other configurations now."""
        return not self.choice.planned and self._chosen_now != configurations(self.studies[0].settings)

    @property
    def earlier(self) -> list[str]:
        """The rows of configurations that the same choice would not have now, for the search was resumed since."""
        if self.choice.planned:
            return []  # what was given stays
        now = self._chosen_now
        return [
            row_name(Configuration.at(optimizer, point), self._digits)
            for optimizer, points in configurations(self.studies[0].settings).items()
            for point in points
            if point not in now.get(optimizer, [])
        ]

    @property
    def _chosen_now(self) -> dict[str, list[Point]]:
        chosen = self.choice.of_all(self.of)
        return configurations(refit_settings(self.of, "refit", self.epochs, chosen, self.seeds, self.choice))

    @property
    def samples(self) -> int:
        """The number of samples that each training had."""
        return _trained_samples(self.studies[0].settings)

    @property
    def wrong_labels(self) -> float:
        """The share of the samples whose labels `--label-noise` replaced; those of the validation split are right."""
        settings = self.studies[0].settings
        right = _sizes(settings).validation if settings.together else 0
        return (settings.label_noise or 0) * (1 - right / self.samples)

    @property
    def left_out(self) -> dict[str, str]:
        """How trainings ended whose seeds are left out, because not every row has them complete; by key.

        A seed of a matched control, or at equal compute, is left out of the comparisons with that alone.
        """
        return {
            trial.key: how
            for study in self.studies
            for trial in study.records()
            if _has_seed(trial, seeds_in(self.studies[0].settings))
            if trial.key not in self.tests and (how := _how_ended(study, trial))
        }

    @property
    def controls(self) -> Study | None:
        """The study of the matched controls; None if there is none, or nothing of it is tested or diverged."""
        return next((study for study in self.studies if study.settings.kind == "control"), None)

    @property
    def lacks_controls(self) -> bool:
        """Whether some row has no matched control of some seed, and none that diverged or has no finite result."""
        return self._lacks("control", len(control_points(configurations(self.studies[0].settings))))

    @property
    def lacks_equal_compute(self) -> bool:
        """Whether the base optimizer at equal compute lacks some seed, and has none that diverged or is not finite."""
        settings = self.studies[0].settings
        best = self.choice.best_of(configurations(settings).get("base", []))
        return self._lacks("equal-compute", len(best) * len(equal_epochs(settings)))

    def _lacks(self, kind: Kind, rows: int) -> bool:
        ended = [
            trial
            for study in self.studies
            if study.settings.kind == kind
            for trial in study.records()
            if _has_seed(trial, self.seeds)
            if trial.key in self.tests or trial.state == "diverged" or _how_ended(study, trial).startswith(TESTED)
        ]
        return len(ended) < rows * len(self.seeds)

    def _rows(self, study: Study, digits: int) -> Iterator[dict[str, Any]]:
        kind = study.settings.kind
        samples = _trained_samples(study.settings)
        for trial in study.records():
            if trial.key in self.tests and trial.config and trial.config.seed in self.seeds:
                config, test = trial.config, self.tests[trial.key]
                yield {
                    "row": row_name(config, digits) + self._ending(study),
                    "kind": kind,
                    "matched": row_name(config.matched, EXACT),
                    "optimizer": trial.optimizer,
                    "rho": config.rho,
                    "lr": config.lr,
                    "batch_size": config.batch_size,
                    **config.more,
                    "epochs": trial.epochs,
                    "base_epochs": _base_epochs(study.settings, trial.optimizer),
                    "seed": config.seed,
                    "key": trial.key,
                    "train/loss": trial.metrics["train/loss"],
                    f"train/{self.score}": trial.metrics[f"train/{self.score}"],
                    **scores(study, trial, test),
                    "seconds": trial.seconds,
                    "gradients": study.gradients(trial, samples),
                }

    def _ending(self, study: Study) -> str:
        """End the names of a study's rows; see :data:`ROW_SUFFIX`."""
        times = study.settings.epochs / self.epochs
        at_equal_compute = study.settings.kind == "equal-compute"
        return f" × {times:.3g}" if at_equal_compute and times != 2 else ROW_SUFFIX[study.settings.kind]


COSTS = ("seconds", "gradients")


def _base_epochs(settings: StudySettings, optimizer: str) -> int:
    """Say for how many epochs the base optimizer costs what a refit's training with an optimizer costs."""
    return round(settings.gradients_of(optimizer) * settings.epochs)


def equal_epochs(settings: StudySettings) -> list[int]:
    """List for how many epochs the base optimizer is trained at equal compute, once for each cost, the most first.

    Args:
        settings: of a refit, whose own epochs nothing else is trained for. Beside `base` alone it is trained for twice
            the epochs, which is what SAM costs.
    """
    others = [optimizer for optimizer in settings.optimizers if optimizer != "base"] or ["sam"]
    return sorted({_base_epochs(settings, optimizer) for optimizer in others} - {settings.epochs}, reverse=True)


SUFFIX: dict[Kind, str] = {"refit": "refit", "equal-compute": "twice", "control": "controls"}
"""How the names of a refit's studies end, after the search's."""

ROW_SUFFIX: dict[Kind, str] = {"refit": "", "equal-compute": " twice", "control": " control"}
"""How the names of their rows end, after the configuration's; at equal compute, other than twice as × 1.2."""


def tested_refit(study: Study) -> Refit | None:
    """Find a search's latest refit that is tested, with the seeds that all its rows have; None if there is none.

    Nothing is trained or tested. What it is compared with is in it as far as it is tested.
    """
    found = (_tested(study, latest) for latest in reversed(refits_of(study, "refit")))
    return next((refit for refit in found if refit), None)


def _tested(study: Study, latest: Study) -> Refit | None:
    points, epochs = configurations(latest.settings), latest.settings.epochs
    best = Choice(**(latest.settings.choice or {})).best_of(points.get("base", []))
    alone = latest.settings.train_alone
    equal = [
        other for more in equal_epochs(latest.settings) for other in _of_base(study, "equal-compute", best, more, alone)
    ]
    controls = _of_base(study, "control", control_points(points), epochs, alone)
    tests: dict[str, dict[str, float]] = {}
    made, asked = [], seeds_in(latest.settings)
    for child in (latest, *equal, *controls):  # the others may be of another refit, too, with other seeds
        trials, tested = [trial for trial in child.records() if _has_seed(trial, asked)], _tests_of(child)
        if child is latest or any(trial.key in tested or trial.state == "diverged" for trial in trials):
            made.append(child)
            tests |= {trial.key: tested[trial.key] for trial in trials if trial.key in tested}
    # What it is compared with costs it no seed: each comparison is over the seeds that both have.
    seeds = asked & _seeds_of_all(latest, tests)
    return Refit(study, tuple(made), tests, tuple(sorted(seeds)), "") if seeds else None


def _has_seed(trial: Trial, seeds: Container[int]) -> bool:
    return trial.config is not None and trial.config.seed in seeds


def _tests_of(study: Study) -> dict[str, dict[str, float]]:
    """Read what is tested of a study of a refit, by key, without results of earlier releases that are not finite."""
    files = [(trial, file_of_test(study, trial.optimizer, trial.number)) for trial in study.records()]
    found = {trial.key: result_of(file) for trial, file in files if has_result(file, trial)}
    return {key: test for key, test in found.items() if not _wrong(test)}


def _how_ended(study: Study, trial: Trial) -> str:
    """Say how a training ended that has no test result; empty if it has not ended, or waits for its test."""
    if trial.state != "complete":
        return "" if trial.state == "waiting" and not trial.reason else " ".join(_state(trial))
    file = file_of_test(study, trial.optimizer, trial.number)
    wrong = _wrong(result_of(file)) if has_result(file, trial) else ""
    return wrong and f"{TESTED} {wrong}"


TESTED = "tested, with"
"""What is said first of a training whose test result is not finite."""


def _state(trial: Trial) -> list[str]:
    return [trial.state, *([f"({trial.reason})"] if trial.reason else [])]


def _wrong(test: Mapping[str, float]) -> str:
    """Name a result that is not finite; empty if all are."""
    return next((f"{name} {value}" for name, value in test.items() if not math.isfinite(value)), "")


def _of_base(study: Study, kind: Kind, points: list[Point], epochs: int, alone: bool) -> list[Study]:
    """Find the latest study of a kind that trains the base optimizer with just these points, alone in a list."""
    wanted = {"base": points}, epochs, alone
    return [other for other in refits_of(study, kind) if _trains(other.settings) == wanted][-1:]


def cost_in_words(studies: Sequence[Study], seeds: Sequence[int]) -> str:
    """Say how many trainings of how many epochs a refit consists of, those that are done already included.

    Args:
        studies: of the refit. One that was begun before keeps the seeds that it was asked for then, which are trained
            as well.
        seeds: that are asked for now.
    """
    what: dict[str, str] = {"refit": "the refit", "equal-compute": "at equal compute", "control": "matched controls"}
    parts = []
    for study in studies:
        settings = study.settings
        rows = sum(len(points) for points in configurations(settings).values())
        of_all = seeds_in(settings)
        before = len(of_all.difference(seeds))
        earlier = f", {before} of them asked for before" if before else ""
        without = ", which --no-controls leaves out" if settings.kind == "control" else ""
        parts.append(
            f"{what[settings.kind]} {_many(rows * len(of_all), 'training')} of {_many(settings.epochs, 'epoch')} "
            f"({_many(rows, 'configuration')}, {_many(len(of_all), 'seed')}{earlier}{without})"
        )
    return f"To train: {'; '.join(parts)}."


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _seeds_of_all(study: Study, tested: dict[str, dict[str, float]]) -> set[int]:
    """Find the seeds for which every configuration of a refit is tested."""
    done = Counter(trial.config.seed for trial in study.records() if trial.key in tested and trial.config)
    rows = sum(len(points) for points in configurations(study.settings).values())
    return {seed for seed, count in done.items() if count == rows}


def test_results(study: Study) -> dict[str, dict[str, float]]:
    """Read losses, accuracies and gaps on the test set of a refit's tested trainings, by their keys."""
    tested = _tests_of(study)
    return {trial.key: scores(study, trial, tested[trial.key]) for trial in study.records() if trial.key in tested}


def file_of_test(study: Study, optimizer: str, number: int) -> Path:
    """Name the file with the test results of a training, by its optimizer and its number there."""
    return study.home.study(study.name) / "test" / f"{optimizer}-{number}.json"


def scores(study: Study, trial: Trial, test: dict[str, float]) -> dict[str, float]:
    """Join a training's test results with its gaps in loss and score, which are above 0 if the network overfits."""
    score, better = study.settings.score, 1 if study.settings.score_direction == "maximize" else -1
    return {
        **{f"test/{name}": value for name, value in test.items()},
        "gap/loss": test["loss"] - trial.metrics["train/loss"],
        f"gap/{score}": better * (trial.metrics[f"train/{score}"] - test[score]),
    }


def refit_study(
    study: Study,
    kind: Kind,
    epochs: int,
    chosen: dict[str, list[Configuration]],
    seeds: tuple[int, ...],
    choice: Choice,
    suffix: str = "",
) -> Study:
    """Create the study of a refit, or add seeds to the one that exists.

    Other configurations, as after a resumed search, or other epochs make another study. Its name ends as
    :data:`SUFFIX` says, unless another `suffix` is given. A server of MLflow's that is away is waited for: it was there
    when the search was made, which may have taken days.

    Raises:
        Refused: as for :func:`tune_sam.tuning.plan.create`.
    """
    settings = refit_settings(study, kind, epochs, chosen, seeds, choice)
    for known in refits_of(study, kind):
        before = known.settings
        if _trains(before) == _trains(settings):
            all_seeds = sorted({*seeds_in(before), *seeds})
            return replace(
                known,
                settings=refit_settings(study, kind, epochs, chosen, all_seeds, choice),
                tracking_uri=study.tracking_uri,  # whose logins may be new
                storage=study.storage,
            )
    taken = study_names(study.home)
    end = suffix or SUFFIX[kind]
    numbered = (f"{study.name}.{end}{number if number > 1 else ''}" for number in count(1))
    name = next(name for name in numbered if name not in taken)
    make = partial(create, name, settings, study.home, study.mlflow, study.own_storage)
    return patiently(make, lambda error: isinstance(error, Away), f"MLflow at {masked(study.mlflow)} is away")


def _trains(settings: StudySettings) -> tuple[object, ...]:
    """Give what tells the studies of one kind apart that refits of a search have made."""
    return configurations(settings), settings.epochs, settings.train_alone


def _trained_samples(settings: StudySettings) -> int:
    return settings.trained_samples(_sizes(settings))


def _sizes(settings: StudySettings) -> DataSet:
    return known_workload(settings.workload).datasets[settings.dataset]


def significant_digits(configs: Sequence[Configuration]) -> int:
    """Find how many significant digits, three or more, give different configurations different names."""
    points = {replace(config, seed=0) for config in configs}
    return next(digits for digits in range(3, 18) if len({row_name(point, digits) for point in points}) == len(points))


EXACT = 17
"""Significant digits that tell any two numbers apart."""


def row_name(config: Configuration, digits: int) -> str:
    """Name a configuration, with so many significant digits of its numbers."""
    rho = f" ρ={config.rho:.{digits}g}" if config.rho is not None else ""
    more = "".join(f" {name}={text_of_value(value, digits)}" for name, value in config.more.items())
    return f"{config.optimizer}{rho} lr={config.lr:.{digits}g} batch={config.batch_size}{more}"


AGAIN = "the same command trains it again; or "
"""The way out where a training failed, as with its node; one that diverged would do so again."""


def test_all(
    study: Study, seeds: tuple[int, ...], executor: Executor, listener: Listener
) -> dict[str, dict[str, float]]:
    """Test each training, unless its results are kept from before.

    Of a matched control, and at equal compute, one that diverged, or whose test fails or is not finite, is left out
    with a warning: no refit is lost for what its rows are compared with.

    Raises:
        NothingComplete: another training did not end complete.
        Refused: a test failed.
    """
    asked = [trial for trial in study.records() if trial.config and trial.config.seed in seeds]
    is_reference = study.settings.kind != "refit"
    missing = {trial.key: "diverged" for trial in asked if is_reference and trial.state == "diverged"}
    trials = [trial for trial in asked if trial.key not in missing]
    for trial in trials:
        if trial.value is None:
            raise NothingComplete(
                f"the training {trial.key} is {' '.join(_state(trial))}, so there is no mean over all seeds; "
                f"{AGAIN if trial.state == 'failed' else ''}choose other seeds with --seeds."
            )
    parts = [
        Task(f"{trial.key}, test", trial, file_of_test(study, trial.optimizer, trial.number), _test, (study, trial))
        for trial in trials
    ]
    with study_lock(study.home, study.name):
        failed = run_tasks(
            study,
            parts,
            lambda other_nodes: _test_data(study, other_nodes),
            executor,
            listener,
            "Reading the test set",
        )
    if failed and not is_reference:
        raise Refused("; ".join(f"{what} failed: {reason}" for what, reason in failed.items()))
    missing |= {what.removesuffix(", test"): f"was not tested: {reason}" for what, reason in failed.items()}
    found = {part.trial.key: result_of(part.file) for part in parts if has_result(part.file, part.trial)}
    wrong = {key: _wrong(test) for key, test in found.items() if _wrong(test)}  # as an earlier release kept it
    if wrong and not is_reference:
        which = "; ".join(f"{key} has {what}" for key, what in wrong.items())
        raise Refused(f"tests are not finite, so there is no mean over all seeds ({which}); choose other seeds.")
    for key, what in (missing | {key: f"was {TESTED} {what}" for key, what in wrong.items()}).items():
        role = {"control": "matched control", "equal-compute": "training at equal compute"}[study.settings.kind]
        log.warning("The %s %s %s; its seed is left out of the comparisons with it.", role, key, what)
    return {key: test for key, test in found.items() if key not in wrong}


@contextmanager
def _test_data(study: Study, other_nodes: bool) -> "Iterator[Shared]":
    import torch

    from tune_sam.cluster.sharing import share
    from tune_sam.workload import Splits

    settings = study.settings
    ensure_data(study)
    test = study.workload.read_test(settings.dataset, study.data)
    with share(Splits(test, test.subset(torch.arange(0))), folder=data_folder(study), other_nodes=other_nodes) as data:
        del test
        yield data


def _test(study: Study, trial: Trial, workload: Workload, data: "Shared") -> dict[str, float]:
    """Test a training's network in a worker, at the precision that it was trained with."""
    from tune_sam.trained import tested

    device = prepare_worker(study, workload)
    found = load(trial, workload)
    precision = trial.precision or "fp32"
    return tested(found.model.to(device), found.workload, found.setting, data.splits().train, precision, device)
