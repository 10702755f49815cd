"""The loss of the published study, and the targets that count in a loss."""

import math

import torch.nn.functional as F
from torch import Tensor

from tune_sam.trees import differing


def smoothed_kl(logits: Tensor, targets: Tensor, smoothing: float = 0.1, reduction: str = "mean") -> Tensor:
    """Compute the KL divergence from the smoothed target to the prediction, in nats; its minimum is 0.

    The target has 1 - s on the class and s / (C - 1) on each other class. `cross_entropy` spreads its smoothing over
    all C classes; the same loss is its value for s · C / (C - 1), less the target's entropy.

    Args:
        logits: [n, C].
        targets: int64 [n].
        smoothing: s, in [0, 1); by default 0.1, the published study's.
        reduction: `mean` for a scalar, `none` for [n].

    Raises:
        ValueError: there is but one class.
    """
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(
            "there is one output, and this loss is of classes; give the network two, or a loss of your own"
        )
    entropy = -sum(p * math.log(p) * n for p, n in ((1 - smoothing, 1), (smoothing / (classes - 1), classes - 1)) if p)
    spread = smoothing * classes / (classes - 1)
    return F.cross_entropy(logits, targets, label_smoothing=spread, reduction=reduction) - entropy


def counted(outputs: Tensor, targets: Tensor, ignored: int | None = None) -> tuple[Tensor, Tensor]:
    """List the outputs and targets that count, one row for each, also of a classifier of each token of a sequence.

    Args:
        outputs: [n, …, C].
        targets: [n, …].
        ignored: value of targets that do not count; all do by default.

    Returns:
        Outputs [m, C] and targets [m].
    """
    outputs, targets = outputs.flatten(0, -2), targets.flatten()
    if ignored is None:
        return outputs, targets
    kept = differing(targets, ignored)
    return outputs[kept], targets[kept]
