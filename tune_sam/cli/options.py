"""The options of the command line, made of the fields of :class:`tune_sam.settings.SearchOptions`.

A field's flag, help and default are said once, with the field. A new field is an option of `tune-sam search` without a
change here.
"""

import inspect
import os
import sys
from collections.abc import Callable
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from tune_sam.cli.completion import optimizers_like, studies_like, workloads_like
from tune_sam.errors import Refused
from tune_sam.optimizers import find_optimizer
from tune_sam.settings import RangeOptions, SearchOptions, flag_of, shown, shown_default
from tune_sam.workload import find_workload

CommandT = TypeVar("CommandT", bound=Callable[..., None])


def option(name: str, **more: Any) -> Any:
    """Return the option of a field of :class:`SearchOptions`, for the annotation of a command's parameter.

    Args:
        name: the field's.
        more: what only some commands ask of it, as arguments of `typer.Option`.
    """
    field = SearchOptions.model_fields[name]
    flag, default, metavar = flag_of(name), shown_default(field), shown(field).metavar
    types = _types(field)
    if types == {bool}:
        without = f"--no-{flag.removeprefix('--')}"
        default, flag = (flag if field.default else without).removeprefix("--"), f"{flag}/{without}"
    if all(get_origin(one) is Literal for one in types):
        metavar = "|".join(value for one in types for value in get_args(one))
    again = " May be given several times." if _repeats(types) else ""
    return typer.Option(
        flag, **{"help": f"{field.description}{again}", "show_default": default or False, "metavar": metavar, **more}
    )


def takes(*names: str, **more: Any) -> Callable[[CommandT], CommandT]:
    """Give a command the options of these fields, which it receives as `**options`: None for each that is not given.

    In the help they come after the command's arguments and before its other options.

    Args:
        names: the fields'.
        more: what this command says of them otherwise; see :func:`option`.
    """

    def expand(command: CommandT) -> CommandT:
        signature = inspect.signature(command, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        before = [one for one in signature.parameters.values() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        after = [one for one in signature.parameters.values() if one.kind is keyword]
        options = [
            inspect.Parameter(name, keyword, default=None, annotation=_annotation(name, **more)) for name in names
        ]
        command.__signature__ = signature.replace(parameters=[*before, *options, *after])  # type: ignore[attr-defined]
        return command

    return expand


def _annotation(name: str, **more: Any) -> Any:
    """Return what typer reads: a flag, number, path or list, or a text that SearchOptions parses."""
    if name in SHARED:
        return SHARED[name]
    field = SearchOptions.model_fields[name]
    types, parsed = _types(field), any(isinstance(one, BeforeValidator) for one in field.metadata)
    simple: Any = None if parsed else next((one for one in (bool, int, float, Path) if types == {one}), None)
    return Annotated[simple or (list[str] if _repeats(types) else str), option(name, **more)]


def _repeats(types: set[Any]) -> bool:
    """Whether a flag may be given several times: for each of several texts, or of several names."""
    return tuple[str, ...] in types or any(get_origin(one) is dict for one in types)


def _types(field: FieldInfo) -> set[Any]:
    """Return what a field can be beside None."""

    def members(annotation: Any) -> set[Any]:
        if get_origin(annotation) is Annotated:
            return members(get_args(annotation)[0])
        if get_origin(annotation) in (Union, UnionType):
            return reduce(or_, map(members, get_args(annotation)))
        return {annotation}

    return members(field.annotation) - {NoneType}


def beside_the_person(workload: str | None) -> str | None:
    """Let a workload that a person names as package.module:Class be found in their working directory, too.

    As with `python -m`, but for that alone: modules of a folder that somebody sent are not to be imported by their
    names.
    """
    if workload and ":" in workload:
        sys.path.append(os.getcwd())
    return workload


def all_beside_the_person(optimizers: list[str] | None) -> list[str] | None:
    """Let optimizers that a person names as package.module:Class be found there, too; see :func:`beside_the_person`."""
    for optimizer in optimizers or ():
        beside_the_person(optimizer)
    return optimizers


HomeOption = Annotated[Path | None, option("home")]
StudyStorageOption = Annotated[str | None, option("study_storage")]
AddressOption = Annotated[str | None, option("address")]
ConcurrentOption = Annotated[int | None, option("max_concurrent", min=1)]
DataOption = Annotated[Path | None, option("data")]
SplitSeedOption = Annotated[int | None, option("split_seed")]

SHARED = {
    "max_concurrent": ConcurrentOption,
    "optimizers": Annotated[
        list[str] | None, option("optimizers", autocompletion=optimizers_like, callback=all_beside_the_person)
    ],
}
"""Fields whose bounds or completion every command has alike, also one that makes no SearchOptions."""

SEARCH = tuple(
    name
    # Ranges of all optimizers last, as they are the base class's and pydantic lists them first.
    for name in sorted(SearchOptions.model_fields, key=lambda name: name in RangeOptions.model_fields)
    if name not in ("workload", "ranges")  # the argument; and what only a file or Python can hold
)
"""Every field that is an option of `tune-sam search`."""


PLACES = ("home", "study_storage", "storage", "tracking_uri")
"""The options that say where a study lives, and which places outside of its home it may write to: what a record alone
names is not written to. They are the arguments of :meth:`tune_sam.home.Home.at`."""


def _trusted_optimizers(optimizers: list[str] | None) -> list[str] | None:
    """Import optimizers that a person names, so that a study's record may name them too."""
    for optimizer in all_beside_the_person(optimizers) or ():
        if ":" not in optimizer:
            raise Refused(
                f"--optimizer {optimizer}: this names code of the study as package.module:Class, and each of its "
                "optimizers is trained; leave it out."
            )
        find_optimizer(optimizer)
    return optimizers


def _trusted(workload: str | None) -> str | None:
    """Import a workload that a person names, so that a study's record may name it too."""
    if workload is not None and beside_the_person(workload):
        find_workload(workload)
    return workload


def _trusted_all(workloads: list[str] | None) -> list[str] | None:
    """As :func:`_trusted`, of several."""
    for workload in workloads or ():
        _trusted(workload)
    return workloads


WorkloadArgument = Annotated[
    str,
    typer.Argument(
        help=SearchOptions.model_fields["workload"].description,
        metavar="WORKLOAD",
        callback=beside_the_person,
        autocompletion=workloads_like,
    ),
]
TrustedWorkloadOption = Annotated[
    str | None,
    typer.Option(
        "--workload",
        help="For a workload of your own: the study's package.module:Class, whose code is imported then.",
        show_default=False,
        metavar="MODULE:CLASS",
        callback=_trusted,
    ),
]
TrustedWorkloadsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--workload",
        help="For workloads of your own: a study's package.module:Class, whose code is imported then. May be given "
        "several times.",
        show_default=False,
        metavar="MODULE:CLASS",
        callback=_trusted_all,
    ),
]
TrustedOptimizersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--optimizer",
        help="Chooses nothing. For an optimizer of your own: the study's package.module:Class, whose code is imported "
        "then. May be given several times.",
        show_default=False,
        metavar="MODULE:CLASS",
        callback=_trusted_optimizers,
    ),
]
StudyArgument = Annotated[
    str,
    typer.Argument(help="Name of a study, see `tune-sam studies`.", metavar="STUDY", autocompletion=studies_like),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="YAML file of options of `tune-sam search`; those given here replace its own, but for ranges of single "
        "optimizers.",
        show_default="none",
    ),
]
SeedsOption = Annotated[
    str, typer.Option(help="Seeds of the refit: how many, or which, as 3,7,11 (one alone as 3,).", metavar="N or N,N,…")
]
RefitEpochsOption = Annotated[
    int | None, typer.Option(min=1, help="Epochs of each training of the refit.", show_default="the search's")
]
ControlsOption = Annotated[
    bool,
    typer.Option(
        "--controls/--no-controls",
        help="Train matched controls, too: the base optimizer with the learning rate and batch size of each other "
        "configuration.",
    ),
]
SampleOption = Annotated[int, typer.Option(min=1, help="Training samples that flatness is measured on.")]


def parse_seeds(text: str) -> int | list[int]:
    """Return how many seeds, or which, from `5` or `3,7,11`.

    Raises:
        Refused: it is neither.
    """
    try:
        asked = [int(seed) for seed in text.removesuffix(",").split(",")]
    except ValueError:
        raise Refused(f"--seeds {text}: expected a number of seeds, or seeds as 3,7,11.") from None
    return asked if "," in text else asked[0]
