"""Commands about studies as things that one keeps: delete."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_sam.cli.console import err, out
from tune_sam.cli.options import PLACES, StudyArgument, takes
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
        if not typer.confirm("Delete it?", err=True):
            err.print("Nothing is deleted.")
            raise SystemExit(1)
    found = run(study, home=home)
    for sentence in found.stays if yes else ():
        err.print(sentence, style="yellow", soft_wrap=True, markup=False)
    out.print(f"Deleted {', '.join(found.studies)}.", soft_wrap=True, markup=False)


def _show(found: "Belongings") -> None:
    runs = sum(map(len, found.runs.values()))
    refits = f", with {', '.join(found.studies[1:])}" if found.studies[1:] else ""
    what = f"Study {found.studies[0]}{refits}: {found.trials} trials, {runs} runs in MLflow"
    folders = "".join(f"\n  {folder}" for folder in found.folders)
    err.print(f"{what}, {found.size / 2**20:,.1f} MiB in{folders or ' no folder'}", soft_wrap=True, markup=False)
    for sentence in found.stays:
        err.print(sentence, style="yellow", soft_wrap=True, markup=False)
