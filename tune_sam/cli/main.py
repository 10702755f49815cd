"""The command line. Every command is a thin layer over a function; torch, Ray and MLflow load only where they are used.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 1 ran and failed or nothing complete,
2 refused, 130 interrupted.
"""

import json
import logging
import math
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler

from tune_sam.cli.tables import plain_table, show_flatness, show_refit, stage_table, trial_table
from tune_sam.errors import NothingComplete, Refused
from tune_sam.home import Home
from tune_sam.settings import SearchOptions

if TYPE_CHECKING:
    from tune_sam.reporting.page import Report
    from tune_sam.study.records import Study, Trial

app = typer.Typer(
    name="tune-sam",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Does sharpness-aware minimization help my model, with which radius ρ, and is the minimum really flatter?\n\n"
    "Example: [bold]tune-sam search gcn --dataset digits --trials 6[/bold], then [bold]tune-sam studies[/bold].",
)
# Without emoji, since a range may read a:b:c. A pipe has no width that a table would have to be cut to.
out = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False, emoji=False)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder where studies live.", show_default="$TUNE_SAM_HOME, else ~/.tune_sam"),
]
StudyStorageOption = Annotated[
    str | None,
    typer.Option(
        help="Postgres that the studies' records are in.",
        show_default="$TUNE_SAM_STUDY_STORAGE, else a file in the home",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
StudyArgument = Annotated[str, typer.Argument(help="Name of a study, see `tune-sam studies`.", metavar="STUDY")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to use: auto, HOST:PORT or ray://HOST:10001.",
        show_default="$TUNE_SAM_ADDRESS, else one is started here, as with local",
    ),
]
SeedsOption = Annotated[
    str, typer.Option(help="How many seeds, or which, as 3,7,11 (one alone as 3,).", metavar="N or N,N,…")
]
RefitEpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Epochs of each training of the refit.", show_default="the search's")
]
SampleOption = Annotated[int, typer.Option(min=1, help="Training samples that flatness is measured on.")]
ConcurrentOption = Annotated[
    int | None, typer.Option(min=1, help="Trials at the same time.", show_default="as many as fit")
]


def _seeds(text: str) -> int | list[int]:
    """How many seeds, or which."""
    try:
        asked = [int(seed) for seed in text.removesuffix(",").split(",")]
    except ValueError:
        raise Refused(f"--seeds {text}: expected a number of seeds, or seeds as 3,7,11.") from None
    return asked if "," in text else asked[0]


def _show_report(found: "Report", as_json: bool) -> None:
    """Where the page is."""
    if as_json:
        _print_json({"study": found.study.name, "page": str(found.page)})
    else:
        out.print(str(found.page), soft_wrap=True, markup=False)
    if found.undelivered:
        raise NothingComplete(f"{found.undelivered}; the page is kept, and the same command delivers it.")


def _describe(field: str) -> str:
    """The help text of an option is the description of its field, so that the two cannot differ."""
    text = SearchOptions.model_fields[field].description or ""
    return text[:1].upper() + text[1:] + "."


WorkloadArgument = Annotated[str, typer.Argument(help=_describe("workload"), metavar="WORKLOAD")]
OptimizersOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Optimizer to search: base, sam, asam or asam-all; may be given several times.",
        show_default="base, sam, asam",
    ),
]
TrialsOption = Annotated[int | None, typer.Option(help=_describe("trials"), show_default="20")]
EpochsOption = Annotated[int | None, typer.Option(help=_describe("epochs"))]
DatasetOption = Annotated[str | None, typer.Option(help=_describe("dataset"))]
PresetOption = Annotated[str | None, typer.Option(help=_describe("preset"))]
DataOption = Annotated[Path | None, typer.Option(help=_describe("data"))]
NameOption = Annotated[str | None, typer.Option(help=_describe("name"))]
StorageOption = Annotated[str | None, typer.Option(help=_describe("storage"))]
TrackingOption = Annotated[str | None, typer.Option(help=_describe("tracking_uri"))]
ShareOption = Annotated[str | None, typer.Option(help=_describe("gpus_per_trial"), metavar="SHARE|auto")]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file of options; those given here come on top.")]
SeedOption = Annotated[int | None, typer.Option(help=_describe("seed"), show_default="0")]


@app.command()
def search(
    workload: WorkloadArgument,
    optimizer: OptimizersOption = None,
    trials: TrialsOption = None,
    epochs: EpochsOption = None,
    dataset: DatasetOption = None,
    preset: PresetOption = None,
    data: DataOption = None,
    train_subset: Annotated[int | None, typer.Option(help=_describe("train_subset"))] = None,
    name: NameOption = None,
    seed: SeedOption = None,
    rho: Annotated[str | None, typer.Option(help=_describe("rho"), metavar="LOW:HIGH or X,X,…")] = None,
    lr: Annotated[str | None, typer.Option(help=_describe("lr"), metavar="LOW:HIGH or X,X,…")] = None,
    batch_size: Annotated[str | None, typer.Option(help=_describe("batch_size"), metavar="N,N,…")] = None,
    grid: Annotated[bool | None, typer.Option("--grid/--no-grid", help=_describe("grid"), show_default="grid")] = None,
    sampler: Annotated[str | None, typer.Option(help=_describe("sampler"), show_default="tpe")] = None,
    scheduler: Annotated[str | None, typer.Option(help=_describe("scheduler"), show_default="asha")] = None,
    objective: Annotated[str | None, typer.Option(help=_describe("objective"), show_default="val/accuracy")] = None,
    config: ConfigOption = None,
    cpus_per_trial: Annotated[int | None, typer.Option(help=_describe("cpus_per_trial"), show_default="1")] = None,
    gpus_per_trial: ShareOption = None,
    precision: Annotated[str | None, typer.Option(help=_describe("precision"))] = None,
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help=_describe("compile"), show_default="no-compile")
    ] = None,
    max_concurrent: ConcurrentOption = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search ρ, learning rate and batch size of a workload; goes on if the study exists.

    Example: [bold]tune-sam search gcn --optimizer base --optimizer sam --trials 12 --epochs 30[/bold]
    """
    from tune_sam.cli.progress import Progress
    from tune_sam.tuning.runner import search as run

    options = {key: value for key, value in locals().items() if key in SearchOptions.model_fields and key != "workload"}
    study = run(workload, config=config, listener=Progress(err), optimizers=optimizer, **options)
    _show_best(study, as_json)


@app.command()
def resume(
    study: StudyArgument,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="New budget of each optimizer, in all, not on top.", show_default="as before"),
    ] = None,
    max_concurrent: ConcurrentOption = None,
    address: AddressOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a study that was interrupted, or give it more trials.

    Example: [bold]tune-sam resume gcn-2026-11-24T101500 --trials 40[/bold]
    """
    from tune_sam.cli.progress import Progress
    from tune_sam.tuning.runner import resume as run

    found = run(
        study,
        home=Home.at(home, study_storage),
        trials=trials,
        max_concurrent=max_concurrent,
        address=address,
        listener=Progress(err),
    )
    _show_best(found, as_json)


@app.command()
def run(
    workload: WorkloadArgument,
    optimizer: OptimizersOption = None,
    trials: TrialsOption = None,
    epochs: EpochsOption = None,
    dataset: DatasetOption = None,
    preset: PresetOption = None,
    data: DataOption = None,
    name: NameOption = None,
    seed: SeedOption = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of these and all other options of `tune-sam search`; those given here come on top."
        ),
    ] = None,
    seeds: SeedsOption = "5",
    refit_epochs: RefitEpochsOption = None,
    sample: SampleOption = 2048,
    gpus_per_trial: ShareOption = None,
    max_concurrent: ConcurrentOption = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search, refit, analyze and report in one; the same command with the study's --name goes on where it was.

    Example: [bold]tune-sam run gcn --name molecules --trials 20 --seeds 5[/bold]
    """
    from tune_sam.cli.progress import Progress, parts
    from tune_sam.operations.run import run as run_all

    options = {key: value for key, value in locals().items() if key in SearchOptions.model_fields and key != "workload"}
    asked = _seeds(seeds)
    with parts(err) as progress:
        found = run_all(
            workload,
            config=config,
            seeds=asked,
            refit_epochs=refit_epochs,
            sample=sample,
            listener=Progress(err),
            progress=progress,
            optimizers=optimizer,
            begins=lambda what: err.print(f"== {what}", soft_wrap=True, markup=False),
            **options,
        )
    _show_report(found, as_json)


@app.command()
def status(
    study: StudyArgument,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """How far a study is, stage by stage, and about how long is left.

    Example: [bold]tune-sam status gcn-2026-11-24T101500[/bold]
    """
    from tune_sam.operations.status import status as stages
    from tune_sam.study.records import open_search

    found = stages(open_search(study, Home.at(home, study_storage)))
    _print_json([asdict(stage) for stage in found]) if as_json else out.print(stage_table(found))


@app.command()
def best(
    study: StudyArgument,
    optimizer: Annotated[str | None, typer.Option(help="Only this optimizer.", show_default="each")] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="All trials on the Pareto front of a study with two objectives.")
    ] = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print them as a plain grid for `tune-sam refit WORKLOAD --config`.")
    ] = False,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """The best configuration of each optimizer, by what the study's trials are judged by.

    Example: [bold]tune-sam best gcn-2026-11-24T101500 --optimizer asam --json[/bold]
    """
    from tune_sam.study.records import open_study

    found = open_study(study, Home.at(home, study_storage))
    if as_yaml:
        if pareto or optimizer or as_json:
            raise Refused("--yaml prints the best of each optimizer and nothing else; leave the other options out.")
        _print_best_alone(found)
    elif pareto:
        front = found.pareto(optimizer)
        title = f"{found.name}: no trial is better in one objective and as good in the other"
        _print_json([trial.to_json() for trial in front]) if as_json else out.print(
            trial_table(front, found.settings.judged_by, title)
        )
    elif optimizer:
        trial = found.best(optimizer)
        _print_json(trial.to_json()) if as_json else out.print(trial_table([trial], found.settings.judged_by))
    else:
        _show_best(found, as_json)


@app.command()
def analyze(
    study: StudyArgument,
    optimizer: Annotated[
        list[str] | None, typer.Option(help="Only this optimizer; may be given several times.", show_default="each")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Best trials of each optimizer that are measured.", show_default="1")
    ] = None,
    sample: SampleOption = 2048,
    grid: Annotated[
        int | None, typer.Option(min=2, help="Points along a side of the loss surfaces.", show_default="21")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Measure every complete trial by the cheap measures, without surfaces.")
    ] = False,
    address: AddressOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """How flat the minima of the best trials are; goes on where it was interrupted.

    Example: [bold]tune-sam analyze gcn-2026-11-24T101500 --optimizer base --optimizer sam[/bold]
    """
    from tune_sam.cli.progress import parts
    from tune_sam.operations.analyze import analyze as run

    for option, value in (("--top", top), ("--grid", grid)):
        if every and value is not None:
            raise Refused(f"--all and {option} {value} exclude each other; leave one out.")
    with parts(err) as progress:
        found = run(
            study,
            home=Home.at(home, study_storage),
            optimizers=optimizer or (),
            top=top or 1,
            sample=sample,
            grid=grid or 21,
            every=every,
            address=address,
            progress=progress,
        )
    if as_json:
        _print_json({key: one.to_json() for key, one in found.flatness.items()})
    else:
        show_flatness(found, out)
    err.print(f"Figures and their data are in {found.folder}.", soft_wrap=True, markup=False)
    if found.failed:
        raise NothingComplete("; ".join(f"{what} cannot be measured: {why}" for what, why in found.failed.items()))
    if found.undelivered:
        raise NothingComplete(
            f"{found.undelivered}; everything is kept, and `tune-sam analyze` with the same options delivers it."
        )


@app.command()
def refit(
    study: Annotated[
        str, typer.Argument(help="Name of a study; with --preset or --config, of a workload.", metavar="STUDY")
    ],
    seeds: SeedsOption = "5",
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Best configurations of each optimizer that are trained.", show_default="1"),
    ] = None,
    each_batch_size: Annotated[
        bool, typer.Option("--each-batch-size", help="The best of each batch size, in place of all together.")
    ] = False,
    epochs: RefitEpochsOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Train all points of this preset of a workload without a search; report has the report's own."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Train all points of the plain grid in this YAML file without a search; see best --yaml."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="With --preset or --config, the name of the study.", show_default="of both")
    ] = None,
    data: DataOption = None,
    max_concurrent: ConcurrentOption = None,
    address: AddressOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the best configurations on train + validation with several seeds, and test them once.

    Example: [bold]tune-sam refit gcn-2026-11-24T101500 --seeds 5[/bold], or without a search
    [bold]tune-sam refit gcn --preset report[/bold].
    """
    from tune_sam.cli.progress import Progress, parts
    from tune_sam.evaluation.refit import refit as run
    from tune_sam.evaluation.refit import refit_grid

    asked = _seeds(seeds)
    of_searches = {"--top": top, "--each-batch-size": each_batch_size or None}
    of_grids = {"--name": name, "--data": data}
    planned = preset is not None or config is not None
    for option, value in (of_searches if planned else of_grids).items():
        if value is not None:
            raise Refused(
                f"{option}{'' if value is True else f' {value}'} goes with "
                f"{'a search' if planned else '--preset or --config'} alone; leave it out."
            )
    with parts(err) as progress:
        common: dict[str, Any] = {
            "home": Home.at(home, study_storage),
            "seeds": asked,
            "epochs": epochs,
            "address": address,
            "max_concurrent": max_concurrent,
            "listener": Progress(err),
            "progress": progress,
        }
        found = (
            refit_grid(study, preset=preset, config=config, name=name, data=data, **common)
            if planned
            else run(study, top=top or 1, each_batch_size=each_batch_size, **common)
        )
    if as_json:
        _print_json(found.table().to_dict("records"))
    else:
        show_refit(found, out)
    if found.undelivered:
        raise NothingComplete(f"{found.undelivered}; everything is kept, and the same command delivers it.")


@app.command()
def report(
    study: StudyArgument,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one page on what a study searched and what came of it, as HTML and Markdown.

    Example: [bold]tune-sam report gcn-2026-11-24T101500[/bold]
    """
    from tune_sam.reporting.page import report as run

    _show_report(run(study, home=Home.at(home, study_storage)), as_json)


@app.command()
def sync(
    study: StudyArgument,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
) -> None:
    """Deliver to MLflow what could not be delivered while trials ran.

    Example: [bold]tune-sam sync gcn-2026-11-24T101500[/bold]
    """
    from tune_sam.tuning.delivery import sync as run

    if left := run(study, home=Home.at(home, study_storage)):
        raise NothingComplete(
            f"{left} events of study {study} could not be delivered; they are kept, and the same command tries again."
        )
    out.print(f"MLflow has everything of study {study}.", soft_wrap=True, markup=False)


@app.command()
def doctor(
    study: StudyArgument,
    fix: Annotated[bool, typer.Option("--fix", help="Close what is left over, and deliver what is missing.")] = False,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether Optuna, MLflow and Ray's results agree on every trial; exit status 1 where they do not.

    Example: [bold]tune-sam doctor gcn-2026-11-24T101500 --fix[/bold]
    """
    from tune_sam.cli.tables import diagnosis_table
    from tune_sam.operations.doctor import diagnose, mend

    found = (mend if fix else diagnose)(study, home=Home.at(home, study_storage))
    _print_json([asdict(one) for one in found]) if as_json else out.print(diagnosis_table(found))
    if ill := [one.key for one in found if one.trouble]:
        raise NothingComplete(
            f"the ledgers disagree on {', '.join(ill[:5])}{' and more' if len(ill) > 5 else ''}; "
            + ("somebody has to look at these." if fix else f"mend with `tune-sam doctor {study} --fix`.")
        )


@app.command()
def trials(
    study: StudyArgument,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
) -> None:
    """All trials of a study.

    Example: [bold]tune-sam trials gcn-2026-11-24T101500 --csv > trials.csv[/bold]
    """
    from tune_sam.study.records import open_study

    if as_json and as_csv:
        raise Refused("--json and --csv exclude each other; give one of them.")
    found = open_study(study, Home.at(home, study_storage))
    if as_csv:
        found.trials().to_csv(sys.stdout, index=False)
    elif as_json:
        _print_json([trial.to_json() for trial in found.records()])
    else:
        out.print(trial_table(found.records(), found.settings.judged_by))


@app.command()
def studies(home: HomeOption = None, study_storage: StudyStorageOption = None, as_json: JsonOption = False) -> None:
    """All studies of a home.

    Example: [bold]tune-sam studies --json[/bold]
    """
    from tune_sam.study.records import studies as find

    found = find(Home.at(home, study_storage))
    if as_json:
        _print_json([study.to_json() for study in found])
    elif not found:
        out.print(
            f"There is no study in {Home.at(home).path} yet; make one with `tune-sam search`.",
            soft_wrap=True,
            markup=False,
        )
    else:
        table = plain_table("study", "workload", "data set", "optimizers", "trials of each", "states", "created")
        for study in found:
            settings = study.settings
            states = ", ".join(f"{count} {state}" for state, count in study.counts().items())
            table.add_row(
                study.name,
                settings.workload,
                settings.dataset,
                " ".join(settings.optimizers),
                str(settings.trials),
                states,
                study.created[:16].replace("T", " "),
            )
        out.print(table)


@app.command()
def workloads(as_json: JsonOption = False) -> None:
    """What can be searched: architectures, data sets, ranges. Needs no data.

    Example: [bold]tune-sam workloads --json[/bold]
    """
    from tune_sam.workload import find_workload, workload_names

    found = [find_workload(name).to_json() for name in workload_names()]
    if as_json:
        _print_json(found)
        return
    for workload in found:
        out.print(
            f"[bold]{workload['name']}[/bold]  {workload['base_optimizer']}, {workload['gpus_per_trial']:g} of a "
            "GPU a trial",
            soft_wrap=True,
        )
        out.print(f"  {_training(workload)}", soft_wrap=True)
        for name, preset in workload["presets"].items():
            out.print(f"  preset {name}: {_training(preset)}", soft_wrap=True)
        table = plain_table("data set", *("train", "validation", "test", "classes"))
        for name, sizes in workload["datasets"].items():
            table.add_row(name, *(f"{size:,}" for size in sizes.values()))
        out.print(table)
        table = plain_table("optimizer", "ρ", "grid of ρ", "learning rate", "batch size")
        for name, ranges in workload["ranges"].items():
            grid = " ".join(f"{rho:.3g}" for rho in workload["rho_grid"].get(name, []))
            sizes = " ".join(map(str, ranges["batch_size"]))
            table.add_row(name, _ends(ranges["rho"]), grid, _ends(ranges["lr"]), sizes)
        out.print(table)
        out.print()


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def submit(
    command: Annotated[list[str], typer.Argument(help="A command of tune-sam with its options.", metavar="COMMAND …")],
    dashboard: Annotated[
        str | None,
        typer.Option(help="The cluster's dashboard, http://HOST:8265.", show_default="$RAY_API_SERVER_ADDRESS"),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder that is sent along, for a config file or a workload of your own.", show_default="none"
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show the job's output until it ends.")] = True,
) -> None:
    """Have a cluster run a command as a Ray Job; begun anew there, it goes on where it was.

    Example: [bold]tune-sam submit --dashboard http://HEAD:8265 run gcn --name molecules[/bold]
    """
    from tune_sam.operations.submit import submit as run

    job, succeeded = run(
        command,
        dashboard=dashboard,
        working_dir=working_dir,
        show=(lambda piece: err.print(piece, end="", markup=False, soft_wrap=True)) if wait else None,
    )
    out.print(job, markup=False)
    if succeeded is False:
        raise NothingComplete(f"job {job} failed; what it said last is above.")


@app.command()
def check(
    workload: Annotated[
        str | None,
        typer.Argument(
            help="A workload whose data are read and sent to each node too.", metavar="[WORKLOAD]", show_default=False
        ),
    ] = None,
    dataset: DatasetOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    address: AddressOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try what a search would use, from here and from every node: results, records, MLflow, versions, clocks, data.

    Example: [bold]tune-sam check gcn --address auto --storage s3://BUCKET/PATH --tracking-uri http://HOST:5000[/bold]
    """
    from tune_sam.cli.tables import finding_table
    from tune_sam.operations.check import check as run
    from tune_sam.workload import workload_names

    given = {key: value for key, value in locals().items() if key in SearchOptions.model_fields}
    options = SearchOptions.read({**given, "workload": workload or workload_names()[0]}, config)
    found = run(options, with_data=workload is not None)
    _print_json([asdict(one) for one in found]) if as_json else out.print(finding_table(found))
    if ill := sum(bool(one.trouble) for one in found):
        raise NothingComplete(f"{ill} of {len(found)} things do not work; mend what the table names and check again.")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    home: HomeOption = None,
) -> None:
    """MLflow's pages over the studies of a home, on 127.0.0.1.

    Example: [bold]tune-sam ui --port 5001[/bold]
    """
    place = Home.at(home)
    if not place.tracking_file.exists():
        raise Refused(
            f"there is no study in {place.path} yet that was logged there; make one with `tune-sam search`, "
            "give --home, or open the tracking server of those that there are."
        )
    err.print(
        f"http://127.0.0.1:{port} shows the studies of {place.path}; stop with Ctrl-C.", soft_wrap=True, markup=False
    )
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # nothing here uses its workers; they start slowly
    # Replaces this process, so that signals and the exit status are the server's own.
    os.execv(
        sys.executable,
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            place.tracking_uri,
            "--default-artifact-root",
            place.artifacts.as_uri(),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ],
    )


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    # Of the libraries' notes to their own developers none is for the person at this screen.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    # As with `python -m`, so that a person's own package.module:Class is found beside them.
    sys.path.append(os.getcwd())
    logging.getLogger("tune_sam").handlers = [RichHandler(console=err, show_time=False, show_path=False, markup=False)]
    try:
        # A value only where typer left on its own account: 0 after --help, 130 after an interrupt.
        status = app(standalone_mode=False) or 0
    except typer.TyperException as error:
        status = _complain(_usage(error), 2)
    except Refused as error:
        status = _complain(str(error), 2)
    except NothingComplete as error:
        status = _complain(str(error), 1)
    sys.exit(status)


def _complain(message: str, status: int) -> int:
    """Say what is wrong, on one line whatever a library's message looks like."""
    if message:
        err.print(f"tune-sam: {' '.join(message.split())}", style="red", markup=False, soft_wrap=True)
    return status


def _usage(error: typer.TyperException) -> str:
    """What typer refused, as one sentence with the value and the way out; empty where it has printed the help."""
    message, cause, context = error.format_message().rstrip("."), error.__cause__, getattr(error, "ctx", None)
    if isinstance(cause, ValidationError):
        message = message.replace("Invalid value", f"Invalid value {cause.errors()[0]['input']!r}", 1)
    return f"{message}; see `{context.command_path if context else 'tune-sam'} --help`." if message else ""


def _show_best(study: "Study", as_json: bool) -> None:
    """The best trial of each optimizer; exit status 1 where none is complete."""
    found: dict[str, Trial | None] = {}
    for optimizer in study.settings.optimizers:
        try:
            found[optimizer] = study.best(optimizer)
        except NothingComplete:
            found[optimizer] = None
    complete = [trial for trial in found.values() if trial]
    if as_json:
        _print_json({optimizer: trial.to_json() if trial else None for optimizer, trial in found.items()})
    elif complete:
        judged_by = study.settings.judged_by
        out.print(trial_table(complete, judged_by, f"{study.name}: best {judged_by} of each optimizer"))
    missing = [optimizer for optimizer, trial in found.items() if not trial]
    if missing:
        err.print(f"No trial of {', '.join(missing)} is complete; see `tune-sam trials {study.name}`.", soft_wrap=True)
    if not complete:
        raise SystemExit(1)


def _print_best_alone(study: "Study") -> None:
    from tune_sam.evaluation.selection import best_alone
    from tune_sam.tuning.recipe import as_yaml

    sys.stdout.write(
        f"# The best of each optimizer of study {study.name}: tune-sam refit {study.settings.workload} "
        f"--config FILE\n{as_yaml(best_alone(study), study.home)}"
    )


def _training(setting: dict[str, Any]) -> str:
    return (
        f"{setting['parameters']:,} parameters, {setting['epochs']} epochs, batch {setting['batch_size']}, "
        f"learning rate {setting['lr']:g}"
    )


def _ends(ends: list[float] | None) -> str:
    return f"{ends[0]:g} to {ends[1]:g}" if ends else "–"


def _print_json(document: Any) -> None:
    """Print strict JSON: NaN and infinities, which it does not know, become null."""
    json.dump(_strict(document), sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    sys.stdout.write("\n")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
