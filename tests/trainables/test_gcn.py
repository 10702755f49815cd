from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from tune_sam.errors import Refused
from tune_sam.trainables.data import digits, mutagenicity
from tune_sam.trainables.data.graphs import GraphStore
from tune_sam.trainables.networks.gcn import GraphClassifier
from tune_sam.workload import find_workload

GCN = find_workload("gcn")
SETTINGS = [GCN.settings["mutagenicity"], GCN.settings["digits"], GCN.presets["report"].setting]
SETTING = pytest.mark.parametrize("setting", SETTINGS, ids=["mutagenicity", "digits", "report"])
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def some_graphs(features):
    """Three graphs: directed edges with one doubled and a loop, none at all, a ring."""
    random = torch.Generator().manual_seed(3)
    edges = [[(0, 1), (0, 2), (3, 1), (3, 1), (2, 2)], [], [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]]
    nodes = [4, 3, 6]
    return GraphStore(
        x=torch.randn(sum(nodes), features, generator=random, dtype=torch.float64),
        edge_index=torch.tensor([edge for graph in edges for edge in graph]).T,
        node_start=torch.tensor([0, *nodes]).cumsum(0),
        edge_start=torch.tensor([0, *map(len, edges)]).cumsum(0),
        y=torch.tensor([0, 1, 0]),
    )


def build(setting):
    torch.manual_seed(5)
    return GCN.network(setting).double()


def pooled(network, store, pool):
    """What reaches the head, graph by graph, with each node's sum over the edges that end in it written out."""
    rows = []
    for graph in range(len(store)):
        edges = slice(*store.edge_start[graph : graph + 2].tolist())
        x = store.x[slice(*store.node_start[graph : graph + 2].tolist())]
        for layer, convolution in enumerate(network.convolutions):
            neighbours = torch.zeros_like(x)
            for source, target in store.edge_index[:, edges].T.tolist():
                neighbours[target] += x[source]
            x = neighbours @ convolution.lin_rel.weight.T + convolution.lin_rel.bias + x @ convolution.lin_root.weight.T
            if layer < len(network.convolutions) - 1:
                x = x.clamp(min=0)
        rows.append(x.mean(0) if pool == "mean" else x.max(0).values)
    return torch.stack(rows)


def head(network, x, dropout=0.0):
    first, second = (layer for layer in network.head if isinstance(layer, torch.nn.Linear))
    x = F.dropout(x, dropout) @ first.weight.T + first.bias
    return F.dropout(x, dropout) @ second.weight.T + second.bias


def test_parameters():
    assert [GCN.parameters(setting) for setting in SETTINGS] == [125_442, 8_042, 92_546]


@SETTING
def test_every_parameter_is_used(setting):
    network = build(setting).eval()
    inputs, targets = some_graphs(setting.network["features"]).batch(torch.arange(3))
    GCN.loss(network(inputs), targets).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@SETTING
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_the_network_is_the_formula(setting, pool):
    torch.manual_seed(0)
    network = GraphClassifier(**{**setting.network, "pool": pool}).double().eval()
    store = some_graphs(setting.network["features"])
    with torch.no_grad():
        found = network(store.batch(torch.arange(3))[0])
        expected = head(network, pooled(network, store, pool))
    assert pooled(network, store, pool).min() < 0, "no ReLU after the last convolution"
    assert found.shape == (3, setting.network["classes"])
    torch.testing.assert_close(found, expected, **CLOSE)


@SETTING
def test_dropout_stands_before_each_linear_layer_only(setting):
    network = build(setting).train()
    store = some_graphs(setting.network["features"])
    torch.manual_seed(11)
    found = network(store.batch(torch.arange(3))[0])
    torch.manual_seed(11)
    expected = head(network, pooled(network, store, setting.network["pool"]), setting.network["dropout"])
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.manual_seed(12)
    assert not torch.equal(network(store.batch(torch.arange(3))[0]), found)


@SETTING
def test_logits_of_a_graph_do_not_depend_on_its_batch(setting):
    network = build(setting).eval()
    store = some_graphs(setting.network["features"])
    with torch.no_grad():
        alone = torch.cat([network(store.batch(torch.tensor([graph]))[0]) for graph in range(3)])
        for order in ([0, 1, 2], [2, 0, 1], [1, 1, 2]):
            together = network(store.batch(torch.tensor(order))[0])
            torch.testing.assert_close(together, alone[order], **CLOSE)


def test_the_same_seed_is_the_same_network():
    first, second = build(SETTINGS[0]), build(SETTINGS[0])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def as_counted(store):
    """The graphs of a store, each as bytes, with how often it occurs: two molecules may be the same graph."""
    return Counter(
        (batch.x.numpy().tobytes(), batch.edge_index.numpy().tobytes(), int(label))
        for batch, label in (store.batch(torch.tensor([index])) for index in range(len(store)))
    )


@pytest.mark.parametrize("dataset", ["digits", pytest.param("mutagenicity", marks=pytest.mark.data)])
def test_parts_are_as_stated_and_share_no_graph(dataset, request):
    real = dataset == "mutagenicity"
    root = request.getfixturevalue("real_data") if real else None
    splits, test = GCN.splits(dataset, root), GCN.test_split(dataset, root)
    parts, stated = (splits.train, splits.validation, test), GCN.datasets[dataset]
    assert [len(part) for part in parts] == [stated.train, stated.validation, stated.test]
    assert all(set(part.y.tolist()) == set(range(stated.classes)) for part in parts)
    assert splits.train.x.shape[1] == GCN.setting(dataset).network["features"]
    everything = mutagenicity.load(root) if real else digits.grid_graphs()
    assert sum(map(as_counted, parts), Counter()) == as_counted(everything)


def test_parts_are_the_same_every_time():
    first, again = GCN.splits("digits", None), GCN.splits("digits", None)
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.validation.y, again.validation.y)


def test_a_missing_file_is_refused_by_check_and_by_splits(tmp_path):
    for call in (GCN.check_data, GCN.splits, GCN.test_split):
        with pytest.raises(Refused, match="Mutagenicity_A.txt is missing"):
            call("mutagenicity", tmp_path)
    GCN.check_data("digits", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "there", "fetched"),
    [("mutagenicity", False, True), ("mutagenicity", True, False), ("digits", False, False)],
)
def test_only_what_is_not_there_is_fetched(monkeypatch, tmp_path, dataset, there, fetched):
    asked = []
    monkeypatch.setattr(mutagenicity, "download", asked.append)
    if there:
        mutagenicity.raw_folder(tmp_path).mkdir(parents=True)
    GCN.fetch(dataset, tmp_path)
    assert asked == [tmp_path] * fetched
