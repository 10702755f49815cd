"""A refit's models: one network of each optimizer in MLflow, which loads where this package is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

import tune_sam
from tune_sam.errors import Refused
from tune_sam.evaluation.models import log_models, modelled
from tune_sam.evaluation.refit import tested_refit
from tune_sam.evaluation.selection import FIRST_SEED
from tune_sam.study.records import open_study
from tune_sam.tracking.client import connect

ROOT = Path(__file__).parents[2]

# Its input example as a batch of graphs, which is what the network takes.
LOADED = """
import json, sys
import mlflow, torch
from mlflow.models import Model
mlflow.set_tracking_uri(sys.argv[1])
network = mlflow.pytorch.load_model(sys.argv[2])
from torch_geometric.data import Batch
example = Model.load(sys.argv[2]).load_input_example(sys.argv[2])
graphs = Batch(**{name: torch.from_numpy(array) for name, array in example.items()})
weights = {name: weight.tolist() for name, weight in network.state_dict().items()}
print(json.dumps([network.training, weights, network(graphs).tolist()]))
"""


@pytest.fixture
def refit(refitted):
    study = open_study("one", refitted)
    connect(study.tracking_uri)  # the home is a copy
    return tested_refit(study)


def models(refit):
    study = refit.studies[0]
    client = mlflow.MlflowClient(study.tracking_uri)
    return {model.model_id: model for model in client.search_logged_models([study.experiment_id])}


def test_the_first_seed_of_each_optimizers_best_configuration_is_its_model(refit):
    chosen = modelled(refit.studies[0])
    assert list(chosen) == ["base", "sam"]
    assert {model.name: model.source_run_id for model in models(refit).values()} == {
        optimizer: trial.mlflow_run_id for optimizer, trial in chosen.items()
    }
    for optimizer, trial in chosen.items():
        best = open_study("one", refit.of.home).best(optimizer).config
        assert (trial.config.rho, trial.config.lr, trial.config.seed) == (best.rho, best.lr, FIRST_SEED)


def test_a_model_says_what_it_takes_and_needs(refit):
    for model in models(refit).values():
        info = mlflow.models.Model.load(model.artifact_location)
        assert {spec.name: spec.shape for spec in info.signature.inputs} == {
            "x": (-1, 17),
            "edge_index": (2, -1),
            "batch": (-1,),
            "ptr": (-1,),
        }
        assert info.signature.outputs.inputs[0].shape == (-1, 10)
        needed = {line.partition("==")[0] for line in (Path(model.artifact_location) / "requirements.txt").open()}
        assert needed == {"mlflow", "torch", "tune-sam"}


def test_models_are_registered_once_by_optimizer(refit):
    before = models(refit)
    assert [log_models(refit, "digits") for _ in range(2)] == ["", ""]
    assert list(models(refit)) == list(before)
    client = mlflow.MlflowClient(refit.of.tracking_uri)
    assert client.get_registered_model("digits").aliases == {"base": 1, "sam": 2}
    places = {model.artifact_location: model.name for model in before.values()}
    assert places[client.get_model_version_by_alias("digits", "sam").source] == "sam"


def test_a_moved_homes_models_are_in_it(refit, tmp_path):
    assert not log_models(refit, "digits")
    there = Path(shutil.copytree(refit.of.home.path, tmp_path / "there"))
    uri = open_study("one", there).tracking_uri
    connect(uri)
    client = mlflow.MlflowClient(uri)
    for model in client.search_logged_models([refit.of.experiment_id]):
        assert Path(model.artifact_location).is_relative_to(there)
    version = client.get_model_version_by_alias("digits", "sam")
    assert Path(client.get_model_version_download_uri("digits", version.version)).is_relative_to(there)


def test_a_network_that_is_gone_is_said(refit, monkeypatch, tmp_path):
    client = mlflow.MlflowClient(refit.of.tracking_uri)
    for model in models(refit):
        client.delete_logged_model(model)
    with monkeypatch.context() as patch:
        patch.setattr("tune_sam.evaluation.models.ensure_data", refuse)
        assert log_models(refit) == "the data are away"
    assert log_models(refit) == ""
    assert {model.name for model in models(refit).values()} == {"base", "sam"}


def refuse(_):
    raise Refused("the data are away")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", ".."])
def test_a_name_that_mlflow_does_not_take_is_refused_before_anything_is_trained(refitted, name):
    with pytest.raises(Refused, match="--register"):
        tune_sam.refit("one", home=refitted, seeds=9, register=name)


@pytest.mark.slow
def test_a_model_loads_in_another_process_as_the_training_left_it(refit):
    study = refit.studies[0]
    trial = modelled(study)["sam"]
    (model,) = (one for one in models(refit).values() if one.name == "sam")
    done = subprocess.run(
        [sys.executable, "-c", LOADED, study.tracking_uri, f"models:/{model.model_id}"],
        cwd=refit.of.home.path, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    training, weights, outputs = json.loads(done.stdout.splitlines()[-1])
    network = trial.load_model()
    assert not training
    assert weights == {name: weight.tolist() for name, weight in network.state_dict().items()}
    splits = study.workload.splits("digits", study.data)
    inputs, _ = splits.train.batch(torch.arange(1))
    torch.testing.assert_close(torch.tensor(outputs), network(inputs), rtol=0, atol=0)
