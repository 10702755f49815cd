import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap
from torch_geometric.nn import GraphConv, global_mean_pool

from tune_sam.trainables.data import digits
from tune_sam.trainables.networks import gcn
from tune_sam.trainables.networks.gcn import GraphClassifier
from tune_sam.trainables.networks.sums import adjacency, membership
from tune_sam.workload import find_workload

GCN = find_workload("gcn")
SETTING = GCN.settings["mutagenicity"]


def a_batch(dtype=torch.float32):
    """Nine grid graphs of digits, and their classes; features are those of the setting."""
    graphs, classes = digits.grid_graphs().batch(torch.arange(9))
    graphs.x = graphs.x[:, : SETTING.network["features"]].to(dtype)
    return graphs, classes % 2


def isolated(graphs, more):
    """The nodes of a batch, with `more` that no edge and no graph has."""
    return F.pad(graphs.x, (0, 0, 0, more))


def test_sums_over_neighbours_are_bitwise_those_of_pyg():
    graphs, _ = a_batch()
    layer = GraphConv(graphs.x.shape[1], 8)
    x = graphs.x.clone().requires_grad_()
    theirs = layer.propagate(graphs.edge_index, x=(x, x), edge_weight=None, size=None)
    ours = adjacency(graphs.edge_index, len(x)) @ x
    assert torch.equal(ours, theirs)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    (of_ours,), (of_theirs,) = (torch.autograd.grad((out * weights).sum(), x) for out in (ours, theirs))
    assert torch.equal(of_ours, of_theirs)


def test_edges_are_sorted_once_and_anew_when_they_have_changed():
    edges, x = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.eye(3)
    pattern = adjacency(edges, 3)
    assert adjacency(edges, 3) is pattern
    assert adjacency(edges.clone(), 3) is not pattern
    padded = adjacency(edges, 4) @ torch.eye(4)
    assert torch.equal(padded[:3, :3], pattern @ x)
    edges[0, 0] = 2
    assert (adjacency(edges, 3) @ x).tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 0]]


def test_edges_that_were_met_in_inference_mode_serve_a_gradient():
    edges, x = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.eye(3, requires_grad=True)
    with torch.inference_mode():
        found = adjacency(edges, 3) @ x
        assert torch.equal(adjacency(edges.clone(), 3) @ x, found)
    (adjacency(edges, 3) @ x).sum().backward()
    assert torch.equal(x.grad, torch.ones(3, 3))


def test_sums_over_graphs_are_bitwise_those_of_pyg():
    graphs, _ = a_batch()
    means = (membership(graphs.batch, graphs.ptr) @ graphs.x) / graphs.ptr.diff()[:, None]
    assert torch.equal(means, global_mean_pool(graphs.x, graphs.batch))


def test_sums_have_gradients_of_every_order():
    edges = torch.tensor([[0, 0, 3, 3, 2], [1, 2, 1, 1, 2]])
    pattern = adjacency(edges, 5)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (pattern @ x).tanh(), x)
    assert torch.autograd.gradgradcheck(lambda x: (pattern @ x).tanh(), x)


def test_several_networks_are_mapped_over_one_batch():
    graphs, classes = a_batch(torch.float64)
    model = GCN.network(SETTING).double().eval()
    stacked = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in model.named_parameters()}

    def loss(weights):
        return GCN.loss(functional_call(model, weights, (graphs,)), classes)

    together = vmap(grad(loss))(stacked)
    for index in range(2):
        alone = grad(loss)({name: p[index] for name, p in stacked.items()})
        for name, gradient in alone.items():
            torch.testing.assert_close(together[name][index], gradient)


def test_nodes_of_padding_change_no_node_and_no_gradient():
    graphs, _ = a_batch()
    layers = [GraphConv(SETTING.network["features"], 64), GraphConv(64, 128)]
    found = []
    for x in (graphs.x, isolated(graphs, 512 - len(graphs.x) % 512)):
        adjacent = adjacency(graphs.edge_index, len(x))
        for layer in layers:
            x = torch.relu(layer.lin_rel(adjacent @ x) + layer.lin_root(x))
        out = (adjacent @ x)[: len(graphs.x)]
        found.append((out, *torch.autograd.grad(out.square().mean(), [p for one in layers for p in one.parameters()])))
    for plain, padded in zip(*found, strict=True):
        torch.testing.assert_close(padded, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_in_bf16_padding_changes_no_output_and_no_gradient(pool, monkeypatch):
    graphs, classes = a_batch()
    torch.manual_seed(0)
    model = GraphClassifier(**{**SETTING.network, "pool": pool}).eval()
    found = []
    for multiple in (1, gcn.NODES):
        monkeypatch.setattr(gcn, "NODES", multiple)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(graphs).float()
        found.append((out, *torch.autograd.grad(GCN.loss(out, classes), list(model.parameters()))))
    for plain, padded in zip(*found, strict=True):
        assert (padded - plain).norm() <= 2**-8 * plain.norm()


@pytest.mark.slow
def test_torch_compile_changes_no_output():
    graphs, _ = a_batch()
    model = GCN.network(SETTING).eval()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(graphs), model(graphs))
