"""Every measure of flatness, on models that are no plain functions of real weights: right, or refused at the door."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from odd_models import (
    AlwaysDropping,
    Clipped,
    Counting,
    Fourier,
    OddBuffers,
    Recurrent,
    Renormalised,
    bits,
    data,
)
from torch import nn

from tune_sam.analysis import Hessian, spectrum, top_eigenvalues
from tune_sam.analysis.landscape import Direction, line_between, losses, random_directions
from tune_sam.analysis.sharpness import average_case, worst_case


def hessian(model, loss_fn, batches, **options):
    with Hessian(model, loss_fn, batches, **options) as found:
        return found.product(torch.ones(found.size, dtype=torch.float64)).tolist()


def surface(model, loss_fn, batches):
    directions = random_directions(model, seed=0)
    return losses(model, loss_fn, batches, directions, [[0, 0], [0.1, 0.2]]).tolist()


MEASURES = {
    "spectrum": spectrum,
    "spectrum without graphs": partial(spectrum, graph_bytes=0),
    "top": partial(top_eigenvalues, k=1),
    "hessian": hessian,
    "worst": partial(worst_case, rho=0.1, steps=2),
    "average": partial(average_case, sigma=0.1, pairs=2),
    "surface": surface,
}
EACH = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def made(kind):
    torch.manual_seed(0)
    return kind(4, 3).double() if issubclass(kind, nn.Linear) else kind().double()


@EACH
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (AlwaysDropping, "two evaluations of the loss .* dropout that is always on"),
        (Counting, "two evaluations of the loss at the same weights gave"),
        (Renormalised, "writes to its parameter 'rows.weight' .* max_norm = None"),
        (Clipped, "writes to its parameter 'weight'"),
    ],
)
def test_a_loss_that_is_no_function_of_the_weights_is_refused(measure, kind, words):
    model = made(kind)
    before = bits(model)
    with pytest.raises(ValueError, match=words):
        measure(model, F.cross_entropy, data())
    assert bits(model) == before


def test_an_embedding_is_refused_before_its_rows_are_too_long():
    """At the weights nothing is shortened, on the way up something would be."""
    model = made(Renormalised)
    with torch.no_grad():
        model.rows.weight.mul_(0.1)
    with pytest.raises(ValueError, match="writes to its parameters when it is evaluated"):
        worst_case(model, F.cross_entropy, data(), 0.5)


@EACH
def test_buffers_of_any_kind_are_as_before(measure):
    model = made(OddBuffers)
    before, names = bits(model), [name for name, _ in model.named_buffers()]
    first = measure(model, F.cross_entropy, data())
    assert bits(model) == before
    assert [name for name, _ in model.named_buffers()] == names
    assert isinstance(first, type(measure(made(OddBuffers), F.cross_entropy, data())))


@EACH
def test_an_exception_leaves_buffers_of_any_kind_as_before(measure):
    model, calls = made(OddBuffers), []
    before = bits(model)

    def fails(outputs, targets):
        calls.append(None)
        if len(calls) == 3:
            raise KeyError("stop")
        return F.cross_entropy(outputs, targets)

    with pytest.raises(KeyError, match="stop"):
        measure(model, fails, data())
    assert bits(model) == before


# --- complex weights ---


def mean(outputs, _):
    return outputs.mean()


def test_the_worst_case_of_a_complex_weight_is_that_of_its_parts():
    """|c - 2| is 1.5 at c and 2.5 at most at a distance of 1; |c| is 2.5, so that of 0.4 |c| is the same."""
    assert worst_case(Fourier(), mean, data(), 1.0).value == pytest.approx(2.5**2 - 1.5**2, rel=1e-6)
    assert worst_case(Fourier(), mean, data(), 0.4, scale="adaptive").value == pytest.approx(4, rel=1e-6)


def test_the_average_case_of_a_complex_weight_is_that_of_its_parts():
    """Each part has the variance σ², and the Hessian the trace 4."""
    found = average_case(Fourier(), mean, data(), 0.5, pairs=400)
    assert abs(found.value - 0.5**2 / 2 * 4) < 4 * found.error
    assert found.error < 0.05


def test_random_directions_have_an_imaginary_part_and_the_filters_norms():
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(3, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)))
    (direction,) = random_directions(model, 0, count=1)
    drawn = direction.tensors["weight"]
    assert drawn.dtype == torch.complex128
    assert (drawn.imag.abs() > 0).all()
    assert torch.allclose(drawn.abs().square().sum(1), model.weight.detach().abs().square().sum(1))


def test_lines_move_complex_weights():
    start, end = Fourier(), Fourier()
    with torch.no_grad():
        end.c.fill_(2 - 0.5j)
    found = losses(start, mean, data(), [line_between(start, end)], [0, 0.5, 1])
    assert found.tolist() == pytest.approx([1.5**2, 0.5**2, 0.5**2])
    imaginary = Direction({"c": torch.tensor([1j])}, ())
    assert losses(start, mean, data(), [imaginary], [1]).tolist() == pytest.approx([2.5**2])


@pytest.mark.parametrize("measure", [spectrum, partial(top_eigenvalues, k=1), hessian])
def test_curvature_of_complex_weights_is_refused_before_anything_is_evaluated(measure):
    model, calls = Fourier(), []
    with pytest.raises(ValueError, match=r"real parameters, and 'c' is torch.complex128: .* torch.view_as_real"):
        measure(model, lambda *_: calls.append(None), data())
    assert not calls


@EACH
def test_a_complex_loss_is_refused(measure):
    model = made(nn.Linear)
    with pytest.raises(ValueError, match="the loss of a batch is torch.complex128: return a real number"):
        measure(model, lambda outputs, _: outputs.mean() * (1 + 0j), data())


# --- recurrent networks ---


@EACH
def test_recurrent_networks_are_measured_without_cudnn(measure):
    """Its kernels have no gradient in eval mode; off is what a machine without a GPU can see of that."""
    model = made(Recurrent)
    before = torch.backends.cudnn.enabled
    measure(model, F.cross_entropy, data())
    assert model.cudnn == {False}
    assert torch.backends.cudnn.enabled == before
    if torch.cuda.is_available():
        measure(model.cuda(), F.cross_entropy, [(x.cuda(), y.cuda()) for x, y in data()])


def test_the_hessian_of_a_recurrent_network_is_the_dense_one():
    model = made(Recurrent)
    names, params = zip(*model.named_parameters(), strict=True)
    x, y = (torch.cat(parts) for parts in zip(*data(), strict=True))

    def loss(flat):
        pieces = [piece.view(p.shape) for piece, p in zip(flat.split([p.numel() for p in params]), params, strict=True)]
        return F.cross_entropy(torch.func.functional_call(model, dict(zip(names, pieces, strict=True)), (x,)), y)

    dense = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in params]))
    assert hessian(model, F.cross_entropy, data()) == pytest.approx(dense.sum(1).tolist(), rel=1e-9, abs=1e-12)
