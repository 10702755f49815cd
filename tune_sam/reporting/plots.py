"""A study's figures: its records, learning curves and flatness as the data that figures are drawn from."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from tune_sam.analysis.landscape import grid
from tune_sam.evaluation.analysis import LINE, Analysis
from tune_sam.evaluation.claims import Answers
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.refit import Refit
from tune_sam.evaluation.statistics import FEWEST
from tune_sam.reporting import claim_figures, flatness_figures, landscape_figures, refit_figures, search_figures
from tune_sam.reporting.style import NEAR, name_of, save, shown
from tune_sam.scores import of_loss, per_squared_weight
from tune_sam.study.epochs import GRADIENTS
from tune_sam.study.records import Study, Trial, best_of_each
from tune_sam.study.storage import open_storage

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


LOSSES = ("train/loss", "val/loss")


def measures_of(loss_unit: str) -> dict[str, str]:
    """Name the measures that figures and tables show, with their units, which are those of the loss."""
    unit, per = of_loss(loss_unit), per_squared_weight(loss_unit)
    return {
        "lambda_max": f"largest eigenvalue{per}",
        "trace": f"trace{per}",
        "ratio": "largest over smallest eigenvalue, absolute",
        "worst_case": f"worst case found, ρ = 0.05{unit}",
        "worst_case_adaptive": f"adaptive worst case found, ρ = 0.05{unit}",
        "average_case": f"average case, σ = 0.05{unit}",
        "average_case_adaptive": f"adaptive average case, σ = 0.05{unit}",
    }


def draw(analysis: Analysis, folder: Path) -> None:
    """Draw every figure that the analysis has data for, each with its data beside it.

    Args:
        analysis: what was measured.
        folder: to write to; it exists.
    """
    trials = analysis.trials
    frame, surface = _measured(analysis), _surface(analysis.surfaces, analysis.plan.grid)
    chosen = frame[frame["study"] == analysis.study.name]  # without the controls of a refit
    sizes = _of_batch_sizes(chosen, analysis.study.loss_unit)
    _save(
        folder,
        analysis.study,
        {
            "contours": (landscape_figures.contours, surface),
            "surfaces": (landscape_figures.surfaces, surface),
            "near-minimum": (landscape_figures.near_minimum, _if_near(surface)),
            "lines": (landscape_figures.lines, _line(analysis.lines, trials[0])),
            "spectral-density": (landscape_figures.spectral_densities, _densities(analysis)),
            "gap-flatness": (flatness_figures.gaps_and_flatness, _if_varied(frame, "gap/loss")),
            "batch-size": (
                flatness_figures.over_batch_sizes,
                _if_varied(sizes, "batch_size"),
            ),
            "radius": (flatness_figures.over_radii, _of_radii(analysis)),
        },
    )
    # The controls of a refit are another study's trials.
    draw_trainings(analysis.study, [one for one in trials if one.key.startswith(f"{analysis.study.name}/")], folder)


def draw_trainings(study: Study, trials: Sequence[Trial], folder: Path) -> None:
    """Draw the figures that need no measure of flatness, each with its data beside it.

    Args:
        study: whose complete trials are drawn.
        trials: learning curves are drawn of the best of each optimizer among them.
        folder: to write to.
    """
    ended, curves = trials_with_values(study), _curves(study, trials)
    _save(
        folder,
        study,
        {
            "history": (search_figures.history, _if_varied(ended, "number")),
            "over-rho": (search_figures.over_rho, _if_varied(ended, "rho")),
            "lr-rho": (search_figures.rates_and_radii, _if_varied(ended, "lr")),
            "parallel-coordinates": (search_figures.parallel_coordinates, _if_varied(ended, "lr")),
            "learning-curves": (search_figures.learning_curves, _if_varied(curves, "epoch")),
            "accuracy-compute": (
                search_figures.accuracy_and_compute,
                _if_varied(curves, "epoch", f"val/{study.settings.score}"),
            ),
            "pareto": (search_figures.pareto, _if_varied(ended, "number", "val/sharpness")),
        },
    )
    if values := importances(study):
        save(search_figures.importance(values), pd.DataFrame(values), folder / "importance")


def trials_with_values(study: Study) -> pd.DataFrame:
    """Tabulate the trials of a search that have a value, with what they are judged by as `objective`.

    A trial that did not end complete has its last epoch's value. There are none in a refit, which has no validation
    split.
    """
    table, settings = study.trials(), study.settings
    judged_by, score = settings.judged_by, f"val/{settings.score}"
    if judged_by not in table or score not in table:
        return pd.DataFrame()
    metrics = [name for name in (score, "val/loss", "val/sharpness", judged_by) if name in table]
    columns = ["optimizer", "number", "state", "epochs", *search_figures.COORDINATES, *study.settings.more]
    columns += dict.fromkeys(metrics)
    return table[table[judged_by].notna()][columns].assign(objective=judged_by).reset_index(drop=True)


def scored(frame: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add the study's `score`, its `direction` and the `loss_unit`, by which figures read the data.

    A study that is judged by accuracy needs none of them.
    """
    settings = study.settings
    if settings.score == "accuracy":
        return frame
    unit = {"loss_unit": study.loss_unit} if study.loss_unit else {}
    return frame.assign(score=settings.score, direction=settings.score_direction, **unit)


def draw_answers(refit: Refit, found: Answers, folder: Path) -> None:
    """Draw what a refit shows on the test set, with the data beside each figure.

    Args:
        refit: a tested refit.
        found: the answers that rest on it.
        folder: to write to.
    """
    table = refit.table()
    names = names_of(refit)
    table = table.assign(label=table["row"].map(names))
    _save(
        folder,
        refit.of,
        {
            "differences": (claim_figures.differences, differences(found, names)),
            "seeds": (refit_figures.seeds, _if_varied(table, "row")),
            "f1": (refit_figures.f1_by_class, _by_class(table, refit.best_rows)),
        },
    )


def differences(found: Answers, names: Mapping[str, str]) -> pd.DataFrame:
    """Tabulate the claims in the score on the test set, a row each: accuracies and differences are from 0 to 1.

    Args:
        found: the answers of a study.
        names: what the rows are called, by those of the refit's table.
    """
    return pd.DataFrame(
        [
            {
                "question": question,
                "optimizer": claim.optimizer,
                "measure": claim.measure,
                "label": names[claim.row],
                "against": names[claim.to],
                "row": claim.row,
                "to": claim.to,
                "difference": claim.difference.mean.value,
                "low": claim.difference.mean.low,
                "high": claim.difference.mean.high,
                "p": claim.difference.p,
                "corrected": claim.difference.corrected,
                "deviations": claim.difference.deviations,
                "shown": claim.difference.shown,
                "seeds": claim.difference.mean.n,
            }
            for question, claims in found.asked.items()
            for claim in claims
        ]
    )


def _by_class(table: pd.DataFrame, rows: Mapping[str, str]) -> pd.DataFrame:
    """Tabulate the F1 of each class that has a name, of the best configuration of each optimizer.

    Args:
        table: of a refit.
        rows: the best, by optimizer.
    """
    best = table[(table["kind"] == "refit") & table["row"].isin([*rows.values()])]
    scores = [name for name in best if name.startswith("test/f1/")]
    long = best.melt(["label", "optimizer", "seed"], scores, var_name="class", value_name="f1").dropna(subset="f1")
    return long.assign(**{"class": long["class"].str.removeprefix("test/f1/")})


def _save(
    folder: Path,
    study: Study,
    drawings: Mapping[str, tuple[Callable[[pd.DataFrame], Figure], pd.DataFrame]],
) -> None:
    for name, (figure, frame) in drawings.items():
        if len(frame):
            known = scored(frame, study)
            save(figure(known), known, folder / name)


def _if_varied(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Keep the rows if the values of each column differ; a figure over one value would have nothing to show."""
    varied = all(column in frame and frame[column].nunique() > 1 for column in columns)
    return frame if varied else frame.iloc[:0]


def _measured(analysis: Analysis) -> pd.DataFrame:
    """Tabulate a row for each measure of each trial."""
    table = analysis.table()
    score = analysis.study.settings.score
    further = [name for name in analysis.study.settings.more if name in table]
    about = ["study", "optimizer", "number", "rho", "lr", "batch_size", *further, "gap/loss", f"gap/{score}"]
    return pd.concat(
        [
            table[about].assign(
                name=name,
                measure=title,
                value=table[name],
                error=table[f"{name}_error"],
                resolved=table[f"{name}_resolved"],
            )
            for name, title in measures_of(analysis.study.loss_unit).items()
            if name in table
        ],
        ignore_index=True,
    )


def _of_batch_sizes(measured: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Select the largest eigenvalue, the worst case and the gap of each trial."""
    found = measured[measured["name"].isin(["lambda_max", "worst_case"])]
    gaps = measured[measured["name"] == "lambda_max"].assign(
        name="gap/loss",
        measure=name_of("gap/loss", unit),
        value=lambda of: of["gap/loss"],
        error=float("nan"),
        resolved=True,
    )
    return pd.concat([found, gaps], ignore_index=True)


def _of_radii(analysis: Analysis) -> pd.DataFrame:
    """Select test score, gap and largest eigenvalue of a refit in which ρ alone was varied; else nothing."""
    table, settings = analysis.table(), analysis.study.settings
    score, unit = f"test/{settings.score}", analysis.study.loss_unit
    chosen = table[table["study"] == analysis.study.name]
    fixed = all(chosen[name].nunique() == 1 for name in ("lr", "batch_size", *settings.more) if name in chosen)
    radii = chosen.groupby("optimizer", observed=True)["rho"].nunique()
    if settings.kind == "search" or not fixed or radii.max() < FEWEST:
        return pd.DataFrame()
    measures = {name: name_of(name, unit) for name in (score, "gap/loss")} | {
        "lambda_max": measures_of(unit)["lambda_max"]
    }
    return pd.concat(
        [
            chosen[["optimizer", "number", "rho", "seed"]].assign(
                name=name,
                measure=title,
                value=shown(chosen, name, drop=False)[name].to_numpy(),
                resolved=chosen["lambda_max_resolved"] if name == "lambda_max" else True,
            )
            for name, title in measures.items()
            if name in chosen
        ],
        ignore_index=True,
    )


def _densities(analysis: Analysis) -> pd.DataFrame:
    """Tabulate the spectral density of the best trial of each optimizer as far as it can be seen, and its λ_max."""
    densities = [
        pd.DataFrame(
            {
                "optimizer": trial.optimizer,
                "eigenvalue": analysis.flatness[trial.key].eigenvalues,
                "density": analysis.flatness[trial.key].density,
                "lambda_max": largest.value if largest.resolved else math.nan,
            }
        )
        for trial in best_of_each(analysis.trials)
        for largest in [analysis.flatness[trial.key].measures["lambda_max"]]
    ]
    return landscape_figures.visible_density(pd.concat(densities, ignore_index=True)).reset_index(drop=True)


def _surface(surfaces: Mapping[str, Sequence[float]], side: int) -> pd.DataFrame:
    points = grid(2, steps=side)
    parts = [
        pd.DataFrame({"optimizer": optimizer, "x": points[:, 0], "y": points[:, 1], "loss": losses})
        for optimizer, losses in surfaces.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _if_near(surface: pd.DataFrame) -> pd.DataFrame:
    """Give the surface if its grid has lines through the minimum with points close to it; an even one has none."""
    if surface.empty:
        return surface
    on_a_line = (surface["x"].abs() < 1e-9) & (surface["y"].abs() <= NEAR + 1e-9)
    return surface if surface["y"][on_a_line].nunique() > 1 else pd.DataFrame()


def _line(lines: Mapping[str, Sequence[float]], start: Trial) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"start": start.optimizer, "optimizer": optimizer, "position": LINE, "loss": losses})
        for optimizer, losses in lines.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _curves(study: Study, trials: Sequence[Trial]) -> pd.DataFrame:
    """Tabulate loss, score and cost of each epoch of the best trial of each optimizer."""
    settings = study.settings
    samples = settings.trained_samples(study.workload.datasets[settings.dataset])
    columns = [*LOSSES, *(f"{split}/{settings.score}" for split in ("train", "val"))]
    parts = []
    for trial in best_of_each(trials):
        if history := study.history(trial):
            frame = pd.DataFrame.from_dict(history, orient="index").reindex(columns=[*columns, GRADIENTS])
            frame = frame.rename_axis("epoch").reset_index().assign(optimizer=trial.optimizer)
            estimated = frame["epoch"] * samples * settings.gradients_of(trial.optimizer)
            frame = frame.assign(gradients=frame[GRADIENTS].fillna(estimated).astype(float))
            parts.append(frame.drop(columns=GRADIENTS))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def importances(study: Study) -> dict[str, dict[str, float]]:
    """Compute the share of the objective's variance that each hyperparameter explains by itself.

    It is that of fANOVA (Hutter et al. 2014); what is missing to 1 is the share of their interactions. An optimizer
    needs four complete trials, and they must differ in two hyperparameters and in the objective. A hyperparameter with
    one value in all trials is left out. A refit has no importances, because its seeds differ.
    """
    import optuna

    found = {}
    for optimizer in study.settings.optimizers if study.settings.kind == "search" else ():
        loaded = optuna.load_study(study_name=f"{study.name}/{optimizer}", storage=open_storage(study.home))
        complete = [trial for trial in loaded.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        varied = [
            name
            for name in (complete[0].params if complete else ())
            if len({trial.params[name] for trial in complete}) > 1
        ]
        if len(complete) >= 4 and len(varied) > 1 and len(set(map(_value, complete))) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                found[optimizer] = optuna.importance.get_param_importances(
                    loaded, params=varied, evaluator=evaluator, target=_value, normalize=False
                )
    return found


def _value(trial: "FrozenTrial") -> float:
    """Return the objective of a complete trial, the first of two."""
    return float(trial.values[0])
