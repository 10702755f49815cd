"""How code of others is found: by an entry point of an installed package, or as `package.module:Class`.

Workloads and optimizers join the system so. A class is imported where its package is installed, or where a person names
it; what nothing but a study's record names is not run.
"""

import importlib
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import TypeVar

from tune_sam.errors import Refused

OF_A_PROGRAM = "__main__"
"""The module of what is defined in a program itself, or in a notebook."""

PluginT = TypeVar("PluginT")


def installed(group: str) -> list[str]:
    """List the names in a group of entry points, sorted; nothing is imported."""
    return sorted({point.name for point in entry_points(group=group)})


def find(name: str, group: str) -> str | None:
    """Find the `package.module:Class` of a name: itself, or that of the entry point; None if there is none."""
    if ":" in name:
        return name
    return next((point.value for point in entry_points(group=group, name=name)), None)


def make(path: str, kind: type[PluginT], what: str, needed: Sequence[str]) -> PluginT:
    """Import the class at `package.module:Class` and make one of it.

    Args:
        path: the class's.
        kind: which it must be derived from.
        what: a sentence about it calls it so, such as `workload`.
        needed: attributes that it must have.

    Raises:
        Refused: it cannot be imported, is no such class, or is not complete.
    """
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever a module does while it is imported
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Refused(f"the {what} {path!r} cannot be imported ({why}); give package.module:Class.") from None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise Refused(f"{path!r} is not a subclass of {kind.__module__}.{kind.__name__}; derive it from that class.")
    try:
        made = found()
    except Exception as error:  # an abstract method is not implemented, or what a class does when it is made
        raise Refused(f"the {what} {path!r} is not complete ({error}); implement its methods.") from None
    if missing := [name for name in needed if not hasattr(found, name)]:
        raise Refused(f"the {what} {path!r} is not complete; give its class {', '.join(missing)}.")
    return made


def naming(option: str, names: Iterable[str]) -> list[str]:
    """Give the options of a command in which a person names the code of a study that no package has installed.

    Args:
        option: `workload` or `optimizer`.
        names: of the study's; what is defined in a program or a notebook, no command can name.
    """
    return [f"--{option} {name}" for name in names if ":" in name and not name.startswith(f"{OF_A_PROGRAM}:")]


def refuse_unnamed(name: str, what: str) -> None:
    """Refuse a `package.module:Class` that a study's record names, unless its module is imported already.

    Raises:
        Refused: it is not, so that nobody but the record names it.
    """
    module, _, attribute = name.partition(":")
    there = vars(sys.modules[module]) if module in sys.modules else {}
    if module == OF_A_PROGRAM and not isinstance(there.get(attribute), type):
        raise Refused(
            f"the {what} {attribute} was defined in a program or a notebook, whose code no record has; define it again "
            "there, and open the study after it."
        )
    if ":" in name and not isinstance(there.get(attribute), type):
        raise Refused(
            f"the {what} {name!r} is code that the study's record names and that is not installed; if you trust it, "
            f"give --{what} {name}, or import {module} in Python."
        )
