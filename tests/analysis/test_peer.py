"""PyHessian beside this package, on models of every kind that there is here."""

import copy
import json

import pytest
import torch
from curvature_cases import CASES

from tune_sam.analysis.peer import cross_check


@pytest.mark.parametrize("kind", list(CASES))
def test_pyhessian_finds_the_same(kind):
    case = CASES[kind](torch.float32)
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
