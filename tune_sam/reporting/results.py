"""The section with the results on the test set, beside published ones."""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.evaluation.measured import Measured, measurements
from tune_sam.evaluation.refit import Refit, tested_refit
from tune_sam.evaluation.statistics import with_interval
from tune_sam.reporting.published import PublishedStudy, published_studies
from tune_sam.reporting.sections import Section, Table
from tune_sam.study.records import Study, every_study

if TYPE_CHECKING:
    from pandas import DataFrame


log = logging.getLogger(__name__)

HEADER = (
    "",
    "train loss",
    "train acc.",
    "test loss",
    "test acc.",
    "gap",
    "NLL",
    "ECE",
    "|λ_max/λ_min|",
    "seconds",
    "gradients",
)

METRICS = (
    ("train/loss", 1, 4),
    ("train/accuracy", 100, 2),
    ("test/loss", 1, 4),
    ("test/accuracy", 100, 2),
    ("gap/loss", 1, 4),
    ("test/nll", 1, 4),
    ("test/ece", 100, 2),
)
"""The columns that are means over the seeds: metric, unit and decimals."""


def results_section(study: Study, refit: Refit | None, close: Measured | None) -> Section:
    """Show the rows of the refit, and published rows of the same data set.

    Where a published study has other data sets, too, their rows follow, with ours of the latest refit in this home.

    Args:
        study: whose page it is.
        refit: its tested refit; None if there is none.
        close: what was measured of the refit's networks, for the ratio; None if nothing was.
    """
    own = study.settings.dataset
    published = [found for found in published_studies(study.workload) if own in found.rows]
    rows = [*_our_rows(refit, close), *(row for found in published for row in _published_rows(found, own))]
    sentences = [f"Our rows are of {_trained_how(refit)}."] if refit else []
    sentences.append(
        "Losses in nats, accuracies in %, means with 95 % intervals over the seeds; the gap is test minus training "
        "loss. NLL is the negative log-likelihood of the test set, without the loss's smoothing, and ECE the expected "
        "calibration error in %, over 15 bins. Gradients are of one sample each, and SAM takes two of each in an "
        "epoch. The ratio is no mean: it is that of the network that was measured, or the lowest and the highest of "
        "several."
    )
    for found in published:
        sentences.append(f"{found.name[:1].upper()}{found.name[1:]} is {found.citation}. {found.conditions}")
        sentences += chance_in_words(study, refit, found)
        more, sentence = _other_data_sets(study, found)
        rows += more
        sentences += sentence
    return Section("Results on the test set", tuple(sentences), (Table(HEADER, tuple(rows)),) if rows else ())


def chance_in_words(study: Study, refit: Refit | None, published: PublishedStudy) -> list[str]:
    """Say by how much accuracies of each side vary by chance, because each has a test set of its own.

    These are binomial standard errors. A paired difference between rows of one test set does not have them.
    """
    dataset = study.settings.dataset
    own = study.workload.datasets[dataset].test
    theirs = published.test_samples.get(dataset, own)
    known = "" if dataset in published.test_samples else ", as if it had as many, since the study does not say"
    ours = [(row, 100 * found["test/accuracy"].value) for row, found in refit.summary().items()] if refit else []
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

    return pandas.DataFrame(
        [
            {
                "row": row,
                "seeds": len(refit.seeds),
                **{
                    f"{name}{suffix}": number
                    for name, mean in means.items()
                    for suffix, number in (("", mean.value), ("_half", mean.half))
                },
            }
            for row, means in refit.summary().items()
        ]
    )


def _our_rows(refit: Refit | None, close: Measured | None) -> list[tuple[str, ...]]:
    if refit is None:
        return []
    ratios = _ratios(refit, close)
    return [
        (
            row,
            *(with_interval(means[name], unit, decimals) if name in means else "" for name, unit, decimals in METRICS),
            ratios.get(row, ""),
            f"{means['seconds'].value:.0f}",
            f"{means['gradients'].value:,.0f}",
        )
        for row, means in refit.summary().items()
    ]


def _published_rows(published: PublishedStudy, dataset: str) -> list[tuple[str, ...]]:
    return [
        (
            f"{row.optimizer} ({published.name})",
            _cell(row.train_loss, ".4f"),
            _cell(row.train_accuracy, ".2f"),
            _cell(row.test_loss, ".4f"),
            _cell(row.test_accuracy, ".2f"),
            _cell(row.gap, ".4f"),
            "",
            "",
            _cell(row.ratio, "g"),
            "",
            "",
        )
        for row in published.rows[dataset]
    ]


def _cell(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


def _other_data_sets(study: Study, published: PublishedStudy) -> tuple[list[tuple[str, ...]], list[str]]:
    """Collect the rows of the published study's other data sets, ours and its own, and a sentence about ours."""
    rows: list[tuple[str, ...]] = []
    said = []
    for dataset in published.rows:
        if dataset == study.settings.dataset:
            continue
        ours: list[tuple[str, ...]] = []
        if latest := _latest(study, dataset):
            other, refit = latest
            ours = _rows_elsewhere(other, refit)
            said.append(f"our rows of {dataset} are of study {other.name}, {_trained_how(refit)}")
        else:
            said.append(f"{dataset} was not run here")
        rows += [(f"{dataset}: {row[0]}", *row[1:]) for row in (*ours, *_published_rows(published, dataset))]
    return rows, [f"Of the other data sets of {published.name}, {' and '.join(said)}."] if said else []


def _rows_elsewhere(study: Study, refit: Refit) -> list[tuple[str, ...]]:
    """Collect the rows of another study's refit.

    A page does not fail because another study's measurements are gone; it then lacks their ratios.
    """
    try:
        return _our_rows(refit, measurements(study, refit)[0])
    except Refused as error:
        log.warning("The page lacks ratios: %s", error)
        return _our_rows(refit, None)


def _latest(study: Study, dataset: str) -> tuple[Study, Refit] | None:
    """Find the newest search of a data set in the study's home that has a tested refit, and that refit."""
    for other in reversed(every_study(study.home)):
        if other.settings.kind == "search" and other.settings.dataset == dataset:
            try:
                if found := tested_refit(other):
                    return other, found
            except Refused as error:  # of another study, without which the page is whole
                log.warning("The page lacks rows: %s", error)
    return None


def _trained_how(refit: Refit) -> str:
    """Name the refit's network, and say how far it was trained."""
    settings = refit.studies[0].settings
    preset = f" (preset {settings.preset})" if settings.preset else ""
    return (
        f"{settings.workload}{preset}, trained on {refit.samples:,} samples for {refit.epochs} epochs, or twice as "
        "many where it says so"
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
