"""The sections of a study's page: sentences, tables and figures, and what they rest on."""

import json
import logging
import math
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.errors import Refused
from tune_sam.evaluation.analysis import GRID
from tune_sam.evaluation.refit import Refit, test_results, tested_refit
from tune_sam.evaluation.statistics import Correlation, Mean, difference_in_words, with_interval
from tune_sam.provenance import versions
from tune_sam.reporting.reference import AS_REPORTED, TABLE_ONE
from tune_sam.space import Range, Space, Values, ends
from tune_sam.study.records import Study, Trial, refits_of, studies
from tune_sam.study.settings import REFIT, STATES, now
from tune_sam.tracking import runs
from tune_sam.tuning.recipe import PARAMETERS, as_yaml
from tune_sam.workload import find_workload

if TYPE_CHECKING:
    from pandas import DataFrame, Series


log = logging.getLogger(__name__)

EDGE = 0.05
"""A best value nearer to an end of its range than this part of the range's logarithm lies at the edge."""

CAPTIONS = {
    "over-rho": "Validation accuracy and loss over ρ, a point for each complete trial. An optimizer that ρ helps rises "
    "above the base optimizer's line somewhere; a level cloud says that ρ does not matter here.",
    "importance": "The share of the variance of what trials are judged by (of two objectives the accuracy) that each "
    "hyperparameter explains, by fANOVA. Where the learning rate has most of it, ρ is a detail.",
    "pareto": "Validation accuracy against the sharpness of the validation loss, a point for each complete trial. The "
    "line is the Pareto front: no trial lies above it and to its left. A network that has learned nothing is "
    "flat too, so read the front from its right end.",
    "lr-rho": "Validation accuracy over learning rate and ρ. See whether the best trials share one ρ, or whether the "
    "best ρ moves with the learning rate.",
    "parallel-coordinates": "Each complete trial as a line through its hyperparameters to its accuracy. The strong "
    "lines are the best trials: where they run together, the search has found a region.",
    "learning-curves": "Loss and accuracy of the best trial of each optimizer over its epochs. A validation loss that "
    "rises while the training loss falls is overfitting.",
    "gap-flatness": "The generalisation gap against each measure of flatness. If flat minima generalise better, "
    "points rise to the right; τ says how well they do.",
    "batch-size": "Curvature, sharpness and gap over the batch size, with means and 95 % intervals. Large batches are "
    "said to find sharper minima: the lines would rise. Where the points are a search's trials, learning "
    "rate and ρ vary too, and nothing can be said about a cause.",
    "surfaces": "The loss around one network of each optimizer, the first of its best configuration, along the same "
    "two filter-normalised random directions and at the same scale. A wider bowl is a flatter minimum, in "
    "these two directions only.",
    "contours": "The same surfaces from above, with one colour scale for all.",
    "lines": "The loss on the straight line from the first optimizer's minimum to the others'. A barrier says that the "
    "minima lie in different valleys.",
    "spectral-density": "The density of the Hessian's eigenvalues. A flatter minimum has a shorter tail to the right; "
    "what lies left of zero is negative curvature.",
}
"""What to see in each figure, by its file's name, in the order of the page."""

CHOOSING = ("over-rho", "pareto", "importance", "lr-rho", "parallel-coordinates", "learning-curves")

FLATNESS = ("gap-flatness",)

BATCH_SIZE = ("batch-size",)

LANDSCAPE = ("surfaces", "contours", "lines", "spectral-density")


@dataclass(frozen=True)
class Table:
    """Cells as they are read; an empty one was not measured."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG, its data as CSV beside it, and what to see in it."""

    name: str
    caption: str
    png: Path

    @property
    def csv(self) -> Path:
        return self.png.with_suffix(".csv")


@dataclass(frozen=True)
class Section:
    """A heading, and below it sentences, tables, figures and text that is to be copied, in this order."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class _Measured:
    """One folder of what `analyze` wrote: its figures, the table of its numbers, and what they rest on."""

    folder: Path
    about: dict[str, Any]

    def table(self) -> "DataFrame":
        import pandas

        return pandas.read_csv(self.file("flatness.csv"))

    def file(self, name: str) -> Path:
        """One of its files.

        Raises:
            Refused: it is gone.
        """
        file = self.folder / name
        if not file.exists():
            raise Refused(f"{file} is gone, which the page shows; {self.command} makes it again.")
        return file

    @property
    def figures(self) -> list[str]:
        """The names of those that it drew.

        Raises:
            Refused: an earlier version of this package measured it, which did not say.
        """
        if "figures" not in self.about:
            raise Refused(
                f"{self.folder} is of an earlier version of tune_sam, whose pictures the page cannot tell; "
                f"{self.command} draws them anew from what was measured."
            )
        return list(self.about["figures"])

    @property
    def command(self) -> str:
        """What measured it, without what are defaults."""
        about = self.about
        of = about["study"].get("refit_of") or about["study"]["name"]
        words = [
            f"tune-sam analyze {of} --sample {about['samples']}",
            *(f"--optimizer {optimizer}" for optimizer in about.get("optimizers", ())),
        ]
        if about.get("every"):
            return " ".join([*words, "--all"])
        words += [f"--top {about['top']}"] if about.get("top", 1) > 1 else []
        words += [f"--grid {about['surface']['grid']}"] if about["surface"]["grid"] != GRID else []
        return " ".join(words)


def sections_of(study: Study, refit: Refit | None, best: Sequence[Trial], folder: Path) -> list[Section]:
    from tune_sam.reporting.plots import draw_trainings

    close, wide = _measurements(study, refit)
    if best:
        draw_trainings(study, best, folder / "figures")
    of_sizes = close if refit and refit.choice.each_batch_size else wide or close
    for measured, names in ((wide or close, FLATNESS), (of_sizes, BATCH_SIZE), (close, LANDSCAPE)):
        if measured:
            _take(measured, names, folder / "figures")
    return [
        _answer(study, refit),
        _table_one(study, refit, close),
        _searched(study),
        _chosen(study, best, folder),
        _flatness(study, wide or close, folder),
        *_batch_sizes(refit, of_sizes, study, folder),
        Section("The loss around the minima", (_rests_on(close, study),), pictures=_pictures(folder, LANDSCAPE)),
        _again(study, refit, close, wide, folder),
    ]


def _answer(study: Study, refit: Refit | None) -> Section:
    """What the paired differences show, or what is left to do before anything can be said."""
    if refit is None:
        return Section(
            "Does it help?",
            (
                "This cannot be said yet: the best of a search is chosen among many and looks better than it is. "
                f"tune-sam refit {study.name} trains each optimizer's best configuration with several seeds and tests "
                "each.",
            ),
        )
    sentences = [
        f"On the test part, over {len(refit.seeds)} seeds that all rows share, in percentage points of "
        "accuracy; each p-value is of one comparison alone."
    ]
    if not refit.references:
        sentences.append("The base optimizer was not searched, so there is nothing to compare with.")
    if refit.left_out:
        which = "; ".join(f"{key} {how}" for key, how in refit.left_out.items())
        sentences.append(
            "Left out are the seeds of trainings that did not end complete, which may favour the "
            f"optimizer that they are of: {which}."
        )
    for reference in refit.references:
        sentences += [
            f"{row} against {reference}: {difference_in_words(difference)}"
            for row, difference in refit.differences(reference).items()
        ]
    if (readings := sum(bool(test_results(other)) for other in refits_of(study, REFIT))) > 1:
        sentences.append(
            f"{readings} refits of this study have been tested, of which this page shows one; if it was "
            "chosen by what they gave, then the test part has chosen."
        )
    return Section("Does it help?", tuple(sentences))


def _table_one(study: Study, refit: Refit | None, close: _Measured | None) -> Section:
    """The report's table again: ours, where there is a refit, and the report's own rows.

    A study of one of its data sets has beside it what else this home has of the table: the latest refit of each other.
    """
    own = study.settings.dataset
    rows = _our_rows(refit, close)
    theirs = _their_rows(own)
    others: list[tuple[str, ...]] = []
    elsewhere = []
    for dataset in AS_REPORTED if own in AS_REPORTED else ():
        if dataset != own:
            other, of_other = _latest(study, dataset)
            of_them = _rows_elsewhere(other, of_other) if other and of_other else []
            others += [(f"{dataset}: {row[0]}", *row[1:]) for row in (*of_them, *_their_rows(dataset))]
            elsewhere += [
                f"our rows of {dataset} are of study {other.name}, {_trained_how(of_other)}"
                if other and of_other
                else f"{dataset} was not run here"
            ]
    sentences = [f"Our rows are of {_trained_how(refit)}."] if refit else []
    sentences += [
        "Losses in nats, accuracies in %, means with 95 % intervals over the seeds; the gap is test minus "
        "training loss. Gradients are of one sample each, and SAM takes two of each in an epoch. The ratio is "
        "no mean: it is that of the network that was measured, or the lowest and the highest of several."
    ]
    if theirs:
        sentences.append(
            "The report's rows are one seed each, with ρ chosen by test accuracy, and its ratio is of one "
            "training batch; its SAM is our asam-all."
        )
    if elsewhere:
        sentences.append(f"Of the report's other data sets, {' and '.join(elsewhere)}.")
    header = ("", "train loss", "train acc.", "test loss", "test acc.", "gap", "|λ_max/λ_min|", "seconds", "gradients")
    found = (*rows, *theirs, *others)
    return Section("Table I again", tuple(sentences), (Table(header, found),) if found else ())


def _our_rows(refit: Refit | None, close: _Measured | None) -> list[tuple[str, ...]]:
    if refit is None:
        return []
    ratios = _ratios(refit, close)
    return [
        (
            row,
            *(with_interval(means[name], unit, decimals) for name, unit, decimals in TABLE_ONE),
            ratios.get(row, ""),
            f"{means['seconds'].value:.0f}",
            f"{means['gradients'].value:,.0f}",
        )
        for row, means in refit.summary().items()
    ]


def _rows_elsewhere(study: Study, refit: Refit) -> list[tuple[str, ...]]:
    """Rows of another study, whose page this is not: what is gone of its measurements is left out."""
    try:
        return _our_rows(refit, _measurements(study, refit)[0])
    except Refused as error:
        log.warning("The page lacks ratios: %s", error)
        return _our_rows(refit, None)


def _trained_how(refit: Refit) -> str:
    """The network, and how far it was trained."""
    settings = refit.studies[0].settings
    preset = f" (preset {settings.preset})" if settings.preset else ""
    return (
        f"{settings.workload}{preset}, trained on {refit.samples:,} samples for {refit.epochs} epochs, or twice as "
        "many where it says so"
    )


def means(refit: Refit) -> "DataFrame":
    """A row for each row of the refit: of each column the mean over the seeds and half of its 95 % interval."""
    import pandas

    return pandas.DataFrame(
        [
            {
                "row": row,
                "seeds": len(refit.seeds),
                **{
                    f"{name}{suffix}": part
                    for name, mean in means.items()
                    for suffix, part in (("", mean.value), ("_half", mean.half))
                },
            }
            for row, means in refit.summary().items()
        ]
    )


def _their_rows(dataset: str) -> list[tuple[str, ...]]:
    return [
        (
            f"the report's {name}",
            f"{train_loss:.4f}",
            f"{train:.2f}",
            f"{test_loss:.4f}",
            f"{test:.2f}",
            f"{test_loss - train_loss:.4f}",
            f"{ratio:g}",
            "",
            "",
        )
        for name, train_loss, train, test_loss, test, ratio in AS_REPORTED.get(dataset, ())
    ]


def _latest(study: Study, dataset: str) -> tuple[Study, Refit] | tuple[None, None]:
    """The newest search in the study's home of another data set that has a tested refit, and that."""
    for other in reversed(studies(study.home)):
        if other.settings.dataset == dataset and (found := tested_refit(other)):
            return other, found
    return None, None


def _ratios(refit: Refit, close: _Measured | None) -> dict[str, str]:
    """|λ_max/λ_min| of a row's networks: their range, of those that were measured and are resolved."""
    found: dict[str, str] = {}
    if close is None:
        return found
    rows = refit.table().set_index("key")["row"]
    measured = close.table().set_index("key")
    measured = measured[measured.index.isin(rows.index) & measured["ratio_resolved"]]
    for row, part in measured.groupby(rows.loc[measured.index]):
        low, high = part["ratio"].min(), part["ratio"].max()
        found[str(row)] = f"{low:.4g}" if len(part) == 1 else f"{low:.4g} to {high:.4g}"
    return found


def _searched(study: Study) -> Section:
    """The ranges, the budget, and how trials ended."""
    settings = study.settings
    counts = {optimizer: [trial.state for trial in study.records(optimizer)] for optimizer in settings.optimizers}
    seen = [state for state in STATES if any(state in states for states in counts.values())]
    rows = tuple(
        (
            optimizer,
            *_tried(space, settings.sampler == "grid"),
            str(settings.budget(optimizer)),
            *(str(counts[optimizer].count(state) or "") for state in seen),
        )
        for optimizer, space in settings.spaces.items()
    )
    ended = [state for states in counts.values() for state in states if state not in ("waiting", "running")]
    shares = ", ".join(f"{100 * ended.count(state) / len(ended):.0f} % {state}" for state in STATES if state in ended)
    if not ended:
        return Section(
            "What was searched",
            ("Nothing: the refit trains the points of a grid as they are.",),
            (Table(("optimizer", "ρ", "learning rate", "batch size", "points"), tuple(row[:5] for row in rows)),),
        )
    how = (
        "the points of the grid alone"
        if settings.sampler == "grid"
        else "Optuna's TPE sampler, after the grid where there is one"
    )
    stop = "ASHA stops the worse half at each rung" if settings.scheduler == "asha" else "no trial is stopped early"
    part = f", on {settings.train_subset:,} training samples" if settings.train_subset else ""
    return Section(
        "What was searched",
        (
            f"{settings.workload} on {settings.dataset}{part}, {settings.epochs} epochs a trial, by {how}; {stop}. "
            f"A trial is judged by the {' and the '.join(settings.directions)} of its last epoch.",
            f"Of {len(ended)} trials that ended: {shares}.",
        ),
        (Table(("optimizer", "ρ", "learning rate", "batch size", "budget", *seen), rows),),
    )


def _tried(space: Space, alone: bool) -> tuple[str, ...]:
    """ρ, learning rate and batch size: their ranges, or the values of a grid that is tried alone."""
    if not alone:
        return str(space.rho or ""), str(space.lr), ", ".join(map(str, space.batch_size))
    values = [dict.fromkeys(point[name] for point in space.grid if name in point) for name in PARAMETERS]
    return tuple(", ".join(f"{value:.3g}" for value in one) for one in values)


def _chosen(study: Study, best: Sequence[Trial], folder: Path) -> Section:
    """The best of each optimizer, and whether it lies at the edge of what was searched."""
    if not best:
        return Section("What the search chose", ("Nothing was searched.",))
    rows, edges, judged_by = [], [], study.settings.judged_by
    for trial in best:
        assert trial.config
        config, space = trial.config, study.settings.spaces[trial.optimizer]
        rows.append(
            (
                trial.optimizer,
                str(trial.number),
                f"{config.rho:.4g}" if config.rho is not None else "",
                f"{config.lr:.4g}",
                str(config.batch_size),
                f"{trial.value:.4f}",
                f"{trial.seconds:.0f}",
            )
        )
        tried = [point for point in space.grid if study.settings.sampler == "grid"]
        for name, key, value, among in (
            ("ρ", "rho", config.rho, space.rho),
            ("learning rate", "lr", config.lr, space.lr),
        ):
            if tried and among:  # of values, the edge is the first or the last of them
                among = ends(Values(tuple(sorted(point[key] for point in tried))))
            if value is not None and among and (end := at_edge(value, among)):
                edges.append(
                    f"{trial.optimizer}: the best {name}, {value:.4g}, lies at the {end} edge of {among}; the "
                    "optimum may lie beyond, so search a wider range."
                )
    return Section(
        "What the search chose",
        (
            "By the validation part, one training each: a search shows where to look, not which optimizer is better.",
            *(edges or ["No best value lies at the edge of its range."]),
        ),
        (
            Table(("optimizer", "trial", "ρ", "learning rate", "batch size", judged_by, "seconds"), tuple(rows)),
            *_fronts(study),
        ),
        _pictures(folder, CHOOSING),
    )


def _fronts(study: Study) -> tuple[Table, ...]:
    """The Pareto front of a search with two objectives."""
    if len(study.settings.directions) < 2:
        return ()
    rows = [
        (
            trial.optimizer,
            str(trial.number),
            f"{config.rho:.4g}" if config.rho is not None else "",
            f"{config.lr:.4g}",
            str(config.batch_size),
            *(f"{trial.metrics[name]:.4f}" for name in study.settings.directions),
        )
        for trial in study.pareto()
        if (config := trial.config)
    ]
    return (
        Table(
            ("on the Pareto front", "trial", "ρ", "learning rate", "batch size", *study.settings.directions),
            tuple(rows),
        ),
    )


def at_edge(value: float, among: Range) -> str:
    """`lower` or `upper`, if the value lies at that end of a log-uniform range; empty otherwise, or without a width."""
    if among.high <= among.low:
        return ""
    place = math.log(value / among.low) / math.log(among.high / among.low)
    return "lower" if place < EDGE else "upper" if place > 1 - EDGE else ""


def _flatness(study: Study, measured: _Measured | None, folder: Path) -> Section:
    """Kendall's τ between each measure and the gap, over all networks that were analysed and are resolved."""
    title = "Do flatter minima generalise better?"
    if measured is None:
        return Section(title, (f"Not measured; tune-sam analyze {study.name} --all measures every complete trial.",))
    from tune_sam.reporting.plots import MEASURES

    table, rows = measured.table(), []
    for name, what in MEASURES.items():
        if name in table:
            some = table[table[f"{name}_resolved"].astype(bool)].dropna(subset=[name, "gap/loss"])
            found = Correlation.of(some[name].tolist(), some["gap/loss"].tolist())
            rows.append(
                (what, f"{found.tau:+.2f}", found.interval, f"{found.p:.2g}", str(found.n))
                if found
                else (what, "", "", "", str(len(some)))
            )
    return Section(
        title,
        (
            _rests_on(measured, study),
            "Kendall's τ between a measure and the gap in the loss is above 0 where sharper minima have wider gaps. "
            "Its interval is a bootstrap over the networks, of ten or more; networks of one search are not independent "
            "of each other, so both "
            "are a description rather than a test.",
        ),
        (Table(("measure", "τ", "95 % interval", "p", "networks"), tuple(rows)),),
        _pictures(folder, FLATNESS),
    )


def _batch_sizes(refit: Refit | None, measured: _Measured | None, study: Study, folder: Path) -> list[Section]:
    """Curvature, sharpness and gap over the batch size; a table where a refit has several seeds of each."""
    pictures = _pictures(folder, BATCH_SIZE)
    if not pictures or measured is None:
        return []
    from pandas import Categorical, isnull

    tables: tuple[Table, ...] = ()
    sentences = [_rests_on(measured, study)]
    if refit and refit.choice.each_batch_size and measured.about["study"]["name"] == refit.studies[0].name:
        rows = []
        sentences.append(
            "The learning rate and ρ of each cell are those that validation chose among the search's "
            "trials; means over the seeds with 95 % intervals."
        )
        table = measured.table()
        table["optimizer"] = Categorical(table["optimizer"], study.settings.optimizers)
        for (size, optimizer), part in table.groupby(["batch_size", "optimizer"], observed=True):
            lr, rho = part["lr"].iloc[0], part["rho"].iloc[0]
            cells = (
                _mean_cell(part[part[f"{name}_resolved"]][name], decimals)
                for name, decimals in (("lambda_max", 1), ("worst_case", 3))
            )
            rows.append(
                (
                    str(size),
                    str(optimizer),
                    "" if isnull(rho) else f"{rho:g}",
                    f"{lr:g}",
                    *cells,
                    _mean_cell(part["gap/loss"], 4),
                    _mean_cell(100 * part["test/accuracy"], 2),
                    str(part["seed"].nunique()),
                )
            )
        header = ("batch size", "optimizer", "ρ", "learning rate", "λ_max", "worst case", "gap", "test acc.", "seeds")
        tables = (Table(header, tuple(rows)),)
        measured_cells = {(row[0], row[1]) for row in rows}
        missing = [
            f"{optimizer} at {size}"
            for optimizer, space in study.settings.spaces.items()
            for size in space.batch_size
            if (str(size), optimizer) not in measured_cells
        ]
        if missing:
            sentences.append(f"Not measured, or without a complete trial: {', '.join(missing)}.")
    return [Section("Batch size and flatness", tuple(sentences), tables, pictures)]


def _mean_cell(values: "Series", decimals: int) -> str:
    """A mean with its interval; empty if there is no value."""
    return with_interval(Mean.of(values.tolist()), 1, decimals) if len(values) else ""


def _rests_on(measured: _Measured | None, study: Study) -> str:
    if measured is None:
        return f"Not measured; tune-sam analyze {study.name} measures a network of each optimizer."
    about = measured.about
    return (
        f"Measured on {about['samples']:,} samples of the {about['of']}, in batches of {about['batch']}, for the "
        f"networks of study {about['study']['name']}."
    )


def _computed(study: Study, refit: Refit | None) -> str:
    """At which precision the trainings were."""
    trials = [trial for one in (study, *(refit.studies if refit else ())) for trial in one.records()]
    precisions = sorted({trial.precision for trial in trials if trial.precision})
    return f"Passes were in {' and '.join(precisions)}." if precisions else ""


def _again(study: Study, refit: Refit | None, close: _Measured | None, wide: _Measured | None, folder: Path) -> Section:
    """Versions, seeds, and the commands that make all of it again: those of the stages that there are."""
    settings = study.settings
    (folder / "study.yaml").write_text(as_yaml(settings, study.home))
    searched = bool(study.records())
    commands = [f"tune-sam search {settings.workload} --config study.yaml --name {study.name}"] if searched else []
    seeds = (
        f"The search's seed is {settings.seed}, and trial number n trains with the seed {settings.seed} + n."
        if searched
        else ""
    )
    if refit:
        seeds_of = ",".join(map(str, refit.seeds)) + "," * (len(refit.seeds) == 1)  # a number alone would be a count
        commands.append(f"{_refit_command(study, refit)} --seeds {seeds_of}")
        seeds += f" The refit's seeds are {', '.join(map(str, refit.seeds))}."
        if refit.stale:
            seeds += " The search has gone on since its refit, whose command would choose other configurations now."
    commands += [*(measured.command for measured in (close, wide) if measured), f"tune-sam report {study.name}"]
    sizes = find_workload(settings.workload).datasets[settings.dataset]
    return Section(
        "How to make it again",
        (
            f"The study was made at {study.created}, this page at {now()} on {platform.platform()} with "
            f"{os.cpu_count()} CPUs and Python {platform.python_version()}. Its data are in {study.data}: of "
            f"{settings.dataset}, {settings.train_subset or sizes.train:,} samples train, {sizes.validation:,} "
            f"validate and {sizes.test:,} are the test part. {_computed(study, refit)}",
            seeds.strip(),
            "study.yaml, beside this page and below, says what the study is.",
        ),
        (_version_table(study),),
        code="\n".join(commands) + "\n\n# study.yaml\n" + (folder / "study.yaml").read_text(),
    )


def _refit_command(study: Study, refit: Refit) -> str:
    """What trained it, without what are defaults."""
    settings, choice = study.settings, refit.choice
    if choice.planned:
        words = [f"tune-sam refit {settings.workload} --config study.yaml --name {study.name}"]
    else:
        words = [
            f"tune-sam refit {study.name}",
            *([f"--top {choice.top}"] if choice.top > 1 else []),
            *(["--each-batch-size"] if choice.each_batch_size else []),
        ]
    words += [f"--epochs {refit.epochs}"] if refit.epochs != settings.epochs else []
    return " ".join(words)


def _version_table(study: Study) -> Table:
    """Of what trained, as MLflow has it, and of what wrote the page."""
    here, trained = versions(), {}
    try:
        trained = runs.tags(study.tracking_uri, study.mlflow_run_id)
    except Refused as error:
        log.warning("The page lacks the versions of the search: %s", error)
    rows = tuple(
        (name.removeprefix("version.").replace("mlflow.source.git.", ""), trained.get(name, ""), version)
        for name, version in here.items()
    )
    return Table(("", "the search", "this page"), rows)


def _measurements(study: Study, refit: Refit | None) -> tuple[_Measured | None, _Measured | None]:
    """The newest analysis of the refit's or else of the best networks, and the newest of all trials."""
    owners = [*([refit.studies[0]] if refit else []), study]
    close = next((found for owner in owners if (found := _newest(owner, every=False))), None)
    return close, _newest(study, every=True)


def _newest(study: Study, *, every: bool) -> _Measured | None:
    files = [
        file
        for file in (study.home.study(study.name) / "flatness").glob("*/analysis.json")
        if not file.parent.name.endswith(".unfinished") and file.parent.name.startswith("all-") == every
    ]
    if not files:
        return None
    newest = max(files, key=lambda file: file.stat().st_mtime)
    return _Measured(newest.parent, json.loads(newest.read_text()))


def _take(measured: _Measured, names: Sequence[str], into: Path) -> None:
    """Copy the figures that an analysis drew, with their data."""
    for name in names:
        if name in measured.figures:
            for file in (f"{name}.png", f"{name}.csv"):
                shutil.copyfile(measured.file(file), into / file)


def _pictures(folder: Path, names: Sequence[str]) -> tuple[Picture, ...]:
    files = ((name, folder / "figures" / f"{name}.png") for name in names)
    return tuple(Picture(name, CAPTIONS[name], file) for name, file in files if file.exists())
