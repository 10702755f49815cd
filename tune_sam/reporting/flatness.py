"""The sections on flatness: against controls, against the gap, over the batch size, and the loss around the minima."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.evaluation.answer import NONE_COMPARED, why_not_known
from tune_sam.evaluation.claims import Answers, claims, pairs, with_flatness
from tune_sam.evaluation.measured import Measured, rests_on
from tune_sam.evaluation.names import names_of, optimizer_names
from tune_sam.evaluation.refit import Refit
from tune_sam.evaluation.statistics import ENOUGH, Correlation, Mean, of_some, with_digits, with_interval
from tune_sam.reporting.comparisons import HEADER, claim_rows, equal_loss_rows
from tune_sam.reporting.pictures import BATCH_SIZE, GAP, LANDSCAPE, RADIUS, pictures_in
from tune_sam.reporting.sections import Section, Table
from tune_sam.scores import written
from tune_sam.study.records import Study

if TYPE_CHECKING:
    from pandas import DataFrame, Series


MEASURED = {
    "lambda_max": "λ_max",
    "trace": "trace",
    "worst_case": "worst case, ρ = 0.05",
    "average_case": "average case, σ = 0.05",
}
"""How a table calls the measures that are compared."""


def flatter_section(
    study: Study, refit: Refit | None, found: Answers, measured: Measured | None, names: Mapping[str, str]
) -> Section:
    """Compare the flatness of each row of the refit with that of its matched control, over the seeds.

    Args:
        study: whose page it is.
        refit: its tested refit; None if there is none.
        found: what was compared.
        measured: what was measured of the refit's networks; None if nothing was.
        names: what the refit's rows are called.
    """
    title = "Is the minimum flatter?"
    if refit is None:
        return Section(title, ("This cannot be said yet: it takes a refit with its matched controls.",))
    if not found.by_rho:  # a control is a study of its own, or a base optimizer's row
        way_out = f" {refit.command} --seeds {refit.listed} trains and tests them." if refit.lacks_controls else ""
        return Section(title, (f"{why_not_known(study, refit, 'rho')}{way_out}",))
    if measured is None or not found.flatter:
        why = NONE_COMPARED if measured else "Not measured"
        return Section(title, (f"{why}; {study.command('analyze')} measures all seeds.",))
    compared: list[tuple[str, ...]] = []
    for measure, title_of_it in MEASURED.items():
        if claims_of_it := [claim for claim in found.flatter if claim.measure == measure]:
            compared += [(title_of_it,), *claim_rows(claims_of_it, names, 1, "+.3g")]
    if found.flatter_at_equal_loss:
        compared += [("λ_max at equal training loss",), *equal_loss_rows(found.flatter_at_equal_loss, names)]
    return Section(
        title,
        (
            rests_on(measured, study),
            "Each row is compared with its matched control, the base optimizer with the same learning rate and batch "
            "size: paired differences over the seeds, below 0 where the row is flatter. All of them are one family: p "
            "is corrected by Holm's method, and a difference is shown where it is below 0.05. Networks that fit less "
            "are flatter, whatever trained them, so λ_max is compared at equal training loss, too: by a regression of "
            "its logarithm over the networks of both rows, unpaired, corrected as its own family. It counts the "
            "networks whose training loss lies within the range of both; where they are few, it rests on the "
            "regression's line more than on networks.",
        ),
        (
            Table(HEADER, tuple(compared), "Differences"),
            Table(
                ("", *MEASURED.values(), "train loss"),
                _flatness_rows(with_flatness(refit.table(), measured.table()), names),
                "Means with 95 % intervals over the seeds that were measured, without values that are not resolved",
            ),
        ),
    )


def _flatness_rows(table: "DataFrame", names: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Write the mean measures of each row's measured networks, and their training loss, which they depend on."""
    measured = table[table[[name for name in MEASURED if name in table]].notna().any(axis=1)]
    return tuple(
        (
            names[str(row)],
            *(_of_some(part[name], with_digits) if name in part else "" for name in (*MEASURED, "train/loss")),
        )
        for row, part in measured.groupby("row", sort=False)
    )


def _of_some(values: "Series", write: Callable[[Mean], str]) -> str:
    """Write the mean of those values that are not missing, and of how many it is where some are; empty if all are."""
    there = values.dropna().tolist()
    return f"{write(Mean.of(there))}{of_some(len(there), len(values))}" if there else ""


def flatness_section(study: Study, close: Measured | None, wide: Measured | None, folder: Path) -> Section:
    """Tabulate Kendall's τ between each measure and the gap: over configurations, and within them.

    Args:
        study: whose page it is.
        close: what was measured of the refit's networks, several seeds of each configuration.
        wide: what was measured of all trials of the search.
        folder: of the page.
    """
    title = "Do flatter minima generalise better?"
    measured = [one for one in (wide, close) if one]
    if not measured:
        return Section(title, (f"Not measured; {study.command('analyze', '--all')} measures every complete trial.",))
    return Section(
        title,
        (
            "Kendall's τ between a measure and the gap in the loss is above 0 where sharper minima have wider gaps; "
            "the ratio of the eigenvalues measures no flatness. Configurations are resampled, not seeds: its interval "
            f"is a bootstrap over the configurations, from {ENOUGH} of them on, and its p-value of their means. "
            "Configurations of one search are not independent of each other, so both are a description rather than a "
            "test. Within configurations, τ is over pairs of networks that differ in the seed alone, with the p-value "
            "of a permutation of the seeds.",
        ),
        tuple(_correlations(one, study) for one in measured),
        pictures_in(folder, (*RADIUS, *GAP)),
    )


def _correlations(measured: Measured, study: Study) -> Table:
    from tune_sam.reporting.plots import measures_of

    table, rows = measured.table(), []
    columns = [*CONFIGURATION, *(name for name in study.settings.more if name in table)]
    for name, what in measures_of(study.loss_unit).items():
        if name not in table:
            continue
        some = table[table[f"{name}_resolved"].astype(bool)].dropna(subset=[name, "gap/loss"])
        configurations = list(zip(*(some[column].fillna(0) for column in columns), strict=True))
        found = Correlation.of(some[name].tolist(), some["gap/loss"].tolist(), configurations)
        cells = (
            (
                f"{found.tau:+.2f}",
                found.interval,
                _cell(found.p, ".2g"),
                str(found.configurations),
                _cell(found.within, "+.2f"),
                _cell(found.within_p, ".2g"),
            )
            if found
            else 6 * ("",)
        )
        rows.append((what, str(len(some)), *cells))
    header = ("measure", "networks", "τ", "95 % interval", "p", "configurations", "τ within them", "p within them")
    gap = "test" if measured.about["study"].get("refit_of") else "validation"
    return Table(header, tuple(rows), f"{rests_on(measured, study)} Their gap is {gap} minus training loss.")


CONFIGURATION = ("optimizer", "rho", "lr", "batch_size", "epochs")
"""The columns in which networks of one configuration agree, beside those of further hyperparameters."""


def _cell(number: float, form: str) -> str:
    return "" if math.isnan(number) else format(number, form)


def batch_size_sections(refit: Refit | None, measured: Measured | None, study: Study, folder: Path) -> list[Section]:
    """Show curvature, sharpness and gap over the batch size, if that was drawn.

    Args:
        refit: if it is of each batch size, its cells are tabulated.
        measured: what was measured of its networks, or of the search's.
        study: whose page it is.
        folder: of the page.

    Returns:
        One section, or none.
    """
    pictures = pictures_in(folder, BATCH_SIZE)
    if not pictures or measured is None:
        return []
    from pandas import Categorical, isnull

    tables: tuple[Table, ...] = ()
    sentences = [rests_on(measured, study)]
    if refit and refit.choice.each_batch_size and measured.about["study"]["name"] == refit.studies[0].name:
        rows, optimizers = [], optimizer_names(study)
        sentences.append(
            "The learning rate and ρ of each cell are those that validation chose among the search's "
            "trials; means over the seeds with 95 % intervals, without values that are not resolved."
        )
        networks = measured.table()
        table = networks[networks["study"] == refit.studies[0].name].copy()  # without the controls
        table["optimizer"] = Categorical(table["optimizer"], study.settings.optimizers)
        for (size, optimizer), cell in table.groupby(["batch_size", "optimizer"], observed=True):
            lr, rho = cell["lr"].iloc[0], cell["rho"].iloc[0]
            measures = (
                _mean_cell(cell[name].where(cell[f"{name}_resolved"]), decimals)
                for name, decimals in (("lambda_max", 1), ("worst_case", 3))
            )
            how = written(refit.score)
            rows.append(
                (
                    str(size),
                    optimizers[str(optimizer)],
                    "" if isnull(rho) else f"{rho:g}",
                    f"{lr:g}",
                    *measures,
                    _mean_cell(cell["gap/loss"], 4),
                    _mean_cell(how.factor * cell[f"test/{refit.score}"], how.decimals),
                    str(cell["seed"].nunique()),
                )
            )
        short = "test acc." if refit.score == "accuracy" else f"test {refit.score}"
        header = ("batch size", "optimizer", "ρ", "learning rate", "λ_max", "worst case", "gap", short, "seeds")
        tables = (Table(header, tuple(rows)), _against_the_base_optimizer(refit, networks))
        sentences.append(
            "Below, λ_max of each cell against the base optimizer's at the same batch size, paired over the seeds. All "
            "of them are one family: p is corrected by Holm's method, and a difference is shown where it is below "
            "0.05. Learning rates differ, too, where validation chose others; what ρ alone does is above, against the "
            "matched controls."
        )
        measured_cells = {(row[0], row[1]) for row in rows}
        missing = [
            f"{optimizers[optimizer]} at {size}"
            for optimizer, space in study.settings.spaces.items()
            for size in space.batch_size
            if (str(size), optimizers[optimizer]) not in measured_cells
        ]
        if missing:
            sentences.append(f"Not measured, or without a complete trial: {', '.join(missing)}.")
    return [Section("Batch size and flatness", tuple(sentences), tables, pictures)]


def _against_the_base_optimizer(refit: Refit, networks: "DataFrame") -> Table:
    """Compare λ_max of each cell with the base optimizer's best at the same batch size, as one family."""
    rows = refit.table()
    compared = pairs(rows, refit.choice, "use")
    found = claims(with_flatness(rows, networks), compared, ("lambda_max",))
    return Table(HEADER, tuple(claim_rows(found, names_of(refit), 1, "+.3g")), "λ_max at the same batch size")


def landscape_section(study: Study, measured: Measured | None, folder: Path) -> Section:
    """Show the loss around the minima, as far as it was measured."""
    return Section("The loss around the minima", (rests_on(measured, study),), pictures=pictures_in(folder, LANDSCAPE))


def _mean_cell(values: "Series", decimals: int) -> str:
    """Write a mean with its interval, as :func:`_of_some` does."""
    return _of_some(values, lambda mean: with_interval(mean, 1, decimals))
