"""`tune_sam.analysis.lanczos` on matrices whose eigenvalues are known."""

import math

import pytest
import torch
from torch import Tensor

from tune_sam.analysis.lanczos import Lanczos

N = 60


def matrix(values: Tensor) -> Tensor:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    random = torch.Generator().manual_seed(4)
    Q, _ = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=random))
    return Q @ values.diag() @ Q.T


def process(of: Tensor, capacity: int, dtype: torch.dtype = torch.float64) -> Lanczos:
    lanczos = Lanczos(lambda v: of @ v, torch.empty(capacity + 1, len(of), dtype=dtype))
    random = torch.Generator().manual_seed(5)
    lanczos.start(torch.randn(len(of), dtype=torch.float64, generator=random))
    return lanczos


def basis(lanczos: Lanczos) -> Tensor:
    return lanczos.vectors(torch.eye(lanczos.size, dtype=torch.float64))


SPREAD = torch.linspace(-1, 1, N, dtype=torch.float64).pow(3) * 5


def test_a_whole_basis_gives_every_eigenvalue():
    lanczos = process(matrix(SPREAD), N)
    while not lanczos.complete:
        lanczos.step()
    ritz = lanczos.ritz()
    assert torch.allclose(ritz.values, SPREAD, atol=1e-12)
    assert lanczos.beta == 0
    assert ritz.residuals.max() < 1e-14
    assert math.isclose(ritz.weights.sum(), 1, rel_tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_relation_and_the_residuals_hold_also_after_restarts(dtype):
    A = matrix(SPREAD)
    lanczos = process(A, 14, dtype)
    close = 1e-12 if dtype == torch.float64 else 1e-5
    for _ in range(6):
        while not lanczos.full:
            lanczos.step()
        Q, ritz = basis(lanczos).double(), lanczos.ritz()
        assert torch.allclose(Q @ Q.T, torch.eye(14, dtype=torch.float64), atol=close)
        assert torch.allclose(Q @ A @ Q.T, lanczos._T, atol=close)
        pairs = lanczos.vectors(ritz.coordinates).double()
        true = (pairs @ A - ritz.values[:, None] * pairs).norm(dim=1)
        assert torch.allclose(true, ritz.residuals, atol=10 * close)
        lanczos.restart([0, 1, 2, 11, 12, 13])
    assert lanczos.size == 6


def test_restarts_reach_both_ends():
    lanczos = process(matrix(SPREAD), 14)
    for _ in range(12):
        while not lanczos.full:
            lanczos.step()
        lanczos.restart([0, 1, 2, 11, 12, 13])
    ritz = lanczos.ritz()
    assert torch.allclose(ritz.values[[0, -1]], SPREAD[[0, -1]], atol=1e-10)


def test_no_copies_appear_however_long_it_runs():
    """Without re-orthogonalisation a dominant eigenvalue comes back every few steps."""
    values = torch.cat([torch.linspace(0, 1, N - 1, dtype=torch.float64), torch.tensor([1000.0])])
    lanczos = process(matrix(values), N - 10, torch.float32)
    while not lanczos.full:
        lanczos.step()
    assert lanczos.ritz().values[-2] < 1.1


def test_an_invariant_subspace_is_noticed_and_left():
    A = matrix(torch.tensor([3.0, 2, 2, 2, 1, 1], dtype=torch.float64))
    lanczos = process(A, 6)
    for _ in range(3):
        lanczos.step()
    assert lanczos.beta == 0
    assert torch.allclose(lanczos.ritz().values, torch.tensor([1.0, 2, 3], dtype=torch.float64))
    while not lanczos.complete:
        lanczos.step()
    assert torch.allclose(lanczos.ritz().values, torch.tensor([1.0, 1, 2, 2, 2, 3], dtype=torch.float64))


def test_what_is_outside_the_basis_needs_no_product():
    A = matrix(SPREAD)
    lanczos = process(A, 9)
    for _ in range(9):
        lanczos.step()
    Q = basis(lanczos)
    P = torch.eye(N, dtype=torch.float64) - Q.T @ Q
    g = torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    form, square = lanczos.remainder_form(g, A @ g)
    assert math.isclose(form, g @ P @ A @ P @ g, rel_tol=1e-9)
    assert math.isclose(square, (P @ A @ P @ g).square().sum(), rel_tol=1e-9)


def test_a_deflated_process_rules_out_what_is_not_there_and_finds_what_is():
    """A second eigenvalue of 5 is seen; one of 5 that is not there could have next to nothing of the start."""
    random = torch.Generator().manual_seed(6)
    for top, more in (([5.0], 0), ([5.0, 5.0], 1)):
        A = matrix(torch.tensor([*torch.linspace(-1, 1, N - len(top)).tolist(), *top], dtype=torch.float64))
        lanczos = process(A, 40)
        for _ in range(30):
            lanczos.step()
        start = torch.randn(N, dtype=torch.float64, generator=random)
        lanczos.deflate([29], start.clone(), torch.tensor([4.9]))
        for _ in range(15):
            lanczos.step()
        values = lanczos.ritz().values
        assert int((values > 4.9).sum()) == 1 + more
        assert more or lanczos.unseen < 1e-12


@pytest.mark.parametrize("capacity", [40, 9])
def test_what_is_unseen_bounds_what_the_start_has_of_an_eigenvector(capacity):
    """Also over restarts."""
    A = matrix(torch.linspace(-1, 1, N, dtype=torch.float64).pow(3) * 5)
    lanczos = process(A, capacity)
    while lanczos.ritz().residuals[-2:].max() > 1e-9 if lanczos.size > 1 else True:
        if lanczos.full:
            lanczos.restart(range(lanczos.size - 5, lanczos.size))
        lanczos.step()
    kept = lanczos.vectors(lanczos.ritz().coordinates[:, -2:])
    rest = torch.eye(N, dtype=torch.float64) - kept.T @ kept
    values, vectors = torch.linalg.eigh(rest @ A @ rest)
    start = rest @ torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    lanczos.deflate([lanczos.size - 2, lanczos.size - 1], start.clone(), values[-1:])
    for _ in range(25):
        if lanczos.full:
            lanczos.restart([0, *range(4, lanczos.size)])
        lanczos.step()
        assert float(torch.dot(vectors[:, -1], start / start.norm()) ** 2) <= float(lanczos.unseen) * (1 + 1e-6)


def test_a_product_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        process(torch.full((3, 3), math.nan, dtype=torch.float64), 2).step()
