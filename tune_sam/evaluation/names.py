"""What a reader is told that optimizers and the rows of a refit are called."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tune_sam.evaluation.refit import Refit
from tune_sam.optimizers import distinct_labels, label_of
from tune_sam.study.records import Study

if TYPE_CHECKING:
    from pandas import DataFrame


def optimizer_names(study: Study) -> dict[str, str]:
    """Name each optimizer of a study: `base` after what it is, such as Adam, and those not known here by their key."""
    labels = {optimizer: label_of(optimizer) for optimizer in ("base", *study.settings.optimizers)}
    return distinct_labels(labels | {"base": study.workload.base_optimizer.label})


def names_of(refit: Refit) -> dict[str, str]:
    """Name the rows of a refit; see :func:`row_names`."""
    return row_names(refit.table(), optimizer_names(refit.of))


def row_names(table: "DataFrame", optimizers: Mapping[str, str]) -> dict[str, str]:
    """Name the rows of a refit: SAM, Adam × 2 epochs, control of SAM.

    Where an optimizer has several configurations, its rows are told apart by what alone does so: the batch size, ρ or
    the learning rate; by a number if none does.

    Args:
        table: of the refit; see :meth:`tune_sam.evaluation.refit.Refit.table`.
        optimizers: what each is called.

    Returns:
        By the `row` of the table, in its order.
    """
    rows = table.drop_duplicates("row")
    refitted = rows[rows["kind"] == "refit"]
    names = {
        str(row): f"{optimizers[str(optimizer)]}{end}"
        for optimizer, part in refitted.groupby("optimizer", sort=False)
        for row, end in zip(part["row"], _ends(part), strict=True)
    }
    for row in rows[rows["kind"] == "equal-compute"].itertuples():
        names[str(row.row)] = f"{optimizers['base']} × {row.epochs / refitted['epochs'].iloc[0]:.3g} epochs"
    for control in rows[rows["kind"] == "control"].itertuples():
        of = refitted[(refitted["matched"] == control.matched) & (refitted["optimizer"] != "base")]["row"]
        names[str(control.row)] = f"control of {' and '.join(names[str(row)] for row in of)}"
    seeds = table["row"].value_counts()
    of_all = seeds[refitted["row"].iloc[0]]
    fewer = {row: f" ({n} of {of_all} seeds)" if n < of_all else "" for row, n in seeds.items()}
    return {str(row): f"{names[str(row)]}{fewer[row]}" for row in rows["row"]}


def _ends(part: "DataFrame") -> list[str]:
    """Tell the configurations of one optimizer apart."""
    if len(part) == 1:
        return [""]
    for column, form in (("batch_size", ", batch {:.0f}"), ("rho", ", ρ = {:.3g}"), ("lr", ", lr = {:.3g}")):
        ends = [form.format(value) for value in part[column].dropna()]
        if len(set(ends)) == len(part):
            return ends
    return [f" {number}" for number in range(1, len(part) + 1)]
