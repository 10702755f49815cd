"""The tables that a person reads on a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from tune_sam.display import text_of
from tune_sam.durations import clock
from tune_sam.errors import masked
from tune_sam.evaluation.statistics import with_interval
from tune_sam.scores import decimal, of_loss, written
from tune_sam.space import cells
from tune_sam.study.logs import printable

if TYPE_CHECKING:
    from tune_sam.evaluation.analysis import Analysis
    from tune_sam.evaluation.answer import Answer
    from tune_sam.evaluation.comparison import Comparison
    from tune_sam.evaluation.refit import Refit
    from tune_sam.operations.check import Finding
    from tune_sam.operations.doctor import Diagnosis
    from tune_sam.operations.status import Running, Stage
    from tune_sam.study.records import Trial
    from tune_sam.study.settings import StudySettings


FLATNESS = {
    "Curvature": {
        "lambda_max": "λ_max",
        "lambda_min": "λ_min",
        "ratio": "|λ_max/λ_min|",
        "lambda_max_over_lambda_5": "λ_max/λ_5",
        "trace": "trace",
    },
    "Worst rise of the loss that was found{unit}, a lower bound": {
        "worst_case": "ρ = 0.05",
        "worst_case_adaptive": "ρ = 0.05, by |w|",
        "worst_case_own_rho": "own ρ, own scale",
    },
    "Average rise of the loss{unit}": {"average_case": "σ = 0.05", "average_case_adaptive": "σ = 0.05, by |w|"},
}
"""The columns of what `analyze` prints, by the measures' names; `{unit}` is the unit of a classifier's loss."""


def trial_table(found: "list[Trial]", settings: "StudySettings", title: str | None = None) -> Table:
    """Make a table of trials: the validation score, what else they are judged by, configuration, epochs, seconds."""
    # Where classes have names they are of interest one by one, and an accuracy alone hides the rare ones.
    measured = {name for trial in found for name in trial.metrics}
    scored = any(name.startswith("val/f1/") for name in measured)
    scores = {
        f"val/{settings.score}": settings.score,
        **({"val/loss": "loss"} if settings.objective == "val/loss" else {}),
        **({"val/macro_f1": "macro-F1"} if scored else {}),
        **({"val/sharpness": "sharpness"} if "val/sharpness" in measured else {}),
    }
    more = sorted({name for trial in found if trial.config for name in trial.config.more})
    table = plain_table("trial", "state", *scores.values(), "ρ", "lr", "batch", *more, "epochs", "seconds", title=title)
    for trial in found:
        point = trial.config.point if trial.config else {}
        table.add_row(
            f"{trial.optimizer}/{trial.number}",  # as `tune-sam logs` takes it
            trial.state,
            *(_score(trial, name) for name in scores),
            *cells(point, ("rho", "lr", "batch_size", *more), digits=3, missing="–"),
            str(trial.epochs),
            f"{trial.seconds:.1f}" if trial.seconds is not None else "–",
        )
    return table


def _score(trial: "Trial", metric: str) -> str:
    return decimal(trial.metrics[metric], 4) if metric in trial.metrics else "–"


def show_comparison(found: "Comparison", out: Console) -> None:
    """Print the best of each optimizer of each study, what is not the same, and the differences between refits."""
    from tune_sam.reporting.comparisons import HEADER
    from tune_sam.reporting.side_by_side import best_table, difference_rows

    best, study = best_table(found), ""
    table = plain_table("study: optimizer", *best.header[1:])
    for row in best.rows:
        if len(row) == 1:
            study = str(row[0])
        else:
            table.add_row(f"{study}: {row[0]}", *(str(cell) or "–" for cell in row[1:]))
    show_table(table, out)
    if found.differing:
        out.print()
        table = plain_table("not the same", *(one.name for one in found.studies))
        for one in found.differing:
            table.add_row(one.name, *one.values)
        show_table(table, out)
    if found.claims:
        out.print()
        score = found.studies[0].settings.score
        points = written(score).points
        table = plain_table(f"test {score}{points and f',{points}'}", *HEADER[1:])
        for cells_of_row in difference_rows(found):
            table.add_row(*(cell or "–" for cell in cells_of_row))
        show_table(table, out)
    for note in found.notes:
        out.print(f"\n{note}", soft_wrap=True, markup=False)


def diagnosis_table(found: "Sequence[Diagnosis]") -> Table:
    """Make a table of what Optuna, MLflow and the results have of each trial, and what is wrong."""
    table = plain_table("trial", "state", "Optuna", "MLflow", "checkpoint", "trouble", folds=("checkpoint", "trouble"))
    for one in found:
        table.add_row(
            one.key, one.state, one.optuna or "–", one.mlflow or "–", one.checkpoint or "–", one.trouble or "–"
        )
    return table


def finding_table(found: "Sequence[Finding]") -> Table:
    """Make a table of what was probed where, and what to mend."""
    table = plain_table("where", "what", "result", folds=("what", "result"))
    for one in found:
        took = f" in {one.seconds:.2f} s" if one.seconds is not None else ""
        table.add_row(one.where, one.what, one.trouble or f"works{took}")
    return table


def show_flatness(analysis: "Analysis", out: Console) -> None:
    """Print a table of the curvature and one of the sharpness; a number that has not converged is not shown."""
    some, unit = next(iter(analysis.flatness.values())), of_loss(analysis.study.loss_unit)
    out.print(
        f"{analysis.study.name}: {some.samples:,} training samples, {some.size:,} parameters",
        soft_wrap=True,
        markup=False,
    )
    if some.unused:
        out.print(
            f"Left out, for the loss does not depend on them: {', '.join(some.unused)}", soft_wrap=True, markup=False
        )
    for title, names in FLATNESS.items():
        shown = {
            name: label
            for name, label in names.items()
            if any(name in found.measures for found in analysis.flatness.values())
        }
        if not shown:
            continue
        out.print(f"\n{title.format(unit=unit)}", style="italic")  # not the table's own, which folds to its width
        table = plain_table("trial", *shown.values())
        for trial in analysis.trials:
            measures = analysis.flatness[trial.key].measures
            table.add_row(
                f"{trial.optimizer}/{trial.number}{'' if trial.study == analysis.study.name else ' (control)'}",
                *(text_of(measures.get(name)) for name in shown),
            )
        show_table(table, out)
    if analysis.checks:
        show_checks(analysis, out)


def show_checks(analysis: "Analysis", out: Console) -> None:
    """Print what this package and PyHessian say about one batch, side by side."""
    samples = {int(check["samples"]) for check in analysis.checks.values()}
    out.print(f"\nOne batch of {', '.join(map(str, samples))} samples, ours beside PyHessian's", style="italic")
    table = plain_table("trial", "λ_max", "PyHessian's", "difference", "trace", "PyHessian's", "standard errors apart")
    for key, one in analysis.checks.items():
        table.add_row(
            key.partition("/")[2],
            f"{one['largest']:.5g}",
            f"{one['largest_peer']:.5g}",
            f"{one['difference']:+.1e}",
            f"{one['trace']:.4g} ± {one['trace_error']:.1g}",
            f"{one['trace_peer']:.4g} ± {one['trace_peer_error']:.1g}",
            f"{one['trace_difference']:+.1f}",
        )
    show_table(table, out)


NARROW = 12
"""Characters that a column which folds has at least: fewer are unreadable."""


def plain_table(*columns: str, title: str | None = None, folds: Sequence[str] = ()) -> Table:
    """Make a table without lines and without rows, for :func:`show_table`.

    Args:
        columns: their headings. What stands in the first one names its row.
        title: above the table.
        folds: headings of the columns that may take several lines.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column not in folds, overflow="fold")
    return table


def show_table(table: Table, out: Console) -> None:
    """Print a table. Where it is wider than the console, each row is a few lines: no name or number is ever cut."""
    gaps = 2 * (len(table.columns) - 1)
    if sum(_least_width(column, out) for column in table.columns) + gaps <= out.width:
        title, table.title = table.title, None
        if title:  # not the table's own, which folds to its width
            out.print(title, style="italic", markup=False, soft_wrap=True)
        out.print(table, markup=False)  # a record, or a message, may have brackets
        return
    if table.title:
        out.print(table.title, style="italic", markup=False, soft_wrap=True)
    first, *others = table.columns
    for name, *values in zip(*(column.cells for column in table.columns), strict=True):
        out.print(name, style="bold", soft_wrap=True, markup=False)
        facts = ", ".join(
            f"{column.header}\N{NO-BREAK SPACE}{value}".strip()
            for column, value in zip(others, values, strict=True)
            if value not in ("", "–")
        )
        for line in wrap(facts, out.width - 2, break_long_words=False, break_on_hyphens=False):
            out.print(f"  {line}".replace("\N{NO-BREAK SPACE}", " "), soft_wrap=True, markup=False)


def _least_width(column: Column, out: Console) -> int:
    cells = [
        Measurement.get(out, out.options.update(width=10_000), Text(str(cell)))
        for cell in (column.header, *column.cells)
    ]
    widest = max(cell.maximum for cell in cells)
    return widest if column.no_wrap else min(widest, max(NARROW, *(cell.minimum for cell in cells)))


def show_refit(refit: "Refit", out: Console) -> None:
    """Print what was trained, means over the seeds with their 95 % intervals, and what they answer."""
    from tune_sam.evaluation.answer import answer_of_refit
    from tune_sam.evaluation.names import names_of

    out.print(f"{refit.of.name}: means over {len(refit.seeds)} seeds with 95 % intervals", soft_wrap=True, markup=False)
    trained = refit.table()
    names = names_of(refit)
    score, how = refit.score, written(refit.score)
    quality = plain_table("", f"test {score}{how.unit}", "test loss", "gap (loss)")
    calibration = plain_table("", "NLL", "ECE %")
    cost = plain_table("", "ρ", "lr", "batch", *refit.more, "epochs", "seconds", "gradients")
    configurations = trained.drop_duplicates("row").set_index("row")
    for row, means in refit.summary().items():
        quality.add_row(
            names[row],
            with_interval(means[f"test/{score}"], how.factor, how.decimals),
            with_interval(means["test/loss"], 1, 3),
            with_interval(means["gap/loss"], 1, 3),
        )
        if "test/nll" in means:  # trainings that an earlier release tested have neither
            calibration.add_row(
                names[row],
                with_interval(means["test/nll"], 1, 3, means["test/loss"].n),
                with_interval(means["test/ece"], 100, 2, means["test/loss"].n),
            )
        of = configurations.loc[row]
        cost.add_row(
            names[row],
            *cells(of.to_dict(), ("rho", "lr", "batch_size", *refit.more), digits=3, missing="–"),
            str(of["epochs"]),
            f"{means['seconds'].value:.0f}",
            f"{means['gradients'].value:,.0f}",
        )
    for table in (quality, calibration, cost):
        if table.rows:
            show_table(table, out)
            out.print()
    show_answer(answer_of_refit(refit), out)


STYLES = {"yes": "bold green", "no": "bold red", "not shown": "bold yellow", "not known": "bold"}
"""Of the signs of an answer, beside which their words stand."""


def show_answer(answer: "Answer", out: Console) -> None:
    """Print the three lines of an answer, each with sign and word, and the command that is next."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    for name in ("sign", "question"):
        lines.add_column(name, no_wrap=True)
    lines.add_column("answer", overflow="fold")
    for line in answer.lines:
        style = STYLES[line.sign]
        lines.add_row(
            Text(line.symbol, style),
            Text(line.question, "bold"),
            Text.assemble((line.word, style), f": {line.sentence}"),
        )
    out.print(lines)
    if answer.next_step:
        out.print(f"Next: {answer.next_step.why}", markup=False)
        out.print(f"  {answer.next_step.command}", style="bold", markup=False, soft_wrap=True)


def stage_table(stages: "Sequence[Stage]") -> Table:
    """Make a table of the stages: how much of each is done, and about how long is left."""
    table = plain_table("stage", "done", "left", "", folds=("",))
    for stage in stages:
        done = f"{stage.done} of {stage.parts} {stage.unit}" if stage.parts else "not begun"
        left = "" if stage.is_over else "unknown" if stage.left is None else f"about {clock(stage.left)}"
        table.add_row(stage.name, done, left, "running" if stage.going else stage.ended)
    return table


def running_table(running: "Sequence[Running]") -> Table:
    """Make a table of the trials that run: how far each is, and whether one seems to hang."""
    table = plain_table("running", "epochs", "last epoch", "", folds=("",))
    for one in running:
        word = f"stalled: the longest epoch took {clock(one.longest)}" if one.stalled and one.longest else ""
        last = f"{clock(one.waited)} ago" if one.epochs else f"none for {clock(one.waited)}"
        table.add_row(one.key, f"{one.epochs} of {one.of}", last, word)
    return table


def log_table(trials: "Sequence[Trial]") -> Table:
    """Make a table of the logs of trials."""
    table = plain_table("trial", "state", "log", folds=("log",))
    for trial in trials:
        table.add_row(f"{trial.optimizer}/{trial.number}", trial.state, masked(trial.log or "–"))
    return table


def show_reasons(trials: "Sequence[Trial]", out: Console) -> None:
    """Print why trials failed or diverged, each reason once, and how to read the logs of what failed."""
    failed, diverged = (
        {trial.key: trial.reason for trial in trials if trial.state == state} for state in ("failed", "diverged")
    )
    show_failures(failed, out)
    for reason, keys in _by_reason(diverged):
        _print_reason(f"Diverged: {_listed(keys)}: {reason}.", out)


def show_failures(failed: "Mapping[str, str]", out: Console) -> None:
    """Print why trials failed, each reason once, and how to read their logs; nothing where none failed."""
    for reason, keys in _by_reason(failed):
        study, _, first = keys[0].partition("/")
        _print_reason(f"Failed: {_listed(keys)}: {printable(reason)}; see `tune-sam logs {study} {first}`.", out)


def _by_reason(reasons: "Mapping[str, str]") -> Iterable[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        found.setdefault(reason, []).append(key)
    return found.items()


def _listed(keys: "Sequence[str]") -> str:
    """List the first of some trials, without their study."""
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(key.partition("/")[2] for key in keys[:5]) + more


def _print_reason(text: str, out: Console) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
