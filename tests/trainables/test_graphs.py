from dataclasses import fields

import pytest
import torch
from torch_geometric.data import Batch, Data

from tune_sam.trainables.data import digits
from tune_sam.trainables.data.graphs import GraphStore

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZES = [(4, 6), (1, 0), (7, 12), (3, 0), (5, 1), (2, 9)]  # nodes and edges; two graphs have no edges
ORDERS = [[0, 1, 2, 3, 4, 5], [5, 2, 0], [3, 1], [2], [1], [4, 4, 0, 4], [1, 5, 1, 1, 3, 0]]


@pytest.fixture
def graphs():
    random = torch.Generator().manual_seed(0)
    return [
        Data(
            x=torch.randn(nodes, 3, generator=random),
            edge_index=torch.randint(nodes, (2, edges), generator=random),
            y=torch.randint(9, (1,), generator=random),
        )
        for nodes, edges in SIZES
    ]


@pytest.fixture
def store(graphs):
    return GraphStore(
        x=torch.cat([graph.x for graph in graphs]),
        edge_index=torch.cat([graph.edge_index for graph in graphs], dim=1),
        node_start=torch.tensor([0, *(nodes for nodes, _ in SIZES)]).cumsum(0),
        edge_start=torch.tensor([0, *(edges for _, edges in SIZES)]).cumsum(0),
        y=torch.cat([graph.y for graph in graphs]),
    )


def assert_batch(found, graphs):
    """`found` is what PyG collates of `graphs`."""
    batch, classes = found
    expected = Batch.from_data_list(graphs)
    for name in ("x", "edge_index", "batch", "ptr"):
        assert torch.equal(batch[name], expected[name]), name
        assert batch[name].dtype == expected[name].dtype
    assert torch.equal(classes, expected.y)
    assert batch.num_graphs == len(graphs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_is_what_pyg_collates(store, graphs, order, device):
    batch, classes = store.to(torch.device(device)).batch(torch.tensor(order, device=device))
    assert {tensor.device.type for tensor in (batch.x, batch.edge_index, batch.batch, batch.ptr, classes)} == {device}
    assert_batch((batch.cpu(), classes.cpu()), [graphs[i] for i in order])


@pytest.mark.parametrize("order", ORDERS)
def test_a_subset_holds_its_graphs_alone(store, graphs, order):
    subset = store.subset(torch.tensor(order))
    chosen = [graphs[i] for i in order]
    assert len(subset) == len(order)
    assert len(subset.x) == sum(graph.num_nodes for graph in chosen)
    assert subset.edge_index.shape[1] == sum(graph.num_edges for graph in chosen)
    assert_batch(subset.batch(torch.arange(len(order))), chosen)
    assert_batch(subset.batch(torch.tensor([len(order) - 1, 0])), [chosen[-1], chosen[0]])


def test_a_subset_of_a_subset(store, graphs):
    inner = store.subset(torch.tensor([5, 3, 0, 2])).subset(torch.tensor([3, 0]))
    assert_batch(inner.batch(torch.arange(2)), [graphs[2], graphs[5]])


def test_a_batch_is_a_copy(store):
    before = store.x.clone()
    batch, _ = store.batch(torch.arange(len(store)))
    batch.x.zero_()
    batch.edge_index.zero_()
    assert torch.equal(store.x, before)
    assert store.edge_index.any()


@pytest.mark.parametrize("device", ["meta", *DEVICES[1:]])
def test_every_tensor_moves_to_a_device(store, device):
    moved = store.to(torch.device(device))
    assert {getattr(moved, field.name).device.type for field in fields(moved)} == {device}
    assert len(moved) == len(store)
    assert all(getattr(store, field.name).device.type == "cpu" for field in fields(store))


def test_joined_stores_give_the_graphs_of_both():
    whole = digits.grid_graphs()
    first, second = whole.subset(torch.tensor([5, 3])), whole.subset(torch.tensor([0, 7, 2]))
    joined, expected = first.joined(second), whole.subset(torch.tensor([5, 3, 0, 7, 2]))
    for ours, theirs in zip(vars(joined).values(), vars(expected).values(), strict=True):
        assert torch.equal(ours, theirs)
    nothing = whole.subset(torch.arange(0))
    assert len(nothing) == 0
    assert torch.equal(nothing.joined(first).edge_index, first.edge_index)
