"""The page that puts studies side by side, as HTML and as Markdown."""

from pathlib import Path

from tune_sam.evaluation.comparison import Comparison, Row, label
from tune_sam.evaluation.statistics import Mean, with_digits, with_interval
from tune_sam.files import replaced_folder
from tune_sam.plugins import naming
from tune_sam.reporting.comparisons import HEADER, claim_rows
from tune_sam.reporting.page import render
from tune_sam.reporting.pictures import pictures_in
from tune_sam.reporting.sections import Cell, Section, Table
from tune_sam.scores import decimal, in_words, written
from tune_sam.space import cells


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write the page of a comparison into a folder, which is made or replaced, and give its HTML.

    Beside `index.html` lie `report.md`, `table.csv` with a row for each optimizer of each study, and `figures/`.
    """
    names = [study.name for study in comparison.studies]
    code = naming("workload", dict.fromkeys(study.settings.workload for study in comparison.studies))
    again = " ".join(["tune-sam compare", *names, *code, "--output", folder.name])
    with replaced_folder(folder) as unfinished:
        (unfinished / "figures").mkdir()
        comparison.table().to_csv(unfinished / "table.csv", index=False)
        _draw(comparison, unfinished / "figures")
        render(
            unfinished,
            [
                _best(comparison, unfinished),
                *([_differences(comparison)] if comparison.claims else []),
                *([_differing(comparison)] if comparison.differing else []),
                Section("To make this page again", code=f"{again}\n"),
            ],
            title=f"{', '.join(names)}: side by side",
            heading=f"{len(names)} studies side by side",
            subtitle=f"Studies {', '.join(names[:-1])} and {names[-1]}",
        )
    return folder / "index.html"


def best_table(comparison: Comparison) -> Table:
    """Tabulate the best of each optimizer, below a heading for each study."""
    score = comparison.score_in_words
    more = sorted({name for study in comparison.studies for name in study.settings.more})
    header = (
        *("", "ρ", "learning rate", "batch size", *more),
        *(f"validation {score}", f"test {score}", "gap (loss)", "λ_max", "trials", "seconds", "gradients"),
    )
    rows: list[tuple[Cell, ...]] = []
    for study in comparison.studies:
        rows.append((study.name if len(comparison.scores) == 1 else f"{study.name}, {in_words(study.settings.score)}",))
        rows += [_cells(row, study.settings.score, more) for row in comparison.rows if row.study == study.name]
    return Table(header, tuple(rows)).without_empty_columns()


def _cells(row: Row, score: str, more: list[str]) -> tuple[str, ...]:
    how = written(score)
    validation = "" if row.validation is None else decimal(how.factor * row.validation, how.decimals)
    return (
        row.name,
        *cells(row.config.point if row.config else {}, ("rho", "lr", "batch_size", *more)),
        validation,
        _mean(row.test, how.factor, how.decimals),
        _mean(row.gap, 1, 4),
        with_digits(row.lambda_max) if row.lambda_max else "",
        f"{row.trials}",
        f"{row.seconds:,.0f}",
        f"{row.gradients:,}",
    )


def _mean(mean: Mean | None, unit: float, decimals: int) -> str:
    return with_interval(mean, unit, decimals) if mean else ""


def claim_names(comparison: Comparison) -> dict[str, str]:
    """Name the rows of refits as a reader knows them, by what :class:`Claim` calls them."""
    return {label(row): f"{row.study}: {row.name}" for row in comparison.rows if row.row}


def difference_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Write the cells of the paired differences, below :data:`tune_sam.reporting.comparisons.HEADER`."""
    how = written(comparison.studies[0].settings.score)
    return claim_rows(comparison.claims, claim_names(comparison), how.factor, how.difference)


def _best(comparison: Comparison, folder: Path) -> Section:
    units = {study.loss_unit for study in comparison.studies}
    unit = "Losses are in nats. " if units == {"nats"} else ""
    return Section(
        "The best of each optimizer",
        (
            *comparison.notes,
            f"{unit}Configurations are those that were refitted, each point of a grid, or without a refit that of the "
            "best trial. The validation score is of one training; test score, gap (test minus training loss) and λ_max "
            "are of the refit, means with 95 % intervals over the seeds, where there are three or more. Trials, "
            "seconds and gradients (of one sample each) are what the search of the optimizer cost.",
        ),
        (best_table(comparison),),
        pictures_in(folder, ("seeds",)),
    )


def _differences(comparison: Comparison) -> Section:
    score = comparison.studies[0].settings.score
    points = written(score).points
    many = len(comparison.claims)
    return Section(
        "What differs between the refits",
        (
            f"Differences in test {score}{points and f', in{points}'}, over the seeds that both refits have: the same "
            "optimizer in two studies, or against the base optimizer where the other study lacks it. p-values are "
            f"corrected by Holm's method for the {many} comparisons." if many > 1 else
            f"The difference in test {score}{points and f', in{points}'}, over the seeds that both refits have.",
        ),
        (Table(HEADER, tuple(difference_rows(comparison))),),
    )  # fmt: skip


def _differing(comparison: Comparison) -> Section:
    rows = tuple((one.name, *one.values, "cannot be compared" if one.excludes else "") for one in comparison.differing)
    header = ("setting", *(study.name for study in comparison.studies), "so scores")
    return Section("What is not the same", tables=(Table(header, rows).without_empty_columns(),))


def _draw(comparison: Comparison, folder: Path) -> None:
    """Draw the test score of each seed, where the scores are of the same samples."""
    import pandas

    from tune_sam.reporting.plots import scored
    from tune_sam.reporting.refit_figures import seeds
    from tune_sam.reporting.style import save

    names = claim_names(comparison)
    parts = []
    for study, refit in zip(comparison.studies, comparison.refits, strict=True) if comparison.comparable else ():
        if refit:
            table = refit.table()
            labels = [names.get(f"{study.name}: {row}") for row in table["row"]]
            parts.append(table.assign(label=labels)[[one is not None for one in labels]])
    if parts:
        table = pandas.concat(parts, ignore_index=True)
        score = comparison.studies[0].settings.score
        frame = table[["label", "optimizer", "kind", f"test/{score}", "gradients"]]
        frame = scored(frame, comparison.studies[0])
        save(seeds(frame), frame, folder / "seeds")
