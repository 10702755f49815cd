"""Commands about studies as things that one keeps: enqueue, rename, export, import and delete."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_sam.cli.completion import optimizers_like
from tune_sam.cli.console import err, out
from tune_sam.cli.options import PLACES, HomeOption, StudyArgument, StudyStorageOption, takes
from tune_sam.errors import Refused
from tune_sam.home import Home
from tune_sam.space import Choice, parse_param

if TYPE_CHECKING:
    from tune_sam.operations.delete import Belongings

RESERVED = {"name", "lr", "batch_size", "rho", "optimizer", "home"}
"""Options of their own."""

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
        if not typer.confirm("Delete it?", err=True):
            err.print("Nothing is deleted.")
            raise SystemExit(1)
    found = run(study, home=home)
    for sentence in found.stays if yes else ():
        err.print(sentence, style="yellow", soft_wrap=True, markup=False)
    out.print(f"Deleted {', '.join(found.studies)}.", soft_wrap=True, markup=False)


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
    batch_size: Annotated[int, typer.Option(help="Batch size.")],
    rho: Annotated[float | None, typer.Option(help="Radius ρ.", show_default=False)] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Whose trial it is.", show_default="the only one", autocompletion=optimizers_like)
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="A further hyperparameter; repeat it.", metavar="NAME=VALUE", show_default="defaults"),
    ] = None,
    home: HomeOption = None,
    study_storage: StudyStorageOption = None,
) -> None:
    """Have the next `resume` try a point of your own before what the sampler suggests.

    Example: [bold]tune-sam enqueue gcn-2026-11-24T101500 --optimizer sam --rho 0.1 --lr 0.003 --batch-size 64[/bold]
    """
    from tune_sam.operations.enqueue import enqueue as run

    place = Home.at(home, study_storage)
    more = dict(map(_named_value, param or ()))
    number = run(study, lr=lr, batch_size=batch_size, rho=rho, optimizer=optimizer, home=place, **more)
    out.print(f"It will be trial {number}, within the study's budget; see `tune-sam resume --trials`.", soft_wrap=True)


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


@takes(*PLACES)
def import_(
    file: Annotated[Path, typer.Argument(help="What `tune-sam export` wrote.", metavar="FILE")],
    name: Annotated[
        str | None, typer.Option(help="The study's name from now on.", show_default="as in the archive")
    ] = None,
    **places: Any,
) -> None:
    """Make a study of an archive, which may come from anybody: nothing in it is run.

    Example: [bold]tune-sam import molecules.tar.gz --name theirs[/bold]
    """
    from tune_sam.operations.import_ import import_ as run

    out.print(run(file, name=name, home=Home.at(**places)).name, soft_wrap=True, markup=False)


def _named_value(given: str) -> tuple[str, Any]:
    name, _, text = given.partition("=")
    parsed = parse_param(text) if name.isidentifier() and text else None
    if not isinstance(parsed, Choice) or len(parsed.values) != 1 or name in RESERVED:
        raise Refused(f"--param {given} is no further hyperparameter with one value; give NAME=VALUE.")
    return name, parsed.values[0]


def _show(found: "Belongings") -> None:
    runs = sum(map(len, found.runs.values()))
    refits = f", with {', '.join(found.studies[1:])}" if found.studies[1:] else ""
    what = f"Study {found.studies[0]}{refits}: {found.trials} trials, {runs} runs in MLflow"
    folders = "".join(f"\n  {folder}" for folder in found.folders)
    err.print(f"{what}, {found.size / 2**20:,.1f} MiB in{folders or ' no folder'}", soft_wrap=True, markup=False)
    for sentence in found.stays:
        err.print(sentence, style="yellow", soft_wrap=True, markup=False)
