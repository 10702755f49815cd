"""`tune_sam.analysis.hessian`: products against the dense Hessian, and everything left as it was found."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from curvature_cases import CASES, dense
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from tune_sam.analysis.hessian import Hessian

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KIND = pytest.mark.parametrize("kind", CASES)


def vector(size, device="cpu"):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)


def linear(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, classes)).double()


def sample(n=12):
    random = torch.Generator().manual_seed(2)
    return torch.randn(n, 4, dtype=torch.float64, generator=random), torch.randint(0, 3, (n,), generator=random)


@KIND
@pytest.mark.parametrize("device", DEVICES)
def test_a_product_is_that_of_the_dense_hessian(kind, device):
    case = CASES[kind](device=device)
    H = dense(kind).to(device)
    v = vector(len(H), device)
    with Hessian(case.model, case.loss, case.batches) as hessian:
        assert hessian.size == len(H)
        assert torch.allclose(hessian.product(v), H @ v, rtol=1e-9, atol=1e-10 * float(H.abs().max()))


@KIND
def test_the_same_numbers_in_one_batch_or_many_kept_or_not(kind):
    case = CASES[kind]()
    products, losses, kept = [], [], []
    for batches, graph_bytes in [([case.whole], 1 << 30), (case.batches, 1 << 30), (case.batches, 0)]:
        with Hessian(case.model, case.loss, batches, graph_bytes=graph_bytes) as hessian:
            products.append(hessian.product(vector(hessian.size)))
            losses.append(hessian.loss)
            kept.append(hessian.batches_kept)
    assert kept == [1, 3, 0]
    assert torch.equal(products[1], products[2])
    assert torch.allclose(products[0], products[1], rtol=1e-10, atol=1e-12)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-12)


def test_a_budget_that_holds_some_batches():
    case = CASES["attention"]()
    with Hessian(case.model, case.loss, case.batches, graph_bytes=60_000) as hessian:
        assert 0 < hessian.batches_kept < 3
        some = hessian.product(vector(hessian.size))
        each = [product(vector(hessian.size)) for product in hessian.batch_products()]
    with Hessian(case.model, case.loss, case.batches) as hessian:
        assert torch.equal(some, hessian.product(vector(hessian.size)))
    weights = [len(targets) / hessian.samples for _, targets in case.batches]
    assert torch.allclose(some, sum(w * one for w, one in zip(weights, each, strict=True)), rtol=1e-12, atol=1e-14)


def test_graphs_take_a_quarter_of_what_the_device_has_left(monkeypatch):
    case = CASES["attention"]()
    monkeypatch.setattr("tune_sam.analysis.hessian.available", lambda device: 4 * 60_000)
    with Hessian(case.model, case.loss, case.batches) as hessian:
        assert 0 < hessian.batches_kept < 3


def test_precision_follows_the_vector_and_the_model():
    case = CASES["gcn"](torch.float32)
    H = dense("gcn")
    with Hessian(case.model, case.loss, case.batches) as hessian:
        v = vector(hessian.size)
        assert hessian.dtype == torch.float32
        assert hessian.product(v).dtype == torch.float64
        assert hessian.product(v.float()).dtype == torch.float32
        assert (hessian.product(v) - H @ v).norm() < 1e-5 * (H @ v).norm()
        assert hessian.products == 3


class Odd(nn.Module):
    """Batch norm, dropout, a buffer that counts calls and one that is replaced; and a place to fail."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", None)
        self.never = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.modes = []
        self.fail_at = None
        self.outputs = []

    def forward(self, x):
        self.calls += 1
        self.last = x[:1].detach()
        torch.rand(1)
        self.modes.append((self.training, torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
        if len(self.modes) == self.fail_at:
            raise RuntimeError("on purpose")
        out = self.body(x) * self.frozen
        self.outputs.append(weakref.ref(out))
        return out


def state(model):
    return {
        "modes": [m.training for m in model.modules()],
        "grads": [p.grad for p in model.parameters()],
        "needed": [p.requires_grad for p in model.parameters()],
        "random": torch.get_rng_state().tolist(),
        "buffers": {name: (id(b), b.tolist()) for name, b in model.named_buffers()},
        "last": model.last,
        "weights": [p.tolist() for p in model.parameters()],
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("fail_at", [None, 1, 2, 4])
@pytest.mark.parametrize("surroundings", [torch.enable_grad, torch.no_grad, lambda: torch.autocast("cpu")])
def test_everything_is_left_as_it_was_found(fail_at, surroundings):
    model = Odd().double().train()
    model.body[1].eval()
    x, y = sample()
    model.body[0].weight.grad = torch.ones(6, 4, dtype=torch.float64)
    model.fail_at = fail_at
    with surroundings():
        before = state(model)
        failing = pytest.raises(RuntimeError, match="on purpose") if fail_at else nullcontext()
        with failing, Hessian(model, cross_entropy, [(x[:6], y[:6]), (x[6:], y[6:])], graph_bytes=0) as hessian:
            hessian.product(vector(hessian.size))
        assert state(model) == before
    assert all(mode[:2] == (False, False) for mode in model.modes)
    assert len(model.modes) == (fail_at or 6), "each batch for its graph, once more, and for the product"


def test_under_inference_mode():
    model, (x, y) = linear(), sample()
    with torch.inference_mode(), Hessian(model, cross_entropy, [(x, y)]) as hessian:
        assert hessian.product(vector(hessian.size)).isfinite().all()


def test_no_memory_is_kept_and_nothing_waits_for_the_collector():
    model, (x, y) = Odd().double(), sample()
    gc.collect()
    gc.disable()
    try:
        with Hessian(model, cross_entropy, [(x, y)]) as hessian:
            hessian.product(vector(hessian.size))
            assert model.outputs[0]() is not None or hessian.batches_kept == 1
        assert all(output() is None for output in model.outputs)
    finally:
        gc.enable()


def test_unused_parameters_are_named_and_frozen_ones_left_out():
    model, (x, y) = Odd().double(), sample()
    with Hessian(model, cross_entropy, [(x, y)]) as hessian:
        assert hessian.unused == ("never.weight", "never.bias")
        assert hessian.names == tuple(f"body.{i}.{kind}" for i in (0, 1, 4) for kind in ("weight", "bias"))
        assert hessian.size == 30 + 12 + 21


class Branches(nn.Module):
    """Which layer is used depends on the input's sign."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

    def forward(self, x):
        return self.up(x).square() if x[0, 0] > 0 else self.down(x).exp()


def test_a_parameter_that_only_some_batches_use():
    torch.manual_seed(0)
    model, (x, y) = Branches(), sample()
    x = x.abs()
    batches = [(x[:4], y[:4]), (-x[4:], y[4:])]
    with Hessian(model, cross_entropy, batches) as hessian:
        v = vector(hessian.size)
        whole = hessian.product(v)
        assert not hessian.unused
    with Hessian(model, cross_entropy, batches[:1]) as hessian:
        assert hessian.names == ("up.weight", "up.bias")
        assert torch.allclose(whole[:15], hessian.product(v[:15]) * 4 / 12)


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature():
    model, (x, y) = nn.Linear(4, 3).double(), sample()
    with Hessian(model, lambda out, y: out.mean(), [(x, y)]) as hessian:
        assert not hessian.product(vector(hessian.size)).any()


def test_empty_batches_do_not_count_and_loaders_can_be_walked():
    model, (x, y) = linear(), sample()
    with Hessian(model, cross_entropy, [(x[:0], y[:0]), (x, y)]) as hessian:
        expected = hessian.product(vector(hessian.size))
        assert hessian.batches == 1
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    for graph_bytes in (0, 1 << 20):
        with Hessian(model, cross_entropy, loader, graph_bytes=graph_bytes) as hessian:
            assert torch.allclose(hessian.product(vector(hessian.size)), expected, rtol=1e-10, atol=1e-14)


def test_a_vector_of_the_wrong_length_is_refused():
    model, (x, y) = linear(), sample()
    with Hessian(model, cross_entropy, [(x, y)]) as hessian, pytest.raises(ValueError, match="43 numbers.*got .42."):
        hessian.product(vector(42))


def frozen():
    return linear().requires_grad_(False)


def diverged():
    model = linear()
    with torch.no_grad():
        model[2].bias[1] = torch.nan
    return model


def mixed():
    model = linear()
    model[2].float()
    return model


REFUSED = {
    "no gradients": (frozen, cross_entropy, [sample()], "no parameter that needs gradients"),
    "no samples": (linear, cross_entropy, [], "the sample is empty"),
    "empty batches": (linear, cross_entropy, [sample(0)], "the sample is empty"),
    "weights": (diverged, cross_entropy, [sample()], "weights '2.bias' is not finite"),
    "loss": (linear, lambda out, y: out.mean() * torch.inf, [sample()], "the loss of a batch is -?inf"),
    "no mean": (linear, lambda out, y: cross_entropy(out, y, reduction="none"), [sample()], r"one number.*\[12\]"),
    "apart": (linear, lambda out, y: torch.ones(()), [sample()], "depends on no parameter"),
    "half": (lambda: linear().half(), cross_entropy, [sample()], "float32 or float64.*float16"),
    "mixed": (mixed, cross_entropy, [sample()], "share one dtype"),
    "once": (linear, cross_entropy, (pair for pair in [sample()]), "only once; give a list"),
    "a pair": (linear, cross_entropy, sample(), r"this is a tuple of tensors; give a list of pairs, of one batch \[\("),
    "iterator": (linear, cross_entropy, iter([sample()]), "only once; give a list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(case):
    build, loss, batches, message = REFUSED[case]
    model = build()
    with pytest.raises(ValueError, match=message) as caught, Hessian(model, loss, batches):
        pass
    assert "\n" not in str(caught.value)
    assert model.training
    with pytest.raises(ValueError, match="graph_bytes must be >= 0, got -1"):
        Hessian(model, loss, [], graph_bytes=-1)


@pytest.mark.parametrize("kept", [0, 1])
def test_batches_that_change_between_walks_are_refused(kept):
    model, (x, y) = linear(), sample(30)

    class Shuffled:
        walks = 0

        def __iter__(self):
            self.walks += 1
            order = torch.randperm(30, generator=torch.Generator().manual_seed(self.walks))
            return iter([(x[part], y[part]) for part in order.split(10)])

    with Hessian(model, cross_entropy, Shuffled(), graph_bytes=2_500 * kept) as hessian:
        assert hessian.batches_kept == kept
        with pytest.raises(ValueError, match="not the same on every walk"):
            hessian.product(vector(hessian.size))


@pytest.mark.parametrize("later", [1, 3])
def test_batches_that_come_and_go_are_refused(later):
    model, (x, y) = linear(), sample()
    batches = [(x, y)] * 2
    with Hessian(model, cross_entropy, batches, graph_bytes=0) as hessian:
        batches[:] = [(x, y)] * later
        with pytest.raises(ValueError, match="not the same on every walk"):
            hessian.product(vector(hessian.size))


def test_regression_targets_weigh_by_their_rows():
    model, (x, _) = linear(1), sample()
    y = x.sum(1, keepdim=True)
    with Hessian(model, mse_loss, [(x, y)]) as one, Hessian(model, mse_loss, [(x[:3], y[:3]), (x[3:], y[3:])]) as two:
        v = vector(one.size)
        assert torch.allclose(one.product(v), two.product(v), rtol=1e-10)


def test_a_mask_may_be_infinite_and_a_statistic_no_nan():
    model = linear()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    with Hessian(model, cross_entropy, [sample()]) as hessian:
        assert hessian.size
    model.mask[0] = torch.nan
    with pytest.raises(ValueError, match="the buffer 'mask' is not finite"), Hessian(model, cross_entropy, [sample()]):
        pass
