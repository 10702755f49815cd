"""The page of a study, as HTML and as Markdown: what was searched, what came of it, and what that shows."""

import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from tune_sam.errors import NothingComplete, Refused
from tune_sam.evaluation.answer import Answer, short_answer
from tune_sam.evaluation.claims import Answers, answers
from tune_sam.evaluation.measured import Measured, measured_of, measurements, take_figures
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.refit import Refit, tested_refit
from tune_sam.evaluation.summary import log_summary
from tune_sam.files import nearest, replaced_folder
from tune_sam.home import Place, folder_of
from tune_sam.reporting.again import again_section
from tune_sam.reporting.answer import answer_section
from tune_sam.reporting.compute import compute_section
from tune_sam.reporting.flatness import batch_size_sections, flatness_section, flatter_section, landscape_section
from tune_sam.reporting.pictures import ANSWER, BATCH_SIZE, GAP, LANDSCAPE, RADIUS, RESULTS, pictures_in
from tune_sam.reporting.results import configurations_section, means, results_section
from tune_sam.reporting.searched import chosen_section, searched_section
from tune_sam.reporting.sections import Cell, Link, Section
from tune_sam.study.lock import page_lock
from tune_sam.study.records import PLACES, Study, Trial, best_of_each, open_search
from tune_sam.tuning.delivery import adopt_epochs, publish


@dataclass(frozen=True, repr=False)
class Report:
    """What was written.

    Attributes:
        study: whose page it is.
        answer: the three lines with which the page begins, and what to do next.
        page: the HTML page, which needs no other file. Beside it lie `report.md`, `figures/`, `study.yaml` and
            `trials.csv` with a row for each trial of the search. A tested refit adds `table.csv` with the means and
            intervals of each row of its table, and `trainings.csv` with a row for each training.
        undelivered: why MLflow does not have the page; empty if it has.
    """

    study: Study
    answer: Answer
    page: Path
    undelivered: str

    def __repr__(self) -> str:
        return f"<Report of {self.study.name}: {self.page}>"

    def _repr_html_(self) -> str:
        return f'<a href="{escape(self.page.as_uri())}">Report of {escape(self.study.name)}</a>'


PAGE = ("index.html", "report.md", "figures", "study.yaml", "trials.csv", "table.csv", "trainings.csv")
"""What a page's folder holds."""


def report(name: str, *, home: Place = None, output: str | Path | None = None) -> Report:
    """Write the page of a study to `HOME/studies/NAME/report/`, and log it to the study's MLflow run.

    It shows the search, its latest tested refit, and the newest of each kind of analysis. What was not measured is an
    empty cell. Nothing is trained, tested or measured for it.

    Args:
        name: of the study.
        home: where it lives; $TUNE_SAM_HOME by default, else ~/.tune_sam.
        output: a new folder for the page, or that of an earlier one, in place of the home's. Then nothing is logged to
            MLflow, and the home is only read.

    Raises:
        Refused: there is no such study, it is a refit, files that its page shows are gone, or `output` has something
            else in it or cannot be written.
        NothingComplete: no trial is complete, and there is no tested refit.
    """
    study = open_search(name, home)
    _ = study.workload  # refused now, if nothing but the record names its code
    own = study.home.study(name)
    if not own.is_dir():
        raise Refused(f"the files of study {name} are gone, there is no folder {own}; bring it back, or search again.")
    if output is not None:
        there = output_folder(output)
        return Report(study, write_page(study, there), there / "index.html", "")
    with page_lock(study.home, name):
        adopt_epochs(study)
        folder = own / "report"
        answer = write_page(study, folder)
        left = log_summary(study)  # first, for the ledger gets the numbers whatever MLflow takes
        undelivered = publish(study, {}, 0, folder, "report") or left
        return Report(study, answer, folder / "index.html", undelivered)


def output_folder(output: str | Path) -> Path:
    """Give the absolute path of a folder that a page may replace.

    Raises:
        Refused: it has something else than a page in it, it cannot be written, or no folder can have its path.
    """
    folder = folder_of(output, "--output")
    try:
        there = nearest(folder) == folder
        others = sorted(file.name for file in folder.iterdir() if file.name not in PAGE) if there else []
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--output {folder} cannot be used ({error.strerror}); give a new folder.") from None
    if others or folder.is_symlink():
        raise Refused(
            f"--output {folder} has {others[0] if others else 'a link'} in it; give a new folder for the page."
        )
    if not os.access(folder.parent, os.W_OK):
        raise Refused(f"--output {folder} cannot be written; give a folder where you may write.")
    return folder


def write_page(study: Study, folder: Path) -> Answer:
    """Write the page of a search into a folder, which is made or replaced, and give the answer that it begins with.

    Raises:
        Refused: files that the page shows are gone.
        NothingComplete: no trial is complete, and there is no tested refit.
    """
    refit = tested_refit(study)
    try:
        best_trials = {trial.optimizer: trial for trial in best_of_each(study.complete())}
    except NothingComplete:
        if not refit:
            raise
        best_trials = {}
    best = [best_trials[optimizer] for optimizer in study.settings.optimizers if optimizer in best_trials]
    measured = measured_of(study, refit) if refit else None
    found = answers(study, refit, measured.table() if measured else None)
    answer = short_answer(study, refit, found)
    with replaced_folder(folder) as unfinished:
        (unfinished / "figures").mkdir()
        render(
            unfinished,
            _sections(study, refit, best, found, unfinished),
            title=f"{study.name}: does SAM help?",
            heading=f"Does sharpness-aware minimization help {study.settings.workload} on {study.settings.dataset}?",
            subtitle=f"Study {study.name}",
            answer=answer,
        )
        study.trials().drop(columns=[*PLACES], errors="ignore").to_csv(unfinished / "trials.csv", index=False)
        if refit:
            means(refit).to_csv(unfinished / "table.csv", index=False)
            refit.table().to_csv(unfinished / "trainings.csv", index=False)
    return answer


def _sections(study: Study, refit: Refit | None, best: Sequence[Trial], found: Answers, folder: Path) -> list[Section]:
    """Compose the page's sections in their order, and put its pictures into the folder's `figures/`."""
    from tune_sam.reporting.plots import draw_answers, draw_trainings

    close, wide = measurements(study, refit)
    if best:
        draw_trainings(study, best, folder / "figures")
    of_sizes = close if refit and refit.choice.each_batch_size else wide or close
    _take_measured(close, wide, of_sizes, folder / "figures")
    if refit:
        draw_answers(refit, found, folder / "figures")
    names = names_of(refit) if refit else {}
    return [
        answer_section(study, refit, found, names),
        flatter_section(study, refit, found, measured_of(study, refit) if refit else None, names),
        replace(results_section(study, refit, close), pictures=pictures_in(folder, RESULTS)),
        *([configurations_section(refit)] if refit else []),
        searched_section(study),
        chosen_section(study, best, folder),
        flatness_section(study, close, wide, folder),
        *batch_size_sections(refit, of_sizes, study, folder),
        landscape_section(study, close, folder),
        compute_section(study, refit, names),
        again_section(study, refit, close, wide, folder),
    ]


def _take_measured(close: Measured | None, wide: Measured | None, of_sizes: Measured | None, into: Path) -> None:
    """Copy what the analyses drew; over ρ and around the minima only that of the best networks is drawn."""
    for measured, pictures in ((close, (*RADIUS, *LANDSCAPE)), (wide or close, GAP), (of_sizes, BATCH_SIZE)):
        if measured:
            take_figures(measured, pictures, into)


def render(
    folder: Path, sections: Sequence[Section], *, title: str, heading: str, subtitle: str, answer: Answer | None = None
) -> None:
    """Write sections as `index.html`, which needs no other file, and as `report.md`, into a folder.

    Args:
        folder: it exists, with the pictures in its `figures/`.
        sections: in their order.
        title: of the browser's window.
        heading, subtitle: at the top.
        answer: three lines below them, with the figure that shows them; None for none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    from tune_sam.reporting.interactive import script

    templates = Environment(
        loader=PackageLoader("tune_sam.reporting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(["html.j2"]),
    )
    templates.filters["inline"] = lambda file: b64encode(Path(file).read_bytes()).decode()
    templates.filters["kept"] = lambda text: text.replace(" = ", "\u00a0=\u00a0").replace(" %", "\u00a0%")
    templates.filters["cell"] = _markdown_cell
    plotly = script() if any(picture.interactive for one in sections for picture in one.pictures) else ""
    for template, file in (("report.html.j2", "index.html"), ("report.md.j2", "report.md")):
        text = templates.get_template(template).render(
            title=title,
            heading=heading,
            subtitle=subtitle,
            answer=answer,
            overview=pictures_in(folder, ANSWER) if answer else (),
            sections=sections,
            plotly=plotly,
        )
        (folder / file).write_text(text, encoding="utf-8")


def _markdown_cell(cell: Cell) -> str:
    text = str(cell).replace("|", "\\|")
    return f"[{text}]({cell.url})" if isinstance(cell, Link) else text
