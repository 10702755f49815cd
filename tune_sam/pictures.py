"""A study's figures: its records, its flatness and its learning curves in the form that `analysis.figures` draws."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from tune_sam.flatness import Flatness
from tune_sam.study import Study, Trial, open_storage

MEASURES = {
    "lambda_max": "λ_max (nats per squared weight)", "trace": "trace (nats per squared weight)",
    "ratio": "|λ_max / λ_min|", "worst_case": "worst case, ρ = 0.05 (nats)",
    "worst_case_adaptive": "adaptive worst case, ρ = 0.05 (nats)", "average_case": "average case, σ = 0.05 (nats)",
    "average_case_adaptive": "adaptive average case, σ = 0.05 (nats)",
}
CURVES = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")


def draw(study: Study, trials: Sequence[Trial], flatness: Mapping[str, Flatness], surfaces: Mapping[str, Any],
         folder: Path) -> Iterator[Path]:
    """Write every figure that the data are enough for, with its data beside it; the files of the figures."""
    table = study.trials()
    complete = table[table["state"] == "complete"]
    measured = _measured(trials, flatness)
    lambda_max = measured[measured["name"] == "lambda_max"].rename(columns={"value": "lambda_max"})
    drawings: dict[str, tuple[Callable[[pd.DataFrame], Figure], pd.DataFrame]] = {
        "over-rho": (figures.over_rho, complete), "parallel-coordinates": (figures.parallel_coordinates, complete),
        "lr-rho": (figures.rates_and_radii, complete), "learning-curves": (figures.learning_curves, _curves(study, trials)),
        "batch-size-lambda-max": (figures.batch_sizes_and_curvature, lambda_max),
        "gap-flatness": (figures.gaps_and_flatness, measured), "spectral-density": (figures.spectral_densities,
                                                                                    _densities(trials, flatness)),
        "surfaces": (figures.surfaces, _surface_rows(surfaces)), "contours": (figures.contours, _surface_rows(surfaces)),
    }
    for name, (figure, frame) in drawings.items():
        if len(frame):
            yield figures.save(figure(frame), frame, folder / name)[0]
    if values := _importances(study):
        yield figures.save(figures.importance(values), pd.DataFrame(values), folder / "importance")[0]


def _measured(trials: Sequence[Trial], flatness: Mapping[str, Flatness]) -> pd.DataFrame:
    """A row for each measure of each trial."""
    rows = []
    for trial in trials:
        assert trial.config
        for name, measure in flatness[trial.key].measures.items():
            if name in MEASURES:
                rows.append({"optimizer": trial.optimizer, "number": trial.number, "rho": trial.config.rho,
                             "batch_size": trial.config.batch_size, "name": name, "measure": MEASURES[name],
                             "value": measure.value, "error": measure.error, "resolved": measure.resolved,
                             "gap/loss": trial.metrics["gap/loss"], "gap/accuracy": trial.metrics["gap/accuracy"]})
    return pd.DataFrame(rows)


def _densities(trials: Sequence[Trial], flatness: Mapping[str, Flatness]) -> pd.DataFrame:
    """Of the best trial of each optimizer."""
    best = {trial.optimizer: trial for trial in reversed(trials)}
    return pd.DataFrame([
        {"optimizer": trial.optimizer, "eigenvalue": eigenvalue, "density": density}
        for trial in reversed(best.values())
        for eigenvalue, density in zip(flatness[trial.key].eigenvalues, flatness[trial.key].density, strict=True)
    ])


def _surface_rows(surfaces: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{"optimizer": optimizer, "x": x, "y": y, "loss": loss}
                         for optimizer, rows in surfaces.items() for x, y, loss in rows])


def _curves(study: Study, trials: Sequence[Trial]) -> pd.DataFrame:
    """Loss and accuracy of each epoch of the best trial of each optimizer, as MLflow has them."""
    from mlflow import MlflowClient

    client = MlflowClient(study.tracking_uri)
    rows = []
    for trial in {trial.optimizer: trial for trial in reversed(trials)}.values():
        if trial.mlflow_run_id:
            history = {name: {point.step: point.value for point in client.get_metric_history(trial.mlflow_run_id, name)}
                       for name in CURVES}
            rows += [{"optimizer": trial.optimizer, "epoch": epoch,
                      **{name: history[name].get(epoch) for name in CURVES}} for epoch in sorted(history["val/loss"])]
    return pd.DataFrame(rows)


def _importances(study: Study) -> dict[str, dict[str, float]]:
    """How much each hyperparameter matters for the validation accuracy; needs some complete trials that differ."""
    import optuna

    found = {}
    for optimizer in study.settings.optimizers:
        loaded = optuna.load_study(study_name=f"{study.name}/{optimizer}", storage=open_storage(study.home))
        complete = [trial for trial in loaded.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        if len(complete) >= 4 and len({trial.value for trial in complete}) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                found[optimizer] = optuna.importance.get_param_importances(loaded, evaluator=evaluator)
    return found
