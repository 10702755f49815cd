"""The section with the results on the test set, beside published ones."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.evaluation.claims import OF_OTHER_LOSSES
from tune_sam.evaluation.measured import Measured, measurements
from tune_sam.evaluation.names import names_of, optimizer_names
from tune_sam.evaluation.refit import Refit, tested_refit
from tune_sam.evaluation.statistics import Mean, with_interval
from tune_sam.reporting.published import PublishedStudy, published_studies
from tune_sam.reporting.sections import Cell, Link, Section, Table
from tune_sam.scores import written
from tune_sam.space import cells
from tune_sam.study.records import Study, every_study

if TYPE_CHECKING:
    from pandas import DataFrame, Series


log = logging.getLogger(__name__)


def metrics_of(score: str) -> tuple[tuple[str, str, int, int], ...]:
    """List the columns that are means over the seeds: title, metric, unit and decimals."""
    how, short = written(score), "acc." if score == "accuracy" else score
    return (
        (f"test {short}", f"test/{score}", how.factor, how.decimals),
        ("test loss", "test/loss", 1, 4),
        ("gap", "gap/loss", 1, 4),
        ("NLL", "test/nll", 1, 4),
        ("ECE", "test/ece", 100, 2),
        (f"train {short}", f"train/{score}", how.factor, how.decimals),
        ("train loss", "train/loss", 1, 4),
    )


def results_section(study: Study, refit: Refit | None, close: Measured | None) -> Section:
    """Show the rows of the refit, and published rows of the same data set.

    Where a published study has other data sets, too, their rows follow, with ours of the latest refit in this home.

    Args:
        study: whose page it is.
        refit: its tested refit; None if there is none.
        close: what was measured of the refit's networks, for the ratio that published rows have; None if nothing was.
    """
    own = study.settings.dataset
    published = [
        found for found in published_studies(study.workload) if own in found.rows and study.settings.score == "accuracy"
    ]
    score = study.settings.score
    ours = _our_rows(refit, close if published else None, score)
    rows: list[tuple[Cell, ...]] = [("This study",)] if ours and published else []
    rows += ours
    sentences = [f"Our rows are of {_trained_how(refit)}."] if refit else []
    units = [f"losses in {study.loss_unit}"] if study.loss_unit else []
    units += ["accuracies in %"] if score == "accuracy" else []
    means = f"{', '.join([*units, 'means'])} with 95 % intervals over the seeds"
    sentences.append(f"{means[:1].upper()}{means[1:]}; the gap is test minus training loss.")
    if score == "accuracy" or (refit and "test/nll" in refit.table()):
        sentences[-1] += (
            " NLL is the negative log-likelihood of the test set, without the loss's smoothing, and ECE the expected "
            "calibration error in %, over 15 bins."
        )
    sentences += [OF_OTHER_LOSSES] if refit and _smoothed_otherwise(refit) else []
    for found in published:
        rows += [(_cited(found),), *_published_rows(found, own)]
        sentences.append(
            f"{found.name[:1].upper()}{found.name[1:]} is named in the table. {found.conditions} Our ratio is no mean: "
            "it is that of the network that was measured, or the lowest and the highest of several."
        )
        sentences += chance_in_words(study, refit, found)
        more, sentence = _other_data_sets(study, found)
        rows += more
        sentences += sentence
    header = ("", *(title for title, *_ in metrics_of(score)), "|λ_max/λ_min|")
    tables = [Table(header, tuple(rows)).without_empty_columns()] if rows else []
    return Section("Results on the test set", tuple(sentences), (*tables, *_by_class(refit)))


def _smoothed_otherwise(refit: Refit) -> bool:
    """Whether rows of a refit differ in their label smoothing."""
    table = refit.table()
    return "label_smoothing" in table and table["label_smoothing"].nunique(dropna=False) > 1


def _cited(published: PublishedStudy) -> Cell:
    citation = f"{published.name[:1].upper()}{published.name[1:]}: {published.citation}"
    return Link(citation, published.link) if published.link else citation


def _by_class(refit: Refit | None) -> tuple[Table, ...]:
    """Tabulate the mean F1 of each class; no table where the tests had no classes."""
    if refit is None:
        return ()
    summary, names = refit.summary(), names_of(refit)
    scores = list(dict.fromkeys(name for means in summary.values() for name in means if name.startswith(F1)))
    if not scores:
        return ()
    rows = tuple(
        (
            names[row],
            *(_of_tests(means, name, 100, 1) for name in ("test/macro_f1", *scores)),
        )
        for row, means in summary.items()
    )
    return (Table(("", "mean", *(name.removeprefix(F1) for name in scores)), rows, "F1 by class, in %"),)


F1 = "test/f1/"


def configurations_section(refit: Refit) -> Section:
    """Say what the names of the refit's rows mean."""
    names, rows, table = names_of(refit), [], refit.table()
    control = f"{CONTROL}, and what else was searched" if refit.more else CONTROL
    for name, part in table.groupby("row", sort=False):
        one = part.iloc[0]
        what = "a point of the grid" if refit.choice.planned else "chosen by validation"
        rows.append(
            (
                names[str(name)],
                {"equal-compute": _at_equal_compute(one, table, names), "control": control}.get(str(one["kind"]), what),
                *cells(one.to_dict(), ("rho", "lr", "batch_size", *refit.more)),
                str(one["epochs"]),
                ", ".join(map(str, part["seed"])),
            )
        )
    base = optimizer_names(refit.of)["base"]
    header = ("", "what it is", "ρ", "learning rate", "batch size", *refit.more, "epochs", "seeds")
    return Section(
        "What the names mean",
        (f"{base} is the base optimizer, which figures and commands call base.",),
        tables=(Table(header, tuple(rows)),),
    )


CONTROL = "the base optimizer with that row's learning rate and batch size"


def _at_equal_compute(row: "Series", table: "DataFrame", names: Mapping[str, str]) -> str:
    """Say for how many epochs the base optimizer was trained, and whose cost that is."""
    refitted = table[table["kind"] == "refit"].drop_duplicates("row")
    times = row["epochs"] / refitted["epochs"].iloc[0]
    of = [names[str(one)] for one in refitted[refitted["base_epochs"] == row["epochs"]]["row"]] or ["SAM"]
    which = f"which cost what {' and '.join(of)} {'costs' if len(of) == 1 else 'cost'}"
    return f"for {'twice' if times == 2 else f'{times:.3g} times'} the epochs, {which}"


def chance_in_words(study: Study, refit: Refit | None, published: PublishedStudy) -> list[str]:
    """Say by how much accuracies of each side vary by chance, because each has a test set of its own.

    These are binomial standard errors. A paired difference between rows of one test set has one, too,
    the smaller the more alike their mistakes are.
    """
    dataset = study.settings.dataset
    own = study.workload.datasets[dataset].test
    theirs = published.test_samples.get(dataset, own)
    known = "" if dataset in published.test_samples else ", as if it had as many, since the study does not say"
    names = names_of(refit) if refit else {}
    ours = [(names[row], 100 * found["test/accuracy"].value) for row, found in refit.summary().items()] if refit else []
    printed = [(row.optimizer, row.test_accuracy) for row in published.rows[dataset] if row.test_accuracy is not None]
    if not ours or not printed:
        return []
    return [
        f"Test sets differ, so our accuracies and those of {published.name} are of other samples. By that alone each "
        f"accuracy varies by one binomial standard error: ours, of {own:,} test samples, "
        f"{_with_errors(ours, own)}; of {published.name}, of {theirs:,} test samples{known}, "
        f"{_with_errors(printed, theirs)}. A difference between both sides within about three of them says nothing."
    ]


def _with_errors(accuracies: Sequence[tuple[str, float]], samples: int) -> str:
    """Write accuracies in % with the standard error of a share of so many samples."""
    return ", ".join(
        f"{row} {accuracy:.2f} ± {100 * math.sqrt(accuracy / 100 * (1 - accuracy / 100) / samples):.2f}"
        for row, accuracy in accuracies
    )


def means(refit: Refit) -> "DataFrame":
    """Tabulate the refit: for each of its rows, each column's mean over the seeds and half of its 95 % interval."""
    import pandas

    names = names_of(refit)
    return pandas.DataFrame(
        [
            {
                "row": row,
                "name": names[row],
                "seeds": means["test/loss"].n,
                **{
                    f"{name}{suffix}": number
                    for name, mean in means.items()
                    for suffix, number in (("", mean.value), ("_half", mean.half))
                },
            }
            for row, means in refit.summary().items()
        ]
    )


def _our_rows(refit: Refit | None, close: Measured | None, score: str) -> list[tuple[str, ...]]:
    """Write the cells of a refit's rows, below columns of a score that need not be what the refit is judged by."""
    if refit is None:
        return []
    ratios, names, columns = _ratios(refit, close), names_of(refit), metrics_of(score)
    return [
        (
            names[row],
            *(_of_tests(means, name, unit, form) for _, name, unit, form in columns),
            ratios.get(row, ""),
        )
        for row, means in refit.summary().items()
    ]


def _of_tests(means: Mapping[str, Mean], name: str, unit: int, decimals: int) -> str:
    """Write a mean over seeds, some of which may have been tested by a release without that metric."""
    return with_interval(means[name], unit, decimals, means["test/loss"].n) if name in means else ""


def _published_rows(published: PublishedStudy, dataset: str) -> list[tuple[str, ...]]:
    return [
        (
            row.optimizer,
            _cell(row.test_accuracy, ".2f"),
            _cell(row.test_loss, ".4f"),
            _cell(row.gap, ".4f"),
            "",
            "",
            _cell(row.train_accuracy, ".2f"),
            _cell(row.train_loss, ".4f"),
            _cell(row.ratio, "g"),
        )
        for row in published.rows[dataset]
    ]


def _cell(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


def _other_data_sets(study: Study, published: PublishedStudy) -> tuple[list[tuple[Cell, ...]], list[str]]:
    """Collect the rows of the published study's other data sets, ours and its own, and a sentence about ours."""
    rows: list[tuple[Cell, ...]] = []
    said = []
    for dataset in published.rows:
        if dataset == study.settings.dataset:
            continue
        ours: list[tuple[str, ...]] = []
        if latest := _latest(study, dataset):
            other, refit = latest
            ours = _rows_elsewhere(other, refit, study.settings.score)
            said.append(f"our rows of {dataset} are of study {other.name}, {_trained_how(refit)}")
        else:
            said.append(f"{dataset} was not run here")
        rows += [(f"{dataset}, this study",), *ours] if ours else []
        rows += [(f"{dataset}, {published.name}",), *_published_rows(published, dataset)]
    return rows, [f"Of the other data sets of {published.name}, {' and '.join(said)}."] if said else []


def _rows_elsewhere(study: Study, refit: Refit, score: str) -> list[tuple[str, ...]]:
    """Collect the rows of another study's refit.

    A page does not fail because another study's measurements are gone; it then lacks their ratios.
    """
    try:
        return _our_rows(refit, measurements(study, refit)[0], score)
    except Refused as error:
        log.warning("The page lacks ratios: %s", error)
        return _our_rows(refit, None, score)


def _latest(study: Study, dataset: str) -> tuple[Study, Refit] | None:
    """Find the newest search of a data set in the study's home that has a tested refit, and that refit."""
    for other in reversed(every_study(study.home)):
        if other.settings.kind == "search" and other.settings.dataset == dataset:
            try:
                if found := tested_refit(other):
                    found.table()  # which needs its workload, and that may be code that nobody names here
                    return other, found
            except Refused as error:  # of another study, without which the page is whole
                log.warning("The page lacks rows: %s", error)
    return None


def _trained_how(refit: Refit) -> str:
    """Name the refit's network, and say how far it was trained."""
    settings = refit.studies[0].settings
    preset = f" (preset {settings.preset})" if settings.preset else ""
    wrong = f", {100 * refit.wrong_labels:.3g} % of them with wrong labels," if refit.wrong_labels else ""
    return (
        f"{settings.workload}{preset}, trained on {refit.samples:,} samples{wrong} for {refit.epochs} epochs "
        "where it says nothing else"
    )


def _ratios(refit: Refit, close: Measured | None) -> dict[str, str]:
    """Write |λ_max/λ_min| of each row's networks that were measured and are resolved, as a number or a range."""
    found: dict[str, str] = {}
    if close is None:
        return found
    rows = refit.table().set_index("key")["row"]
    measured = close.table().set_index("key")
    measured = measured[measured.index.isin(rows.index) & measured["ratio_resolved"]]
    for row, networks in measured.groupby(rows.loc[measured.index]):
        low, high = networks["ratio"].min(), networks["ratio"].max()
        found[str(row)] = f"{low:.4g}" if len(networks) == 1 else f"{low:.4g} to {high:.4g}"
    return found
