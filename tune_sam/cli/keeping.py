"""Commands about studies as things that one keeps: enqueue, rename, export, import and delete."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_sam.cli.completion import optimizers_like
from tune_sam.cli.console import err, out
from tune_sam.cli.options import PLACES, DataOption, HomeOption, StudyArgument, StudyStorageOption, takes
from tune_sam.errors import Refused
from tune_sam.home import Home

if TYPE_CHECKING:
    from tune_sam.operations.delete import Belongings

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@takes(*PLACES)
def delete(study: StudyArgument, yes: YesOption = False, **places: Any) -> None:
    """Delete a study with its refits and analyses, from records, MLflow and its folder; also one that is broken.

    Example: [bold]tune-sam delete gcn-2026-11-24T101500[/bold]
    """
    from tune_sam.operations.delete import belongings
    from tune_sam.operations.delete import delete as run

    home = Home.at(**places)
    if not yes:
        _show(belongings(study, home=home))
        if not sys.stdin.isatty():
            raise Refused(f"nobody can be asked whether study {study} is to be deleted; give --yes.")
        if not _agreed("Delete it?"):
            err.print("Nothing is deleted.")
            raise SystemExit(1)
    found = run(study, home=home)
    for sentence in found.stays if yes else ():
        err.print(sentence, style="yellow", soft_wrap=True, markup=False)
    out.print(f"Deleted {', '.join(found.studies)}.", soft_wrap=True, markup=False)


def _agreed(question: str) -> bool:
    """Ask on the terminal; an end of input is a no."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as error:  # which does not say of what, but for its context
        err.print()
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return False


def export(
    study: StudyArgument,
    file: Annotated[Path, typer.Argument(help="The archive to write, FILE.tar.gz.", metavar="FILE")],
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints/--no-checkpoints", help="With the trained networks; most of the size.")
    ] = True,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
) -> None:
    """Write a study with its refits, analyses and logs into one archive.

    Example: [bold]tune-sam export gcn-2026-11-24T101500 molecules.tar.gz[/bold]
    """
    from tune_sam.operations.export import export as run

    written = run(study, file, home=Home.at(home, study_storage), checkpoints=checkpoints)
    out.print(str(written), soft_wrap=True, markup=False)


def enqueue(
    study: StudyArgument,
    lr: Annotated[float, typer.Option(help="Learning rate.")],
    rho: Annotated[float | None, typer.Option(help="Radius ρ.", show_default="for an optimizer without one")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size.", show_default="the grid's")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A further hyperparameter of the study. May be given several times.",
            metavar="NAME=VALUE",
            show_default="its default",
        ),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Whose trial it is.", show_default="the only one", autocompletion=optimizers_like)
    ] = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
) -> None:
    """Have a study try a point of your own next; a running search does it at once, else `resume`.

    It counts among --trials: where all trials have begun, `resume --trials` with a larger number tries it.

    Example: [bold]tune-sam enqueue gcn-2026-11-24T101500 --optimizer sam --rho 0.1 --lr 0.003 --batch-size 64[/bold]
    """
    from tune_sam.operations.enqueue import budget_for
    from tune_sam.operations.enqueue import enqueue as run
    from tune_sam.study.lock import is_going
    from tune_sam.study.records import open_search
    from tune_sam.study.spent import ended_by

    place, params = Home.at(home, study_storage), dict(map(_named_value, param or ()))
    trial = run(study, lr=lr, rho=rho, batch_size=batch_size, params=params, optimizer=optimizer, home=place)
    searched, needed = open_search(study, place), budget_for(trial, place)
    settings = searched.settings
    lacks = [f"--trials {needed}"] if needed > settings.trials else []
    ended = ended_by(replace(searched, settings=replace(settings, trials=max(needed, settings.trials))))
    more = [*lacks, *([ended.more] if ended else [])]
    tried = more or not is_going(place, study)
    when = f"`{searched.command('resume', *more)}` tries it" if tried else "it is tried next"
    whole = settings.trials_of(trial.optimizer)
    reasons = [*([f"all {whole} trials have begun or are taken"] if lacks else []), *([ended.why] if ended else [])]
    why = f", for {' and '.join(reasons)}" if reasons else ""
    out.print(f"{trial.key}: {when}{why}.", soft_wrap=True, markup=False)


@takes(*PLACES)
def rename(
    study: StudyArgument,
    new: Annotated[str, typer.Argument(help="Its name from now on.", metavar="NEW")],
    **places: Any,
) -> None:
    """Give a study and its refits another name, in all records.

    Example: [bold]tune-sam rename gcn-2026-11-24T101500 molecules[/bold]
    """
    from tune_sam.operations.rename import rename as run

    out.print(run(study, new, home=Home.at(**places)).name, soft_wrap=True, markup=False)


@takes("home", "study_storage", "tracking_uri")  # its results are in the home
def import_(
    file: Annotated[Path, typer.Argument(help="What `tune-sam export` wrote.", metavar="FILE")],
    name: Annotated[
        str | None, typer.Option(help="The study's name from now on.", show_default="as in the archive")
    ] = None,
    data: DataOption = None,
    **places: Any,
) -> None:
    """Make a study of an archive, which may come from anybody: nothing in it is run.

    Example: [bold]tune-sam import molecules.tar.gz --name theirs[/bold]
    """
    from tune_sam.operations.import_ import import_ as run

    out.print(run(file, name=name, home=Home.at(**places), data=data).name, soft_wrap=True, markup=False)


def _named_value(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not name or not equals:
        raise Refused(f"--param {given} is no hyperparameter with its value; give it as NAME=VALUE.")
    return name, value


def _show(found: "Belongings") -> None:
    runs = sum(map(len, found.runs.values()))
    refits = f", with {', '.join(found.studies[1:])}" if found.studies[1:] else ""
    what = f"Study {found.studies[0]}{refits}: {found.trials} trials, {runs} runs in MLflow"
    folders = "".join(f"\n  {folder}" for folder in found.folders)
    err.print(f"{what}, {found.size / 2**20:,.1f} MiB in{folders or ' no folder'}", soft_wrap=True, markup=False)
    for sentence in found.stays:
        err.print(sentence, style="yellow", soft_wrap=True, markup=False)
