"""PyHessian beside this package, on models of every kind that there is here."""

import copy
import json

import pytest
import torch
from curvature_cases import CASES
from torch import nn
from torch.nn.functional import cross_entropy

from tune_sam.analysis.peer import cross_check, peer

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", list(CASES))
def test_pyhessian_finds_the_same(kind, device):
    case = CASES[kind](torch.float32, device)
    before = copy.deepcopy(case.model.state_dict())
    found = cross_check(case.model, case.loss, case.whole)
    assert abs(found.difference) < 1e-3
    assert abs(found.trace_difference) < 3
    assert found.samples == len(case.whole[1])
    assert json.loads(json.dumps(found.to_json()))["difference"] == found.difference
    assert case.model.training
    assert all(torch.equal(before[name], value) for name, value in case.model.state_dict().items())


def test_a_parameter_that_the_loss_does_not_depend_on_is_left_out():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model.spare = torch.nn.Parameter(torch.ones(5))
    batch = torch.randn(16, 3), torch.randint(2, (16,))
    assert abs(cross_check(model, torch.nn.functional.cross_entropy, batch).difference) < 1e-3
    assert model.spare.requires_grad


def test_pyhessian_moves_nothing_and_computes_where_the_model_is():
    """`meta` stands for a GPU: it is not where PyHessian computes by default."""
    model = nn.Linear(3, 2, device="meta")
    batch = {"x": torch.ones(4, 3, device="meta")}, {"y": torch.zeros(4, dtype=torch.int64, device="meta")}
    network = Named(model)
    theirs = peer(network, lambda outputs, targets: cross_entropy(outputs, targets["y"]), [batch])
    assert torch.zeros(2).to(theirs.device).is_meta


def test_several_batches_whose_targets_have_names():
    torch.manual_seed(0)
    batches = [({"x": torch.randn(8, 3)}, {"y": torch.randint(2, (8,))}) for _ in range(2)]
    theirs = peer(Named(nn.Linear(3, 2)), lambda outputs, targets: cross_entropy(outputs, targets["y"]), batches)
    (largest,), _ = theirs.eigenvalues()
    assert largest > 0


def test_pyhessian_measures_in_full_precision_and_without_kernels_of_cudnn(monkeypatch):
    found = []

    class Watched(nn.LSTM):
        def forward(self, inputs):
            found.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.enabled))
            return super().forward(inputs)[0][:, -1]

    torch.manual_seed(0)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        cross_check(Watched(2, 2, batch_first=True), cross_entropy, (torch.randn(4, 3, 2), torch.randint(2, (4,))))
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(found) == {("highest", False)}


class Named(nn.Module):
    """A model whose inputs have names."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(inputs["x"])
