"""The further hyperparameters of a search: what the workload declares, as a person narrows and fixes it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields

from tune_sam.config import TrialConfig
from tune_sam.errors import Refused
from tune_sam.measures import COLUMNS
from tune_sam.optimizers import climbs, optimizer_names
from tune_sam.settings import RangeOptions, SearchOptions, flag_of
from tune_sam.space import ASCENT, Choice, Configuration, Domain, LogRange, Range, narrowed, parts_of_a_batch
from tune_sam.study.records import Trial
from tune_sam.workload import KEPT, Workload

TAKEN = {field.name for kind in (Configuration, TrialConfig, Trial) for field in fields(kind)} | {
    *KEPT,
    "row",
    "kind",
    "matched",
    "base_epochs",
    "gradients",
    *("score", "direction", "loss_unit", "objective", "label", "measure", "error", "resolved"),
    *("validation", "test", "gap", "trials"),
}
"""Names that a further hyperparameter cannot have: a trial, its record, a table or a figure has them.

Nor can it have those of the columns of flatness, which stand beside a trial's configuration.
"""


def check_declared(workload: Workload) -> None:
    """Refuse a workload whose hyperparameters cannot be searched as it declares them.

    Raises:
        Refused: a name is taken or is none, a domain is of no known kind, the range of ρ or of the learning rate is
            linear, or something is of an optimizer that is none.
    """
    known = optimizer_names()
    for member, ranges in {"rho": workload.rho, **workload.hyperparameters}.items():
        for optimizer in ranges if isinstance(ranges, Mapping) else ():
            if optimizer not in known and ":" not in str(optimizer):
                raise Refused(
                    f"workload {workload.name} gives its {member} for {optimizer!r}, which is no optimizer; choose "
                    f"from {', '.join(known)}, or name your own as package.module:Class."
                )
    for name, what in workload.hyperparameters.items():
        where = f"workload {workload.name} declares the hyperparameter {name!r}"
        if name in TAKEN or name in COLUMNS:
            raise Refused(f"{where}, a name that tune_sam itself uses; rename it in `hyperparameters`.")
        if not str(name).isidentifier():
            raise Refused(f"{where}, which is no name of Python's; rename it in `hyperparameters`.")
        for domain in what.values() if isinstance(what, Mapping) else (what,):
            if not isinstance(domain, Domain):
                raise Refused(f"{where} as {domain!r}; give a LogRange, a Range or a Choice of tune_sam.space.")
            if name in ASCENT:
                try:
                    parts_of_a_batch(domain)  # type: ignore[arg-type]  # a LogRange it refuses, as it is no Choice
                except ValueError as error:
                    raise Refused(f"{where} as {domain}; {error}.") from None
    for name, one in {"lr": workload.lr, **{f"rho of {other}": rho for other, rho in workload.rho.items()}}.items():
        if not isinstance(one, LogRange):
            raise Refused(
                f"workload {workload.name} gives its {name} as {one!r}, and that is searched in logarithms; give a "
                "tune_sam.space.LogRange."
            )


def check_named(chosen: SearchOptions, workload: Workload) -> None:
    """Refuse a hyperparameter that a person names and no optimizer has.

    Raises:
        Refused: the sentence names those that there are.
    """
    _check_names("--param", chosen.params, workload, chosen.optimizers)
    for optimizer, ranges in chosen.ranges.items():
        _check_names(f"--ranges.{optimizer}.params", ranges.params, workload, (optimizer,))


def _check_names(flag: str, named: Mapping[str, object], workload: Workload, optimizers: Sequence[str]) -> None:
    known = sorted({name for optimizer in optimizers for name in _names(workload, optimizer)})
    for name in named:
        if name in ("rho", "lr", "batch_size"):
            raise Refused(f"{flag} {name} has an option of its own; give {flag_of(name)}.")
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it declares none, see docs/own-workload.md"
            raise Refused(
                f"{flag} {name}: workload {workload.name} has no further hyperparameter {name!r} for "
                f"{', '.join(optimizers)}; {there}."
            )


def _names(workload: Workload, optimizer: str) -> set[str]:
    """Name the further hyperparameters that an optimizer can be given: those declared, and `m` where it climbs."""
    return {*workload.hyperparameters_of(optimizer), *(("m",) if climbs(optimizer) else ())}


def further_domains(own: RangeOptions, workload: Workload, optimizer: str) -> dict[str, Domain]:
    """Say where each further hyperparameter of an optimizer is searched; `m` only where it is declared or asked for.

    Args:
        own: a person's own ranges for the optimizer.
        workload: that is searched.
        optimizer: one of the study's.

    Raises:
        Refused: what a person gives is nothing that the declared one can become.
    """
    declared = workload.hyperparameters_of(optimizer)
    found: dict[str, Domain] = dict(declared)
    for name in _names(workload, optimizer):
        given: Range | Choice | None = own.params.get(name)
        if given is None:
            continue
        try:
            found[name] = parts_of_a_batch(given) if name in ASCENT else narrowed(declared[name], given)
        except ValueError as error:
            raise Refused(f"--param {name}={given}: {error}.") from None
    return found
