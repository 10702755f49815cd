"""The networks of the presets `report` against the published study's formulation, written here from its description.

The references share weights with the networks, and nothing else: no layer of torch's, and dropout in the order in which
it stands in the description, so that in training, too, the same seed gives the same outputs.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch_geometric.data import Batch, Data

from tune_sam.workload import find_workload

DROPOUT = 0.1


def of_preset(name, **smaller):
    """Make the preset's network, of other sizes."""
    torch.manual_seed(0)
    workload = find_workload(name)
    setting = workload.setting(workload.default_dataset, "report")
    return workload.network(replace(setting, network={**setting.network, **smaller})).double()


def same(network, reference, inputs):
    """Whether both give the same in evaluation, and with the same seed in training."""
    outputs = []
    for training in (False, True):
        network.train(training)
        torch.manual_seed(7)
        found = network(inputs)
        torch.manual_seed(7)
        expected = reference(dict(network.state_dict()), inputs, training)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        outputs.append(found)
    return outputs


def encoder(weights, sequences, training):
    """Post-norm, one layer, two heads; dropout after positions, attention, hidden units and feed-forward."""
    n, steps = sequences.shape
    width = weights["project.weight"].shape[0]

    def dropped(x):
        return F.dropout(x, DROPOUT, training)

    def norm(x, name):
        deviation = x - x.mean(-1, keepdim=True)
        scaled = deviation / torch.sqrt((deviation**2).mean(-1, keepdim=True) + 1e-12)
        return scaled * weights[f"encoder.0.{name}.weight"] + weights[f"encoder.0.{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    time, pair = torch.arange(steps)[:, None], torch.arange(0, width, 2)
    angle = time / 10_000 ** (pair / width)
    positions = torch.stack([angle.sin(), angle.cos()], dim=2).reshape(steps, width)
    x = dropped(sequences[:, :, None] * weights["project.weight"][:, 0] + weights["project.bias"] + positions)

    matrices = weights["encoder.0.self_attn.in_proj_weight"].chunk(3)
    offsets = weights["encoder.0.self_attn.in_proj_bias"].chunk(3)
    query, key, value = (
        (x @ matrix.T + offset).reshape(n, steps, 2, width // 2).transpose(1, 2)
        for matrix, offset in zip(matrices, offsets, strict=True)
    )
    attention = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(width // 2), dim=-1)
    seen = linear((attention @ value).transpose(1, 2).reshape(n, steps, width), "encoder.0.self_attn.out_proj")
    seen = seen.transpose(0, 1).contiguous().transpose(0, 1)  # a mask is drawn in the order of memory
    x = norm(x + dropped(seen), "norm1")
    hidden = dropped(torch.relu(linear(x, "encoder.0.linear1")))
    x = norm(x + dropped(linear(hidden, "encoder.0.linear2")), "norm2")

    x = F.layer_norm(x, (width,), weights["norm.weight"], weights["norm.bias"]).reshape(n, -1)
    for layer in (0, 2, 4):
        x = torch.relu(linear(x, f"head.{layer}"))
    return linear(x, "head.6")


def test_the_transformer_is_the_published_one():
    network = of_preset("attention", length=12, width=8, feedforward=16, head=(16, 12, 8))
    network.positions = network.positions.double()
    sequences = torch.randn(3, 12, dtype=torch.float64)
    sequences[0] = 0.5  # a flat line, whose steps differ in their positions alone

    evaluated, trained = same(network, encoder, sequences)

    assert not torch.equal(evaluated, trained)


def test_the_transformer_draws_queries_keys_and_values_by_xaviers_rule_each():
    width = 200
    network = of_preset("attention", length=4, width=width, feedforward=8, head=(8,))
    for matrix in network.encoder[0].self_attn.in_proj_weight.detach().chunk(3):
        assert float(matrix.abs().max()) == pytest.approx(math.sqrt(6 / (width + width)), rel=0.01)


def wide(weights, images, training):
    """WRN-10-1: a unit a group, batch norm and ReLU before each convolution, the mean over the image."""

    def normed(x, name):
        variance, mean = (
            torch.var_mean(x, (0, 2, 3), correction=0)
            if training
            else (torch.ones(x.shape[1], dtype=x.dtype), torch.zeros(x.shape[1], dtype=x.dtype))
        )
        x = (x - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
        return torch.relu(x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None])

    x = F.conv2d(images, weights["stem.weight"], padding=1)
    for unit, stride in enumerate((1, 2, 2)):
        name = f"units.{unit}"
        active = normed(x, f"{name}.norm1")
        inside = F.conv2d(active, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
        inside = F.conv2d(normed(inside, f"{name}.norm2"), weights[f"{name}.conv2.weight"], padding=1)
        shortcut = weights.get(f"{name}.shortcut.weight")
        x = inside + (x if shortcut is None else F.conv2d(active, shortcut, stride=stride))
    return normed(x, "norm").mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]


def test_the_wide_network_is_the_published_one_and_its_last_layer_begins_at_zero():
    network = of_preset("wideresnet", depth=10, width=1)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    assert not network(images).any()
    assert not network.head.bias.any()
    network = of_preset("wideresnet", depth=10, width=1)  # whose running statistics no batch has moved
    torch.nn.init.normal_(network.head.weight)

    same(network, wide, images)


def graphs_of(sizes):
    torch.manual_seed(1)
    made = []
    for nodes in sizes:
        upper = torch.triu(torch.rand(nodes, nodes) < 0.4, 1)
        edges = (upper | upper.T).nonzero().T
        made.append(Data(x=torch.randn(nodes, 14, dtype=torch.float64), edge_index=edges))
    return Batch.from_data_list(made)


def convolved(weights, graphs, training):
    """Four GraphConv layers with ReLU between them, the mean over each graph, and dropout before each linear layer."""
    adjacency = torch.zeros(len(graphs.x), len(graphs.x), dtype=torch.float64)
    adjacency[graphs.edge_index[1], graphs.edge_index[0]] = 1
    x = graphs.x
    for layer in range(4):
        name = f"convolutions.{layer}"
        neighbours = adjacency @ x @ weights[f"{name}.lin_rel.weight"].T + weights[f"{name}.lin_rel.bias"]
        x = neighbours + x @ weights[f"{name}.lin_root.weight"].T
        x = torch.relu(x) if layer < 3 else x
    pooled = torch.stack([x[graphs.batch == graph].mean(0) for graph in range(graphs.num_graphs)])
    hidden = F.dropout(pooled, 0.8, training) @ weights["head.1.weight"].T + weights["head.1.bias"]
    return F.dropout(hidden, 0.8, training) @ weights["head.3.weight"].T + weights["head.3.bias"]


def test_the_graph_network_is_the_published_one():
    evaluated, trained = same(of_preset("gcn"), convolved, graphs_of((5, 9, 3)))

    assert not torch.equal(evaluated, trained)
