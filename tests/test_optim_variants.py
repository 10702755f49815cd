"""GSAM, SAM-ON, LookSAM and Fisher SAM against their formulas in float64, and trap by trap."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import torch
from test_optim import (
    CLOSE,
    Attention,
    Loss,
    Params,
    backward,
    batch,
    descended,
    gradient,
    loss_function,
    parts,
    plain_net,
    same,
    through_file,
    weights,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from tune_sam.optim import (
    GSAM,
    SAM,
    SAMON,
    FisherSAM,
    LookSAM,
    SharpnessAware,
    Unperturbed,
    norm_parameters,
    random_state,
    second_pass,
)
from tune_sam.optim.sharpness_aware import projected

RHO, ALPHA, ETA, LR = 0.3, 0.6, 40.0, 0.1
ALL = pytest.mark.parametrize("cls", [GSAM, SAMON, LookSAM, FisherSAM])
NORMS = ("layer_norm.weight", "layer_norm.bias", "batch_norm.weight", "batch_norm.bias")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def build(cls: type[SharpnessAware], model: nn.Module, base: type[Optimizer] = SGD, **options: Any) -> SharpnessAware:
    own: dict[Any, dict[str, Any]] = {
        GSAM: {"alpha": ALPHA},
        SAMON: {"only": norm_parameters(model)},
        LookSAM: {"k": 3, "alpha": ALPHA},
        FisherSAM: {"eta": ETA},
    }
    return cls(model.parameters(), base, **({"rho": RHO, "lr": LR} | own.get(cls, {}) | options))


# --- the formulas, in plain loops and independent of tune_sam.optim ---


def dot(left: Params, right: Params) -> float:
    return sum(float((left[k] * right[k]).sum()) for k in left)


def plus(left: Params, factor: float, right: Params) -> Params:
    return {k: left[k] + factor * right.get(k, torch.zeros_like(left[k])) for k in left}


def climb(cls: type, w: Params, g: Params, rho: float = RHO) -> Params:
    """w + ε̂."""
    if cls is FisherSAM:
        natural = {k: v / (1 + ETA * v**2) for k, v in g.items()}
        return plus(w, rho / dot(g, natural) ** 0.5, natural)
    moved = {k: v for k, v in g.items() if k in NORMS} if cls is SAMON else g
    return plus(w, rho / dot(moved, moved) ** 0.5, moved)


def across(v: Params, onto: Params) -> Params:
    """The part of v that is orthogonal to another vector."""
    return plus(v, -dot(v, onto) / dot(onto, onto), onto)


def expected_gradient(cls: type, loss: Loss, w: Params) -> Params:
    """What the base optimizer steps with in the first step."""
    g = gradient(loss, w)
    sharp = gradient(loss, climb(cls, w, g))
    return plus(sharp, -ALPHA, across(g, sharp)) if cls is GSAM else sharp


@ALL
def test_one_step_is_the_formula(cls: type[SharpnessAware]) -> None:
    model = Attention().double()
    x, y = batch(16, 3, 4)
    w, loss = weights(model), loss_function(model, x, y)
    expected = descended(w, expected_gradient(cls, loss, w))

    returned = build(cls, model).step(partial(backward, model, x, y))

    torch.testing.assert_close(returned.detach(), loss(w), **CLOSE)
    torch.testing.assert_close(weights(model), expected, **CLOSE)
    if cls is not LookSAM:  # whose first step is SAM's
        sam = descended(w, expected_gradient(SAM, loss, w))
        assert not torch.allclose(expected["head.bias"], sam["head.bias"], **CLOSE)


def test_steps_of_look_sam_are_the_formula() -> None:
    model = plain_net().double()
    optimizer, w = build(LookSAM, model), weights(model)
    for t in range(7):
        x, y = batch()
        loss = loss_function(model, x, y)
        g = gradient(loss, w)
        if t % 3 == 0:
            sharp = gradient(loss, climb(SAM, w, g))
            kept = across(sharp, g)
        else:
            sharp = plus(g, ALPHA * (dot(g, g) / dot(kept, kept)) ** 0.5, kept)
        w = descended(w, sharp)
        optimizer.step(partial(backward, model, x, y))
        torch.testing.assert_close(weights(model), w, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_where_both_gradients_are_the_same_look_sam_is_the_base_optimizer(dtype: torch.dtype) -> None:
    x, y = torch.randn(16, 3000, dtype=dtype), torch.randint(4, (16,))
    models = [nn.Linear(3000, 4, dtype=dtype) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    look, plain = build(LookSAM, models[0], rho=0.0), torch.optim.SGD(models[1].parameters(), lr=LR)
    for _ in range(7):
        look.step(partial(backward, models[0], x, y))
        plain.zero_grad()
        backward(models[1], x, y)
        plain.step()
        assert torch.equal(models[0].weight, models[1].weight)


@ALL
@pytest.mark.parametrize("m", [4, 6])  # 6: the last part has 4
def test_m_sharpness_is_the_formula(cls: type[SharpnessAware], m: int) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()
    norms = {"1.weight", "1.bias"}
    x, y = batch()
    w = weights(model)
    losses = [loss_function(model, xs, ys, len(xs) / len(x)) for xs, ys in zip(x.split(m), y.split(m), strict=True)]
    total = {k: torch.zeros_like(v) for k, v in w.items()}
    for loss in losses:
        g = gradient(loss, w)
        moved = {k: v for k, v in g.items() if k in norms} if cls is SAMON else g
        sharp = gradient(loss, climb(SAM if cls is SAMON else cls, w, moved))
        total = plus(total, 1, plus(sharp, -ALPHA, across(g, sharp)) if cls is GSAM else sharp)
    optimizer = build(cls, model)
    optimizer.step_parts(iter(parts(model, x, y, m)))
    expected = descended(w, total)
    torch.testing.assert_close(weights(model), expected, **CLOSE)
    if cls is LookSAM:  # its next step follows the direction of both sums
        g = gradient(loss_function(model, x, y), w)
        kept, g = across(total, g), gradient(loss_function(model, x, y), expected)
        optimizer.step_parts(parts(model, x, y, m))
        sharp = plus(g, ALPHA * (dot(g, g) / dot(kept, kept)) ** 0.5, kept)
        torch.testing.assert_close(weights(model), descended(expected, sharp), **CLOSE)


def test_trajectory_of_pytorch_optimizers_gsam() -> None:
    import pytorch_optimizer  # not everywhere where the other tests are run

    ours = plain_net().double()
    theirs = copy.deepcopy(ours)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer = build(GSAM, ours, **options)
    scheduler = pytorch_optimizer.ProportionScheduler(
        torch.optim.lr_scheduler.ConstantLR(SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 1.0), 1.0, 1.0, RHO, RHO
    )
    reference = pytorch_optimizer.GSAM(
        theirs.parameters(), SGD(theirs.parameters(), **options), theirs, scheduler, alpha=ALPHA, perturb_eps=0.0
    )
    for _ in range(10):
        x, y = batch()
        optimizer.step(partial(backward, ours, x, y))
        reference.set_closure(nn.functional.cross_entropy, x, y)
        reference.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-8)  # its norm is float32


@pytest.mark.parametrize(
    ("cls", "options"), [(GSAM, {"alpha": 0.0}), (LookSAM, {"k": 1}), (FisherSAM, {"eta": 0.0}), (SAMON, {"only": 0})]
)
def test_at_one_end_it_is_sam(cls: type[SharpnessAware], options: dict[str, Any]) -> None:
    model = Attention(dropout=0.3)
    twin = copy.deepcopy(model)
    if "only" in options:
        options = {"only": list(model.parameters())}
    optimizer, plain = build(cls, model, Adam, **options), build(SAM, twin, Adam)
    for seed in range(3):
        x, y = batch(16, 3, 4, dtype=torch.float32)
        for one, of in ((optimizer, model), (plain, twin)):
            torch.manual_seed(seed)
            one.step(partial(backward, of, x, y))
    assert same(model.state_dict(), twin.state_dict())


@ALL
def test_each_group_has_its_own_options_and_norms_are_over_all(cls: type[SharpnessAware]) -> None:
    model = Attention().double()
    x, y = batch(16, 3, 4)
    w, loss = weights(model), loss_function(model, x, y)
    params = dict(model.named_parameters())
    here, there = list(w)[:6], list(w)[6:]
    optimizer = build(cls, model)
    optimizer = cls(
        [{"params": [params[k] for k in here]}, {"params": [params[k] for k in there], "rho": 2 * RHO}],
        SGD,
        RHO,
        lr=LR,
        **{GSAM: {"alpha": ALPHA}, SAMON: {"only": norm_parameters(model)}, FisherSAM: {"eta": ETA}}.get(cls, {}),
    )
    g = gradient(loss, w)
    near, far = climb(cls, w, g), climb(cls, w, g, 2 * RHO)
    sharp = gradient(loss, {k: near[k] if k in here else far[k] for k in w})
    expected = plus(sharp, -ALPHA, across(g, sharp)) if cls is GSAM else sharp
    optimizer.step(partial(backward, model, x, y))
    torch.testing.assert_close(weights(model), descended(w, expected), **CLOSE)


@ALL
@pytest.mark.parametrize("base", [SGD, Adam])
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [1, 4])  # with k = 3: in the midst of a cycle of look-sam
def test_resumes_bitwise(cls: type[SharpnessAware], base: type[Optimizer], how: str, steps: int) -> None:
    model = Attention(dropout=0.3)
    optimizer = build(cls, model, base, **({"momentum": 0.9} if base is SGD else {}))
    batches = [batch(16, 3, 4, dtype=torch.float32) for _ in range(steps + 3)]
    for x, y in batches[:steps]:
        optimizer.step(partial(backward, model, x, y))
    if how == "state_dict":
        twin = copy.deepcopy(model)
        resumed = build(cls, twin, base, rho=9.0, lr=9.0)
        resumed.load_state_dict(through_file(optimizer.state_dict()))
    else:
        clone: Callable[..., Any] = (
            copy.deepcopy if how == "deepcopy" else lambda pair: pickle.loads(pickle.dumps(pair))
        )
        twin, resumed = clone((model, optimizer))
    for x, y in batches[steps:]:
        for one, of in ((optimizer, model), (resumed, twin)):
            torch.manual_seed(7)
            one.step(partial(backward, of, x, y))
    assert same(weights(model), weights(twin))


def test_look_sam_begins_with_a_look_after_a_bare_base_optimizers_state() -> None:
    model = plain_net()
    optimizer = build(LookSAM, model)
    optimizer.step(partial(backward, model, *batch(dtype=torch.float32)))
    assert not optimizer.looks
    optimizer.load_state_dict(SGD(model.parameters(), lr=0.5).state_dict())
    assert optimizer.looks


@ALL
@pytest.mark.parametrize("steps", [0, 1])
def test_a_step_that_fails_leaves_weights_and_everything_else(cls: type[SharpnessAware], steps: int) -> None:
    model = Attention().double()
    optimizer = build(cls, model)
    for _ in range(steps):
        optimizer.step(partial(backward, model, *batch(16, 3, 4)))
    twin, unharmed = copy.deepcopy((model, optimizer))
    x, y = batch(16, 3, 4)
    buffers = copy.deepcopy(dict(model.named_buffers()))

    calls = []

    def fails() -> None:
        calls.append(None)
        backward(model, x, y)
        if len(calls) == (2 if steps == 0 or cls is not LookSAM else 1):
            raise KeyError

    with suppress(KeyError):
        optimizer.step_parts([fails, fails])
    assert same(weights(model), weights(twin))
    model.load_state_dict(buffers, strict=False)
    for _ in range(3):
        x, y = batch(16, 3, 4)
        optimizer.step(partial(backward, model, x, y))
        unharmed.step(partial(backward, twin, x, y))
    assert same(weights(model), weights(twin))


def test_look_sam_makes_one_pass_in_the_steps_between() -> None:
    model, calls = plain_net(), []
    optimizer = LookSAM(model.parameters(), SGD, RHO, k=5, lr=LR)

    def closure() -> Tensor:
        calls.append(None)
        return backward(model, *batch(dtype=torch.float32))

    looks = []
    for _ in range(10):
        looks.append(optimizer.looks)
        optimizer.step(closure)
    assert len(calls) == 12
    assert [step for step, look in enumerate(looks) if look] == [0, 5]


@ALL
@pytest.mark.parametrize(("value", "counts"), [(0.0, Unperturbed(1, 0)), (float("inf"), Unperturbed(0, 1))])
def test_a_gradient_without_direction_gives_no_perturbation(
    cls: type[SharpnessAware], value: float, counts: Unperturbed
) -> None:
    model = Attention()
    optimizer = build(cls, model)
    x, y = batch(16, 3, 4, dtype=torch.float32)
    w = weights(model)
    optimizer.step(lambda: backward(model, x, y, share=value))
    assert optimizer.unperturbed == counts
    assert same(weights(model), w) == (value == 0), "what is not finite is seen"
    if value == 0:  # and the steps that follow are of use
        for _ in range(2):
            optimizer.step(partial(backward, model, x, y))
        assert all(p.isfinite().all() for p in model.parameters())
        assert not same(weights(model), w)


def test_what_is_too_long_for_its_norm_to_be_a_number_is_left_as_it_is() -> None:
    long, other = torch.full((40,), 3e19), torch.ones(40)
    (left,) = projected([other], [long])
    assert torch.equal(left, other)
    assert projected([other], [torch.tensor([math.inf] + 39 * [1.0])])[0].isnan().any(), "which a GradScaler sees"


@ALL
def test_grad_scaler(cls: type[SharpnessAware]) -> None:
    """Fisher SAM's climb depends on the scale, which is divided out before it."""
    model = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))
    twin = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer, plain = build(cls, model), build(cls, twin)
    for seed in range(4):
        x, y = batch(dtype=torch.float32)
        torch.manual_seed(seed)
        rng = random_state("cpu")
        loss = partial(lambda x, y: nn.functional.cross_entropy(model(x), y), x, y)
        scaler.scale(loss()).backward()
        if not isinstance(optimizer, LookSAM) or optimizer.looks:
            if cls is FisherSAM:
                for p in model.parameters():
                    p.grad /= scaler.get_scale()
            optimizer.first_step(zero_grad=True)
            with second_pass(model, rng):
                scaler.scale(loss()).backward()
            optimizer.restore()
        if isinstance(optimizer, LookSAM):
            optimizer.bend()
        scaler.step(optimizer.base_optimizer)
        scaler.update()
        optimizer.zero_grad()
        torch.manual_seed(seed)
        plain.step(partial(backward, twin, x, y))
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-5, atol=1e-6)


def test_look_sam_by_hand_is_refused_what_a_step_does_not_do() -> None:
    model = plain_net()
    optimizer = build(LookSAM, model)
    optimizer.step(partial(backward, model, *batch(dtype=torch.float32)))
    with pytest.raises(RuntimeError, match=r"call bend\(\)"):
        optimizer.first_step()


def test_sam_on_writes_the_norms_alone() -> None:
    model = Attention()
    optimizer = build(SAMON, model)
    backward(model, *batch(16, 3, 4, dtype=torch.float32))
    versions = {name: p._version for name, p in model.named_parameters()}
    optimizer.first_step()
    assert {name for name, p in model.named_parameters() if p._version > versions[name]} == set(NORMS)


def test_norms_are_found_by_what_their_class_or_a_parent_is_called() -> None:
    class LlamaRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    class Own(nn.GroupNorm):
        pass

    class Normalizer(nn.Linear):
        pass

    found = [nn.BatchNorm2d(3), nn.RMSNorm(3), nn.SyncBatchNorm(3), LlamaRMSNorm(), Own(1, 3)]
    model = nn.Sequential(*found, Normalizer(3, 3), nn.LayerNorm(3, elementwise_affine=False), nn.InstanceNorm1d(3))
    assert norm_parameters(model) == [p for norm in found for p in norm.parameters()]


def test_what_cannot_be_is_refused() -> None:
    model = plain_net()
    with pytest.raises(ValueError, match="the network has none"):
        build(SAMON, model)
    for k in (0, 2.5):
        with pytest.raises(ValueError, match="k must be a whole number above 0"):
            build(LookSAM, model, k=k)
    with pytest.raises(ValueError, match="alpha must be"):
        build(GSAM, model, alpha=-1.0)


@pytest.mark.parametrize("cls", [GSAM, LookSAM, FisherSAM])
def test_a_complex_weight_moves_as_its_real_and_its_imaginary_part(cls: type[SharpnessAware]) -> None:
    target = torch.randn(4, 2, dtype=torch.float64)
    whole = nn.Parameter(torch.view_as_complex(torch.randn(4, 2, dtype=torch.float64)))
    pair = nn.Parameter(torch.view_as_real(whole.detach()).clone())
    options = {"rho": RHO, "lr": LR} | ({"eta": 0.0} if cls is FisherSAM else {})
    ours, reals = cls([whole], SGD, **options), cls([pair], SGD, **options)

    def closure(p: nn.Parameter, part: Callable[[Tensor], Tensor]) -> Tensor:
        loss = ((part(p) - target) ** 4).sum()
        loss.backward()
        return loss

    for _ in range(6):
        ours.step(partial(closure, whole, torch.view_as_real))
        reals.step(partial(closure, pair, lambda p: p))
    torch.testing.assert_close(torch.view_as_real(whole.detach()), pair.detach(), **CLOSE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@ALL
def test_no_step_waits_for_the_device(cls: type[SharpnessAware]) -> None:
    model = Attention().cuda()
    optimizer = build(cls, model)
    x, y = batch(16, 3, 4, dtype=torch.float32, device="cuda")
    optimizer.step(partial(backward, model, x, y))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            optimizer.step(partial(backward, model, x, y))
    finally:
        torch.cuda.set_sync_debug_mode("default")
