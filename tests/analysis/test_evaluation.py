"""`tune_sam.analysis.evaluation`: the mean loss and its gradient over a sample, and a model that is as before."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import DEVICES, KINDS, SAMPLES, batches, disturbed, everything, network
from torch import nn

from tune_sam.analysis.evaluation import mean_gradient, mean_loss, move, named_tensors, undisturbed

CLOSE = {"rtol": 1e-12, "atol": 1e-13}
KIND = pytest.mark.parametrize("kind", KINDS)


@KIND
@pytest.mark.parametrize("device", DEVICES)
def test_loss_and_gradient_are_those_of_one_large_batch(kind, device):
    model = network(kind).to(device)
    ((inputs, targets),) = batches(kind, (SAMPLES,), device)
    model.eval()
    expected = F.cross_entropy(model(inputs), targets)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    model.train()
    with undisturbed(model):
        loss, samples = mean_loss(model, F.cross_entropy, batches(kind, (9, 4, 1), device))
        again, found, count = mean_gradient(
            model, F.cross_entropy, batches(kind, (2, 8, 4), device), list(model.parameters())
        )
    assert samples == count == SAMPLES
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert again == pytest.approx(expected.item(), rel=1e-12)
    for got, want in zip(found, gradients, strict=True):
        torch.testing.assert_close(got, want, **CLOSE)


@KIND
@pytest.mark.parametrize("raises", [False, True])
def test_the_model_is_as_before(kind, raises):
    model = disturbed(network(kind))
    before = everything(model)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def spoil():
        with undisturbed(model) as start:
            mean_gradient(model, F.cross_entropy, batches(kind), parameters)
            move(named_tensors(model), {name: tensor + 1 for name, tensor in start.items()})
            torch.rand(5)
            if raises:
                raise KeyError("stop")

    if raises:
        with pytest.raises(KeyError, match="stop"):
            spoil()
    else:
        spoil()
    assert everything(model) == before


def test_autocast_of_the_caller_is_off_inside_and_on_again_after():
    model, data = nn.Linear(3, 2), [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))]
    with torch.autocast("cpu", dtype=torch.bfloat16), undisturbed(model):
        loss, _ = mean_loss(model, lambda outputs, targets: F.cross_entropy(outputs, targets).float(), data)
        inside = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with undisturbed(model):
            pass
        assert torch.is_autocast_enabled("cpu")
    assert not inside
    assert loss == F.cross_entropy(model(data[0][0]), data[0][1]).item()


def test_attention_goes_the_same_way_with_and_without_gradients(monkeypatch):
    """torch has a fast path for evaluations without gradients; its sums may differ in the last digits."""
    model, fast = network("attention"), []
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *_: fast.append("taken"))
    with undisturbed(model):
        without, _ = mean_loss(model, F.cross_entropy, batches("attention"))
        with_gradient, _, _ = mean_gradient(model, F.cross_entropy, batches("attention"), list(model.parameters()))
    assert without == with_gradient
    assert not fast


def test_a_network_that_draws_draws_the_same_each_time():
    class Noisy(nn.Linear):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5, training=True)

    model, data = Noisy(3, 2), [(torch.randn(40, 3), torch.zeros(40, dtype=torch.long))]
    with undisturbed(model):
        first, second = (mean_loss(model, F.cross_entropy, data)[0] for _ in range(2))
    assert first == second


def test_unused_parameters_have_no_gradient_and_grad_is_not_touched():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(2, 2)})
    model.forward = model["used"].forward
    data = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))]
    with torch.no_grad(), undisturbed(model):  # also where the caller has gradients off
        _, found, _ = mean_gradient(model, F.cross_entropy, data, list(model.parameters()))
    assert [gradient is None for gradient in found] == [False, False, True, True]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("data", "loss_fn", "words"),
    [
        ([], F.cross_entropy, "no samples"),
        ([(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))], F.cross_entropy, "no samples"),
        (
            iter([(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long))]),
            F.cross_entropy,
            "walked once only, got a list_it",
        ),
        (
            [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))],
            lambda x, y: F.cross_entropy(x, y, reduction="none"),
            r"shape \(4,\): return the batch's mean",
        ),
    ],
)
def test_refusals(data, loss_fn, words):
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=words), undisturbed(model):
        mean_loss(model, loss_fn, data)


def test_a_loss_without_parameters_is_refused():
    model = nn.Linear(3, 2).requires_grad_(False)
    data = [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(ValueError, match="unfreeze"), undisturbed(model):
        mean_gradient(model, F.cross_entropy, data, [torch.zeros(1, requires_grad=True)])
