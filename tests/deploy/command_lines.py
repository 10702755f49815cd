"""Command lines that a file tells somebody to run: whether their programs know the options."""

import shlex
import warnings

import typer

from tune_sam.cli.app import app

with warnings.catch_warnings(action="ignore"):  # Ray's own use of Pydantic
    from ray.scripts.scripts import start


def check_tune_sam(line):
    """Raise unless it is a command of tune-sam with options that it has."""
    program, command, *options = shlex.split(line, comments=True)
    if program != "tune-sam":
        raise ValueError(f"{program} is not tune-sam")
    typer.main.get_command(app).commands[command].make_context(command, options)


def check_ray_start(options):
    """Raise unless `ray start` has these options."""
    start.make_context("start", list(options))
