"""`tune_sam.optim` against the formulas in float64, against pytorch_optimizer, and trap by trap."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, SGD, Adadelta, Adagrad, Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from tune_sam.optim import ASAM, SAM, ASAMAll, SharpnessAware, Unperturbed, random_state, second_pass

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ALL = pytest.mark.parametrize("cls", [SAM, ASAM, ASAMAll])
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
ETA = 0.03

Params = dict[str, Tensor]
Loss = Callable[[Params], Tensor]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors this small only wait for each other's threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Attention(nn.Module):
    """A little of everything: attention (in_proj_weight), batch norm, layer norm, biases; 3 classes."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.layer_norm = nn.LayerNorm(4)
        self.batch_norm = nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(12, 3)
        for p in self.parameters():  # no zero biases and unit gains, which hide mistakes in T
            nn.init.normal_(p, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(self.dropout(self.batch_norm(x.flatten(1)).relu()))


def plain_net(dropout: float = 0.0) -> nn.Sequential:
    """A net without batch norm, where parts of a batch do not see each other."""
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def batch(n: int = 16, *shape: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, Tensor]:
    x = torch.randn(n, *(shape or (5,)), dtype=dtype)
    return x.to(device), torch.randint(3, (n,)).to(device)


def build(cls: type[SharpnessAware], model: nn.Module, base: type[Optimizer] = SGD, **options: Any) -> SharpnessAware:
    options = {"rho": 0.3, "lr": 0.1} | options
    if cls is ASAM:
        return ASAM(model.named_parameters(), base, **({"eta": ETA} | options))
    return cls(model.parameters(), base, **options)


def backward(model: nn.Module, x: Tensor, y: Tensor, share: float = 1.0) -> Tensor:
    loss = cross_entropy(model(x), y) * share
    loss.backward()
    return loss


def weights(model: nn.Module) -> Params:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(left: Params, right: Params) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# --- the formula, in plain loops and independent of optim.py ---


def loss_function(model: nn.Module, x: Tensor, y: Tensor, share: float = 1.0) -> Loss:
    """The loss as a function of the parameters alone, on copies of the buffers."""

    def loss(params: Params) -> Tensor:
        buffers = {name: b.clone() for name, b in model.named_buffers()}
        return cross_entropy(functional_call(model, params | buffers, (x,)), y) * share

    return loss


def gradient(loss: Loss, params: Params) -> Params:
    leaves = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))


def perturbation(cls: type, w: Params, g: Params, rho: float | dict[str, float]) -> Params:
    """ε̂ = ρ T² g / ‖T g‖₂."""

    def scale(name: str) -> Tensor:
        if cls is SAM:
            return torch.ones_like(w[name])
        if cls is ASAMAll:
            return w[name].abs()
        return w[name].abs() + ETA if "weight" in name else torch.ones_like(w[name])

    norm = sum(float(((scale(k) * g[k]) ** 2).sum()) for k in w) ** 0.5
    radius = rho if isinstance(rho, dict) else dict.fromkeys(w, rho)
    return {k: radius[k] * scale(k) ** 2 * g[k] / norm for k in w}


def sharp_gradient(cls: type, loss: Loss, w: Params, rho: float | dict[str, float] = 0.3) -> Params:
    """The gradient at w + ε̂."""
    eps = perturbation(cls, w, gradient(loss, w), rho)
    return gradient(loss, {k: w[k] + eps[k] for k in w})


def descended(w: Params, g: Params, lr: float = 0.1) -> Params:
    return {k: w[k] - lr * g[k] for k in w}


@ALL
def test_one_step_is_the_formula(cls: type[SharpnessAware], device: str) -> None:
    model = Attention().double().to(device)
    x, y = batch(16, 3, 4, device=device)
    w = weights(model)
    loss = loss_function(model, x, y)
    expected_loss, expected = loss(w), descended(w, sharp_gradient(cls, loss, w))
    assert not torch.allclose(expected["head.bias"], descended(w, gradient(loss, w))["head.bias"], **CLOSE)

    returned = build(cls, model).step(partial(backward, model, x, y))

    torch.testing.assert_close(returned.detach(), expected_loss, **CLOSE)
    torch.testing.assert_close(weights(model), expected, **CLOSE)


@ALL
def test_first_step_climbs_by_epsilon(cls: type[SharpnessAware]) -> None:
    model = Attention().double()
    x, y = batch(16, 3, 4)
    w = weights(model)
    optimizer = build(cls, model)
    backward(model, x, y)
    g = {k: p.grad.clone() for k, p in model.named_parameters()}
    optimizer.first_step()
    eps = perturbation(cls, w, g, 0.3)
    torch.testing.assert_close(weights(model), {k: w[k] + eps[k] for k in w}, **CLOSE)
    assert same(g, {k: p.grad for k, p in model.named_parameters()})  # and leaves them as they were


@pytest.mark.parametrize(("cls", "adaptive"), [(SAM, False), (ASAMAll, True)])
def test_trajectory_of_pytorch_optimizer(cls: type[SharpnessAware], adaptive: bool) -> None:
    import pytorch_optimizer  # not everywhere where the other tests are run

    ours = plain_net().double()
    theirs = copy.deepcopy(ours)
    options: dict[str, Any] = {"rho": 0.3, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer = build(cls, ours, **options)
    reference = pytorch_optimizer.SAM(theirs.parameters(), SGD, adaptive=adaptive, perturb_eps=0.0, **options)
    for _ in range(10):
        x, y = batch()
        optimizer.step(partial(backward, ours, x, y))
        reference.zero_grad()
        backward(theirs, x, y)
        reference.step(partial(backward, theirs, x, y))
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-8)  # its norm is float32


@ALL
@pytest.mark.parametrize(
    ("base", "options"),
    [(SGD, {"momentum": 0.9, "weight_decay": 1e-3}), (Adam, {"weight_decay": 1e-3}), (Adagrad, {})],
)
def test_rho_zero_is_the_base_optimizer(
    cls: type[SharpnessAware], base: type[Optimizer], options: dict[str, Any], device: str
) -> None:
    """Bitwise, with dropout and batch norm, and with the random state that follows."""
    model = Attention(dropout=0.5).to(device)
    twin = copy.deepcopy(model)
    batches = [batch(16, 3, 4, dtype=torch.float32, device=device) for _ in range(5)]

    torch.manual_seed(1)
    optimizer = build(cls, model, base, rho=0.0, **options)
    for x, y in batches:
        optimizer.step(partial(backward, model, x, y))
    after = random_state(device)

    torch.manual_seed(1)
    plain = base(twin.parameters(), lr=0.1, **options)
    for x, y in batches:
        plain.zero_grad()
        backward(twin, x, y)
        plain.step()

    assert same(model.state_dict(), twin.state_dict())
    expected = random_state(device)
    assert torch.equal(after.cpu, expected.cpu)
    assert (after.cuda is None and expected.cuda is None) or torch.equal(after.cuda, expected.cuda)


# --- weights ---


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restore_is_bitwise_and_in_place(cls: type[SharpnessAware], dtype: torch.dtype, device: str) -> None:
    model = Attention().to(device, dtype)
    with torch.no_grad():  # values that w + ε - ε cannot give back
        model.head.bias.copy_(torch.tensor([-0.0, 1e-30, 3e3]))
    w, pointers = weights(model), [p.data_ptr() for p in model.parameters()]
    optimizer = build(cls, model, rho=7.0)
    backward(model, *batch(16, 3, 4, dtype=dtype, device=device))
    optimizer.first_step()
    assert not same(w, weights(model))
    optimizer.restore()
    assert same(w, weights(model))
    assert torch.equal(model.head.bias.signbit(), w["head.bias"].signbit())
    assert pointers == [p.data_ptr() for p in model.parameters()]


def test_buffers_are_reused_until_the_model_is_cast() -> None:
    model = plain_net()
    optimizer = build(SAM, model)
    pointers: list[list[int]] = []
    for _ in range(2):
        optimizer.step(partial(backward, model, *batch(dtype=torch.float32)))
        pointers.append([b.data_ptr() for b in optimizer._saved.values()])
    assert len(pointers[0]) == 4
    assert pointers[0] == pointers[1]
    model.double()
    with torch.no_grad():
        model[0].bias.add_(1e-12)  # below float32's resolution
    w = weights(model)
    backward(model, *batch())
    optimizer.first_step()
    optimizer.restore()
    assert same(w, weights(model))


def test_parameters_in_another_memory_format() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double()
    model = model.to(memory_format=torch.channels_last)
    x, y = batch(8, 3, 4, 4)
    w, loss = weights(model), loss_function(model, x, y)
    build(SAM, model).step(partial(backward, model, x, y))
    torch.testing.assert_close(weights(model), descended(w, sharp_gradient(SAM, loss, w)), **CLOSE)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@ALL
def test_parameters_without_gradient_are_left_alone(cls: type[SharpnessAware]) -> None:
    """`_version` counts writes: what the loss does not reach is not even written with its own value."""
    model = nn.Sequential(plain_net(), nn.Linear(2, 2), nn.Linear(2, 2)).double()
    model[2].requires_grad_(False)
    x, y = batch()
    idle = [*model[1].parameters(), *model[2].parameters()]
    versions = [p._version for p in idle]
    w, loss = weights(model[0]), loss_function(model[0], x, y)
    groups = [  # the second group is idle as a whole
        {"params": [*model[0].named_parameters(), *model[1].named_parameters()]},
        {"params": [*model[2].named_parameters()]},
    ]
    optimizer = cls(groups, SGD, 0.3, lr=0.1, **({"eta": ETA} if cls is ASAM else {}))
    optimizer.step(lambda: backward(model[0], x, y))
    torch.testing.assert_close(weights(model[0]), descended(w, sharp_gradient(cls, loss, w)), **CLOSE)
    assert versions == [p._version for p in idle]
    assert not any(p in optimizer._saved for p in idle)


@pytest.mark.parametrize("call", ["first", "second"])
def test_zero_grad_of_a_step(call: str) -> None:
    model = plain_net()
    optimizer = build(SAM, model)
    backward(model, *batch(dtype=torch.float32))
    optimizer.first_step(zero_grad=call == "first")
    assert all((p.grad is None) == (call == "first") for p in model.parameters())
    optimizer.second_step(zero_grad=True)
    assert all(p.grad is None for p in model.parameters())


# --- groups, states, schedulers ---


@ALL
def test_every_group_has_its_own_rho_and_the_norm_is_over_all(cls: type[SharpnessAware]) -> None:
    model = plain_net().double()
    x, y = batch()
    w, loss = weights(model), loss_function(model, x, y)
    radius = {k: 0.7 if k.startswith("3") else 0.3 for k in w}
    named = list(model.named_parameters())
    groups = [{"params": named[:2]}, {"params": named[2:], "rho": 0.7}]
    optimizer = cls(groups, SGD, 0.3, lr=0.1, **({"eta": ETA} if cls is ASAM else {}))
    optimizer.step(partial(backward, model, x, y))
    torch.testing.assert_close(weights(model), descended(w, sharp_gradient(cls, loss, w, radius)), **CLOSE)


def test_add_param_group() -> None:
    model = plain_net().double()
    x, y = batch()
    w, loss = weights(model), loss_function(model, x, y)
    optimizer = SAM(model[0].parameters(), SGD, 0.3, lr=0.1)
    optimizer.add_param_group({"params": model[3].parameters()})
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    assert [group["rho"] for group in optimizer.param_groups] == [0.3, 0.3]
    optimizer.step(partial(backward, model, x, y))
    torch.testing.assert_close(weights(model), descended(w, sharp_gradient(SAM, loss, w)), **CLOSE)


def through_file(state: dict[str, Any]) -> dict[str, Any]:
    file = BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


def through_state_dict(
    model: nn.Module, optimizer: SharpnessAware, base: type[Optimizer]
) -> tuple[nn.Module, SharpnessAware]:
    cls, twin = type(optimizer), copy.deepcopy(model)
    new = build(cls, twin, base, rho=9.0, lr=9.0, **({"eta": 9.0} if cls is ASAM else {}))
    new.load_state_dict(through_file(optimizer.state_dict()))
    return twin, new


@ALL
@pytest.mark.parametrize("base", [SGD, Adam])
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_resumes_bitwise(cls: type[SharpnessAware], base: type[Optimizer], how: str) -> None:
    model = plain_net()
    optimizer = build(cls, model, base, **({"momentum": 0.9} if base is SGD else {}))
    batches = [batch(dtype=torch.float32) for _ in range(6)]
    for x, y in batches[:3]:
        optimizer.step(partial(backward, model, x, y))
    if how == "state_dict":
        twin, resumed = through_state_dict(model, optimizer, base)
    else:
        clone = copy.deepcopy if how == "deepcopy" else lambda pair: pickle.loads(pickle.dumps(pair))
        twin, resumed = clone((model, optimizer))
    assert resumed.param_groups is resumed.base_optimizer.param_groups
    assert resumed.state is resumed.base_optimizer.state
    assert len(resumed.state) == 4
    for x, y in batches[3:]:
        optimizer.step(partial(backward, model, x, y))
        resumed.step(partial(backward, twin, x, y))
    assert same(weights(model), weights(twin))


def test_state_dict_of_the_bare_base_optimizer_leaves_rho() -> None:
    model = plain_net()
    optimizer = build(SAM, model, rho=0.25)
    optimizer.load_state_dict(SGD(model.parameters(), lr=0.5).state_dict())
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["rho"]) == (0.5, 0.25)
    optimizer.step(lambda: backward(model, *batch(dtype=torch.float32)))


@pytest.mark.parametrize("over", ["sam", "base"])
@pytest.mark.parametrize("call", ["step", "step_parts", "by hand"])
def test_scheduler_over_either_acts_on_the_base(over: str, call: str) -> None:
    model = plain_net()
    optimizer = build(SAM, model, lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no "lr_scheduler.step() before optimizer.step()"
        scheduler = StepLR(optimizer if over == "sam" else optimizer.base_optimizer, step_size=1, gamma=0.5)
        optimizer.load_state_dict(optimizer.state_dict())  # new group objects must be shared again
        for _ in range(2):
            closure = partial(backward, model, *batch(dtype=torch.float32))
            if call == "step":
                optimizer.step(closure)
            elif call == "step_parts":
                optimizer.step_parts([closure])
            else:
                closure()
                optimizer.first_step()
                optimizer.second_step()
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == optimizer.base_optimizer.param_groups[0]["lr"] == 0.25


# --- the second pass: batch norm and dropout ---


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.SyncBatchNorm])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_statistics_stand_still(make: type[nn.Module], momentum: float | None) -> None:
    norm = make(5, momentum=momentum)
    x, rng = torch.randn(16, 5), random_state("cpu")
    expected = norm(x)
    moved = copy.deepcopy(norm.state_dict())
    with suppress(KeyError), second_pass(norm, rng):
        with second_pass(nn.Sequential(norm), rng):
            assert torch.equal(norm(x), expected)  # normalised by the batch, not by the running statistics
            assert not torch.allclose(norm(x), norm.eval()(x))
            norm.train()
        norm(x)  # the outer context goes on
        raise KeyError
    assert same(norm.state_dict(), moved)
    assert moved["num_batches_tracked"] == 1
    assert norm.momentum == momentum
    assert norm.track_running_stats
    norm(x + 1)
    assert norm.num_batches_tracked == 2
    assert not torch.equal(norm.running_mean, moved["running_mean"])


def test_second_pass_leaves_other_norms_as_they_are() -> None:
    without, frozen = nn.BatchNorm1d(5, track_running_stats=False), nn.BatchNorm1d(5).eval()
    x = torch.randn(16, 5)
    expected = frozen(x), without(x)
    with second_pass(nn.Sequential(without, frozen), random_state("cpu")):
        assert torch.equal(frozen(x), expected[0])
        assert torch.equal(without(x), expected[1])
    assert frozen.track_running_stats
    assert not without.track_running_stats


def test_batch_norm_put_in_training_mode_by_the_closure() -> None:
    model = Attention().eval()

    def closure() -> Tensor:
        model.train()
        loss = backward(model, *data)
        model.eval()
        return loss

    data = batch(16, 3, 4, dtype=torch.float32)
    for moves, kwargs in enumerate([{}, {"model": model}], start=1):
        build(SAM, model).step_parts([closure], **kwargs)
        assert model.batch_norm.num_batches_tracked == moves


def test_statistics_move_once_per_step_and_as_with_the_base(device: str) -> None:
    model = Attention().to(device)
    once = copy.deepcopy(model)
    x, y = batch(16, 3, 4, dtype=torch.float32, device=device)
    once(x)
    build(SAM, model).step(partial(backward, model, x, y))
    assert same(dict(model.named_buffers()), dict(once.named_buffers()))


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("how", ["module", "function"])
def test_statistics_move_once_under_compile(how: str) -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    target = model if how == "module" else lambda x: model(x)
    compiled = torch.compile(target, backend="eager", fullgraph=True)
    optimizer = build(SAM, model)
    for step in range(1, 3):
        closure = partial(backward, compiled, *batch(dtype=torch.float32))  # type: ignore[arg-type]
        optimizer.step_parts([closure], model=None if how == "module" else model)
        assert model[1].num_batches_tracked == step


def test_batch_norm_of_another_thread_is_not_frozen() -> None:
    model, other = plain_net(), nn.BatchNorm1d(5)
    x, y = batch(dtype=torch.float32)

    def closure() -> Tensor:
        thread = threading.Thread(target=other, args=(x,))
        thread.start()
        thread.join()
        return backward(model, x, y)

    build(SAM, model).step(closure)
    assert other.num_batches_tracked == 2


def test_dropout_masks_are_replayed(device: str) -> None:
    model = plain_net(dropout=0.5).to(device)
    masks: list[Tensor] = []
    model[2].register_forward_hook(lambda *call: masks.append(call[2] == 0))
    optimizer = build(SAM, model)
    x, y = batch(dtype=torch.float32, device=device)
    micro = list(zip(x.split(8), y.split(8), strict=True))

    def closure() -> None:
        for part in micro:
            backward(model, *part, share=0.5)

    optimizer.step(closure)
    first, second = masks[:2], masks[2:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))  # in order
    assert not torch.equal(first[0], first[1])
    optimizer.step(closure)
    assert not torch.equal(masks[4], masks[0])  # and new ones in the next step


@pytest.mark.parametrize("fails", [False, True])
def test_second_pass_gives_the_random_state_back(fails: bool, device: str) -> None:
    rng = random_state(device)
    first = torch.rand(3, device=device), torch.rand(3)
    entry = random_state(device)
    with suppress(KeyError), second_pass(nn.Identity(), rng):
        assert torch.equal(torch.rand(3, device=device), first[0])
        assert torch.equal(torch.rand(3), first[1])
        torch.rand(1), torch.rand(1, device=device)  # drawing more than the first pass did leaves no trace
        if fails:
            raise KeyError
    exit_ = random_state(device)
    assert torch.equal(exit_.cpu, entry.cpu)
    assert exit_.cuda is None or torch.equal(exit_.cuda, entry.cuda)


# --- gradients that have no direction ---


@ALL
@pytest.mark.parametrize(
    ("value", "counts"),
    [(0.0, Unperturbed(1, 0)), (float("nan"), Unperturbed(0, 1)), (float("inf"), Unperturbed(0, 1))],
)
def test_unusable_norm_gives_no_perturbation(
    cls: type[SharpnessAware], value: float, counts: Unperturbed, device: str
) -> None:
    model = plain_net().to(device)
    optimizer = build(cls, model)
    assert optimizer.unperturbed == Unperturbed(0, 0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    model[0].weight.grad[0, 0] = value  # one element is enough
    w = weights(model)
    optimizer.first_step()
    assert same(w, weights(model))
    assert optimizer.unperturbed == counts
    optimizer.second_step()  # what is not finite goes on to the base optimizer, and is seen
    torch.testing.assert_close(model[0].weight[0, 0], w["0.weight"][0, 0] - 0.1 * value, equal_nan=True)


def test_counts_only_unusable_passes_and_divergence_is_seen() -> None:
    model = plain_net()
    optimizer = build(SAM, model)
    x, y = batch(dtype=torch.float32)
    optimizer.step(partial(backward, model, x, y))
    optimizer.step(lambda: backward(model, x, y, share=0.0))
    assert optimizer.unperturbed == Unperturbed(zero=1, nonfinite=0)
    loss = optimizer.step(lambda: backward(model, x * float("nan"), y))
    assert loss.isnan()
    assert model[0].weight.isnan().any()
    assert optimizer.unperturbed == Unperturbed(zero=1, nonfinite=1)


def test_tiny_gradients_are_perturbed_in_full() -> None:
    """ρ / ‖g‖ would overflow float32 long before ‖g‖ is 0."""
    w = nn.Parameter(torch.zeros(1))
    optimizer = SAM([w], SGD, 1e20, lr=0.1)
    w.grad = torch.tensor([1e-19])
    optimizer.first_step()
    assert w.item() == pytest.approx(1e20)


def test_the_state_before_a_first_pass_is_set_as_it_is_before_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA that begins cuDNN's own state of dropout anew, for both passes alike."""
    state, given = torch.ones(16, dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda new, device: given.append((new, device)))
    gpu = torch.device("cuda", 0)
    recorded = random_state(gpu)
    assert given == [(state, gpu)]
    recorded.restore()
    assert given == [(state, gpu)] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recurrent_layers_drop_the_same_in_both_passes_of_a_look() -> None:
    model, x = nn.LSTM(4, 8, num_layers=2, dropout=0.5).cuda(), torch.randn(5, 3, 4, device="cuda")
    for _ in range(3):
        model(x)  # steps between looks go on with cuDNN's state
        rng = random_state("cuda")
        first, _ = model(x)
        with second_pass(model, rng):
            second, _ = model(x)
        assert torch.equal(first, second)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@ALL
def test_no_step_waits_for_the_device(cls: type[SharpnessAware]) -> None:
    model = plain_net().cuda()
    optimizer = build(cls, model)
    x, y = batch(dtype=torch.float32, device="cuda")
    optimizer.step(partial(backward, model, x, y))
    torch.cuda.set_sync_debug_mode("error")
    try:
        build(cls, model).step(partial(backward, model, x, y))
        optimizer.step(partial(backward, model, x, y))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- m-sharpness, accumulation, clipping, mixed precision ---


def parts(model: nn.Module, x: Tensor, y: Tensor, m: int) -> list[Callable[[], Tensor]]:
    pairs = zip(x.split(m), y.split(m), strict=True)
    return [partial(backward, model, *pair, share=len(pair[0]) / len(x)) for pair in pairs]


@ALL
@pytest.mark.parametrize("m", [4, 6, 16])  # 6: the last part has 4
def test_m_sharpness_is_the_formula(cls: type[SharpnessAware], m: int) -> None:
    model = plain_net().double()
    x, y = batch()
    w, total = weights(model), {k: torch.zeros_like(p) for k, p in model.named_parameters()}
    losses = []
    for xs, ys in zip(x.split(m), y.split(m), strict=True):
        loss = loss_function(model, xs, ys, len(xs) / len(x))
        losses.append(loss(w))
        g = sharp_gradient(cls, loss, w)
        total = {k: total[k] + g[k] for k in w}

    returned = build(cls, model).step_parts(iter(parts(model, x, y, m)))

    torch.testing.assert_close([loss.detach() for loss in returned], losses, **CLOSE)
    torch.testing.assert_close(weights(model), descended(w, total), **CLOSE)


def test_parts_that_reach_different_parameters() -> None:
    left, right = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    both = nn.ModuleList([left, right])
    (x, y), w = batch(), weights(both)
    optimizer = build(SAM, both)
    optimizer.step_parts([partial(backward, left, x, y), partial(backward, right, x, y)])
    expected = {}
    for i, module in enumerate((left, right)):
        own = {k.removeprefix(f"{i}."): v for k, v in w.items() if k.startswith(f"{i}.")}
        new = descended(own, sharp_gradient(SAM, loss_function(module, x, y), own))
        expected |= {f"{i}.{k}": v for k, v in new.items()}
    torch.testing.assert_close(weights(both), expected, **CLOSE)


@pytest.mark.parametrize("call", ["step", "step_parts"])
def test_one_part_is_the_two_steps_by_hand_bitwise(call: str, device: str) -> None:
    model = Attention(dropout=0.3).to(device)
    twin = copy.deepcopy(model)
    x, y = batch(16, 3, 4, dtype=torch.float32, device=device)
    optimizer, by_hand = build(ASAM, model, Adam), build(ASAM, twin, Adam)
    start = random_state(device)
    for _ in range(3):
        if call == "step":
            optimizer.step(partial(backward, model, x, y))
        else:
            optimizer.step_parts([partial(backward, model, x, y)], model)
    with torch.random.fork_rng():
        torch.set_rng_state(start.cpu)
        if start.cuda is not None:
            torch.cuda.set_rng_state(start.cuda)
        for _ in range(3):
            rng = random_state(device)
            backward(twin, x, y)
            by_hand.first_step(zero_grad=True)
            with second_pass(twin, rng):
                backward(twin, x, y)
            by_hand.second_step(zero_grad=True)
    assert same(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize("n_parts", [1, 4])
def test_two_passes_per_part_and_one_base_step(n_parts: int) -> None:
    model = plain_net()
    forwards: list[None] = []
    steps: list[None] = []
    model.register_forward_hook(lambda *_: forwards.append(None))
    optimizer = build(SAM, model)
    optimizer.base_optimizer.register_step_post_hook(lambda *_: steps.append(None))
    optimizer.step_parts(parts(model, *batch(dtype=torch.float32), m=16 // n_parts))
    assert (len(forwards), len(steps)) == (2 * n_parts, 1)


@ALL
def test_accumulation_is_one_batch(cls: type[SharpnessAware]) -> None:
    model = plain_net().double()
    twin = copy.deepcopy(model)
    x, y = batch()

    def accumulate() -> None:
        for part in parts(model, x, y, 5):
            part()

    build(cls, model).step(accumulate)
    build(cls, twin).step(partial(backward, twin, x, y))
    torch.testing.assert_close(weights(model), weights(twin), **CLOSE)


@pytest.mark.parametrize("zeroes", [False, True])
def test_stale_gradients_do_not_count(zeroes: bool) -> None:
    model = plain_net().double()
    x, y = batch()
    w, loss = weights(model), loss_function(model, x, y)
    optimizer = build(SAM, model)

    def closure() -> Tensor:
        if zeroes:
            optimizer.zero_grad()
        return backward(model, x, y)

    closure()
    with torch.no_grad():  # nor does a surrounding no_grad, as in torch's own step(closure)
        optimizer.step(closure)
    torch.testing.assert_close(weights(model), descended(w, sharp_gradient(SAM, loss, w)), **CLOSE)


@pytest.mark.parametrize("how", ["hook", "by hand"])
def test_clipping_of_the_second_gradient(how: str) -> None:
    model = plain_net().double()
    x, y = batch()
    w, g = weights(model), sharp_gradient(SAM, loss_function(model, x, y), weights(model))
    norm = sum(float((v**2).sum()) for v in g.values()) ** 0.5
    limit = norm / 2
    optimizer = build(SAM, model)

    def clip() -> None:
        clip_grad_norm_(model.parameters(), limit)

    if how == "hook":
        optimizer.base_optimizer.register_step_pre_hook(lambda *_: clip())
        optimizer.step(partial(backward, model, x, y))
    else:
        backward(model, x, y)
        optimizer.first_step(zero_grad=True)
        backward(model, x, y)
        clip()
        optimizer.second_step()
    clipped = {k: v * limit / (norm + 1e-6) for k, v in g.items()}  # 1e-6 is clip_grad_norm_'s own
    expected = descended(w, clipped)
    torch.testing.assert_close(weights(model), expected, **CLOSE)


def scaled_step(
    optimizer: SharpnessAware,
    scaler: torch.amp.GradScaler,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    limit: float = 1e9,
) -> None:
    """The recipe of the module's documentation."""
    rng = random_state(x.device)
    scaler.scale(cross_entropy(model(x), y)).backward()
    optimizer.first_step(zero_grad=True)
    with second_pass(model, rng):
        scaler.scale(cross_entropy(model(x), y)).backward()
    optimizer.restore()
    scaler.unscale_(optimizer.base_optimizer)
    clip_grad_norm_(model.parameters(), limit)
    scaler.step(optimizer.base_optimizer)
    scaler.update()
    optimizer.zero_grad()


@ALL
def test_grad_scaler(cls: type[SharpnessAware], device: str) -> None:
    model = plain_net(dropout=0.3).to(device)
    twin = copy.deepcopy(model)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**16)
    optimizer, plain = build(cls, model), build(cls, twin)
    for seed in range(3):
        x, y = batch(dtype=torch.float32, device=device)
        torch.manual_seed(seed)
        scaled_step(optimizer, scaler, model, x, y)
        torch.manual_seed(seed)
        plain.step(partial(backward, twin, x, y))
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-5, atol=1e-6)


@ALL
@pytest.mark.parametrize("where", ["both passes", "second pass"])
def test_grad_scaler_overflow_leaves_w(cls: type[SharpnessAware], where: str, device: str) -> None:
    model = plain_net().to(device)
    w = weights(model)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**16)
    optimizer = build(cls, model, momentum=0.9)
    calls: list[None] = []

    def overflow(grad: Tensor) -> Tensor:
        calls.append(None)
        return grad * float("inf") if where == "both passes" or len(calls) == 2 else grad

    model[3].weight.register_hook(overflow)
    scaled_step(optimizer, scaler, model, *batch(dtype=torch.float32, device=device), limit=1.0)
    assert same(w, weights(model))
    assert scaler.get_scale() == 2.0**15
    assert not optimizer.state
    assert optimizer.unperturbed == Unperturbed(0, 1 if where == "both passes" else 0)


@pytest.mark.parametrize("around", ["closure", "steps"])
def test_autocast(around: str, device: str) -> None:
    """Autocast keeps bfloat16 copies of the weights until its context ends; no pass may see another's."""
    model = plain_net().to(device)
    twin = copy.deepcopy(model)
    x, y = batch(dtype=torch.float32, device=device)
    autocast = partial(torch.autocast, device, dtype=torch.bfloat16)

    def bf16_gradient(params: Params) -> Params:
        twin.load_state_dict(params)
        twin.zero_grad()
        with autocast():
            loss = cross_entropy(twin(x), y)
        loss.backward()
        return {k: p.grad.clone() for k, p in twin.named_parameters()}

    expected = at_w = weights(model)
    for _ in range(2):
        eps = perturbation(SAM, expected, bf16_gradient(expected), 1.0)
        expected = descended(expected, bf16_gradient({k: v + eps[k] for k, v in expected.items()}))
        at_w = descended(at_w, bf16_gradient(at_w))
    assert max(float((expected[k] - at_w[k]).abs().max()) for k in at_w) > 1e-2  # ten times the tolerance

    def closure() -> None:
        with autocast() if around == "closure" else nullcontext():
            loss = cross_entropy(model(x), y)
        loss.backward()

    optimizer = build(SAM, model, rho=1.0)
    with autocast() if around == "steps" else nullcontext():
        for _ in range(2):
            optimizer.step(closure)
    torch.testing.assert_close(weights(model), expected, rtol=0, atol=1e-3)


class Spectral(nn.Module):
    """A layer whose weights are complex, as those of a Fourier neural operator, and a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.complex_weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))
        self.head = nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.irfft(torch.fft.rfft(x) * self.complex_weight, n=5))


@ALL
def test_complex_weights_move_as_their_parts_do(cls: type[SharpnessAware]) -> None:
    model = Spectral()
    x, y = batch()
    w, loss = weights(model), loss_function(model, x, y)
    g = gradient(loss, w)
    scales = {  # T² of each number
        SAM: {k: torch.ones_like(v.abs()) for k, v in w.items()},
        ASAM: {k: (v.abs() + ETA).square() if "weight" in k else torch.ones_like(v) for k, v in w.items()},
        ASAMAll: {k: v.abs().square() for k, v in w.items()},
    }[cls]
    norm = sum(float((scales[k] * g[k].abs().square()).sum()) for k in w) ** 0.5
    eps = {k: 0.3 * scales[k] * g[k] / norm for k in w}
    optimizer = build(cls, model)
    backward(model, x, y)
    optimizer.first_step()
    torch.testing.assert_close(weights(model), {k: w[k] + eps[k] for k in w}, **CLOSE)
    optimizer.restore()
    assert same(w, weights(model))
    optimizer.step(partial(backward, model, x, y))
    sharp = gradient(loss, {k: w[k] + eps[k] for k in w})
    torch.testing.assert_close(weights(model), descended(w, sharp), **CLOSE)


@ALL
def test_maximize_climbs_down_before_it_climbs_up(cls: type[SharpnessAware]) -> None:
    """To maximize an objective is to minimize its negative, step for step."""
    model = plain_net().double()
    twin = copy.deepcopy(model)
    x, y = batch()
    up, down = build(cls, model, maximize=True), build(cls, twin)
    for _ in range(3):
        up.step(partial(backward, model, x, y, -1.0))
        down.step(partial(backward, twin, x, y))
    torch.testing.assert_close(weights(model), weights(twin), **CLOSE)


# --- mistakes ---


@ALL
def test_sparse_gradients_are_refused_before_a_weight_moves(cls: type[SharpnessAware]) -> None:
    model = nn.Sequential(nn.Embedding(7, 3, sparse=True), nn.Flatten(), nn.Linear(6, 3))
    w, optimizer = weights(model), build(cls, model)
    x, y = torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1])
    for _ in range(2):  # and the step after it finds the optimizer at w
        with pytest.raises(ValueError, match=r"needs dense gradients .* shape \(7, 3\): leave out sparse=True"):
            optimizer.step(lambda: backward(model, x, y))
        assert same(w, weights(model))


def test_an_error_on_the_way_up_leaves_the_weights_at_w(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain_net()
    w, optimizer, add = weights(model), build(SAM, model), torch._foreach_add_

    def half_way(params: Any, ascent: Any) -> None:
        add(params[:1], ascent[:1])
        raise torch.OutOfMemoryError("on the way")

    backward(model, *batch(dtype=torch.float32))
    monkeypatch.setattr(torch, "_foreach_add_", half_way)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.first_step()
    monkeypatch.undo()
    assert same(w, weights(model))
    optimizer.first_step()  # as if nothing had been
    optimizer.restore()
    assert same(w, weights(model))


@pytest.mark.parametrize("fails_in", [1, 2])
def test_an_exception_in_the_closure_leaves_everything_at_w(fails_in: int) -> None:
    model = Attention(dropout=0.3)
    x, y = batch(16, 3, 4, dtype=torch.float32)
    w, twin = weights(model), copy.deepcopy(model)
    optimizer = build(SAM, model)
    calls: list[Tensor] = []

    def closure() -> Tensor:
        calls.append(model.head.weight.detach().clone())
        loss = backward(model, x, y)
        if len(calls) == fails_in:
            raise KeyError("no such batch")
        return loss

    start = random_state("cpu")
    with pytest.raises(KeyError, match="no such batch"):
        optimizer.step(closure)
    assert same(w, weights(model))
    assert fails_in == 1 or not torch.equal(calls[1], w["head.weight"])  # it did fail at w + ε̂
    assert model.batch_norm.track_running_stats

    twin(x)  # what the first pass does to statistics, and to the generator from the same start
    model.load_state_dict(twin.state_dict())
    for module, opt in ((model, optimizer), (twin, build(SAM, twin))):
        torch.set_rng_state(start.cpu)
        opt.step(partial(backward, module, x, y))
    assert same(model.state_dict(), twin.state_dict())  # the next step is as if nothing had been


def fresh() -> SharpnessAware:
    return build(SAM, plain_net())


def climbed() -> SharpnessAware:
    model = plain_net()
    optimizer = build(SAM, model)
    backward(model, *batch(dtype=torch.float32))
    optimizer.first_step()
    return optimizer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fresh().restore(), r"restore\(\) found the weights at w: call first_step\(\)"),
        (lambda: fresh().second_step(), r"second_step\(\) found the weights at w: call first_step"),
        (lambda: fresh().step(), r"step\(\) needs a closure"),
        (lambda: climbed().first_step(), r"first_step\(\) found the weights at w \+ ε̂: call second"),
        (lambda: climbed().step(lambda: 0.0), r"step\(\) found the weights at w \+ ε̂"),
        (lambda: copy.deepcopy(climbed()), r"copying or pickling the optimizer found the weights at w \+ ε̂"),
    ],
)
def test_steps_out_of_order(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuntimeError, match="^" + message):
        call()


def test_steps_go_on_after_a_refused_one() -> None:
    optimizer = climbed()
    with pytest.raises(RuntimeError):
        optimizer.first_step()
    optimizer.second_step()
    with pytest.raises(RuntimeError):
        optimizer.restore()


@ALL
@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_rho_must_be_finite_and_not_negative(cls: type[SharpnessAware], rho: Any) -> None:
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got " + repr(rho)):
        build(cls, plain_net(), rho=rho)
    groups = [{"params": list(plain_net().named_parameters()), "rho": rho}]
    with pytest.raises(ValueError, match="rho must be"):
        cls(groups, SGD, 0.1, lr=0.1)
    optimizer = build(cls, plain_net(), rho=0)
    with pytest.raises(ValueError, match="rho must be"):
        optimizer.add_param_group({"params": list(plain_net().named_parameters()), "rho": rho})
    assert len(optimizer.param_groups) == 1


def unnamed() -> Iterator[nn.Parameter]:
    return plain_net().parameters()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(ASAM, plain_net(), eta=-1.0), "eta must be a finite number >= 0, got -1.0"),
        (lambda: ASAM(unnamed(), SGD, 0.5, lr=0.1), r"got parameters without: pass model.named_param"),
        (lambda: ASAM([{"params": unnamed()}], SGD, 0.5, lr=0.1), r"pass model.named_parameters\(\)"),
        (lambda: build(ASAM, plain_net()).add_param_group({"params": unnamed()}), "with/without names"),
        (lambda: build(SAM, plain_net(), LBFGS), r"SAM cannot wrap LBFGS: its step\(\) needs a closure; choose"),
        (lambda: build(SAM, plain_net(), Adadelta), "SAM cannot wrap Adadelta: both have .* 'rho'"),
        (lambda: SAM([], SGD, 0.1, lr=0.1), "empty parameter list"),
        (lambda: fresh().step_parts([]), "needs at least one closure"),
    ],
)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
