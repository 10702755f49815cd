"""The versions that a number depends on."""

import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def versions() -> dict[str, str]:
    """Collect the versions that a number depends on, as tags of an MLflow run; none of what is not installed."""
    tags = {}
    for package in ("tune-sam", "torch", "torchvision", "torch-geometric", "wfdb", "scipy", "ray", "optuna"):
        with suppress(PackageNotFoundError):  # the Trainer alone runs without Ray, and from a source tree
            tags[f"version.{package}"] = version(package)
    if commit := source_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def source_commit() -> str | None:
    """Ask git for this package's commit; None without git, or if the package lies outside its repository."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An environment may lie in a folder of somebody else's repository, whose commit says nothing about us.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
