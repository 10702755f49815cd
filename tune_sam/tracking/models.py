"""Networks as MLflow's models: logged once for each training, and named in its registry.

A model is the pickle of the network, for MLflow's other format takes tensors alone, and a workload's inputs may be
anything. MLflow and torch are imported inside functions, so that importing this module costs nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.errors import Refused
from tune_sam.tracking.client import (
    StudyRun,
    artifacts_at,
    connect,
    create_model,
    expect_there,
    finish_model,
    model_of,
    refusing,
    register_version,
)

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema
    from numpy import ndarray
    from torch import nn

PACKAGES = ("tune-sam", "torch")
"""What a model needs to be loaded, with the versions that made it."""


@dataclass(frozen=True)
class Network:
    """A trained network with samples of what it is given.

    Attributes:
        module: in eval mode, on the CPU.
        one, two: its inputs for one sample and for two, which tell the dimensions that vary.
    """

    module: nn.Module
    one: Any
    two: Any


def log_model(uri: str, study_run: StudyRun, run_id: str, name: str, read: Callable[[], Network]) -> str:
    """Log a network as a model of its training's run, unless the run has a whole model of this name.

    Args:
        uri: see :func:`tune_sam.tracking.client.check`.
        study_run: of the training's study.
        run_id: of the training.
        name: the model's.
        read: gives the network; called if it is needed.

    Returns:
        The model's id, for `mlflow.pytorch.load_model("models:/ID")`.

    Raises:
        Refused: MLflow cannot be reached or does not take it, or the network cannot be read, run or pickled.
    """
    expect_there(uri)
    with refusing(uri, f"does not take the model {name}"):
        store = connect(uri)
        model = model_of(store, run_id, name)
        if model and model.ready:
            return model.model_id
        network = read()
        # One that was interrupted has not all of its files, which are written over.
        model = model or create_model(store, study_run.experiment_id, run_id, name)
        try:
            with tempfile.TemporaryDirectory() as folder:
                _save(network, Path(folder) / "model", run_id, model.model_id)
                place = artifacts_at(model.place, uri, f"model {name} of run {run_id}", study_run.artifacts)
                place.log_artifacts(str(Path(folder) / "model"))
        except Refused:
            raise
        except Exception as error:  # whatever a person's network or the client of an artifact store raises
            raise OSError(str(error)) from error
        finish_model(store, model)
        return model.model_id


def register_model(uri: str, name: str, model_id: str, alias: str) -> None:
    """Register a model as a version of `name`, unless it is one, and give it the alias, which another may have had.

    Args:
        uri: see :func:`tune_sam.tracking.client.check`.
        name: of the registered model.
        model_id: from :func:`log_model`.
        alias: by which the version is found, as `models:/NAME@ALIAS`.

    Raises:
        Refused: MLflow cannot be reached or does not take it.
    """
    expect_there(uri)
    with refusing(uri, f"does not register the model {name}"):
        register_version(connect(uri), uri, name, model_id, alias)


def _save(network: Network, folder: Path, run_id: str, model_id: str) -> None:
    """Write a model's files into a folder, which is made."""
    import mlflow.pytorch
    from mlflow.models import Model

    example = _arrays(network.one)
    mlflow.pytorch.save_model(
        network.module,
        folder,
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        signature=_signature(network),
        input_example=example.get("", example or None),
        pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in PACKAGES],
        serialization_format="pickle",
    )


def _signature(network: Network) -> ModelSignature:
    """Describe inputs, where they are made of tensors, and outputs."""
    import torch
    from mlflow.models import ModelSignature

    with torch.no_grad():
        outputs = [network.module(inputs).float() for inputs in (network.one, network.two)]
    return ModelSignature(_schema(network.one, network.two), _schema(*outputs))


def _schema(one: Any, two: Any) -> Schema | None:
    """Describe the arrays of one sample and of two: a dimension in which they differ may have any size."""
    from mlflow.types import ColSpec, Schema, TensorSpec

    second = _arrays(two)
    specs: list[ColSpec | TensorSpec] = []
    for name, array in _arrays(one).items():
        sizes = zip(array.shape, second[name].shape, strict=True)
        specs.append(TensorSpec(array.dtype, [-1 if size != other else size for size, other in sizes], name or None))
    return Schema(specs) if specs else None


def _arrays(inputs: Any) -> dict[str, ndarray]:
    """Turn an object of named tensors, such as a batch of graphs, into arrays; a tensor alone has the empty name.

    Of anything else, which MLflow has no word for, there are none.
    """
    from torch import Tensor

    named = {"": inputs} if isinstance(inputs, Tensor) else inputs.to_dict() if hasattr(inputs, "to_dict") else inputs
    if not isinstance(named, Mapping) or not all(isinstance(value, Tensor) for value in named.values()):
        return {}
    return {str(name): value.numpy() for name, value in named.items()}
