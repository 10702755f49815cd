"""The models of a refit: one training of each optimizer, logged to MLflow and registered there."""

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from tune_sam.cluster.data import ensure_data
from tune_sam.errors import Refused
from tune_sam.evaluation.refit import Refit
from tune_sam.evaluation.selection import configurations
from tune_sam.study.records import Study, Trial
from tune_sam.tracking.models import Network, log_model, register_model


def check_name(register: str | None) -> None:
    """Refuse a name that no registered model can have.

    Raises:
        Refused: it is empty, or has a character that MLflow does not take.
    """
    if register is not None and (not register.strip() or set(register) & set("/:'\"") or register in (".", "..")):
        raise Refused(f"--register {register!r}: a model cannot have this name; give one without / : and quotes.")


def modelled(study: Study) -> dict[str, Trial]:
    """Choose the training of each optimizer whose network is its model.

    Of the optimizer's first configuration, the best by validation, it is the training with the lowest seed: no result
    of a training or a test chooses it.

    Args:
        study: of a refit.

    Returns:
        Trainings by optimizer, without optimizers that have none complete.
    """
    found = {}
    for optimizer, points in configurations(study.settings).items():
        trained = [
            (trial.config.seed, trial)
            for trial in study.records(optimizer)
            if trial.config and trial.state == "complete" and trial.config.point == points[0]
        ]
        if trained:
            found[optimizer] = min(trained, key=lambda one: one[0])[1]
    return found


def log_models(refit: Refit, register: str | None = None) -> str:
    """Log the model of each optimizer to its training's run, unless it is there.

    Args:
        refit: all of whose trainings are done.
        register: name of the registered model that has them as versions, each with its optimizer as the alias; they
            are not registered by default.

    Returns:
        Why MLflow does not have all of them; empty if it has.
    """
    study = refit.studies[0]
    samples = cache(lambda: _samples(study))
    try:
        for optimizer, trial in modelled(study).items():
            if not trial.checkpoint:  # it was trained elsewhere, and its network is not here
                continue
            if not trial.mlflow_run_id:
                return f"MLflow has no run of {trial.key} yet, whose network is a model"
            name = optimizer.rpartition(":")[2]  # of package.module:Class, which MLflow does not take, the class
            model_id = log_model(
                study.mlflow, study.mlflow_run, trial.mlflow_run_id, name, partial(_network, trial, samples)
            )
            if register:
                register_model(study.mlflow, register, model_id, name)
    except Refused as error:
        return str(error)
    return ""


def _network(trial: Trial, samples: Callable[[], tuple[Any, Any]]) -> Network:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # which PyG's import calls forth, and nobody here can heed
        return Network(trial.load_model(), *samples())


def _samples(study: Study) -> tuple[Any, Any]:
    """Read the inputs of the first training sample, and those of the first two."""
    import torch

    ensure_data(study)
    train = study.workload.read(study.settings.dataset, study.data).train
    return train.batch(torch.arange(1))[0], train.batch(torch.arange(2))[0]
