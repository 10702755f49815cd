"""Commands that judge what searches found: refit, analyze, report and compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_sam.cli.completion import optimizers_like, studies_like
from tune_sam.cli.console import err, out, resumable
from tune_sam.cli.options import (
    PLACES,
    AddressOption,
    ConcurrentOption,
    ControlsOption,
    DataOption,
    HomeOption,
    RefitEpochsOption,
    SampleOption,
    SeedsOption,
    SplitSeedOption,
    StudyArgument,
    StudyStorageOption,
    TrustedOptimizersOption,
    TrustedWorkloadOption,
    TrustedWorkloadsOption,
    beside_the_person,
    parse_seeds,
    takes,
)
from tune_sam.cli.output import Output, prints
from tune_sam.cli.tables import show_comparison, show_flatness, show_refit
from tune_sam.errors import NothingComplete, Refused
from tune_sam.home import Home
from tune_sam.settings import GRID, SAMPLE, SEEDS

if TYPE_CHECKING:
    from tune_sam.reporting.page import Report


@prints
@takes(*PLACES)
def refit(
    study: Annotated[
        str,
        typer.Argument(
            help="Name of a study; with --preset or --config, of a workload.",
            metavar="STUDY",
            callback=beside_the_person,
            autocompletion=studies_like,
        ),
    ],
    seeds: SeedsOption = str(SEEDS),
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Best configurations of each optimizer that are trained.", show_default="1"),
    ] = None,
    each_batch_size: Annotated[
        bool, typer.Option("--each-batch-size", help="The best of each batch size, in place of all together.")
    ] = False,
    epochs: RefitEpochsOption = None,
    controls: ControlsOption = True,
    register: Annotated[
        str | None,
        typer.Option(
            help="Register each optimizer's network in MLflow as a version of this model, its alias the optimizer.",
            metavar="MODEL",
            show_default="none",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Train all points of this preset of a workload without a search; report has the published study's."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Train each combination of the values in this YAML file, whose sampler is grid, without a search; "
            "`best --yaml` writes one."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="With --preset or --config, the name of the study.",
            show_default="made of the workload and the preset or the file",
        ),
    ] = None,
    data: DataOption = None,
    split_seed: SplitSeedOption = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            help="With --preset or --config, enter the trainings in this file, which benchmarks/gpu made elsewhere.",
            show_default="none",
        ),
    ] = None,
    max_concurrent: ConcurrentOption = None,
    address: AddressOption = None,
    workload: TrustedWorkloadOption = None,
    optimizer: TrustedOptimizersOption = None,
    *,
    output: Output,
    **places: Any,
) -> None:
    """Train the best configurations again on train + validation with several seeds, and test them once.

    Example: [bold]tune-sam refit gcn-2026-11-24T101500 --seeds 5[/bold], or without a search
    [bold]tune-sam refit gcn --preset report[/bold].
    """
    asked = parse_seeds(seeds)
    of_searches = {"--top": top, "--each-batch-size": each_batch_size or None}
    of_grids = {"--name": name, "--data": data, "--split-seed": split_seed, "--trained": trained}
    planned = preset is not None or config is not None
    for option, value in (of_searches if planned else of_grids).items():
        if value is not None:
            raise Refused(
                f"{option}{'' if value is True else f' {value}'} goes with "
                f"{'a search' if planned else '--preset or --config'} alone; leave it out."
            )
    from tune_sam.tuning.progress import Progress

    with resumable(lambda: "what is done is kept, and the same command resumes"), Progress(err) as listener:
        from tune_sam.operations.refit import refit as run
        from tune_sam.operations.refit import refit_grid
        from tune_sam.settings import SearchOptions
        from tune_sam.tuning.plan import home_of

        common: dict[str, Any] = {
            # A file may name each of the places, too.
            "home": home_of(SearchOptions.read({"workload": study, **places}, config))
            if planned
            else Home.at(**places),
            "seeds": asked,
            "epochs": epochs,
            "controls": controls,
            "register": register,
            "address": address,
            "max_concurrent": max_concurrent,
            "listener": listener,
        }
        of_grid: dict[str, Any] = {"data": data, "split_seed": split_seed, "trained": trained}
        found = (
            refit_grid(study, preset=preset, config=config, name=name, **of_grid, **common)
            if planned
            else run(study, top=top or 1, each_batch_size=each_batch_size, **common)
        )
    table = found.table()
    output.give(table.to_dict("records"), lambda: show_refit(found, out), lambda: table)
    if found.undelivered:
        raise NothingComplete(f"{found.undelivered}; everything is kept, and the same command delivers it.")


@prints
@takes(*PLACES)
def analyze(
    study: StudyArgument,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this optimizer; may be given several times.",
            show_default="each",
            autocompletion=optimizers_like,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many are measured: best trials of each optimizer, or, of a refit, seeds of each row.",
            show_default="1 trial; all seeds",
        ),
    ] = None,
    sample: SampleOption = SAMPLE,
    grid: Annotated[
        int | None, typer.Option(min=2, help="Points along a side of the loss surfaces.", show_default=str(GRID))
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Measure every complete trial by the cheap measures, without surfaces.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare λ_max and the trace of one batch with what PyHessian finds.")
    ] = False,
    address: AddressOption = None,
    workload: TrustedWorkloadOption = None,
    *,
    output: Output,
    **places: Any,
) -> None:
    """Measure how flat the minima of the best trials are; what is measured already is kept.

    Example: [bold]tune-sam analyze gcn-2026-11-24T101500 --optimizer base --optimizer sam[/bold]
    """
    for option, value in (("--top", top), ("--grid", grid)):
        if every and value is not None:
            raise Refused(f"--all and {option} {value} exclude each other; leave one out.")
    from tune_sam.tuning.progress import Progress

    with resumable(lambda: "what is done is kept, and the same command resumes"), Progress(err) as listener:
        from tune_sam.operations.analyze import analyze as run

        found = run(
            study,
            home=Home.at(**places),
            optimizers=optimizer or (),
            top=top,
            sample=sample,
            grid=grid or GRID,
            every=every,
            verify=verify,
            address=address,
            listener=listener,
        )
    output.give(
        {
            key: one.to_json() | ({"by_pyhessian": found.checks[key]} if key in found.checks else {})
            for key, one in found.flatness.items()
        },
        lambda: show_flatness(found, out),
        found.table,
    )
    err.print(f"Figures and their data are in {found.folder}.", soft_wrap=True, markup=False)
    if found.failed:
        raise NothingComplete("; ".join(f"{what} cannot be measured: {why}" for what, why in found.failed.items()))
    if found.undelivered:
        raise NothingComplete(
            f"{found.undelivered}; everything is kept, and `tune-sam analyze` with the same options delivers it."
        )


@prints
@takes(*PLACES)
def report(
    study: StudyArgument,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="New folder for the page; the home is then only read, and nothing is logged to MLflow.",
            show_default="HOME/studies/STUDY/report",
        ),
    ] = None,
    workload: TrustedWorkloadOption = None,
    *,
    output: Output,
    **places: Any,
) -> None:
    """Write one page on what a study searched and found, as HTML and Markdown.

    Example: [bold]tune-sam report gcn-2026-11-24T101500[/bold]
    """
    from tune_sam.tuning.progress import Progress

    with Progress(err) as listener:
        listener.stage("Writing the page")
        from tune_sam.reporting.page import report as run

        found = run(study, home=Home.at(**places), output=folder)
    show_page(found, output)


@prints
def compare(
    studies: Annotated[
        list[str],
        typer.Argument(
            help="Two studies or more.", metavar="STUDY...", autocompletion=studies_like, show_default=False
        ),
    ],
    folder: Annotated[
        Path | None, typer.Option("--output", help="New folder for a page of it.", show_default="no page")
    ] = None,
    workload: TrustedWorkloadsOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    *,
    output: Output,
) -> None:
    """Put studies side by side: the best of each optimizer, what is not the same, and what differs between refits.

    Example: [bold]tune-sam compare gcn-2026-11-24T101500 molecules --output side-by-side[/bold]
    """
    from tune_sam.operations.compare import compare as run

    found = run(studies, home=Home.at(home, study_storage), output=folder)
    output.give(found.to_json(), lambda: show_comparison(found, out), found.table)
    if folder and output.for_a_person:
        out.print(str(folder / "index.html"), soft_wrap=True, markup=False)


def show_page(report: "Report", output: Output) -> None:
    """Print where the page is."""
    output.give(
        {"study": report.study.name, "page": str(report.page)},
        lambda: out.print(str(report.page), soft_wrap=True, markup=False),
    )
    if report.undelivered:
        err.print(
            f"MLflow does not have the page yet: {report.undelivered} The same command delivers it.",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )
