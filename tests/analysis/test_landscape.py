"""`tune_sam.analysis.landscape`: filter by filter, point by point, and parts that make the whole."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import DEVICES, KINDS, SAMPLES, Quadratic, batches, disturbed, everything, network
from torch import nn

from tune_sam.analysis.landscape import Direction, grid, line_between, losses, random_directions

KIND = pytest.mark.parametrize("kind", KINDS)


# --- directions ---


@KIND
def test_each_filter_has_the_norm_of_the_models(kind):
    model = network(kind)
    for direction in random_directions(model, seed=3):
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                assert name not in direction.tensors
                continue
            drawn = direction.tensors[name]
            assert drawn.shape == weight.shape
            for mine, theirs in zip(drawn, weight, strict=True):  # one output each
                assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-12)
            cosine = F.cosine_similarity(drawn.flatten(), weight.flatten(), dim=0).item()
            assert abs(cosine) < 0.999 or weight.numel() < 5  # not the weights themselves


def test_norm_layers_biases_and_frozen_parameters_are_left_out():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.GroupNorm(1, 3),
        nn.BatchNorm2d(3),
        nn.LayerNorm([3, 4, 4]),
        nn.Linear(4, 2),
        nn.Linear(2, 2),
    )
    model[5].weight.requires_grad_(False)
    (direction,) = random_directions(model, seed=0, count=1)
    assert set(direction.tensors) == {"0.weight", "4.weight"}
    assert direction.left_out == (
        "0.bias",
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
        "3.weight",
        "3.bias",
        "4.bias",
        "5.weight",
        "5.bias",
    )


def test_filters_of_a_transposed_convolution_are_its_outputs():
    model = nn.Sequential(nn.ConvTranspose2d(2, 3, 2))
    (direction,) = random_directions(model, seed=0, count=1)
    drawn, weight = direction.tensors["0.weight"], model[0].weight
    for output in range(3):
        assert drawn[:, output].norm().item() == pytest.approx(weight[:, output].norm().item(), rel=1e-6)


def test_a_filter_of_zeros_does_not_move():
    model = nn.Sequential(nn.Linear(3, 2))
    nn.init.zeros_(model[0].weight[0])
    (direction,) = random_directions(model, seed=0, count=1)
    assert direction.tensors["0.weight"][0].tolist() == [0, 0, 0]
    assert direction.tensors["0.weight"][1].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_directions_are_a_matter_of_seed_and_reference_alone(device):
    model = network("gcn")
    first, second = random_directions(model, seed=5)
    same = copy.deepcopy(model).to(device)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    (alone,) = random_directions(same, seed=5, count=1)
    assert torch.equal(torch.get_rng_state(), state)
    (other,) = random_directions(model, seed=6, count=1)
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(alone.tensors[name], tensor, rtol=1e-12, atol=0)
        assert alone.tensors[name].device.type == "cpu"
        assert not torch.equal(second.tensors[name], tensor)
        assert not torch.equal(other.tensors[name], tensor)


def test_the_draw_is_the_same_for_each_models_own_scale():
    model, larger = network("attention"), network("attention")
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.mul_(3)
    mine, theirs = (random_directions(m, seed=1, count=1)[0].tensors for m in (model, larger))
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], 3 * tensor, rtol=1e-12, atol=0)


def test_shared_parameters_are_moved_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    (direction,) = random_directions(model, seed=0, count=1)
    assert list(direction.tensors) == ["0.weight"]


# --- losses ---


def loss_at(model, offsets, kind):
    """The loss over all samples with tensors moved by `offsets`, on a copy."""
    there = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, tensor in [*there.named_parameters(), *there.named_buffers()]:
            if name in offsets:
                tensor += offsets[name]
    ((inputs, targets),) = batches(kind, (SAMPLES,))
    return F.cross_entropy(there(inputs), targets).item()


@KIND
def test_a_surface_point_by_point(kind):
    model = network(kind)
    directions = random_directions(model, seed=0)
    points = grid(2, -0.5, 1.0, steps=4)
    expected = [
        loss_at(
            model,
            {name: x * directions[0].tensors[name] + y * directions[1].tensors[name] for name in directions[0].tensors},
            kind,
        )
        for x, y in points
    ]
    found = losses(model, F.cross_entropy, batches(kind), directions, points)
    assert found == pytest.approx(expected, rel=1e-10)
    assert found.shape == (16,)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_directions_serve_other_models_and_devices(device):
    base, sam = network("wideresnet", seed=0), network("wideresnet", seed=1)
    directions = random_directions(base, seed=0)
    point = [[0.3, -0.7]]
    expected = loss_at(
        sam,
        {name: 0.3 * directions[0].tensors[name] - 0.7 * directions[1].tensors[name] for name in directions[0].tensors},
        "wideresnet",
    )
    found = losses(sam.to(device), F.cross_entropy, batches("wideresnet", device=device), directions, point)
    assert found == pytest.approx([expected], rel=1e-9)


def test_the_centre_is_the_model_bitwise():
    model = network("gcn").float()
    data = [(batch.apply(lambda t: t.float() if t.is_floating_point() else t), y) for batch, y in batches("gcn")]
    directions = random_directions(model, seed=0)
    model.eval()
    means = [F.cross_entropy(model(x), y).double().item() * len(y) for x, y in data]
    assert losses(model, F.cross_entropy, data, directions, [[0, 0]])[0] == sum(means) / SAMPLES


@KIND
def test_parts_are_the_whole(kind):
    model = network(kind).float()
    data = batches(kind)
    data = [
        (x.float() if isinstance(x, torch.Tensor) else x.apply(lambda t: t.float() if t.is_floating_point() else t), y)
        for x, y in data
    ]
    directions, points = random_directions(model, seed=2), grid(2, steps=5)
    whole = losses(model, F.cross_entropy, data, directions, points)
    parts = [
        losses(copy.deepcopy(model), F.cross_entropy, data, directions, part)
        for part in np.array_split(points, 4)[::-1]
    ]
    assert np.array_equal(np.concatenate(parts[::-1]), whole)


def test_a_quadratic_along_lines():
    hessian = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    slope, w = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    model = Quadratic(hessian, slope, w)
    direction = Direction({"first": torch.tensor([2.0]), "second_weight": torch.tensor([-1.0])}, ())
    points = np.array([-3.0, 0.0, 0.5])
    there = [w.numpy() + t * np.array([2.0, -1.0]) for t in points]
    expected = [slope.numpy() @ v + v @ hessian.numpy() @ v / 2 for v in there]
    assert losses(model, Quadratic.loss, Quadratic.batches(), [direction], points) == pytest.approx(expected)


@KIND
def test_the_line_between_two_minima_has_them_at_its_ends(kind):
    start, end = network(kind, seed=0), network(kind, seed=1)
    line = line_between(start, end)
    found = losses(start, F.cross_entropy, batches(kind), [line], [0, 0.25, 1])
    assert found[0] == pytest.approx(loss_at(start, {}, kind), rel=1e-12)
    assert found[1] == pytest.approx(loss_at(start, {n: 0.25 * t for n, t in line.tensors.items()}, kind), rel=1e-10)
    assert found[2] == pytest.approx(loss_at(end, {}, kind), rel=1e-10)


def test_a_line_leaves_an_infinite_mask_as_it_is():
    start, end = (nn.Linear(2, 2).double() for _ in range(2))
    for model in (start, end):
        model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        model.register_buffer("coo", torch.eye(2, dtype=torch.float64).to_sparse())
    line = line_between(start, end)
    assert set(line.tensors) == {"weight", "bias", "coo"}
    data = [(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1))]
    found = losses(start, lambda x, _: x.square().sum(), data, [line], [0, 1])
    assert found == pytest.approx([float(model(data[0][0]).square().sum().detach()) for model in (start, end)])


def test_a_loss_that_overflows_comes_as_it_is():
    model = nn.Linear(1, 1, bias=False).double()
    data = [(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1))]
    direction = Direction({"weight": torch.ones(1, 1)}, ())
    found = losses(model, lambda x, _: torch.exp(x.mean()), data, [direction], [0, 1e4])
    assert np.isfinite(found[0])
    assert np.isposinf(found[1])


def test_progress():
    model, told = network("gcn"), []
    losses(
        model,
        F.cross_entropy,
        batches("gcn"),
        random_directions(model, 0, 1),
        grid(1, steps=3),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


@KIND
@pytest.mark.parametrize("raises", [False, True])
def test_the_model_is_as_before(kind, raises):
    model = disturbed(network(kind))
    directions = [*random_directions(model, seed=0), line_between(model, network(kind, seed=4))]
    before = everything(model)

    def stop(done, total):
        if raises and done == 2:
            raise KeyError("stop")

    def measure():
        losses(model, F.cross_entropy, batches(kind), directions, np.ones((3, 3)), stop)

    if raises:
        with pytest.raises(KeyError, match="stop"):
            measure()
    else:
        measure()
    assert everything(model) == before


# --- points ---


def test_a_grid():
    assert grid(1, 0, 1, steps=3).tolist() == [[0], [0.5], [1]]
    assert grid(2, -1, 1, steps=2).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    assert grid(2).shape == (441, 2)
    assert [0, 0] in grid(2).tolist()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: grid(0), "dimensions is 0"),
        (lambda m: grid(1, 1, 1), "no axis from 1 to 1"),
        (lambda m: grid(1, steps=1), "in 1 steps"),
        (lambda m: random_directions(m, 0, count=0), "count is 0"),
        (lambda m: random_directions(nn.LayerNorm(3), 0), "nothing to move"),
        (lambda m: line_between(m, nn.Linear(2, 2)), "only one of the two models has .*weight"),
        (
            lambda m: line_between(nn.Linear(2, 3), nn.Linear(2, 2)),
            r"end has weight of shape \(2, 2\) .* shape \(3, 2\)",
        ),
        (
            lambda m: losses(m, F.cross_entropy, batches("gcn"), random_directions(m, 0), [[0.0]]),
            r"shape \(1, 1\) and there are 2 directions",
        ),
        (lambda m: losses(m, F.cross_entropy, batches("gcn"), [], np.zeros((1, 0))), "0 directions"),
        (
            lambda m: losses(
                m, F.cross_entropy, batches("gcn"), random_directions(nn.Sequential(nn.Linear(2, 2)), 0), [[0, 0]]
            ),
            "direction 0 has 0.weight .* no such tensor",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(network("gcn"))
