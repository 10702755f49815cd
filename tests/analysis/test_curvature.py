"""`tune_sam.analysis.curvature` against dense Hessians, scipy and PyHessian."""

import copy
import json
import math
import pickle
import subprocess
import sys
from dataclasses import asdict, is_dataclass, replace

import numpy as np
import pytest
import torch
from curvature_cases import CASES, dense
from pyhessian_peer import eig_is_back
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, mse_loss

import tune_sam.analysis.curvature
from tune_sam.analysis import Estimate, Hessian, spectrum, top_eigenvalues
from tune_sam.analysis.peer import peer
from tune_sam.loss import smoothed_kl
from tune_sam.workload import find_workload

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KINDS = [pytest.param(kind, marks=[] if kind == "gcn" else pytest.mark.slow) for kind in CASES]
KIND = pytest.mark.parametrize("kind", KINDS)
SHARP = {"steps": 200, "tol": 1e-9, "probes": 1}


@pytest.fixture(scope="module", params=KINDS)
def known(request):
    """A small model and its eigenvalues, ascending. The two ends are exact to a rounding, which LAPACK's are not.

    Rayleigh quotients in long doubles are off by the square of what LAPACK's vectors are.
    """
    matrix = dense(request.param)
    values, vectors = torch.linalg.eigh(matrix)
    ends, wide = vectors[:, [0, -1]].numpy().astype(np.longdouble), matrix.numpy().astype(np.longdouble)
    quotients = (ends * (wide @ ends)).sum(0) / (ends * ends).sum(0)
    values[[0, -1]] = torch.from_numpy(quotients.astype(np.float64))
    return CASES[request.param](), values


@pytest.fixture(scope="module")
def default(known):
    """What the defaults find for it."""
    return run(known[0])


def run(case, **options):
    return spectrum(case.model, case.loss, case.batches, **options)


def quadratic(*eigenvalues, rotation=None):
    """A model, a loss and batches with these eigenvalues: L = ½ Σ λ (Qw)²; a diagonal Hessian without a rotation."""
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(len(eigenvalues), dtype=torch.float64))
    model.forward = lambda x: (x * (model.w if rotation is None else rotation @ model.w).square()).sum(1) / 2
    batch = torch.tensor([eigenvalues], dtype=torch.float64), torch.zeros(1)
    return model, lambda outputs, targets: outputs.mean(), [batch]


# --- the numbers ---


def test_both_ends_ratio_and_fifth_are_those_of_the_dense_hessian(known):
    case, exact = known
    found = run(case, **SHARP)
    for name, value in {
        "lambda_max": exact[-1],
        "lambda_min": exact[0],
        "lambda_5": exact[-5],
        "ratio": (exact[-1] / exact[0]).abs(),
        "lambda_max_over_lambda_5": exact[-1] / exact[-5],
    }.items():
        estimate = getattr(found, name)
        assert float(estimate) == pytest.approx(float(value), rel=1e-6), name
        assert estimate.resolved, name
    assert found.size == len(exact)
    assert found.samples == sum(len(targets) for _, targets in case.batches)


@pytest.mark.slow
def test_at_the_defaults_each_end_is_within_its_residual(known, default):
    _, exact = known
    rounding = 10 * torch.finfo(torch.float64).eps * float(exact.abs().max())  # of the products, as Lanczos takes it
    for estimate, value in [(default.lambda_max, exact[-1]), (default.lambda_min, exact[0])]:
        assert estimate.resolved
        assert abs(estimate - value) <= estimate.error + rounding
        assert estimate.error <= 1e-3 * abs(estimate)


@KIND
@pytest.mark.parametrize("device", DEVICES)
def test_float32_reaches_both_ends(kind, device):
    exact = torch.linalg.eigvalsh(dense(kind))
    found = run(CASES[kind](torch.float32, device), probes=1)
    assert float(found.lambda_max) == pytest.approx(float(exact[-1]), rel=1e-3)
    assert float(found.lambda_min) == pytest.approx(float(exact[0]), rel=1e-3)
    assert found.ratio.resolved


@pytest.mark.slow
def test_trace_and_its_error_over_many_seeds(known):
    """Standardised errors scatter by about 1; they may by less, as the variance is bounded from above."""
    case, exact = known
    for probes, seeds in ((1, 12), (3, 9)):
        traces = [
            spectrum(case.model, case.loss, [case.whole], seed=seed, probes=probes, steps=7).trace
            for seed in range(seeds)
        ]
        scores = torch.tensor([(trace - float(exact.sum())) / trace.error for trace in traces])
        assert scores.square().mean().sqrt() < 1.5, probes
        assert scores.mean().abs() < 3 / math.sqrt(seeds), probes


def test_later_probes_make_the_trace_sharper(known, default):
    one = run(known[0], probes=1, steps=1).trace
    assert default.trace.error < one.error / 2
    assert not one.resolved


def test_trace_of_a_whole_basis_is_exact():
    found = spectrum(*quadratic(1.0, 2, 3, 4, 5, -6), probes=2)
    assert float(found.trace) == pytest.approx(9, rel=1e-12)
    assert found.trace.resolved


def test_density(known, default):
    case, exact = known
    density = default.density
    assert torch.trapezoid(density.values, density.grid) == pytest.approx(1, abs=1e-6)
    assert (density.values >= 0).all()
    assert density.grid[0] < exact[0] < exact[-1] < density.grid[-1]
    assert all(weights.sum() == pytest.approx(1) for weights in density.weights)
    assert density.error.shape == density.values.shape == density.grid.shape
    assert (density.error[density.values > 0.1] > 0).all()
    assert run(case, probes=1, steps=5).density.error.isnan().all()


def test_the_lower_end_is_not_taken_for_the_fifth_largest():
    """Five eigenvalues differ, so a Krylov space has five dimensions; the fifth largest is one of the zeros."""
    few = quadratic(5, 4, *[0] * 60, -1, -2)
    found = spectrum(*few)
    assert found.lambda_5.resolved
    assert float(found.lambda_5) == pytest.approx(0, abs=1e-12)
    assert not found.lambda_max_over_lambda_5.resolved, "it is infinite"
    assert float(found.lambda_min) == pytest.approx(-2)
    assert top_eigenvalues(*few, 5).values.tolist() == pytest.approx([5, 4, 0, 0, 0], abs=1e-9)


BULK = [0.1 * math.cos(math.pi * (i + 0.5) / 60) for i in range(60)]
HARD = {
    "twice": [10, 10, 5, 4, 3, 2, *BULK],
    "the fifth twice": [10, 9, 8, 7, 6, 6, 5, *BULK],
    "near each other": [10, 9.999, 9.99, 9.9, 9.8, 9.8, *BULK],
    "each tenfold": [value for value in (10, 7, 5, 3, 1, 0.1) for _ in range(10)],
    "all the same": [3] * 20,
    "of low rank": [5, 4, 3, 2, 1, 0.5, *[0] * 60],
    "negative": [-1, -2, -2, -3, *[-5] * 20],
    "as of a network": [60, 12, 9, 8, 8, 5, 4, 3, 2, 1, *BULK],
}


def rotated(values, seed, sparse):
    """A quadratic with these eigenvalues; each eigenvector has all entries, or two in random places."""
    random = torch.Generator().manual_seed(seed)
    n = len(values)
    if sparse:
        turned = torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=random)]
        even, odd = turned[: n // 2 * 2 : 2].clone(), turned[1 : n // 2 * 2 : 2].clone()
        turned[: n // 2 * 2 : 2], turned[1 : n // 2 * 2 : 2] = (even + odd) / 2**0.5, (even - odd) / 2**0.5
    else:
        turned, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=random))
    return quadratic(*values, rotation=turned), torch.linalg.eigvalsh(
        turned.T @ torch.tensor(values).double().diag() @ turned
    )


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", HARD)
def test_every_rank_is_that_of_the_dense_hessian(kind, sparse):
    for seed in range(4):
        problem, exact = rotated(HARD[kind], seed, sparse)
        found, pairs = spectrum(*problem, seed=seed, probes=1), top_eigenvalues(*problem, 5, seed=seed)
        close = {"rel": 1e-3, "abs": 1e-13}
        assert found.lambda_max.resolved
        assert float(found.lambda_max) == pytest.approx(float(exact[-1]), **close)
        assert found.lambda_5.resolved
        assert float(found.lambda_5) == pytest.approx(float(exact[-5]), **close)
        assert not found.lambda_min.resolved or float(found.lambda_min) == pytest.approx(float(exact[0]), **close)
        assert all(pairs.resolved)
        assert pairs.values.tolist() == pytest.approx(exact.flip(0)[:5].tolist(), **close)
        assert torch.allclose(pairs.vectors @ pairs.vectors.T, torch.eye(5, dtype=torch.float64), atol=1e-9)


def test_a_linear_layer_has_each_eigenvalue_as_often_as_it_has_outputs():
    torch.manual_seed(0)
    model = nn.Linear(16, 10).double()
    x = torch.randn(50, 16, dtype=torch.float64)
    found = spectrum(model, mse_loss, [(x, torch.zeros(50, 10, dtype=torch.float64))])
    rows = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    exact = torch.linalg.eigvalsh(2 / 500 * rows.T @ rows)
    assert float(found.lambda_5) == pytest.approx(float(exact[-1]), rel=1e-6)
    assert float(found.lambda_max_over_lambda_5) == pytest.approx(1, rel=1e-6)
    assert found.lambda_max_over_lambda_5.resolved
    assert float(found.lambda_min) == pytest.approx(float(exact[0]), rel=1e-3)


def test_a_rank_that_cannot_be_settled_is_not_resolved():
    """No gap tells the fifth of these from the others; the first stands alone."""
    problem, exact = rotated([100, *(math.cos(math.pi * (i + 0.5) / 300) for i in range(300))], 0, False)
    found = spectrum(*problem, probes=1, steps=40)
    assert found.lambda_max.resolved
    assert float(found.lambda_max) == pytest.approx(float(exact[-1]), rel=1e-6)
    assert not found.lambda_5.resolved
    assert top_eigenvalues(*problem, 5, steps=40).resolved == (True, *[False] * 4)


def test_the_top_of_a_batch_is_found_where_that_of_all_batches_is_orthogonal_to_it():
    model = nn.Module()
    model.w = nn.Parameter(torch.ones(6, dtype=torch.float64))
    model.forward = lambda x: (x * model.w.square()).sum(1) / 2
    batches = [
        (torch.tensor([row], dtype=torch.float64), torch.zeros(1)) for row in ([9, 1, 0, 0, 0, 0], [0, 0, 5, 3, 0, 0])
    ]
    spread = spectrum(model, lambda outputs, targets: outputs.mean(), batches).batch_lambda_max
    assert [float(value) for value in spread.values] == pytest.approx([9, 5])
    assert all(value.resolved for value in spread.values)


def test_the_top_of_each_batch_is_found_where_the_basis_is_short():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    x = torch.randn(60, 6).double()
    y = (x[:, :4] + 0.5 * torch.randn(60, 4)).argmax(1)
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    batches = list(zip(x.split(25), y.split(25), strict=True))
    spread = spectrum(net, nn.functional.cross_entropy, batches, max_vectors=10).batch_lambda_max
    exact = [float(top_eigenvalues(net, nn.functional.cross_entropy, [batch], 1).values) for batch in batches]
    assert all(value.resolved for value in spread.values)
    assert [float(value) for value in spread.values] == pytest.approx(exact, rel=1e-3)


def test_density_tends_to_that_of_the_eigenvalues():
    random = torch.Generator().manual_seed(7)
    exact = torch.randn(400, dtype=torch.float64, generator=random).pow(3).sort().values
    Q, _ = torch.linalg.qr(torch.randn(400, 400, dtype=torch.float64, generator=random))
    model, loss, batches = quadratic(*exact.tolist(), rotation=Q)
    density = spectrum(model, loss, batches, probes=30, steps=40, tol=1e-12).density
    reached = torch.cumulative_trapezoid(density.values, density.grid)
    true = torch.stack([(exact <= t).double().mean() for t in density.grid[1:]])
    # Wasserstein distance, in units of the spectrum's width.
    distance = torch.trapezoid((reached - true).abs(), density.grid[1:]) / (exact[-1] - exact[0])
    assert distance < 0.005
    few = spectrum(model, loss, batches, probes=5, steps=40, tol=1e-12).density
    assert density.error.mean() < 0.6 * few.error.mean()


@pytest.mark.slow
def test_the_same_numbers_in_one_batch_or_many_and_whatever_is_kept(known):
    case, _ = known
    # No end is resolved at this tolerance, so that rounding cannot decide how many steps there are.
    few = {"steps": 14, "tol": 1e-15, "probes": 2}
    whole = spectrum(case.model, case.loss, [case.whole], **few)
    for graph_bytes in (60_000, 1 << 30):
        parts = run(case, graph_bytes=graph_bytes, **few)
        for name in ("lambda_max", "lambda_min", "ratio", "lambda_max_over_lambda_5", "trace"):
            assert float(getattr(parts, name)) == pytest.approx(float(getattr(whole, name)), rel=1e-7), name
        assert torch.allclose(parts.density.values, whole.density.values, rtol=1e-5, atol=1e-8)


def test_spread_over_single_batches(known, default):
    case, _ = known
    spread = default.batch_lambda_max
    exact = [float(top_eigenvalues(case.model, case.loss, [batch], 1, tol=1e-6).values) for batch in case.batches]
    assert [float(value) for value in spread.values] == pytest.approx(exact, rel=1e-3)
    assert (spread.min, spread.max) == pytest.approx((min(exact), max(exact)), rel=1e-3)
    assert (spread.mean, spread.std) == pytest.approx((np.mean(exact), np.std(exact, ddof=1)), rel=1e-2)
    assert 3 <= spread.products <= 3 * 30


def test_a_single_batch_has_no_spread():
    found = spectrum(*quadratic(3.0, 1, 2))
    assert float(found.batch_lambda_max.values[0]) == float(found.lambda_max)
    assert math.isnan(found.batch_lambda_max.std)
    assert found.batch_lambda_max.products == 0


def test_restarts_where_the_basis_is_short(known):
    case, exact = known
    found = run(case, probes=2, max_vectors=12, steps=400, tol=1e-5)
    assert found.ratio.resolved
    assert float(found.lambda_max) == pytest.approx(float(exact[-1]), rel=1e-6)
    assert float(found.lambda_min) == pytest.approx(float(exact[0]), rel=1e-6)
    assert found.steps[0] > 11 >= found.steps[1]
    assert all(len(nodes) <= 11 for nodes in found.density.nodes)
    assert torch.trapezoid(found.density.values, found.density.grid) == pytest.approx(1, abs=1e-6)
    assert abs(found.trace - float(exact.sum())) < 4 * found.trace.error


def test_a_large_network_has_as_few_vectors_as_a_restart_can_work_with(known, monkeypatch):
    case, exact = known
    monkeypatch.setattr("tune_sam.analysis.curvature.BASIS_BYTES", 5 * 8 * len(exact))  # of which it would hold five
    found = run(case, probes=1, steps=400, tol=1e-5)
    assert max(map(len, found.density.nodes)) <= 10
    assert float(found.lambda_max) == pytest.approx(float(exact[-1]), rel=1e-6)
    assert float(found.lambda_min) == pytest.approx(float(exact[0]), rel=1e-6)


def test_there_are_as_many_vectors_as_the_device_has_room_for(known, default, monkeypatch):
    case, exact = known
    with Hessian(case.model, case.loss, case.batches) as hessian:
        beside = hessian.largest_graph + 8 * 8 * hessian.size
        assert 0 < hessian.largest_graph < beside
    for room, rows in ((beside + 12 * 8 * len(exact), 12), (10 * 8 * len(exact), 10)):
        monkeypatch.setattr("tune_sam.analysis.curvature.available", lambda device, room=room: room)
        found = run(case, probes=1)
        assert found.steps[0] >= rows > max(map(len, found.density.nodes))
        assert found.lambda_max.resolved
        assert float(found.lambda_max) == pytest.approx(float(default.lambda_max), rel=1e-3)


# --- what has not converged ---


def test_few_steps_leave_lambda_min_unresolved_and_the_ratio_with_it(known):
    case, exact = known
    found = run(case, steps=4, probes=1)
    assert not found.lambda_min.resolved
    assert not found.ratio.resolved
    assert not found.lambda_max_over_lambda_5.resolved
    assert math.isnan(found.lambda_5)
    assert found.products == 4 + tune_sam.analysis.curvature.TRACE_DRAWS
    assert "|λ_max/λ_min|     unresolved" in str(found)
    # The residual is honest: some eigenvalue is that near.
    assert (exact - found.lambda_min.value).abs().min() <= found.lambda_min.error


def test_a_probe_stops_when_it_has_the_ends_and_later_ones_need_no_more_steps(default):
    assert max(default.steps) == default.steps[0] < 60
    assert default.products == sum(default.steps)
    assert default.lambda_5.resolved
    assert default.unused == ()


def test_an_eigenvalue_below_the_rounding_of_float32_is_0_to_that():
    model, loss, batches = quadratic(*torch.linspace(1, 1e4, 20).tolist(), -1e-4)
    assert spectrum(model, loss, batches, tol=1e-2).lambda_min.resolved
    model.float()
    batches = [(batches[0][0].float(), batches[0][1])]
    found = spectrum(model, loss, batches, tol=1e-2)
    assert found.lambda_max.resolved
    assert abs(found.lambda_min + 1e-4) <= found.lambda_min.error < 3e-7 * found.lambda_max
    assert found.lambda_min.resolved
    assert not found.ratio.resolved


def test_a_process_that_settled_further_in_is_overruled():
    values = torch.tensor([[1.0, 2, 3], [1.0, 2, 4]], dtype=torch.float64)
    residuals = torch.tensor([[0.01, 0.01, 1e-6], [0.01, 0.01, 0.2]], dtype=torch.float64)
    probes = [tune_sam.analysis.curvature.Ritz(v, r, torch.eye(3), 0.0) for v, r in zip(values, residuals, strict=True)]
    found = tune_sam.analysis.curvature.extreme(probes, -1, 1e-3)
    assert (found.value, found.resolved) == (4, False)


# --- special Hessians ---


def test_one_parameter():
    found = spectrum(*quadratic(3.0))
    assert float(found.lambda_max) == float(found.lambda_min) == pytest.approx(3)
    assert found.ratio.resolved
    assert not found.lambda_max_over_lambda_5.resolved
    assert torch.trapezoid(found.density.values, found.density.grid) == pytest.approx(1, abs=1e-6)


def test_no_curvature_at_all():
    model, loss, batches = quadratic(0.0, 0, 0)
    found = spectrum(model, loss, batches)
    assert (float(found.lambda_max), float(found.lambda_min), float(found.trace)) == (0, 0, 0)
    assert not found.ratio.resolved
    assert torch.trapezoid(found.density.values, found.density.grid) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_lambda_min_of_a_singular_convex_problem_is_0(dtype):
    torch.manual_seed(0)
    model = nn.Linear(30, 1).to(dtype)
    x = torch.randn(6, 30, dtype=torch.float64)
    found = spectrum(model, mse_loss, [(x.to(dtype), torch.zeros(6, 1, dtype=dtype))])
    exact = torch.linalg.eigvalsh(
        2
        / 6
        * torch.cat([x, torch.ones(6, 1, dtype=torch.float64)], 1).T
        @ torch.cat([x, torch.ones(6, 1, dtype=torch.float64)], 1)
    )
    eps = torch.finfo(dtype).eps
    assert float(found.lambda_max) == pytest.approx(float(exact[-1]), rel=max(1e-6, 10 * eps))
    assert found.lambda_min.resolved
    assert abs(found.lambda_min) <= 10 * eps * float(found.lambda_max)
    assert not found.ratio.resolved
    assert float(found.trace) == pytest.approx(float(exact.sum()), rel=1e-9 if dtype == torch.float64 else 1e-4)


# --- eigenvectors ---


@KIND
@pytest.mark.parametrize("max_vectors", [None, 14])
def test_top_eigenvalues(kind, max_vectors):
    case = CASES[kind]()
    exact = torch.linalg.eigvalsh(dense(kind)).flip(0)
    found = top_eigenvalues(case.model, case.loss, case.batches, 6, tol=1e-6, steps=300, max_vectors=max_vectors)
    assert torch.allclose(found.values, exact[:6], rtol=1e-6)
    assert all(found.resolved)
    assert torch.allclose(found.vectors @ found.vectors.T, torch.eye(6, dtype=torch.float64), atol=1e-10)
    with Hessian(case.model, case.loss, case.batches) as hessian:
        assert found.names == hessian.names
        for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
            true = (hessian.product(vector) - value * vector).norm()
            assert true <= residual + 1e-12
            assert true <= 1e-6 * value


def test_top_eigenvalues_that_occur_several_times():
    found = top_eigenvalues(*quadratic(2.0, 2, 2, 1, 1, -5), 6)
    assert found.values.tolist() == pytest.approx([2, 2, 2, 1, 1, -5])


def test_top_eigenvalues_say_what_they_did_not_reach():
    case = CASES["gcn"]()
    found = top_eigenvalues(case.model, case.loss, case.batches, 3, steps=3)
    assert not all(found.resolved)
    assert found.products == 3


# --- what is returned ---


def test_an_estimate_is_a_float():
    estimate = Estimate(2.5, 0.25, True)
    assert is_dataclass(estimate)
    assert isinstance(estimate, float)
    assert (float(estimate), estimate + 1, math.sqrt(estimate * 10), estimate < 3) == (2.5, 3.5, 5, True)
    assert (str(estimate), f"{estimate:.2f}", f"{estimate}") == ("2.5 ± 0.2", "2.50", "2.5 ± 0.2")
    assert repr(estimate) == "Estimate(value=2.5, error=0.25, resolved=True)"
    lost = replace(estimate, resolved=False)
    assert (str(lost), f"{lost}", f"{lost:.2f}") == ("unresolved",) * 3
    assert (f"{estimate:>12.2f}", f"{lost:>12.2f}", f"{lost:12}") == ("        2.50", "  unresolved", "  unresolved")
    assert json.dumps([estimate, lost]) == "[2.5, 2.5]"
    for copied in (copy.deepcopy(lost), pickle.loads(pickle.dumps(lost))):
        assert asdict(copied) == {"value": 2.5, "error": 0.25, "resolved": False}
        assert float(copied) == 2.5


def test_a_spectrum_can_be_kept_and_printed():
    case = CASES["gcn"]()
    found = run(case)
    again = pickle.loads(pickle.dumps(found))
    assert asdict(again)["lambda_max"] == asdict(found)["lambda_max"]
    assert "30 samples, 197 parameters" in str(found)
    assert "Estimate(" in repr(found)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers():
    case = CASES["attention"]()
    first, second, other = (run(case, seed=seed) for seed in (0, 0, 1))
    assert asdict(first)["trace"] == asdict(second)["trace"]
    assert torch.equal(first.density.values, second.density.values)
    assert float(first.trace) != float(other.trace)


def test_parameters_without_gradient_are_named():
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "never": nn.Linear(4, 2)})
    model.forward = lambda x: model["used"](x)
    found = spectrum(model, cross_entropy, [(torch.ones(9, 4), torch.zeros(9, dtype=torch.int64))], steps=5)
    assert found.unused == ("never.weight", "never.bias")
    assert "never.weight, never.bias" in str(found)


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number >= 1, got 2.5"),
        ({"probes": 0}, "probes must be a whole number >= 1, got 0"),
        ({"tol": 0}, "tol must lie between 0 and 1, got 0"),
        ({"tol": math.nan}, "tol must lie between 0 and 1, got nan"),
        ({"max_vectors": 3}, "10 Lanczos vectors of .* are needed, but max_vectors is 3; give a larger max_vectors"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(CASES["gcn"](), **options)


@pytest.mark.parametrize("k", [0, 198, 101])
def test_k_is_checked(k):
    case = CASES["gcn"]()
    with pytest.raises(ValueError, match=f"k must be .*{k}"):
        top_eigenvalues(case.model, case.loss, case.batches, k)


def test_too_little_memory_is_refused(monkeypatch):
    case = CASES["gcn"]()
    monkeypatch.setattr("tune_sam.analysis.curvature.available", lambda device: 1000)
    with pytest.raises(ValueError, match=r"10 Lanczos vectors of 1.54 KiB do not fit into the 1e\+03 B that cpu"):
        run(case)


def test_curvature_that_is_not_finite_is_refused():
    model, _, batches = quadratic(1.0, 2)
    with torch.no_grad():
        model.w[0] = 0
    with pytest.raises(ValueError, match="not finite: the loss has no second derivative here"):
        spectrum(model, lambda outputs, targets: model.w.abs().pow(1.5).sum(), batches)


# --- peers ---


@pytest.mark.slow
@KIND
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_what_pyhessian_gets_right(kind):
    case = CASES[kind](torch.float32)
    found = run(case)
    torch.manual_seed(0)
    # Attention's fused kernels have no second derivative; PyHessian does not know that.
    with sdpa_kernel(SDPBackend.MATH):
        for batches in ([case.whole], case.batches):
            reference = peer(case.model, case.loss, batches)
            (top,), _ = reference.eigenvalues(maxIter=60, tol=1e-5)
            assert float(found.lambda_max) == pytest.approx(top, rel=1e-3)
        reference = peer(case.model, case.loss, [case.whole])
        traces = reference.trace(maxIter=25, tol=0)
        with eig_is_back():
            nodes, _ = reference.density(iter=30)
    error = math.hypot(found.trace.error, np.std(traces, ddof=1) / math.sqrt(len(traces)))
    assert abs(found.trace - np.mean(traces)) < 3 * error
    assert max(nodes[0]) == pytest.approx(float(found.lambda_max), rel=1e-3)
    assert min(nodes[0]) == pytest.approx(float(found.lambda_min), rel=1e-2)


@pytest.mark.slow
@pytest.mark.data
def test_the_gcn_against_scipy(real_data):
    """The whole network and a batch of 256 graphs, at both ends; float32 products, as they are in use."""
    gcn = find_workload("gcn")
    store = gcn.splits("mutagenicity", real_data).train
    torch.manual_seed(0)
    model = gcn.network(gcn.settings["mutagenicity"])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for part in torch.randperm(len(store))[:1280].split(64):
        optimizer.zero_grad()
        inputs, targets = store.batch(part)
        smoothed_kl(model(inputs), targets).backward()
        optimizer.step()
    batches = [store.batch(torch.arange(256))]
    found = spectrum(model, smoothed_kl, batches, probes=1)
    with Hessian(model, smoothed_kl, batches) as hessian:
        operator = LinearOperator(
            (hessian.size,) * 2,
            dtype=np.float64,
            matvec=lambda v: hessian.product(torch.from_numpy(v.reshape(-1))).numpy(),
        )
        start = np.random.default_rng(0).standard_normal(hessian.size)
        for which, estimate in (("LA", found.lambda_max), ("SA", found.lambda_min)):
            (exact,) = eigsh(operator, 1, which=which, tol=1e-4, ncv=30, v0=start, return_eigenvectors=False)
            assert estimate.resolved
            assert float(estimate) == pytest.approx(exact, rel=1e-3)


MEMORY = """
import resource, sys, torch
from tune_sam.analysis import spectrum
from tune_sam.trainables.networks.attention import SequenceClassifier
from tune_sam.loss import smoothed_kl
torch.set_num_threads(1)
torch.manual_seed(0)
model = SequenceClassifier(187, 200, 2, 128, 1, 0.1, (512, 256, 128), 5)
batch = torch.randn(2, 187), torch.tensor([0, 3])
smoothed_kl(model(batch[0]), batch[1]).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = spectrum(model, smoothed_kl, [batch], steps=10, probes=2, max_vectors=10)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.size, after - before)
"""


@pytest.mark.slow
def test_19_million_parameters_stay_within_the_stated_memory():
    """`max_vectors` vectors, a graph of some MB, and eight vectors of float64 at most."""
    answer = subprocess.run([sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, check=True)
    size, grown = map(int, answer.stdout.split())
    assert size == 19_528_109
    assert grown * 1024 < (10 * 4 + 8 * 8) * size + (300 << 20)
