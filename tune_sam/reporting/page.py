"""Report: one page, and the same as Markdown, that says what a study searched, what came of it, and what that shows."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tune_sam.errors import NothingComplete, Refused
from tune_sam.evaluation.refit import tested_refit
from tune_sam.files import replaced_folder
from tune_sam.home import Place
from tune_sam.reporting.sections import Section, means, sections_of
from tune_sam.study.records import Study, best_of_each, open_search
from tune_sam.tracking.client import StudyRun
from tune_sam.tracking.runs import publish


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        study: that it is about.
        page: the HTML page, which needs no other file. Beside it lie `report.md`, `figures/`, `study.yaml`,
            `trials.csv` with a row for each trial of the search and, of a refit, `table.csv` with the means and
            intervals of each row of its table and `trainings.csv` with a row for each training.
        undelivered: why MLflow does not have it; empty if it has.
    """

    study: Study
    page: Path
    undelivered: str


def report(name: str, *, home: Place = None) -> Report:
    """Write the page of a study: `HOME/studies/NAME/report/index.html`; everything is also logged to its MLflow run.

    It says what there is: the search, its refit if there is a tested one, and the newest of each kind of analysis. What
    was not measured is an empty cell. Nothing is trained, tested or measured for it.

    Args:
        name: of the study.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Raises:
        Refused: there is no such study, it is a refit, or files that its page shows are gone.
        NothingComplete: no trial is complete, and there is no tested refit.
    """
    study = open_search(name, home)
    refit = tested_refit(study)
    own = study.home.study(name)
    if not own.is_dir():
        raise Refused(f"the files of study {name} are gone, there is no folder {own}; bring it back, or search again.")
    try:
        found = {trial.optimizer: trial for trial in best_of_each(study.complete())}
    except NothingComplete:
        if not refit:
            raise
        found = {}
    best = [found[optimizer] for optimizer in study.settings.optimizers if optimizer in found]
    folder = own / "report"
    with replaced_folder(folder) as unfinished:
        (unfinished / "figures").mkdir()
        _write(unfinished, study, sections_of(study, refit, best, unfinished))
        study.trials().to_csv(unfinished / "trials.csv", index=False)
        if refit:
            means(refit).to_csv(unfinished / "table.csv", index=False)
            refit.table().to_csv(unfinished / "trainings.csv", index=False)
    return Report(study, folder / "index.html", _publish(study, folder))


def _write(folder: Path, study: Study, sections: Sequence[Section]) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    templates = Environment(
        loader=PackageLoader("tune_sam.reporting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(["html.j2"]),
    )
    templates.filters["inline"] = lambda file: b64encode(Path(file).read_bytes()).decode()
    templates.filters["cell"] = lambda text: text.replace("|", "\\|")
    for template, file in (("report.html.j2", "index.html"), ("report.md.j2", "report.md")):
        text = templates.get_template(template).render(study=study, sections=sections)
        (folder / file).write_text(text, encoding="utf-8")


def _publish(study: Study, folder: Path) -> str:
    """Log the page and what lies beside it to the study's run; why it could not be, or nothing."""
    try:
        publish(study.tracking_uri, StudyRun(study.experiment_id, study.mlflow_run_id), {}, 0, folder, "report")
    except Refused as error:
        return str(error)
    return ""
