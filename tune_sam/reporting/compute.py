"""What a study took: time, gradients and devices; and where its runs are."""

from collections.abc import Iterable, Mapping

from tune_sam.evaluation.names import optimizer_names
from tune_sam.evaluation.refit import Refit
from tune_sam.logins import without_login
from tune_sam.provenance import versions
from tune_sam.reporting.sections import Cell, Link, Section, Table
from tune_sam.study.records import Study, Trial


def compute_section(study: Study, refit: Refit | None, names: Mapping[str, str]) -> Section:
    """Tabulate time and gradients of search and refit, the MLflow runs, and the versions.

    Args:
        study: whose page it is.
        refit: its tested refit; None if there is none.
        names: what the refit's rows are called.
    """
    return Section(
        "Time, compute, runs and versions",
        (
            "Seconds are those of the epochs, of all trainings together. Gradients are of one sample each; they were "
            "counted, and are estimated where a training diverged, has not ended or is of an earlier release. Passes "
            f"are those of a sample in an epoch, two for SAM. {_passes(study, refit)}".strip(),
        ),
        (_costs(study, refit, names), _runs(study, refit), _versions(study)),
    )


def _costs(study: Study, refit: Refit | None, names: Mapping[str, str]) -> Table:
    settings, optimizers = study.settings, optimizer_names(study)
    samples = settings.train_subset or study.workload.datasets[settings.dataset].train
    rows: list[tuple[Cell, ...]] = []
    if trials := [trial for trial in study.records() if trial.epochs]:
        rows.append(("The search",))
        for optimizer in settings.optimizers:
            own = [trial for trial in trials if trial.optimizer == optimizer]
            epochs = sum(trial.epochs for trial in own)
            gradients = sum(study.gradients(trial, samples) for trial in own)
            seconds = (trial.seconds for trial in own)
            rows.append(_cost(optimizers[optimizer], len(own), epochs, samples, seconds, gradients))
    if refit:
        rows.append(("The refit",))
        for row, part in refit.table().groupby("row", sort=False):
            epochs, gradients = part["epochs"].sum(), part["gradients"].sum()
            rows.append(_cost(names[str(row)], len(part), epochs, refit.samples, part["seconds"], gradients))
    return Table(("", "trainings", "epochs", "seconds", "gradients", "passes"), tuple(rows))


def _cost(
    name: str, trainings: int, epochs: int, samples: int, seconds: Iterable[float | None], gradients: int
) -> tuple[str, ...]:
    took = sum(one or 0 for one in seconds)
    passes = f"{gradients / (samples * epochs):.3g}" if epochs else ""
    return name, f"{trainings}", f"{epochs:,}", f"{took:,.0f}", f"{gradients:,}", passes


def _passes(study: Study, refit: Refit | None) -> str:
    """Say at which precisions and on which devices the trainings were; empty if no trial recorded one."""
    trials: dict[str, list[Trial]] = {}
    for one in (study, *(refit.studies if refit else ())):
        trials.setdefault(KINDS[one.settings.kind], []).extend(one.records())
    precisions = {
        kind: " and ".join(sorted({one.precision for one in of if one.precision})) for kind, of in trials.items()
    }
    told = {kind: names for kind, names in precisions.items() if names}
    if not told:
        return ""
    devices = sorted({trial.device for of in trials.values() for trial in of if trial.device})
    on = f" on {' and '.join(devices)}" if devices else ""
    if len(set(told.values())) == 1:
        return f"Passes were in {next(iter(told.values()))}{on}."
    return f"Passes{on} were in {', '.join(f'{names} in {kind}' for kind, names in told.items())}."


KINDS = {
    "search": "the search",
    "refit": "the refit",
    "equal-compute": "the base optimizer at equal compute",
    "control": "the matched controls",
}


def _runs(study: Study, refit: Refit | None) -> Table:
    """Tabulate MLflow's runs of the studies, with their addresses where a server has them."""
    rows = tuple((one.name, KINDS[one.settings.kind], _run(one)) for one in (study, *(refit.studies if refit else ())))
    where = without_login(study.tracking_uri)
    how = "" if _has_server(study) else "; tune-sam ui shows them"
    return Table(("study", "what it is", "MLflow run"), rows, f"Runs in MLflow at {where}{how}")


def _run(study: Study) -> Cell:
    if not _has_server(study):
        return study.mlflow_run_id
    server = without_login(study.tracking_uri).rstrip("/")
    return Link(study.mlflow_run_id, f"{server}/#/experiments/{study.experiment_id}/runs/{study.mlflow_run_id}")


def _has_server(study: Study) -> bool:
    return study.tracking_uri.startswith(("http://", "https://"))


def _versions(study: Study) -> Table:
    """Tabulate the versions of what trained, as the study's record has them, and of what wrote the page."""
    rows = tuple(
        (name.removeprefix("version.").replace("mlflow.source.git.", ""), study.versions.get(name, ""), version)
        for name, version in versions().items()
    )
    return Table(("version of", "the search", "this page"), rows)
