import math

import pytest
import torch

from tune_sam.loss import smoothed_kl


@pytest.mark.parametrize("classes", [2, 5, 10])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_the_loss_is_the_kl_divergence_to_the_smoothed_target(classes, smoothing):
    torch.manual_seed(0)
    logits = torch.randn(7, classes, dtype=torch.float64)
    targets = torch.randint(classes, (7,))
    expected = 0.0
    for row, target in zip(logits.log_softmax(1), targets, strict=True):
        for c in range(classes):
            p = 1 - smoothing if c == target else smoothing / (classes - 1)
            expected += (p * (math.log(p) - float(row[c])) if p else 0.0) / 7
    assert float(smoothed_kl(logits, targets, smoothing)) == pytest.approx(expected, abs=1e-12)


def test_the_loss_is_zero_where_the_prediction_is_the_smoothed_target():
    prediction = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    assert float(smoothed_kl(prediction, torch.tensor([0]))) == pytest.approx(0, abs=1e-12)
