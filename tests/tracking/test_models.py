"""Networks as MLflow's models: logged once, whole, and registered."""

import mlflow
import pytest
import torch
from mlflow_places import answering
from services import mlflow_server

from tune_sam.errors import Refused
from tune_sam.tracking.models import Network, log_model, register_model


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.slow)])
def place(request, uri, tmp_path):
    if request.param == "database":
        yield uri
    else:
        with mlflow_server(uri, tmp_path) as server:
            yield server.uri


@pytest.fixture
def client(place, monkeypatch):
    """MLflow's own, in a process that MLflow is told the place of, as a person does before loading a model."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(place)
    yield mlflow.MlflowClient(place)
    mlflow.set_tracking_uri(before)


def network():
    torch.manual_seed(0)
    return Network(torch.nn.Linear(3, 2).eval(), torch.ones(1, 3), torch.ones(2, 3))


def unread():
    pytest.fail("a model that is there is read again")


def test_a_network_is_logged_once_and_loads_as_it_was(place, client, study):
    model_id = log_model(place, study, study.run_id, "sam", network)
    assert log_model(place, study, study.run_id, "sam", unread) == model_id
    assert log_model(place, study, study.run_id, "base", network) != model_id
    loaded = mlflow.pytorch.load_model(f"runs:/{study.run_id}/sam")
    for ours, theirs in zip(network().module.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    info = mlflow.models.get_model_info(f"models:/{model_id}")
    assert [spec.shape for spec in (*info.signature.inputs, *info.signature.outputs)] == [(-1, 3), (-1, 2)]
    whole = mlflow.pyfunc.load_model(f"models:/{model_id}")
    assert (whole.predict(whole.input_example) == network().module(torch.ones(1, 3)).detach().numpy()).all()
    assert model_id in {output.model_id for output in client.get_run(study.run_id).outputs.model_outputs}


def test_each_optimizers_model_has_its_alias(place, client, study):
    ids = {name: log_model(place, study, study.run_id, name, network) for name in ("base", "sam")}
    for _ in range(2):
        for name, model_id in ids.items():
            register_model(place, "digits", model_id, name)
    assert len(client.search_model_versions("name = 'digits'")) == 2
    for name, model_id in ids.items():
        assert f"/{model_id}/" in client.get_model_version_by_alias("digits", name).source
        assert mlflow.models.get_model_info(f"models:/digits@{name}").model_id == model_id


def test_a_model_that_was_cut_short_gets_its_files_later(uri, study, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.pytorch.save_model", lambda *_, **__: 1 / 0)
        with pytest.raises(Refused, match="does not take the model sam; it says division by zero"):
            log_model(uri, study, study.run_id, "sam", network)
    model_id = log_model(uri, study, study.run_id, "sam", network)
    (output,) = mlflow.MlflowClient(uri).get_run(study.run_id).outputs.model_outputs
    assert output.model_id == model_id


def test_a_deleted_model_is_logged_anew(uri, study):
    first = log_model(uri, study, study.run_id, "sam", network)
    mlflow.MlflowClient(uri).delete_logged_model(first)
    assert log_model(uri, study, study.run_id, "sam", network) != first


def test_inputs_that_are_no_tensors_are_left_out_of_the_signature(uri, study):
    class Summed(torch.nn.Module):
        def forward(self, inputs):
            return torch.stack(inputs[0]).sum(1, keepdim=True)

    read = Network(Summed(), [[torch.ones(2)]], [[torch.ones(2), torch.ones(2)]])
    log_model(uri, study, study.run_id, "own", lambda: read)
    (model,) = mlflow.MlflowClient(uri).search_logged_models([study.experiment_id])
    info = mlflow.models.Model.load(model.artifact_location)
    assert info.signature.inputs is None
    assert info.signature.outputs.inputs[0].shape == (-1, 1)


def test_a_server_that_is_away_costs_no_reading(nowhere, study):
    with pytest.raises(Refused, match="cannot be reached"):
        log_model(nowhere, study, study.run_id, "sam", unread)


def test_a_server_that_knows_no_models_says_so(study):
    def answer(_, path):
        return (200, "{}") if path.startswith("/api/2.0/mlflow/experiments") else (404, '{"error_code": "NOT_FOUND"}')

    with answering(answer) as uri, pytest.raises(Refused, match="does not take the model sam"):
        log_model(uri, study, study.run_id, "sam", unread)
