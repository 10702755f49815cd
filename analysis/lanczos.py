"""The Lanczos process with full re-orthogonalisation and thick restarts.

After k steps the rows of Q [k, n] are orthonormal, and with the next vector q and e the last unit vector

    H Qᵀ = Qᵀ T + β q eᵀ.

An eigenpair (θ, s) of T is a Ritz pair (θ, Qᵀs) of H with residual ‖H Qᵀs − θ Qᵀs‖ = β |s_k|, and an eigenvalue of H
lies within that distance of θ (Parlett 1998, The Symmetric Eigenvalue Problem, chapters 4 and 13). Re-orthogonalisation
keeps copies of converged values away, so the i-th largest θ tends to the i-th largest distinct eigenvalue.

A full basis is restarted with some of its Ritz vectors in place of all (Wu and Simon 2000, doi
10.1137/S0895479898334605); the relation above still holds, with a T that is no longer tridiagonal.

**Multiplicity.** A process from v sees one eigenvector of each eigenvalue, the projection of v, and none that v is
orthogonal to. So :meth:`Lanczos.deflate` keeps some Ritz vectors V and goes on from a new v orthogonal to them, with
the compression A of H to what V leaves. At most as many eigenvalues of H as V has vectors lie above λ_max(A) (Cauchy's
interlacing), and whether that is at most a given μ can be told. With π_i the polynomials by which the i-th vector of
the process is π_i(A) v, a unit eigenvector x of A with eigenvalue μ has Σ (π_i(μ) x·v)² <= 1, so

    |x·v|² <= 1 / Σ π_i(μ)²,

the Christoffel function of v's spectral measure. It falls geometrically once μ lies above all Ritz values of A, and
above them it falls in μ. A random v has more than next to nothing of every x, so an eigenvalue at μ or above is then
ruled out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Lanczos", "Ritz"]

_SAME_LENGTH = 0.7
"""A vector this much of which is left after projection is orthogonal enough (Daniel et al. 1976; 1/√2 there)."""

_COLUMNS = 1 << 18
"""Columns of the basis that a restart combines at once: what it needs beside the basis is this times its rows."""


_AMPLE = 1e100
"""An eigenvector's component, in units of the start's, beyond which it is not followed: its square is still finite."""


@dataclass(frozen=True, eq=False)
class Ritz:
    """Eigenvalues of T, ascending, all float64 on the CPU.

    Attributes:
        values: θ [k].
        residuals: β |s_k| + `rounding` [k], and what kept vectors had of their own when the process was deflated.
        coordinates: the s as columns [k, k].
        rounding: ε max |θ|, with the ε of the model's dtype: no product, so no value, is better than that.
    """

    values: Tensor
    residuals: Tensor
    coordinates: Tensor
    rounding: float

    @property
    def weights(self) -> Tensor:
        """Squares of the first coordinates [k]: the Gauss quadrature's weights, as long as nothing was restarted."""
        return self.coordinates[0].square()


class Lanczos:
    """One Lanczos process; inner products and T are in float64, the basis in the dtype of its storage.

    Args:
        product: H v for float64 v [n].
        basis: storage for the vectors [m + 1, n], with m at most n.
        seed: of the random vectors that continue from an invariant subspace.

    Attributes:
        size: k, vectors in Q.
        steps: products since the start.
        beta: β; 0 once Q spans an invariant subspace, and then every Ritz pair is exact.
        unseen: the most that |x·v|² can be for eigenvectors x as in :meth:`deflate`, one number for each μ.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], basis: Tensor, seed: int = 0) -> None:
        self._product = product
        self._basis = basis
        self._generator = torch.Generator().manual_seed(seed)
        self.capacity = min(len(basis) - 1, basis.shape[1])

    def start(self, v: Tensor, image: Tensor | None = None) -> None:
        """Begin anew from v [n].

        Args:
            v: the start vector, of any length but 0.
            image: H v, if it is known; it then counts as a step, without a product.
        """
        norm = float(v.double().norm())
        self._basis[0] = v / norm
        self._T = torch.zeros(self.capacity, self.capacity, dtype=torch.float64)
        self._image = None if image is None else image.double() / norm
        self._kept = self.size = self.steps = 0
        self._slack = torch.zeros(0, dtype=torch.float64)
        self.beta = math.inf
        self._watch(torch.zeros(0))

    def step(self) -> None:
        """Take one product, and add one vector to the basis.

        Raises:
            ValueError: the product is not finite.
        """
        k, q = self.size, self._basis[self.size]
        w = self._product(q.double()) if self._image is None else self._image
        self._image = None
        self.steps += 1
        # T is an arrow just after a restart and tridiagonal otherwise; what it says is taken off first, in float64,
        # so that the pass over the whole basis has only rounding to remove.
        for i in range(0 if k == self._kept else k - 1, k):
            w.add_(self._basis[i], alpha=-float(self._T[i, k]))
        # Kept vectors that are no exact eigenvectors have something in common with every later product.
        for i in range(self._kept) if self._slack.any() else ():
            common = float(torch.dot(self._basis[i].double(), w))
            w.add_(self._basis[i], alpha=-common)
            self._T[i, k] += common
            self._T[k, i] = self._T[i, k]
        alpha = float(torch.dot(q.double(), w))
        if not math.isfinite(alpha):
            raise ValueError(
                "a product with the Hessian is not finite: the loss has no second derivative here, or it "
                "overflows; try the model in float64"
            )
        w.add_(q, alpha=-alpha)
        self._T[k, k] = alpha
        self.size = k + 1
        self._next(w)

    def _next(self, w: Tensor) -> None:
        """Make w the next vector, or a random one if nothing of w is left."""
        k = self.size
        beta = self._orthogonalise(w)
        noise = 10 * torch.finfo(self._basis.dtype).eps * float(self._T[:k, :k].abs().max())
        self.beta = 0.0 if k == w.numel() or beta <= noise else beta
        self._see()
        if k == w.numel():
            return
        if self.beta == 0:
            w = torch.randn(w.numel(), dtype=torch.float64, generator=self._generator).to(w.device)
            beta = self._orthogonalise(w)
        self._basis[k] = w.div_(beta)
        if k < self.capacity:
            self._T[k - 1, k] = self._T[k, k - 1] = self.beta

    def _orthogonalise(self, w: Tensor) -> float:
        """Project w off Q in place, once more if it shrinks, and return its length."""
        Q = self._basis[: self.size]
        length = float(w.norm())
        for _ in range(2):
            before = length
            w -= (Q @ w.to(Q.dtype)) @ Q
            length = float(w.norm())
            if length > _SAME_LENGTH * before:
                break
        return length

    @property
    def dimension(self) -> int:
        """The dimension n of the whole space."""
        return self._basis.shape[1]

    @property
    def full(self) -> bool:
        """Whether the basis has no room for another vector."""
        return self.size == self.capacity

    @property
    def complete(self) -> bool:
        """Whether Q spans the whole space."""
        return self.size == self.dimension

    def ritz(self) -> Ritz:
        """Compute the Ritz pairs of the present basis."""
        values, coordinates = torch.linalg.eigh(self._T[: self.size, : self.size])
        rounding = torch.finfo(self._basis.dtype).eps * float(values.abs().max())
        slack = coordinates[: self._kept].abs().T @ self._slack
        return Ritz(values, self.beta * coordinates[-1].abs() + slack + rounding, coordinates, rounding)

    def vectors(self, coordinates: Tensor) -> Tensor:
        """Combine the basis to Qᵀs for columns s [k, j], as rows [j, n]."""
        return coordinates.T.to(self._basis) @ self._basis[: self.size]

    def restart(self, keep: Sequence[int]) -> None:
        """Restart from the Ritz vectors with the indices `keep` and the next vector; Q must not be complete."""
        size = self.size
        ritz, coordinates = self._keep(keep)
        self._slack = ritz.residuals[list(keep)] - self.beta * coordinates[-1].abs() - ritz.rounding
        self._basis[self.size] = self._basis[size]
        self._T[: self.size, self.size] = self._T[self.size, : self.size] = self.beta * coordinates[-1]
        self._components[: self.size + 1] = torch.cat(
            [coordinates.T @ self._components[:size], self._components[size : size + 1]]
        )

    def deflate(self, keep: Sequence[int], v: Tensor, above: Tensor) -> None:
        """Keep the Ritz vectors with the indices `keep`, and go on from the part of v [n] orthogonal to them.

        This finds what the process so far was blind to: further eigenvectors of the same eigenvalues, and those that
        its start vector had nothing of.

        Args:
            keep: indices; fewer than n and than the basis has room for.
            v: a random vector, float64; overwritten.
            above: some μ [m]. From now on `unseen` [m] bounds |x·v|² / |v|² for eigenvectors x of the compression to
                what the kept vectors leave, with an eigenvalue μ or more. Each bound holds as long as no Ritz value but
                those of the kept vectors lies above its μ, and after a restart up to the squares of their residuals.
        """
        ritz, _ = self._keep(keep)
        self._slack = ritz.residuals[list(keep)] - ritz.rounding
        self._basis[self.size] = v.div_(self._orthogonalise(v))
        self.beta = math.inf
        self._watch(above)

    def _keep(self, keep: Sequence[int]) -> tuple[Ritz, Tensor]:
        """Put some Ritz vectors in place of the basis; return all Ritz pairs and the coordinates of those kept."""
        ritz, kept = self.ritz(), len(keep)
        coordinates = ritz.coordinates[:, list(keep)]
        combine = coordinates.T.to(self._basis)
        for columns in self._basis.split(_COLUMNS, dim=1):
            columns[:kept] = combine @ columns[: self.size]
        self._T.zero_()
        self._T[range(kept), range(kept)] = ritz.values[list(keep)]
        self._kept = self.size = kept
        return ritz, coordinates

    def _watch(self, above: Tensor) -> None:
        """Begin to follow how much of eigenvectors with the eigenvalues `above` the vectors have, in units of v's."""
        self._above, self.unseen = above.double(), torch.ones(len(above), dtype=torch.float64)
        self._components = torch.zeros(self.capacity + 1, len(above), dtype=torch.float64)
        self._components[self.size] = 1.0

    def _see(self) -> None:
        """Follow it by one vector: β x·q_k+1 = μ x·q_k − Σ T_ik x·q_i."""
        k = self.size
        known = self._components[:k]
        ahead = self._above * known[-1] - self._T[:k, k - 1] @ known
        # An invariant subspace has nothing of an x outside of it; and a bound near 0 needs no further digits.
        self._components[k] = (ahead / self.beta if self.beta else ahead.fill_(math.inf)).clamp(-_AMPLE, _AMPLE)
        self.unseen = 1 / self._components[: k + 1].square().sum(0)

    def remainder_form(self, g: Tensor, image: Tensor) -> tuple[float, float]:
        """Compute gᵀR g and ‖R g‖² for R = (1 − QᵀQ) H (1 − QᵀQ), the part of H outside Q, without a product.

        As H Qᵀ = Qᵀ T + β q eᵀ, R g = (1 − QᵀQ) H g − β (Q g)_k q.

        Args:
            g: any vector [n], float64.
            image: H g [n], float64; overwritten.
        """
        Q = self._basis[: self.size]
        if self.beta:
            last = float(torch.dot(Q[-1].double(), g))
            image.add_(self._basis[self.size], alpha=-self.beta * last)
        image -= (Q @ image.to(Q.dtype)) @ Q
        return float(torch.dot(g, image)), float(image.square().sum())
