"""Batches of several tensors: joined and moved part by part."""

import torch

from tune_sam.trees import joined, moved, rows


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
