"""The sections on flatness: against the gap, over the batch size, and the loss around the minima."""

from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.evaluation.refit import Refit
from tune_sam.evaluation.statistics import Correlation, Mean, with_interval
from tune_sam.reporting.measured import Measured, rests_on
from tune_sam.reporting.pictures import BATCH_SIZE, FLATNESS, LANDSCAPE, pictures_in
from tune_sam.reporting.sections import Section, Table
from tune_sam.study.records import Study

if TYPE_CHECKING:
    from pandas import Series


def flatness_section(study: Study, measured: Measured | None, folder: Path) -> Section:
    """Tabulate Kendall's τ between each measure and the gap, over the networks that were resolved."""
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
            rests_on(measured, study),
            "Kendall's τ between a measure and the gap in the loss is above 0 where sharper minima have wider gaps. "
            "Its interval is a bootstrap over the networks, where there are ten or more. Networks of one search are "
            "not independent of each other, so τ and its interval are a description rather than a test.",
        ),
        (Table(("measure", "τ", "95 % interval", "p", "networks"), tuple(rows)),),
        pictures_in(folder, FLATNESS),
    )


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
        rows = []
        sentences.append(
            "The learning rate and ρ of each cell are those that validation chose among the search's "
            "trials; means over the seeds with 95 % intervals."
        )
        table = measured.table()
        table["optimizer"] = Categorical(table["optimizer"], study.settings.optimizers)
        for (size, optimizer), cell in table.groupby(["batch_size", "optimizer"], observed=True):
            lr, rho = cell["lr"].iloc[0], cell["rho"].iloc[0]
            measures = (
                _mean_cell(cell[cell[f"{name}_resolved"]][name], decimals)
                for name, decimals in (("lambda_max", 1), ("worst_case", 3))
            )
            rows.append(
                (
                    str(size),
                    str(optimizer),
                    "" if isnull(rho) else f"{rho:g}",
                    f"{lr:g}",
                    *measures,
                    _mean_cell(cell["gap/loss"], 4),
                    _mean_cell(100 * cell["test/accuracy"], 2),
                    str(cell["seed"].nunique()),
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


def landscape_section(study: Study, measured: Measured | None, folder: Path) -> Section:
    """Show the loss around the minima, as far as it was measured."""
    return Section("The loss around the minima", (rests_on(measured, study),), pictures=pictures_in(folder, LANDSCAPE))


def _mean_cell(values: "Series", decimals: int) -> str:
    """Write a mean with its interval; empty if there is no value."""
    return with_interval(Mean.of(values.tolist()), 1, decimals) if len(values) else ""
