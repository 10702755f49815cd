"""The command line. Every command is a thin layer over a function; torch, Ray and MLflow load only where they are used.

Results go to stdout, progress and errors to stderr.
"""

import logging
import os
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.logging import RichHandler

from tune_sam.cli.console import Unwritten, err, open_streams, out, results
from tune_sam.cli.evaluate import analyze, compare, refit, report
from tune_sam.cli.keeping import delete, enqueue, export, import_, rename
from tune_sam.cli.results import best, logs, optimizers, status, studies, trials, workloads
from tune_sam.cli.search import resume, run, search
from tune_sam.cli.services import check, doctor, submit, sync, ui
from tune_sam.cluster.signals import interruptible
from tune_sam.errors import NothingComplete, Refused, Stopped, masked

app = typer.Typer(
    name="tune-sam",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Does sharpness-aware minimization help my model, with which radius ρ, and is the minimum really flatter?\n\n"
    "Example: [bold]tune-sam search gcn --dataset digits --trials 6[/bold], then [bold]tune-sam studies[/bold].",
)
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Search": (search, resume, run),
    "Evaluate": (refit, analyze, report, compare),
    "Results": (studies, workloads, optimizers, status, best, trials, logs),
    "Keep": (enqueue, rename, export, import_, delete),
    "Services": (check, sync, doctor, ui),
}
"""The commands as `tune-sam --help` groups them, one module each."""

for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(command.__name__.rstrip("_"), rich_help_panel=panel)(command)
# What follows the name of the command that is sent is that command's.
app.command(
    rich_help_panel="Services", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)(submit)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"tune-sam {version('tune-sam')}")
        raise typer.Exit


@app.callback()
def of_all_commands(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that stand before a command; the help is the application's own."""


def run_app() -> int:
    """Run the command that sys.argv has.

    Returns:
        Its exit status: 0 done, 1 ran and failed or nothing complete, 2 refused, 130 interrupted before anything was
        said of that.

    Raises:
        SystemExit: the command has said all and gives its status.
        KeyboardInterrupt: it was interrupted before or after the command itself.
    """
    open_streams()
    mistake: Exception | None = None
    # Of the libraries' notes to their own developers none is for the person at this screen.
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    log = RichHandler(console=err, show_time=False, show_path=False, markup=False)
    log.setFormatter(_WithoutLogins("%(message)s"))
    logging.getLogger("tune_sam").handlers = [log]
    try:
        _expect_working_directory()
        with interruptible(waits_for="", again=_stop_now):
            # A value only where typer left on its own account: 0 after --help, 130 after an interrupt.
            status: int = app(standalone_mode=False) or 0
    except typer.TyperException as error:
        status = _complain(_usage(error), 2)
    except Refused as error:
        status = _complain(str(error), 2)
    except (NothingComplete, Stopped) as error:
        status = _complain(str(error), 1)
    except Unwritten as error:
        status = _complain(*_unwritten(error))
    except Exception as error:
        mistake, status = error, 1
    try:
        results.flush()
    except Unwritten as error:
        status = _complain(*_unwritten(error))
        mistake = None if isinstance(mistake, OSError) else mistake  # typer's own print of the help met the same
    if mistake:  # of ours, with all that is needed to find it but no login
        err.print(masked("".join(traceback.format_exception(mistake))), markup=False, soft_wrap=True, end="")
    return status


def _stop_now() -> NoReturn:
    """End the process, as a second interrupt asks for: whenever that happens, what is done is kept."""
    err.print("Stopped; what is done is kept, and is resumed as after any interrupt.", soft_wrap=True)
    os._exit(130)


def _expect_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise Refused("the working directory has been removed; change to one that is there (cd).") from None


class _WithoutLogins(logging.Formatter):
    """Hides the logins in what is logged, and in the traceback that may follow."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def _unwritten(error: Unwritten) -> tuple[str, int]:
    return f"the results cannot be written to standard output ({error}); make room." if str(error) else "", 1


def _complain(message: str, status: int) -> int:
    """Say what is wrong, on one line whatever a library's message looks like."""
    if message:
        err.print(f"tune-sam: {' '.join(message.split())}", style="red", markup=False, soft_wrap=True)
    return status


def _usage(error: typer.TyperException) -> str:
    """Say what typer refused, in one sentence with the value and the way out; nothing where it has printed the help."""
    message, cause, context = error.format_message().rstrip("."), error.__cause__, getattr(error, "ctx", None)
    if isinstance(cause, ValidationError):
        message = message.replace("Invalid value", f"Invalid value {cause.errors()[0]['input']!r}", 1)
    return f"{message}; see `{context.command_path if context else 'tune-sam'} --help`." if message else ""
