"""Networks of several arguments, called with the inputs of a batch."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tune_sam.calling import taking_batches


@dataclass
class Output:
    logits: torch.Tensor


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x, scale=None):
        return Output(self.layer(x) if scale is None else self.layer(x) * scale)


class AnyName(Several):
    def forward(self, **inputs):
        return super().forward(**inputs)


class OneMapping(nn.Module):
    def forward(self, batch):
        return batch["x"]


X, SCALE = torch.ones(4, 2), torch.tensor(2.0)


class OneArgument(Several):
    def forward(self, x):
        return {"logits": self.layer(x), "states": x}


@pytest.mark.parametrize("kind", [Several, AnyName])
def test_a_mapping_goes_to_the_arguments_of_its_names(kind):
    network = taking_batches(kind())
    expected = network.layer(X) * 2
    assert network({"x": X, "scale": SCALE}).equal(expected)
    assert deepcopy(network)({"x": X, "scale": SCALE}).equal(expected)
    assert list(network.state_dict()) == ["layer.weight", "layer.bias"]


def test_a_tuple_goes_to_the_arguments_in_their_order():
    network = taking_batches(Several())
    assert network((X, SCALE)).equal(network.layer(X) * 2)


def test_of_an_output_with_logits_these_are_given():
    network = taking_batches(OneArgument())
    assert network(X).equal(network.layer(X))


def test_other_calls_stay_as_they_are():
    network = taking_batches(Several())
    assert network(X).equal(network.layer(X))
    assert network(X, scale=SCALE).equal(network.layer(X) * 2)
    assert taking_batches(OneMapping())({"x": X}) is X
    recurrent = taking_batches(nn.LSTM(2, 3))
    assert len(recurrent(X)) == 2
