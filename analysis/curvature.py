"""The spectrum of the Hessian of a trained model's mean loss: both ends, their ratio, trace and density.

::

    print(spectrum(model, loss_fn, batches))

One Lanczos process with full re-orthogonalisation gives all of it from the same products (`tune_sam.analysis.lanczos`):

- **Ends.** The outermost Ritz values θ of the process, each judged by its own residual: an eigenvalue lies within that
  distance of θ. A few steps give λ_max to machine precision, while λ_min still has the wrong sign. The start vector is
  Gaussian, so that it is orthogonal to no eigenvector, however few entries that has.
- **Ranks.** A process sees an eigenvalue once, however often it occurs. So the pairs found are set aside, and processes
  from new Gaussian vectors follow in the space that is left, until eigenvalues above λ_5 are ruled out there (see
  `tune_sam.analysis.lanczos`), but for one case in :data:`MISSED`. Only then is the rank of an eigenvalue resolved.
- **Trace.** With the signs g [n] of a Rademacher vector, E gᵀHg = tr H (Hutchinson 1990). That form varies by
  2 (‖H‖_F² − Σ H_ii²) ≤ 2 ‖H‖_F², as little as any distribution allows; E ‖Hg‖² = ‖H‖_F² comes with it. The part of H
  inside the space Q of the probe before is taken exactly, and only the rest is left to chance (Meyer et al. 2021, arXiv
  2010.09649, Hutch++): tr H = tr QHQᵀ + E gᵀRg with R = (1 − QᵀQ) H (1 − QᵀQ).
- **Density.** Stochastic Lanczos quadrature (Ghorbani et al. 2019, arXiv 1901.10159; Papyan 2018, arXiv 1811.07062):
  the mean over probes of Σ_i s_1i² N(t; θ_i, σ²).

From the second probe on, the start vector is a g of the trace: its product is known.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from tune_sam.analysis.evaluation import Batches, LossFn
from tune_sam.analysis.hessian import GRAPH_BYTES, Hessian
from tune_sam.analysis.lanczos import Lanczos, Ritz
from tune_sam.analysis.memory import available, in_words, shortage_told

__all__ = [
    "BASIS_BYTES",
    "Density",
    "Eigenpairs",
    "Estimate",
    "Hessian",
    "Spectrum",
    "Spread",
    "spectrum",
    "top_eigenvalues",
]

BASIS_BYTES = 4 << 30
"""Default limit on more Lanczos vectors than are needed: 4 GiB, 54 of 19.6 million float32 parameters."""

FEWEST_VECTORS = 10
"""The least basis that a restart can work with: five wanted values at one end, some at the other, and room to grow."""

BESIDE_VECTORS = 8
"""Vectors of float64 at most that a process has beside its basis."""

TRACE_TOL = 0.1
"""A trace is resolved when its standard error is at most this fraction of it.

PyHessian's trace, the reference, stops 4 to 6 % off, without saying so."""

TRACE_DRAWS = 2
"""Random vectors for the trace where there is one probe. Each costs a product."""

GRID = 2048
"""Points of the density's grid, 3 to a standard deviation of its Gaussians."""

SIGMA = math.sqrt(1e-5) / 2
"""σ of the density's Gaussians in units of λ_max − λ_min: σ² = 1e-5 for a spectrum in [-1, 1] (Ghorbani et al.)."""

MISSED = 1e-4
"""The probability at most with which an eigenvalue that occurs is ruled out: that a Gaussian vector has so little of
its eigenvector."""

BATCH_STEPS = 24
"""Most products of one process for λ_max of one batch. The first starts at the eigenvector of all batches, so a handful
is usual; the second, which looks for what the first is blind to, needs about ten."""

BATCH_TOL = 1e-2
"""Relative residual at which λ_max of one batch is taken. Its error is about the square of that, far below its spread.
"""


@dataclass(frozen=True, eq=False)
class Estimate(float):
    """A number with its error. It is a `float`, too, with the same value.

    Attributes:
        value: the number.
        error: for an eigenvalue the residual of its Ritz pair (an eigenvalue lies that near), for a ratio the two
            residuals propagated, for a mean over random vectors its standard error.
        resolved: False if the value had not converged, or its rank is in doubt; it is then printed as "unresolved".
    """

    value: float
    error: float
    resolved: bool

    def __new__(cls, value: float, error: float, resolved: bool) -> "Estimate":
        """Make the `float`; the dataclass adds the rest."""
        return super().__new__(cls, value)

    def __getnewargs__(self) -> tuple[float, float, bool]:  # type: ignore[override]
        return self.value, self.error, self.resolved

    def __str__(self) -> str:
        return f"{self.value:.5g} ± {self.error:.1g}" if self.resolved else "unresolved"

    def __format__(self, spec: str) -> str:
        """Format a resolved number as a float, and the word "unresolved" to the same width."""
        if not spec:
            return str(self)
        width = re.match(r"(?:.?[<>=^])?[-+ ]?0?(\d*)", spec)
        return format(self.value, spec) if self.resolved else str(self).rjust(int(width and width[1] or 0))


@dataclass(frozen=True, eq=False)
class Density:
    """The density of the Hessian's eigenvalues, smoothed by Gaussians; its integral over the grid is 1.

    Attributes:
        grid: eigenvalues t [g], ascending, from 6 σ below λ_min to 6 σ above λ_max; float64 on the CPU, as all here.
        values: the density [g].
        error: its standard error over the probes [g]; nan for a single probe.
        sigma: σ.
        nodes, weights: quadrature nodes θ and weights (which add up to 1) of each probe, to smooth otherwise.
    """

    grid: Tensor
    values: Tensor
    error: Tensor
    sigma: float
    nodes: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


@dataclass(frozen=True)
class Spread:
    """λ_max of every single batch.

    Attributes:
        values: one for each batch, in order.
        mean, std, min, max: over the batches; `std` (with n − 1) is nan for a single batch.
        products: products with one batch's Hessian that this took.
    """

    values: tuple[Estimate, ...]
    mean: float
    std: float
    min: float
    max: float
    products: int


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What `spectrum` found.

    Attributes:
        lambda_max, lambda_min: the largest and the smallest eigenvalue, signed.
        lambda_5: the fifth largest, multiplicities counted; nan with fewer than five Ritz values.
        ratio: |λ_max / λ_min|, the published study's λ_M/λ_m. A small one means much negative curvature, not a flat
            minimum.
        lambda_max_over_lambda_5: λ_max / λ_5 (Foret et al. 2021, §4.2).
        trace: tr H with its standard error; resolved if that is at most `TRACE_TOL` of it.
        density: of the eigenvalues.
        batch_lambda_max: λ_max of every single batch.
        products: products with the Hessian of all batches.
        steps: Lanczos steps of each probe, with the first those that settle the ranks. From the second probe on, the
            trace's product is one of them.
        samples: of all batches together, by what the loss counts.
        size: n, the parameters that were differentiated.
        loss: the mean loss over all batches.
        unused: names of parameters that need gradients but get none, and were left out.
    """

    lambda_max: Estimate
    lambda_min: Estimate
    lambda_5: Estimate
    ratio: Estimate
    lambda_max_over_lambda_5: Estimate
    trace: Estimate
    density: Density = field(repr=False)
    batch_lambda_max: Spread = field(repr=False)
    products: int
    steps: tuple[int, ...]
    samples: float
    size: int
    loss: float
    unused: tuple[str, ...]

    def __str__(self) -> str:
        spread = self.batch_lambda_max
        lines = {
            "λ_max": self.lambda_max,
            "λ_min": self.lambda_min,
            "|λ_max/λ_min|": self.ratio,
            "λ_max/λ_5": self.lambda_max_over_lambda_5,
            "trace": self.trace,
            "λ_max of a batch": f"{spread.min:.5g} to {spread.max:.5g}, standard deviation {spread.std:.2g}, "
            f"{len(spread.values)} batches",
            "sample": f"{self.samples} samples, {self.size} parameters, {self.products} products",
        }
        if self.unused:
            lines["without gradient"] = ", ".join(self.unused)
        return "\n".join(f"{name:<16}  {value}" for name, value in lines.items())


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """What `top_eigenvalues` found, from the largest eigenvalue down.

    Attributes:
        values: eigenvalues [k], float64 on the CPU.
        vectors: orthonormal eigenvectors as rows [k, n], in the dtype and on the device of the parameters.
        residuals: ‖H v − λ v‖ [k], float64 on the CPU.
        resolved: whether each residual is at most `tol` · |λ|, or what :func:`spectrum` takes for 0, and no larger
            eigenvalue can have been missed.
        names: of the parameters that make up the n, in order, each flattened.
        unused: names of parameters that need gradients but get none, and were left out.
        products: products with the Hessian.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    resolved: tuple[bool, ...]
    names: tuple[str, ...]
    unused: tuple[str, ...]
    products: int


def spectrum(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    steps: int = 100,
    probes: int = 3,
    tol: float = 1e-3,
    seed: int = 0,
    max_vectors: int | None = None,
    graph_bytes: int = GRAPH_BYTES,
) -> Spectrum:
    """Estimate both ends, ratio, trace and density of the spectrum of the Hessian of the mean loss over all batches.

    The model is evaluated in eval mode and left as it was found; see :class:`tune_sam.analysis.hessian.Hessian`, also
    for the way batches are weighted. Memory beside the model's own is `max_vectors` vectors, `graph_bytes`, the graph
    of one batch and at most eight vectors of float64: 7.2 GiB and one graph for 19.6 million float32 parameters. Where
    less is left on the device, there are fewer vectors and graphs.

    Args:
        model: called as `model(inputs)`.
        loss_fn: `loss_fn(outputs, targets)`, the mean over a batch.
        batches: pairs (inputs, targets), the same on every walk.
        steps: most products for one process, by default 100. 30 to 60 resolve both ends of the networks seen so far.
        probes: start vectors, by default 3. The first, which is Gaussian, runs until both ends and λ_5 are resolved; in
            trained networks λ_5 comes before λ_min. Another 10 to 30 products settle the ranks; more where eigenvalues
            occur several times. The other probes serve the trace, the density and their errors; they stop when their
            ends are resolved, or after as many steps as the first. One probe gives the ends as well as three do, a
            trace from `TRACE_DRAWS` more products outside the space that it found, and a density without an error.
        tol: an end is resolved when its residual is at most `tol` · |λ|, by default 1e-3, or ε ‖H‖ and that much again,
            with the ε of the model's dtype. No product is better than that, so that the λ_min of a convex loss, 0, is
            resolved, too; a ratio to it is not.
        seed: of the start vectors.
        max_vectors: most Lanczos vectors in memory, 10 or more; by default what `BASIS_BYTES`, 4 GiB, hold, or 10.
            There are fewer where the device has no room for so many. Where `steps` need more, the process is restarted
            with the Ritz vectors next to both ends, which takes more products; the density then comes from the first
            pass.
        graph_bytes: limit on kept gradient graphs, by default `GRAPH_BYTES`, 2 GiB; without them a product takes two
            to three times as long.

    Raises:
        ValueError: an argument is out of range, there is nothing to differentiate, no sample, something is not finite,
            or memory is too small.
    """
    _check(steps=steps, probes=probes, tol=tol)
    with Hessian(model, loss_fn, batches, graph_bytes=graph_bytes) as hessian:
        basis = _basis(hessian, steps, max_vectors)
        lanczos = Lanczos(hessian.product, basis, seed)
        generator = torch.Generator().manual_seed(seed)
        gaussian = partial(_gaussian, hessian, generator)
        traces = []

        def draw() -> tuple[Tensor, Tensor]:
            signs = _rademacher(hessian, generator)
            image = hessian.product(signs)
            traces.append(_deflated_trace(lanczos, signs, image.clone()))
            return signs, image

        lanczos.start(gaussian())
        runs = [_run(lanczos, steps, tol)]
        signs, image = [draw() for _ in range(TRACE_DRAWS if probes == 1 else 1)][-1]
        ranked = _rank(lanczos, 5, steps, tol, gaussian)
        top = lanczos.vectors(ranked.ritz.coordinates[:, -1:])[0]
        for probe in range(1, probes):
            lanczos.start(signs, image)
            runs.append(_run(lanczos, min(runs[0].steps, lanczos.capacity), tol, fifth=False))
            if probe < probes - 1:
                signs, image = draw()
        ends = _Ends.of(runs, ranked, tol)
        spread = _spread(hessian, basis, top, ends.largest, tol, gaussian)
        return Spectrum(
            ends.largest,
            ends.smallest,
            ends.fifth,
            ratio=_quotient(ends.largest, ends.smallest, tol, absolute=True),
            lambda_max_over_lambda_5=_quotient(ends.largest, ends.fifth, tol),
            trace=_trace(traces),
            density=_density(runs, ends),
            batch_lambda_max=spread,
            products=hessian.products,
            steps=(ranked.steps, *(run.steps for run in runs[1:])),
            samples=hessian.samples,
            size=hessian.size,
            loss=hessian.loss,
            unused=hessian.unused,
        )


def top_eigenvalues(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    k: int,
    *,
    steps: int = 100,
    tol: float = 1e-3,
    seed: int = 0,
    max_vectors: int | None = None,
    graph_bytes: int = GRAPH_BYTES,
) -> Eigenpairs:
    """Find the k largest eigenvalues, as signed numbers and as often as each occurs, and their eigenvectors.

    Limits of memory are those of :func:`spectrum`; k vectors more are returned.

    Args:
        model, loss_fn, batches: as for :func:`spectrum`.
        k: at most the number of parameters and `steps`.
        steps: most products of one process, by default 100. There is one process at least for the pairs, one more for
            their ranks, and more where eigenvalues occur several times.
        tol: a pair is resolved when its residual is at most `tol` · |λ|, or as for :func:`spectrum`; by default 1e-3.
        seed: of the start vectors.
        max_vectors: as for :func:`spectrum`, and at least 2 k.
        graph_bytes: as for :func:`spectrum`.

    Raises:
        ValueError: as for :func:`spectrum`, or k is too large.
    """
    _check(steps=steps, k=k, tol=tol)
    with Hessian(model, loss_fn, batches, graph_bytes=graph_bytes) as hessian:
        if k > min(hessian.size, steps):
            raise ValueError(
                f"k must be at most the number of parameters, {hessian.size}, and of steps, {steps}; got {k}"
            )
        lanczos = Lanczos(hessian.product, _basis(hessian, steps, max_vectors, fewest=max(FEWEST_VECTORS, 2 * k)), seed)
        generator = torch.Generator().manual_seed(seed)
        gaussian = partial(_gaussian, hessian, generator)

        def keep(size: int) -> Sequence[int]:
            return range(size - k - (size - k) // 2, size)

        lanczos.start(gaussian())
        _extend(
            lanczos,
            steps,
            lambda ritz: _leading(ritz, tol) >= k or lanczos.beta == 0,
            keep,
        )
        ranked = _rank(lanczos, k, steps, tol, gaussian, keep)
        ritz = ranked.ritz
        top = list(range(len(ritz.values) - 1, len(ritz.values) - 1 - k, -1))
        return Eigenpairs(
            ritz.values[top],
            lanczos.vectors(ritz.coordinates[:, top]),
            ritz.residuals[top],
            tuple(rank < ranked.certain and _resolved(ritz, tol)[i] for rank, i in enumerate(top)),
            hessian.names,
            hessian.unused,
            hessian.products,
        )


# --- probes ---


@dataclass(frozen=True, eq=False)
class _Probe:
    """One probe's Ritz pairs at its end, and its quadrature from before the first restart."""

    ritz: Ritz
    nodes: Tensor
    weights: Tensor
    steps: int


def _run(lanczos: Lanczos, steps: int, tol: float, fifth: bool = True) -> _Probe:
    """Step until both ends, and λ_5 if asked for, are resolved, a subspace is invariant or the steps are used up."""

    def done(ritz: Ritz) -> bool:
        resolved = _resolved(ritz, tol)
        further = not fifth or _leading(ritz, tol) >= 5
        return resolved[0] and resolved[-1] and further or lanczos.beta == 0

    first = _extend(lanczos, min(steps, lanczos.capacity), done)
    return _Probe(_extend(lanczos, steps, done), first.values, first.weights, lanczos.steps)


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Ritz pairs whose ranks from above have been looked into.

    Attributes:
        ritz: all pairs.
        certain: how many of them, from the largest down, are those of the largest eigenvalues.
        steps: of the process and those that followed it.
    """

    ritz: Ritz
    certain: int
    steps: int


def _both_ends(size: int) -> Sequence[int]:
    """Choose the Ritz vectors that a restart keeps, by index: about half, λ_max … λ_5 always among them."""
    return [*range(max(1, size // 4)), *range(size - max(5, size // 4), size)]


def _rank(
    lanczos: Lanczos,
    k: int,
    steps: int,
    tol: float,
    draw: Callable[[], Tensor],
    keep: Callable[[int], Sequence[int]] = _both_ends,
) -> _Ranked:
    """Make sure that the k largest Ritz values are the k largest eigenvalues, with further processes of `steps` each.

    Each goes on in the space that the resolved pairs leave, until that can have no eigenvalue above the k-th, or has
    one and that is resolved, too. Where fewer than k pairs were resolved to begin with, the ranks of those are settled.

    Args:
        lanczos: at the end of a process.
        k: how many.
        steps, tol: as for :func:`spectrum`.
        draw: makes a Gaussian vector [n].
        keep: which Ritz vectors a restart keeps.
    """
    ritz, k = lanczos.ritz(), min(k, lanczos.dimension)
    if lanczos.beta:
        k = min(k, _leading(ritz, tol))
    ruled_out = math.pi / 2 * MISSED**2 / lanczos.dimension
    while not lanczos.complete:
        size, found = len(ritz.values), _leading(ritz, tol)
        if k == 0 or found < min(k, size):
            return _Ranked(ritz, 0, lanczos.steps)
        kept = range(size - min(found, max(k, lanczos.capacity // 2)), size)
        # Above the first, the second, … Where there are fewer than k, whatever comes is one more.
        above = torch.full((k,), -math.inf, dtype=torch.float64)
        above[:size] = (ritz.values + _allowance(ritz, tol)).flip(0)[:k]
        known = _count(ritz.values[kept], above)
        lanczos.deflate(kept, draw(), above)

        def more(ritz: Ritz, above: Tensor = above, known: Tensor = known) -> Tensor:
            return _count(ritz.values, above) > known

        def done(ritz: Ritz, more: Callable[[Ritz], Tensor] = more) -> bool:
            settled = bool(more(ritz)[-1] or lanczos.unseen[-1] < ruled_out)
            return settled and _leading(ritz, tol) >= min(k, len(ritz.values))

        limit = lanczos.steps + steps
        lanczos.step()
        ritz = _extend(lanczos, limit, done, keep)
        found_more = more(ritz)
        if not found_more[-1] or lanczos.steps == limit:
            certain = int(((lanczos.unseen < ruled_out) & ~found_more).sum())
            return _Ranked(ritz, min(certain, _leading(ritz, tol)), lanczos.steps)
    return _Ranked(ritz, k, lanczos.steps)


def _count(values: Tensor, above: Tensor) -> Tensor:
    """Count the values [m] above each threshold [k]."""
    return (values[:, None] > above).sum(0)


def _extend(
    lanczos: Lanczos, steps: int, done: Callable[[Ritz], bool], keep: Callable[[int], Sequence[int]] = _both_ends
) -> Ritz:
    """Step until `done` or `steps` are used up, with restarts where the basis is full."""
    ritz = lanczos.ritz() if lanczos.size else None
    while lanczos.steps < steps and not (ritz and done(ritz)):
        if lanczos.full:
            if lanczos.complete:
                break
            lanczos.restart(keep(lanczos.size))
        lanczos.step()
        # T's eigenvalues cost k³: look less often where there are many.
        look = lanczos.size % (1 + lanczos.size // 40) == 0 or lanczos.full or lanczos.steps == steps
        ritz = lanczos.ritz() if look else None
    return ritz or lanczos.ritz()


def _allowance(ritz: Ritz, tol: float) -> Tensor:
    """Return the residuals with which Ritz values count as resolved: `tol` of them, or what rounding leaves of 0."""
    return (tol * ritz.values.abs()).clamp(min=2 * ritz.rounding)


def _resolved(ritz: Ritz, tol: float) -> list[bool]:
    return (ritz.residuals <= _allowance(ritz, tol)).tolist()


def _leading(ritz: Ritz, tol: float) -> int:
    """Count the Ritz values that are resolved, from the largest down to the first that is not."""
    resolved = _resolved(ritz, tol)[::-1]
    return resolved.index(False) if False in resolved else len(resolved)


def _gaussian(hessian: Hessian, generator: torch.Generator) -> Tensor:
    """Draw a Gaussian vector [n], float64; on the CPU, so that every device sees the same."""
    return torch.randn(hessian.size, dtype=torch.float64, generator=generator).to(hessian.device)


def _rademacher(hessian: Hessian, generator: torch.Generator) -> Tensor:
    """Draw signs [n], float64; on the CPU, so that every device sees the same."""
    signs = torch.randint(0, 2, (hessian.size,), dtype=torch.int8, generator=generator)
    return signs.to(hessian.device, torch.float64).mul_(2).sub_(1)


def _basis(hessian: Hessian, steps: int, max_vectors: int | None, fewest: int = FEWEST_VECTORS) -> Tensor:
    """Allocate the Lanczos vectors, as rows of the parameters' dtype.

    Raises:
        ValueError: the limit, or the memory, is too small.
    """
    vector = hessian.size * torch.finfo(hessian.dtype).bits // 8
    wanted = min(max(steps, fewest), hessian.size) + 1
    limit = max(BASIS_BYTES // vector, fewest) if max_vectors is None else max_vectors
    if limit < min(wanted, fewest):
        raise ValueError(
            f"{min(wanted, fewest)} Lanczos vectors of {in_words(vector)} are needed, but max_vectors is "
            f"{max_vectors}; give a larger max_vectors"
        )
    rows = min(wanted, limit)
    way_out = "use a machine, or a GPU fraction, with more memory"
    if (left := available(hessian.device)) is not None:
        beside = BESIDE_VECTORS * 8 * hessian.size + hessian.largest_graph  # for a product
        rows = min(rows, max((left - beside) // vector, min(wanted, fewest)))
        if rows * vector > left:
            raise ValueError(
                f"{rows} Lanczos vectors of {in_words(vector)} do not fit into the {in_words(left)} that "
                f"{hessian.device} has left; {way_out}"
            )
    with shortage_told(f"{rows} Lanczos vectors of {in_words(vector)} do not fit; {way_out}"):
        return torch.empty(rows, hessian.size, dtype=hessian.dtype, device=hessian.device)


# --- estimates ---


@dataclass(frozen=True)
class _Ends:
    largest: Estimate
    smallest: Estimate
    fifth: Estimate

    @classmethod
    def of(cls, probes: Sequence[_Probe], ranked: _Ranked, tol: float) -> "_Ends":
        found = [*(probe.ritz for probe in probes), ranked.ritz]
        largest, fifth = extreme(found, -1, tol), extreme([ranked.ritz], -5, tol)
        # No vector of any probe may say otherwise.
        beyond = largest.value - float(ranked.ritz.values[-1]) > float(_allowance(ranked.ritz, tol)[-1])
        certain = 0 if beyond else ranked.certain
        return cls(
            replace(largest, resolved=largest.resolved and certain >= 1),
            extreme(found, 0, tol),
            replace(fifth, resolved=fifth.resolved and certain >= 5),
        )


def extreme(probes: Sequence[Ritz], index: int, tol: float) -> Estimate:
    """Take the eigenvalue with this index from the probe with the least residual.

    Ritz values never lie beyond the eigenvalue of their rank. Where another probe's lies further out than the
    residual allows, the best pair belongs to an eigenvalue further in, and the other probe is right.
    """
    found = [ritz for ritz in probes if len(ritz.values) >= (-index if index < 0 else index + 1)]
    estimates = [
        Estimate(float(ritz.values[index]), float(ritz.residuals[index]), _resolved(ritz, tol)[index]) for ritz in found
    ]
    if not estimates:
        return Estimate(math.nan, math.nan, False)
    best = min(estimates, key=lambda estimate: estimate.error)
    outwards = 1 if index < 0 else -1
    beyond = [e for e in estimates if outwards * (e.value - best.value) > best.error]
    return max(beyond, key=lambda estimate: outwards * estimate.value) if beyond else best


def _quotient(a: Estimate, b: Estimate, tol: float, absolute: bool = False) -> Estimate:
    """Divide, with the errors propagated; resolved if both are, and neither is 0 to its error."""
    if b.value == 0 or math.isnan(b.value):
        return Estimate(math.nan if a.value == 0 or math.isnan(b.value) else math.inf, math.nan, False)
    value = a.value / b.value
    error = abs(a.error / b.value) + abs(value * b.error / b.value)
    resolved = a.resolved and b.resolved and error <= 2 * tol * abs(value)
    return Estimate(abs(value) if absolute else value, error, resolved)


def _deflated_trace(before: Lanczos, signs: Tensor, image: Tensor) -> tuple[float, float]:
    """Estimate tr H by tr QHQᵀ + gᵀRg, Q being the space of the probe before; with it, bound the estimate's variance.

    The variance is at most 2 ‖R‖_F², which 2 ‖Rg‖² estimates.
    """
    form, square = before.remainder_form(signs, image)
    ritz = before.ritz()
    rounding = ritz.rounding * len(ritz.values)
    return float(ritz.values.sum()) + form, 2 * square + rounding**2


def _trace(samples: Sequence[tuple[float, float]]) -> Estimate:
    """Average (value, variance) pairs, with the standard error of the mean.

    The variances bound those of the values, so the error does not rest on the scatter of two or three values.
    """
    values, variances = zip(*samples, strict=True)
    mean, error = sum(values) / len(values), math.sqrt(sum(variances)) / len(values)
    return Estimate(mean, error, error <= TRACE_TOL * abs(mean))


def _density(probes: Sequence[_Probe], ends: _Ends) -> Density:
    low = min(float(probe.nodes[0]) for probe in probes)
    high = max(float(probe.nodes[-1]) for probe in probes)
    # All eigenvalues equal: any width will do, as long as the grid can tell its points apart.
    width = high - low if high - low > 1e-9 * abs(high) else abs(high) or 1.0
    sigma = SIGMA * width
    grid = torch.linspace(low - 6 * sigma, high + 6 * sigma, GRID, dtype=torch.float64)
    each = torch.stack(
        [torch.exp(-0.5 * ((grid[:, None] - probe.nodes) / sigma).square()) @ probe.weights for probe in probes]
    ) / (sigma * math.sqrt(2 * math.pi))
    error = each.std(0) / math.sqrt(len(probes)) if len(probes) > 1 else torch.full_like(grid, math.nan)
    return Density(
        grid,
        each.mean(0),
        error,
        sigma,
        tuple(probe.nodes for probe in probes),
        tuple(probe.weights for probe in probes),
    )


def _spread(
    hessian: Hessian, basis: Tensor, start: Tensor, whole: Estimate, tol: float, draw: Callable[[], Tensor]
) -> Spread:
    """Find λ_max of each batch, by a few Lanczos steps from the top eigenvector of all of them, and settle its rank."""
    tol = max(tol, BATCH_TOL)
    values, products = [], 0
    for product in hessian.batch_products() if hessian.batches > 1 else ():
        lanczos = Lanczos(product, basis)
        lanczos.start(start)
        _extend(
            lanczos,
            BATCH_STEPS,
            lambda ritz: _resolved(ritz, tol)[-1] or lanczos.beta == 0,  # noqa: B023 (called at once)
        )
        ranked = _rank(lanczos, 1, BATCH_STEPS, tol, draw)
        products += ranked.steps
        value = extreme([ranked.ritz], -1, tol)
        values.append(replace(value, resolved=value.resolved and ranked.certain == 1))
    values = values or [whole]
    numbers = torch.tensor([value.value for value in values], dtype=torch.float64)
    std = float(numbers.std()) if len(values) > 1 else math.nan
    return Spread(tuple(values), float(numbers.mean()), std, float(numbers.min()), float(numbers.max()), products)


def _check(tol: float, **counts: int) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {count!r}")
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, got {tol!r}")
