"""Commands that show what is known: studies, workloads, optimizers, status, best, trials and logs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_sam.cli.completion import optimizers_like
from tune_sam.cli.console import err, out, results
from tune_sam.cli.options import HomeOption, StudyArgument, StudyStorageOption, TrustedWorkloadOption
from tune_sam.cli.output import Output, prints
from tune_sam.cli.tables import (
    log_table,
    plain_table,
    running_table,
    show_failures,
    show_reasons,
    show_table,
    stage_table,
    trial_table,
)
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.space import domain_from_json

if TYPE_CHECKING:
    from tune_sam.study.records import Study


@prints
def studies(home: HomeOption = None, study_storage: StudyStorageOption = None, *, output: Output) -> None:
    """List the studies of a home.

    Example: [bold]tune-sam studies --json[/bold]
    """
    from tune_sam.study.records import studies as find

    found = find(Home.at(home, study_storage))
    described = []
    for study in found:
        try:
            described.append((study, study.to_json()))
        except Refused as error:  # of one of its trials
            err.print(f"{error}", style="yellow", soft_wrap=True, markup=False)

    def show() -> None:
        if not found:
            out.print(
                f"There is no study in {Home.at(home).path} yet; make one with `tune-sam search`.",
                soft_wrap=True,
                markup=False,
            )
            return
        table = plain_table(
            *("study", "workload", "data set", "optimizers", "trials of each", "states", "created"),
            folds=("optimizers", "states"),
        )
        for study, description in described:
            settings = study.settings
            states = ", ".join(f"{count} {state}" for state, count in description["counts"].items())
            table.add_row(
                study.name,
                settings.workload,
                settings.dataset,
                " ".join(settings.optimizers),
                " ".join(map(str, dict.fromkeys(map(settings.trials_of, settings.optimizers)))),
                states,
                study.created[:16].replace("T", " "),
            )
        show_table(table, out)

    output.give([description for _, description in described], show)


@prints
def workloads(*, output: Output) -> None:
    """List what can be searched: architectures, data sets and ranges. Needs no data.

    Example: [bold]tune-sam workloads --json[/bold]
    """
    from tune_sam.workload import workloads as find

    found = [workload.to_json() for workload in find()]
    output.give(found, lambda: _show_workloads(found), lambda: _rows_of_workloads(found))


def _show_workloads(found: list[dict[str, Any]]) -> None:
    for workload in found:
        out.print(
            f"[bold]{workload['name']}[/bold]  {workload['base_optimizer']}, {workload['gpus_per_trial']:g} of a "
            "GPU a trial",
            soft_wrap=True,
        )
        out.print(f"  {_training(workload)}", soft_wrap=True)
        for name, preset in workload["presets"].items():
            out.print(f"  preset {name}: {_training(preset)}", soft_wrap=True)
        sizes = ("train", "validation", "test", "classes")
        table = plain_table("data set", *sizes)
        for name, has in workload["datasets"].items():
            table.add_row(name, *("–" if has[size] is None else f"{has[size]:,}" for size in sizes))
        show_table(table, out)
        ranges = workload["ranges"]
        more = sorted({name for of_it in ranges.values() for name in of_it.get("hyperparameters", ())})
        columns = ("optimizer", "ρ", "grid of ρ", "learning rate", "batch size", *more)
        table = plain_table(*columns, folds=("grid of ρ", "batch size", *more))
        for name, of_it in ranges.items():
            grid = " ".join(f"{rho:.3g}" for rho in workload["rho_grid"].get(name, []))
            batches = " ".join(map(str, of_it["batch_size"]))
            further = {one: domain_from_json(domain) for one, domain in of_it.get("hyperparameters", {}).items()}
            cells = (str(further.get(one, "–")) for one in more)
            table.add_row(name, _ends(of_it["rho"]), grid, _ends(of_it["lr"]), batches, *cells)
        show_table(table, out)
        out.print()


def _rows_of_workloads(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give a row for each data set and optimizer of each workload."""
    return [
        {
            "workload": workload["name"],
            "dataset": dataset,
            **sizes,
            "optimizer": optimizer,
            **ranges,
            "rho_grid": workload["rho_grid"].get(optimizer, []),
        }
        for workload in found
        for dataset, sizes in workload["datasets"].items()
        for optimizer, ranges in workload["ranges"].items()
    ]


@prints
def optimizers(*, output: Output) -> None:
    """List the optimizers that can be searched: what each does, its passes over a batch, and its range of ρ.

    Example: [bold]tune-sam optimizers --json[/bold]
    """
    from tune_sam.optimizers import optimizers as find

    found = [entry.to_json() for entry in find()]
    output.give(found, lambda: _show_optimizers(found))


def _show_optimizers(found: list[dict[str, Any]]) -> None:
    table = plain_table("optimizer", "passes", "ρ", "what it is", "source", folds=("what it is", "source"))
    for one in found:
        table.add_row(one["name"], f"{one['gradients']:g}", _ends(one["rho"]), one["description"], one["source"])
    show_table(table, out)


@prints
def status(
    study: StudyArgument, home: HomeOption = None, study_storage: StudyStorageOption = None, *, output: Output
) -> None:
    """Show how far a study is, stage by stage, and about how long is left.

    Example: [bold]tune-sam status gcn-2026-11-24T101500[/bold]
    """
    from tune_sam.operations.status import status as stages_of

    found = stages_of(study, home=Home.at(home, study_storage))

    def show() -> None:
        show_table(stage_table(found), out)
        if running := [trial for stage in found for trial in stage.running]:
            out.print()
            show_table(running_table(running), out)
        show_failures({key: reason for stage in found for key, reason in stage.failed.items()}, out)

    keys = [{"running": [trial.key for trial in stage.running], "failed": list(stage.failed)} for stage in found]
    output.give(
        [asdict(stage) for stage in found],
        show,
        lambda: [asdict(stage) | named for stage, named in zip(found, keys, strict=True)],
    )


@prints
def best(
    study: StudyArgument,
    optimizer: Annotated[
        str | None, typer.Option(help="Only this optimizer.", show_default="each", autocompletion=optimizers_like)
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="All trials on the Pareto front of a study with two objectives.")
    ] = False,
    as_yaml: Annotated[
        bool,
        typer.Option(
            "--yaml", help="Print them as a file of options: `tune-sam refit WORKLOAD --config FILE` trains just these."
        ),
    ] = False,
    workload: TrustedWorkloadOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    *,
    output: Output,
) -> None:
    """Show the best configuration of each optimizer, by the study's objective.

    Example: [bold]tune-sam best gcn-2026-11-24T101500 --optimizer asam --json[/bold]
    """
    from tune_sam.study.records import open_study, trial_frame

    found = open_study(study, Home.at(home, study_storage))
    if as_yaml:
        if pareto or optimizer or not output.for_a_person:
            raise Refused("--yaml prints the best of each optimizer and nothing else; leave the other options out.")
        _print_best_alone(found)
    elif pareto:
        front = found.pareto(optimizer)
        title = f"{found.name}: no trial is better in one objective and as good in the other"
        output.give(
            [trial.to_json() for trial in front],
            lambda: show_table(trial_table(front, found.settings, title), out),
            lambda: trial_frame(front),
        )
    elif optimizer:
        trial = found.best(optimizer)
        output.give(
            trial.to_json(),
            lambda: show_table(trial_table([trial], found.settings), out),
            lambda: trial_frame([trial]),
        )
    else:
        show_best(found, output)


@prints
def trials(
    study: StudyArgument, home: HomeOption = None, study_storage: StudyStorageOption = None, *, output: Output
) -> None:
    """List the trials of a study.

    Example: [bold]tune-sam trials gcn-2026-11-24T101500 --csv > trials.csv[/bold]
    """
    from tune_sam.study.records import open_study, trial_frame

    found = open_study(study, Home.at(home, study_storage))
    records = found.records()

    def show() -> None:
        show_table(trial_table(records, found.settings), out)
        show_reasons(records, out)

    output.give([trial.to_json() for trial in records], show, lambda: trial_frame(records))


@prints
def logs(
    study: StudyArgument,
    trial: Annotated[
        str | None,
        typer.Argument(help="One of its trials, as sam/3; without one the logs are listed.", metavar="[TRIAL]"),
    ] = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    *,
    output: Output,
) -> None:
    """Show what a trial printed and the traceback of what it raised, or list the logs of a study.

    Example: [bold]tune-sam logs gcn-2026-11-24T101500 sam/3[/bold]
    """
    from tune_sam.study.logs import printable
    from tune_sam.study.records import open_study

    found = open_study(study, Home.at(home, study_storage))
    if trial is None:
        listed = [one for one in found.records() if one.log]
        output.give(
            [{name: getattr(one, name) for name in ("key", "state", "reason", "log")} for one in listed],
            lambda: show_table(log_table(listed), out),
        )
    else:
        one = found.trial(trial)
        text = one.read_log()
        output.give({"key": one.key, "log": one.log, "text": text}, lambda: results.write(printable(text)))


def show_best(study: "Study", output: Output) -> None:
    """Print the best trial of each optimizer; exit with status 1 where none is complete."""
    from tune_sam.study.records import best_of_each, trial_frame

    records = study.records()
    best = {trial.optimizer: trial for trial in best_of_each(study.ranked(records))}
    found = {optimizer: best.get(optimizer) for optimizer in study.settings.optimizers}
    complete = [trial for trial in found.values() if trial]
    judged_by = study.settings.judged_by
    title = f"{study.name}: best {judged_by} of each optimizer"
    output.give(
        {optimizer: trial.to_json() if trial else None for optimizer, trial in found.items()},
        lambda: show_table(trial_table(complete, study.settings, title), out) if complete else None,
        lambda: trial_frame(complete),
    )
    missing = [optimizer for optimizer, trial in found.items() if not trial]
    if missing:
        err.print(f"No trial of {', '.join(missing)} is complete; see `tune-sam trials {study.name}`.", soft_wrap=True)
    if output.for_a_person:
        show_reasons(records, err)
    if not complete:
        raise SystemExit(1)


def _print_best_alone(study: "Study") -> None:
    from tune_sam.evaluation.selection import best_alone
    from tune_sam.tuning.recipe import as_yaml

    results.write(
        f"# The best of each optimizer of study {study.name}: tune-sam refit {study.settings.workload} "
        f"--config FILE\n{as_yaml(best_alone(study))}"
    )


def _training(setting: dict[str, Any]) -> str:
    return (
        f"{setting['parameters']:,} parameters, {setting['epochs']} epochs, batch {setting['batch_size']}, "
        f"learning rate {setting['lr']:g}"
    )


def _ends(ends: list[float] | None) -> str:
    return f"{ends[0]:g} to {ends[1]:g}" if ends else "–"
