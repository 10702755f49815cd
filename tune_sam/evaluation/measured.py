"""What `analyze` left of a study: its numbers, its figures, and the command that measured them."""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.errors import Refused
from tune_sam.evaluation.refit import Refit
from tune_sam.plugins import naming
from tune_sam.settings import GRID
from tune_sam.study.reading import reading
from tune_sam.study.records import Study

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """One folder that `analyze` wrote.

    Attributes:
        folder: holds the figures, `flatness.csv` and `analysis.json`.
        about: the content of `analysis.json`: the options, the sample and the study of the measured networks.
    """

    folder: Path
    about: dict[str, Any]

    def table(self) -> "DataFrame":
        """Read `flatness.csv`: a row for each network.

        Raises:
            Refused: the file is gone or damaged.
        """
        import pandas

        file = self.file("flatness.csv")
        with reading(str(file), f"{self.command} makes it again"):
            return pandas.read_csv(file, keep_default_na=False, na_values=[""])  # a choice may be called None

    def file(self, name: str) -> Path:
        """Name a file in the folder.

        Raises:
            Refused: the file is gone.
        """
        file = self.folder / name
        if not file.exists():
            raise Refused(f"{file} is gone, and the page shows it; {self.command} makes it again.")
        return file

    @property
    def figures(self) -> list[str]:
        """Name the figures that the analysis drew.

        Raises:
            Refused: an earlier version of this package wrote the folder, which did not list its figures.
        """
        if "figures" not in self.about:
            raise Refused(
                f"{self.folder} is of an earlier version of tune_sam, which did not list its figures; "
                f"{self.command} draws them anew from what was measured."
            )
        return list(self.about["figures"])

    @property
    def command(self) -> str:
        """Compose the command that measured it, without options that have their defaults."""
        about = self.about
        of = about["study"].get("refit_of") or about["study"]["name"]
        words = [
            f"tune-sam analyze {of} --sample {about.get('sample', about['samples'])}",
            *(f"--optimizer {optimizer}" for optimizer in about.get("optimizers", ())),
        ]
        if about.get("every"):
            words.append("--all")
        else:
            words += [f"--top {about['top']}"] if about.get("top") else []
            words += [f"--grid {about['surface']['grid']}"] if about["surface"]["grid"] != GRID else []
        return " ".join([*words, *naming("workload", [about["study"].get("workload", "")])])


def measured_of(study: Study, refit: Refit) -> Measured | None:
    """Find the newest analysis of the refit's networks; None if they were not measured."""
    close, _ = measurements(study, refit)
    return close if close and close.about["study"]["name"] == refit.studies[0].name else None


def measurements(study: Study, refit: Refit | None) -> tuple[Measured | None, Measured | None]:
    """Find the newest analysis of the refit's networks, or else of the best trials', and the newest of all trials."""
    owners = [*([refit.studies[0]] if refit else []), study]
    close = next((found for owner in owners if (found := _newest(owner, every=False))), None)
    return close, _newest(study, every=True)


def _newest(study: Study, *, every: bool) -> Measured | None:
    files = [
        file
        for file in (study.home.study(study.name) / "flatness").glob("*/analysis.json")
        if not file.parent.name.endswith(".unfinished") and file.parent.name.startswith("all-") == every
    ]
    found: list[tuple[str, float, Measured]] = []
    damaged: list[Refused] = []
    for file in files:
        try:
            about = _about(file)
        except Refused as error:
            damaged.append(error)
            continue
        if about.get("study", {}).get("created", study.created) == study.created:  # not of one that had its name before
            # 0.2.0 left the time to the file's own, which whatever copies the file may renew, so that these come last.
            found.append((about.get("measured", ""), file.stat().st_mtime, Measured(file.parent, about)))
    if damaged and not found:
        raise damaged[0]
    for one in damaged:
        log.warning("%s", one)
    return max(found, key=itemgetter(0, 1))[2] if found else None


def _about(file: Path) -> dict[str, Any]:
    with reading(str(file), f"remove {file.parent}, and `tune-sam analyze` with its options makes it again"):
        about: dict[str, Any] = json.loads(file.read_text())
        if not isinstance(about, dict):
            raise ValueError("it is no JSON object")
    return about


def take_figures(measured: Measured, names: Sequence[str], into: Path) -> None:
    """Copy those of the named figures that the analysis drew, with their data."""
    for name in names:
        if name in measured.figures:
            for file in (f"{name}.png", f"{name}.csv"):
                shutil.copyfile(measured.file(file), into / file)


def rests_on(measured: Measured | None, study: Study) -> str:
    """Say which networks were measured on which sample, or how to measure them."""
    if measured is None:
        return f"Not measured; {study.command('analyze')} measures a network of each optimizer."
    about = measured.about
    return (
        f"Measured on {about['samples']:,} samples of the {about['of']}, in batches of {about['batch']}, for the "
        f"networks of study {about['study']['name']}."
    )
