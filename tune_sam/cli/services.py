"""Commands about what a search uses and leaves: check, sync, doctor, submit and ui."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tune_sam.cli.completion import workloads_like
from tune_sam.cli.console import err, out
from tune_sam.cli.options import (
    PLACES,
    ConfigOption,
    HomeOption,
    StudyArgument,
    beside_the_person,
    takes,
)
from tune_sam.cli.output import Output, prints
from tune_sam.errors import NothingComplete
from tune_sam.home import Home


@prints
@takes("dataset", "data", "address", "storage", "tracking_uri", "home", "study_storage")
def check(
    workload: Annotated[
        str | None,
        typer.Argument(
            help="A workload whose data are read and sent to each node too.",
            metavar="[WORKLOAD]",
            show_default=False,
            callback=beside_the_person,
            autocompletion=workloads_like,
        ),
    ] = None,
    *,
    config: ConfigOption = None,
    output: Output,
    **options: Any,
) -> None:
    """Try what a search would use, from here and from every node: results, records, MLflow, versions, clocks, data.

    Example: [bold]tune-sam check gcn --address auto --storage s3://BUCKET/PATH --tracking-uri http://HOST:5000[/bold]
    """
    from tune_sam.cli.tables import finding_table, show_table
    from tune_sam.tuning.progress import Progress

    with Progress(err) as listener:
        listener.stage("Trying services, Ray and the nodes")
        from tune_sam.operations.check import check as run

        found = run(workload, config=config, **options)
    output.give([asdict(one) for one in found], lambda: show_table(finding_table(found), out))
    if ill := sum(bool(one.trouble) for one in found):
        raise NothingComplete(f"{ill} of {len(found)} things do not work; mend what the table names and check again.")


@takes(*PLACES)
def sync(study: StudyArgument, **places: Any) -> None:
    """Deliver to MLflow what it lacks of the study's record; a test, an analysis or a page its own command delivers.

    Example: [bold]tune-sam sync gcn-2026-11-24T101500[/bold]
    """
    from tune_sam.tuning.progress import Progress

    with Progress(err) as listener:
        listener.stage("Bringing MLflow up to date")
        from tune_sam.tuning.delivery import sync as run

        left = run(study, home=Home.at(**places))
    if left:
        raise NothingComplete(
            f"MLflow lacks results of {left} trials of study {study}; they are kept: mend what is said above, and the "
            f"same command tries again; `tune-sam doctor {study}` says what is lacking."
        )
    out.print(f"MLflow has all that the record of study {study} has.", soft_wrap=True, markup=False)


@prints
@takes(*PLACES)
def doctor(
    study: StudyArgument,
    fix: Annotated[bool, typer.Option("--fix", help="Close what is left over, and deliver what is missing.")] = False,
    *,
    output: Output,
    **places: Any,
) -> None:
    """Compare what Optuna and MLflow say of every trial, and read its checkpoint; exit status 1 where one is wrong.

    Example: [bold]tune-sam doctor gcn-2026-11-24T101500 --fix[/bold]
    """
    from tune_sam.cli.tables import diagnosis_table, show_table
    from tune_sam.tuning.progress import Progress

    with Progress(err) as listener:
        listener.stage("Comparing Optuna, MLflow and checkpoints")
        from tune_sam.operations.doctor import doctor as run

        found = run(study, home=Home.at(**places), fix=fix)
    output.give([asdict(one) for one in found], lambda: show_table(diagnosis_table(found), out))
    if ill := [one.key for one in found if one.trouble]:
        raise NothingComplete(
            f"something is wrong with {', '.join(ill[:5])}{' and more' if len(ill) > 5 else ''}; "
            + ("somebody has to look at these." if fix else f"mend with `tune-sam doctor {study} --fix`.")
        )


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
    """Send a command to a cluster as a Ray Job; restarted there, it resumes where it was.

    Example: [bold]tune-sam submit --dashboard http://HEAD:8265 run gcn --name mutagenicity[/bold]
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


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser once it is there.")] = False,
    optuna: Annotated[
        bool, typer.Option("--optuna", help="Optuna's dashboard in place of MLflow's pages; needs the extra ui.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Serve MLflow's pages on the studies of a home, on 127.0.0.1, and say where they show the newest one.

    Example: [bold]tune-sam ui --open[/bold]
    """
    from tune_sam.operations.ui import mlflow_pages, optuna_dashboard

    place = Home.at(home)

    def ready(address: str) -> None:
        out.print(address, soft_wrap=True, markup=False)
        err.print(f"It shows the studies of {place.path}; stop with Ctrl-C.", soft_wrap=True, markup=False)
        if show:
            typer.launch(address)

    (optuna_dashboard if optuna else mlflow_pages)(place, port, ready)
