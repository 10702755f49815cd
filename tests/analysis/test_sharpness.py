"""`tune_sam.analysis.sharpness` against brute force, closed forms and the optimizers' own ε̂."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import DEVICES, KINDS, SAMPLES, Quadratic, batches, disturbed, everything, network
from torch import nn

from tune_sam.analysis.sharpness import AverageCase, WorstCase, average_case, worst_case
from tune_sam.optim import ASAM, SAM, ASAMAll

KIND = pytest.mark.parametrize("kind", KINDS)
SCALES = ["one", "rms", "adaptive", "asam"]
SCALE = pytest.mark.parametrize("scale", SCALES)
BOTH = pytest.mark.parametrize(
    "measure",
    [partial(worst_case, rho=0.1, steps=3), partial(average_case, sigma=0.1, pairs=2)],
    ids=["worst", "average"],
)


def scaled(scale, w):
    """T, as a vector like w; the second half of a `Quadratic` is named *weight*."""
    if scale == "rms":
        return np.full(len(w), math.sqrt(np.mean(w**2)))
    if scale == "asam":
        return np.where(np.arange(len(w)) < len(w) // 2, 1.0, np.abs(w) + 0.01)
    return {"one": np.ones(len(w)), "adaptive": np.abs(w)}[scale]


def quadratic(eigenvalues, slope_at_w=0.0, seed=0):
    """A model, its H and its w, with a gradient at w of the given length."""
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.normal(size=(len(eigenvalues),) * 2))
    hessian = q @ np.diag(eigenvalues) @ q.T
    w = random.normal(size=len(eigenvalues))
    gradient = random.normal(size=len(w))
    gradient *= slope_at_w / np.linalg.norm(gradient)
    model = Quadratic(*(torch.tensor(t) for t in (hessian, gradient - hessian @ w, w)))
    return model, hessian, gradient, w


# --- worst case ---


@SCALE
@pytest.mark.parametrize("eigenvalues", [(3.0, 1.0), (2.0, -1.5), (-1.0, -4.0)])
@pytest.mark.parametrize(("rho", "slope"), [(0.3, 0.5), (2.0, 0.5), (1.0, 0.05)])
def test_worst_case_of_a_quadratic_is_the_best_of_all_directions(scale, eigenvalues, rho, slope):
    model, hessian, gradient, w = quadratic(eigenvalues, slope)
    t = scaled(scale, w)
    hessian, gradient = t[:, None] * hessian * t, t * gradient
    # Of a quadratic in a ball, the best lies on the edge or where the gradient is 0.
    angle = np.linspace(0, 2 * np.pi, 20_001)
    epsilon = np.vstack([rho * np.stack([np.cos(angle), np.sin(angle)], axis=-1), np.linalg.solve(hessian, -gradient)])
    epsilon = epsilon[np.linalg.norm(epsilon, axis=-1) <= rho * (1 + 1e-9)]
    rise = epsilon @ gradient + ((epsilon @ hessian) * epsilon).sum(axis=-1) / 2

    found = worst_case(model, Quadratic.loss, Quadratic.batches(), rho, steps=50, scale=scale)

    # A lower bound. A top inside a narrow ball, as of a concave loss, is neared slowly.
    least = 0.998 if min(eigenvalues) > 0 else 0.97
    assert least * rise.max() - 1e-6 < found.value <= rise.max() * (1 + 1e-4) + 1e-9
    assert found.samples == 3


@SCALE
def test_worst_case_at_a_minimum_is_the_largest_eigenvalue(scale):
    """With a gradient of exactly 0 at w, so that the first direction is drawn."""
    model, hessian, _, w = quadratic((5.0, 3.0, 1.0, 0.5, 0.2, 0.0))
    model.slope = -torch.autograd.functional.jacobian(lambda v: v @ model.hessian @ v / 2, torch.tensor(w))
    t = scaled(scale, w)
    largest = np.linalg.eigvalsh(t[:, None] * hessian * t).max()
    found = worst_case(model, Quadratic.loss, Quadratic.batches(), 0.1, steps=60, scale=scale)
    assert found.value == pytest.approx(0.1**2 / 2 * largest, rel=1e-4)
    assert found.resolved


@KIND
@pytest.mark.parametrize(
    ("scale", "build"),
    [
        ("one", lambda m, rho: SAM(m.parameters(), torch.optim.SGD, rho, lr=1)),
        ("adaptive", lambda m, rho: ASAMAll(m.parameters(), torch.optim.SGD, rho, lr=1)),
        ("asam", lambda m, rho: ASAM(m.named_parameters(), torch.optim.SGD, rho, lr=1)),
    ],
)
def test_one_step_is_the_optimizers_own(kind, scale, build):
    model = network(kind)
    ((inputs, targets),) = batches(kind, (SAMPLES,))
    found = worst_case(model, F.cross_entropy, batches(kind), 0.2, steps=1, scale=scale)

    twin = copy.deepcopy(model).eval()
    before = F.cross_entropy(twin(inputs), targets)
    before.backward()
    build(twin, 0.2).first_step()
    after = F.cross_entropy(twin(inputs), targets)
    assert found.ascent == pytest.approx((0.0, after.item() - before.item()), rel=1e-9)
    assert found.loss == pytest.approx(before.item(), rel=1e-12)
    assert found.steps == 1
    assert not found.resolved  # nothing says that one step was enough


@KIND
@SCALE
def test_the_ascent_stays_in_the_ball_and_keeps_its_best(kind, scale):
    model = network(kind)
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = torch.cat([p.flatten() for p in w.values()])
    seen = []

    def radius(*_):
        total = 0.0
        for name, p in model.named_parameters():
            t = {
                "one": torch.ones_like(p),
                "rms": flat.square().mean().sqrt(),
                "adaptive": w[name].abs(),
                "asam": w[name].abs() + 0.01 if "weight" in name else torch.ones_like(p),
            }[scale]
            total += ((p.detach() - w[name]) / t).square().sum().item()
        seen.append(math.sqrt(total))

    model.register_forward_pre_hook(radius)
    climb = partial(worst_case, model, F.cross_entropy, batches(kind), 0.7, restarts=0, scale=scale)
    found = climb(steps=6)
    assert max(seen) == pytest.approx(0.7, rel=1e-6)  # the first step is to the boundary, and none goes beyond
    assert found.value == max(found.ascent) > 0
    assert len(found.ascent) == found.steps + 1 == 7
    fewer = [climb(steps=n) for n in (1, 3)]
    assert fewer[1].ascent == found.ascent[:4]
    assert fewer[0].value <= fewer[1].value <= found.value
    assert found.error == pytest.approx(found.value - fewer[1].value, abs=1e-15)


def test_more_steps_find_more_than_the_optimizers_one():
    model = network("wideresnet")
    one, many = (worst_case(model, F.cross_entropy, batches("wideresnet"), 0.5, steps=n) for n in (1, 20))
    assert many.value > 1.02 * one.value


def test_restarts_find_what_one_ascent_misses_and_are_told_apart():
    """Of two hills the nearer one is climbed first, and is the lower one."""
    model = nn.Linear(1, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    data = [(torch.ones(2, 1, dtype=torch.float64), torch.zeros(2))]

    def hills(outputs, _):
        near, far = torch.tensor([0.3, 0.0]).double(), torch.tensor([-0.8, 0.0]).double()
        return sum(
            height * torch.exp(-(outputs - top).square().sum(1).mean() / 0.05) for top, height in ((near, 1), (far, 3))
        )

    one = worst_case(model, hills, data, 1.0, steps=20, restarts=0)
    more = worst_case(model, hills, data, 1.0, steps=20, restarts=8)
    assert one.tops == more.tops[:1]
    assert more.ascent == one.ascent
    assert more.value == max(more.tops) > 2 * one.value
    assert more.error >= more.value - one.value, "what the restarts added is in doubt"
    assert not more.resolved
    assert len(more.tops) == 9


def test_an_ascent_that_begins_where_the_loss_is_no_number_found_nothing():
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.ones_(model.weight)
    data = [(torch.ones(4, 2, dtype=torch.float64), torch.zeros(4))]

    def root(outputs, _):
        return (outputs - 1.99).sqrt().mean()

    found = worst_case(model, root, data, 0.05, restarts=8)
    assert found.value == found.tops[0] == pytest.approx(math.sqrt(0.01 + 0.05 * math.sqrt(2)) - 0.1)
    assert 0 in found.tops[1:]


def test_at_the_top_of_a_hill_nothing_rises():
    model, hessian, gradient, w = quadratic((-1.0, -2.0, -3.0, -0.5), slope_at_w=1e-300)
    found = worst_case(model, Quadratic.loss, Quadratic.batches(), 0.5, steps=6)
    assert found.value == 0
    assert min(found.ascent) < -0.05  # as it came
    assert not found.resolved


def test_weights_of_zero_have_no_adaptive_ball():
    model, *_ = quadratic((1.0, 2.0), slope_at_w=1.0)
    nn.init.zeros_(model.first)
    nn.init.zeros_(model.second_weight)
    found = worst_case(model, Quadratic.loss, Quadratic.batches(), 0.5, scale="adaptive")
    assert (found.value, found.steps, found.ascent) == (0, 0, (0.0,))


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [
        (lambda x, _: -torch.log(1 - x.mean()), lambda v: 0.5 < v < math.inf),  # nan beyond 1
        (lambda x, _: torch.exp(2000 * x.mean() - 1000), lambda v: v == math.inf),
    ],
)
def test_losses_that_are_not_finite_on_the_way(loss_fn, expected):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    data = [(torch.ones(2, 1, dtype=torch.float64), torch.zeros(2))]
    found = worst_case(model, loss_fn, data, 1.5, steps=10)
    assert not all(math.isfinite(value) for value in found.ascent)
    assert expected(found.value)
    assert model.weight.item() == 0
    assert found.resolved == math.isfinite(found.value) or found.error > 0.1 * found.value


# --- average case ---


@SCALE
def test_average_case_of_a_quadratic_is_half_the_trace(scale):
    model, hessian, _, w = quadratic((5.0, 3.0, 1.0, -0.5, 0.2, 0.0), slope_at_w=2.0)
    t = scaled(scale, w)
    expected = 0.3**2 / 2 * np.trace(t[:, None] * hessian * t)
    found = average_case(model, Quadratic.loss, Quadratic.batches(), 0.3, pairs=500, scale=scale)
    assert abs(found.value - expected) < 4 * found.error
    assert found.error < 0.1 * expected
    assert (found.samples, found.draws) == (3, 1000)


def test_the_average_has_an_honest_standard_error():
    model, hessian, _, _ = quadratic((5.0, 3.0, 1.0, -0.5, 0.2, 0.0), slope_at_w=2.0)
    truth = 0.3**2 / 2 * np.trace(hessian)
    found = [average_case(model, Quadratic.loss, Quadratic.batches(), 0.3, pairs=20, seed=seed) for seed in range(50)]
    errors = np.array([(one.value - truth) / one.error for one in found])
    assert 0.75 < np.sqrt(np.mean(errors**2)) < 1.35  # about 1: fifty of them are right to a tenth
    assert len({one.value for one in found}) == 50


def test_the_slope_is_no_sharpness():
    flat, steep = (
        average_case(quadratic((2.0, 1.0, 0.5, 0.1), slope)[0], Quadratic.loss, Quadratic.batches(), 0.3, pairs=20)
        for slope in (0.0, 50.0)
    )
    assert steep.value == pytest.approx(flat.value, rel=1e-9)
    assert steep.error == pytest.approx(flat.error, rel=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_draws_do_not_depend_on_the_device(device):
    model = network("gcn")
    here = average_case(model, F.cross_entropy, batches("gcn"), 0.1, pairs=4)
    there = average_case(copy.deepcopy(model).to(device), F.cross_entropy, batches("gcn", device=device), 0.1, pairs=4)
    assert there.value == pytest.approx(here.value, rel=1e-9)


# --- both ---


@BOTH
@SCALE
def test_rescaling_relu_layers_changes_nothing_adaptive(measure, scale):
    model = network("gcn")
    rescaled = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in rescaled.convolutions[0].parameters():
            parameter.mul_(8)
        for linear in (rescaled.convolutions[1].lin_rel, rescaled.convolutions[1].lin_root):
            linear.weight.div_(8)
    first, second = (measure(m, F.cross_entropy, batches("gcn"), scale=scale) for m in (model, rescaled))
    assert second.loss == pytest.approx(first.loss, rel=1e-12)  # the same function
    if scale == "adaptive":
        assert second.value == pytest.approx(first.value, rel=1e-9)
    else:
        assert abs(second.value / first.value - 1) > 0.02


@BOTH
def test_rms_is_a_length_in_units_of_the_weights(measure):
    model = network("attention")
    with torch.no_grad():
        rms = torch.cat([p.flatten() for p in model.parameters()]).square().mean().sqrt().item()
    key = "rho" if "rho" in measure.keywords else "sigma"
    relative = measure(model, F.cross_entropy, batches("attention"), scale="rms")
    absolute = measure(model, F.cross_entropy, batches("attention"), **{key: 0.1 * rms})
    assert relative.value == pytest.approx(absolute.value, rel=1e-9)
    assert getattr(relative, key) == 0.1


@BOTH
@KIND
def test_how_the_sample_is_cut_does_not_matter(measure, kind):
    model = network(kind)
    values = [measure(model, F.cross_entropy, batches(kind, sizes)).value for sizes in [(14,), (5, 5, 4), (1, 13)]]
    assert values[1:] == pytest.approx(values[:1] * 2, rel=1e-8)
    assert values[0] != 0


@BOTH
@KIND
def test_the_model_is_as_before(measure, kind):
    model = disturbed(network(kind))
    before = everything(model)
    first = measure(model, F.cross_entropy, batches(kind))
    assert everything(model) == before
    assert measure(model, F.cross_entropy, batches(kind)) == first
    assert first.left_out == (list(dict(model.named_parameters()))[2],)


@BOTH
def test_an_exception_on_the_way_leaves_the_model_as_before(measure):
    model = disturbed(network("wideresnet"))
    before = everything(model)
    calls = []

    def fails(outputs, targets):
        calls.append(None)
        if len(calls) == 7:
            raise KeyError("stop")
        return F.cross_entropy(outputs, targets)

    with pytest.raises(KeyError, match="stop"):
        measure(model, fails, batches("wideresnet"))
    assert everything(model) == before


@BOTH
def test_parameters_that_the_loss_does_not_depend_on_are_named(measure):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    model[0].bias.requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    data = [(torch.randn(9, 3, generator=random), torch.randint(3, (9,), generator=random))]
    alone = nn.Sequential(*copy.deepcopy([model[0], model[1], model[2]]))
    found = measure(model, F.cross_entropy, data, scale="rms")
    assert found.left_out == ("0.bias", "unused.weight", "unused.bias")
    assert found.value == measure(alone, F.cross_entropy, data, scale="rms").value


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (partial(worst_case, rho=0.0), "rho is 0.0"),
        (partial(worst_case, rho=math.nan), "rho is nan"),
        (partial(worst_case, rho=0.1, steps=0), "steps is 0"),
        (partial(worst_case, rho=0.1, restarts=-1), "restarts is -1"),
        (partial(average_case, sigma=-1.0), "sigma is -1.0"),
        (partial(average_case, sigma=0.1, pairs=1), "pairs is 1"),
        (partial(worst_case, rho=0.1, scale="asam-all"), "no scale 'asam-all': choose from one, rms, adaptive, asam"),
    ],
)
def test_arguments_out_of_range_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(network("gcn"), F.cross_entropy, batches("gcn"))


@BOTH
def test_models_without_a_loss_or_parameters_are_refused(measure):
    model = network("gcn")
    with pytest.raises(ValueError, match="loss at the weights is nan"):
        measure(model, lambda x, y: F.cross_entropy(x, y) * math.nan, batches("gcn"))
    with pytest.raises(ValueError, match="no parameter requires gradients"):
        measure(model.requires_grad_(False), F.cross_entropy, batches("gcn"))


@pytest.mark.parametrize(
    ("value", "error", "resolved"),
    [(1.0, 0.1, True), (1.0, 0.11, False), (-1.0, 0.05, True), (0.0, 1e-9, False), (math.inf, math.inf, False)],
)
def test_resolved(value, error, resolved):
    assert WorstCase(value, error, 0.1, "one", 1.0, 3, 2, (0.0,), ()).resolved == resolved
    assert AverageCase(value, error, 0.1, "one", 1.0, 3, 2, ()).resolved == resolved
