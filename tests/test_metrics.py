"""Metrics of a split, gathered batch by batch, against those of torchmetrics and scikit-learn."""

import pytest
import torch
from torch.nn import functional as F

from tune_sam.metrics import Calibration, Classification, finite, gathering, numbers

CPU = torch.device("cpu")


def told(metric, outputs, targets, size=7):
    for part in zip(outputs.split(size), targets.split(size), strict=True):
        metric.update(*part)
    return metric.compute()


@pytest.mark.slow
def test_the_calibration_error_is_torchmetrics():
    from torchmetrics.functional.classification import multiclass_calibration_error  # takes seconds to import

    random = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(200, 4, generator=random), torch.randint(0, 4, (200,), generator=random)
    expected = multiclass_calibration_error(logits.softmax(1), targets, num_classes=4, n_bins=15)
    found = told(Calibration(), logits, targets)
    assert found["ece"] == pytest.approx(float(expected), abs=1e-6)
    assert found["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits.double(), targets)))
    assert told(Calibration(), torch.tensor([[50.0, 0.0]]), torch.tensor([0]))["ece"] == 0
    assert told(Calibration(), torch.tensor([[50.0, 0.0]]), torch.tensor([1]))["ece"] == 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_probabilities_are_as_good_as_logits(dtype):
    random = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 4, generator=random), torch.randint(0, 4, (50,), generator=random)
    for outputs in (logits, logits.softmax(1), logits.log_softmax(1)):
        found = told(Calibration(), outputs, targets.to(dtype))
        assert found["nll"] == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
        assert found["ece"] == pytest.approx(told(Calibration(), logits, targets)["ece"], rel=1e-5)
    certain = told(Calibration(), torch.eye(4)[targets], targets.to(dtype))
    assert certain == {"nll": 0, "ece": 0}


def test_tokens_that_are_ignored_count_in_no_score():
    random = torch.Generator().manual_seed(1)
    outputs, targets = torch.randn(9, 5, 3, generator=random), torch.randint(0, 3, (9, 5), generator=random)
    padded = targets.clone()
    padded[:, 3:] = -100
    kept = told(Classification("abc"), outputs[:, :3].flatten(0, 1), targets[:, :3].flatten())
    assert told(Classification("abc", -100), outputs, padded) == pytest.approx(kept)
    kept = told(Calibration(), outputs[:, :3].flatten(0, 1), targets[:, :3].flatten())
    assert told(Calibration(-100), outputs, padded) == pytest.approx(kept)


def test_labels_of_a_byte_are_counted_as_any_others():
    labels = torch.arange(100) % 20
    outputs = torch.nn.functional.one_hot(labels, 20).float()
    assert told(Classification(), outputs, labels.to(torch.uint8))["accuracy"] == 1


def test_a_function_is_given_outputs_and_targets_of_several_tensors():
    whole = {"a": torch.arange(6.0), "b": torch.arange(12).reshape(6, 2)}
    metric = gathering({"sum": lambda outputs, targets: outputs[0].sum() + targets["b"].sum()}, CPU)
    for part in torch.arange(6).split(4):
        metric.update((whole["a"][part], whole["b"][part]), {name: tensor[part] for name, tensor in whole.items()})
    assert numbers(metric.compute()) == {"sum": 15.0 + 66.0}


@pytest.mark.slow
def test_metrics_of_torchmetrics_and_functions_give_their_own_numbers():
    from torchmetrics import MetricCollection
    from torchmetrics.regression import MeanAbsoluteError, R2Score

    random = torch.Generator().manual_seed(2)
    targets = torch.randn(40, generator=random)
    outputs = targets + 0.3 * torch.randn(40, generator=random)
    expected = {
        "r2": float(1 - (targets - outputs).square().sum() / (targets - targets.mean()).square().sum()),
        "mae": float((targets - outputs).abs().mean()),
    }

    def mae(outputs, targets):
        return (outputs - targets).abs().mean()

    for metrics in ({"r2": R2Score(), "mae": mae}, MetricCollection({"r2": R2Score(), "mae": MeanAbsoluteError()})):
        assert numbers(told(gathering(metrics, CPU), outputs, targets)) == pytest.approx(expected, rel=1e-5)


def test_what_is_no_metric_is_named():
    with pytest.raises(TypeError, match=r"^metrics\(\): r2 is a str; give a metric of torchmetrics, or a function$"):
        gathering({"r2": "R2"}, CPU)
    with pytest.raises(ValueError, match=r"^metrics\(\): each is not one number"):
        numbers({"one": 1.0, "each": torch.zeros(3)})
    with pytest.raises(
        ValueError, match=r"^metrics\(\): 'loss' is what loss\(\) gives; give that metric another name$"
    ):
        numbers({"r2": 0.5, "loss": 1.0})
    with pytest.raises(ValueError, match=r"^the metric auroc of the validation split is nan, though"):
        finite({"auroc": float("nan")}, "validation")


def test_a_function_of_a_split_whose_batches_differ_in_shape_is_refused_in_a_sentence():
    metric = gathering({"score": lambda outputs, targets: (outputs == targets).float().mean()}, CPU)
    metric.update(torch.zeros(4, 7), torch.zeros(4, 7))
    metric.update(torch.zeros(4, 9), torch.zeros(4, 9))
    with pytest.raises(ValueError, match="those of two batches differ in shape; pad all to one length"):
        metric.compute()


@pytest.mark.parametrize("accuracy", [91.25, 1.001, -0.5])
def test_an_accuracy_that_is_no_share_is_refused(accuracy):
    with pytest.raises(ValueError, match=rf"^metrics\(\): accuracy is {accuracy}; give the share of hits, from 0 to 1"):
        numbers({"r2": 17.0, "accuracy": accuracy})
    assert numbers({"accuracy": 1 + 1e-7, "macro_f1": 4.0}) == {"accuracy": 1 + 1e-7, "macro_f1": 4.0}
