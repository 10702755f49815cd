"""Batches of several tensors: joined and moved part by part."""

import pytest
import torch

from tune_sam.trees import alike, differing, joined, moved, rows, tensors_in


def test_batches_are_joined_part_by_part():
    whole = {"a": torch.arange(5), "b": (torch.arange(10.0).reshape(5, 2), torch.ones(5))}
    parts = [
        {"a": whole["a"][some], "b": (whole["b"][0][some], whole["b"][1][some])} for some in torch.arange(5).split(2)
    ]
    found = joined(parts)
    assert found["a"].equal(whole["a"])
    assert all(one.equal(other) for one, other in zip(found["b"], whole["b"], strict=True))


def test_what_is_no_tensor_stays_as_it_is_where_a_batch_is_moved():
    found = moved({"x": torch.ones(2), "rest": [torch.zeros(1), "name", 3]}, torch.device("meta"))
    assert found["x"].device.type == found["rest"][0].device.type == "meta"
    assert found["rest"][1:] == ("name", 3)


def test_the_rows_of_several_tensors_are_those_of_the_first():
    one, other = torch.zeros(5, 2), torch.zeros(5)
    for batch in (one, {"a": one, "b": other}, (one, other), [one, other], {"a": (one, other)}):
        assert rows(batch) == 5
    assert rows([{"boxes": one}, {"boxes": other}, {"boxes": one}]) == 3, "a list of samples"


class Reads(dict):
    """A mapping whose items are attributes, as many batches are."""

    __getattr__ = dict.get


class Graph:
    def __init__(self, **parts):
        vars(self).update(parts)


class Batch(Graph):
    def to_dict(self):
        return {name: value for name, value in vars(self).items() if name != "cache"}


def test_tensors_are_found_wherever_they_are():
    one, two = torch.ones(1), torch.ones(2)
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    linked = Graph(x=one)
    linked.others = [linked, Graph(x=two, others=[linked])]
    for value, found in (
        (Reads(b=one, a=[two, "text", None]), [two, one]),
        (linked, [two, one]),
        (Batch(cache=two, x=(one, {"y": two})), [one, two]),
        ([Batch, 1, {1: one, "a": two}], [one, two]),
        (packed, [packed.data, packed.batch_sizes]),
    ):
        assert [id(tensor) for tensor in tensors_in(value)] == [id(tensor) for tensor in found]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x > 1,
        lambda x: x.where(x > 1, torch.nan),
        lambda x: x.to(torch.uint8),
        lambda x: x.to(torch.complex64),
        lambda x: x.to_sparse(),
        lambda x: x.to_sparse_csr(),
        lambda x: torch.quantize_per_tensor(x, 0.5, 0, torch.qint8),
        lambda x: torch.nested.as_nested_tensor([x, x[:1]], layout=torch.strided),
        lambda x: torch.nested.as_nested_tensor([x, x[:1]], layout=torch.jagged),
    ],
)
def test_batches_are_compared_whatever_their_tensors_are(make):
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert alike({"x": make(x)}, {"x": make(x.clone())})
    assert not alike({"x": make(x)}, {"x": make(2.5 - x)})
    assert not alike({"x": make(x)}, {"x": make(x), "y": x})


def test_targets_are_compared_with_the_value_that_does_not_count_as_they_are():
    assert differing(torch.tensor([156, 3], dtype=torch.uint8), -100).all()
    assert differing(torch.tensor([0.4, 0.0]), 0).tolist() == [True, False]
    assert differing(torch.tensor([True, False]), 0).tolist() == [True, False]
