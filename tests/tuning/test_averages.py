"""What a loss of few samples says of it: what can be no mean is refused, and no mean is."""

import pytest
import torch
from foreign_workload import Regression, TwoTasks
from torch.nn import functional as F

from tune_sam.tuning.averages import check_mean

RANDOM = torch.Generator().manual_seed(0)
OUTPUTS, LABELS = torch.randn(4, 3, generator=RANDOM), torch.tensor([0, 2, 1, 2])
CROSSED = [[0.0], [1.0], [0.0], [1.0]]
LENGTHS = torch.rand(4, 1, generator=RANDOM)
TOKENS = torch.randn(4, 5, 3, generator=RANDOM)
TAGS = torch.tensor([[0, 1, -100, -100, -100], [2, 1, 0, 1, 2], [-100] * 5, [1, 1, -100, -100, -100]])


def of(loss, count=len):
    class Workload(Regression):
        def loss(self, outputs, targets):
            return loss(outputs, targets)

        def count(self, targets):
            return count(targets)

    return Workload()


def contrastive(outputs, targets):
    """A loss of samples beside each other, which looks at no target (InfoNCE)."""
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)))


def pairwise(outputs, targets):
    return (outputs[:, None, 0] - outputs[None, :, 0]).square().mean()


def hardest_pair(outputs, targets):
    """A loss that has nothing to say where a class is missing."""
    return (1 - outputs[targets > 1].min() + outputs[targets < 1].max()).relu()


def between_distributions(outputs, targets):
    """A distance that no pairing of outputs and targets changes (energy distance)."""
    distances = [torch.cdist(one, other).mean() for one, other in ((outputs, targets), (outputs, outputs))]
    return 2 * distances[0] - distances[1] - torch.cdist(targets, targets).mean()


@pytest.mark.parametrize(
    ("workload", "outputs", "targets"),
    [
        (of(F.cross_entropy), OUTPUTS, LABELS),
        (of(lambda a, b: F.cross_entropy(a, b, weight=torch.tensor([1.0, 5.0, 2.0]))), OUTPUTS, LABELS),
        (of(lambda a, b: F.cross_entropy(a.mT, b)), TOKENS, TAGS),
        (of(F.cross_entropy), torch.zeros(4, 3), LABELS),
        (of(F.mse_loss), torch.zeros(4, 1), LENGTHS),
        (of(F.mse_loss), torch.full((4, 1), 0.3), LENGTHS),
        (of(F.mse_loss), OUTPUTS[:, :1], LENGTHS),
        (of(F.mse_loss), OUTPUTS[:, :1], torch.zeros(4, 1)),
        (of(lambda outputs, targets: (outputs - targets).square().mean()), OUTPUTS, LENGTHS),
        (of(contrastive), OUTPUTS, LABELS),
        (of(between_distributions), OUTPUTS, OUTPUTS.flip(0) + 1),
        (TwoTasks(), (OUTPUTS[:, :2], OUTPUTS[:, 2:]), {"sign": LABELS.clamp(max=1), "size": LENGTHS}),
        (of(lambda outputs, targets: outputs.square().sum()), torch.randn(()), LABELS),  # nothing is known of its rows
        (of(F.cross_entropy), OUTPUTS[:1], LABELS[:1]),
        (of(contrastive), torch.ones(4, 3), LABELS),  # log n, whose double is that of n = 4 as well
        (
            of(F.binary_cross_entropy_with_logits),
            torch.tensor([[0.3], [0.3], [-0.2], [-0.2]]),
            LENGTHS.new_tensor(CROSSED),
        ),
        (of(F.cross_entropy), torch.zeros(4, 3) + 1e-8 * OUTPUTS, LABELS),
        (of(pairwise, lambda targets: len(targets) ** 2), OUTPUTS, LABELS),
        (of(hardest_pair), OUTPUTS, LABELS),
        (of(F.mse_loss, lambda targets: targets.lacks), OUTPUTS, OUTPUTS),
        (of(F.cross_entropy, lambda targets: int((targets == 1).sum())), OUTPUTS, LABELS),  # none of the first two
    ],
)
def test_a_mean_is_taken_whatever_it_is_of(workload, outputs, targets):
    check_mean(workload, outputs, targets)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("workload", "outputs", "targets", "says"),
    [
        (
            of(lambda a, b: F.cross_entropy(a, b, reduction="sum")),
            OUTPUTS,
            LABELS,
            r"loss\(\): .*, so it is a sum; give",
        ),
        (of(lambda a, b: F.mse_loss(a, b, reduction="sum") / 32), OUTPUTS, OUTPUTS + 1, "so it is a sum"),
        (
            of(F.mse_loss),
            OUTPUTS[:, :1],
            LENGTHS[:, 0],
            r"each output with every target, for outputs are \(4, 1\) and ",
        ),
        (
            of(F.smooth_l1_loss),
            OUTPUTS[:, 0],
            3 + LENGTHS,
            r"each output with every target, for outputs are \(4,\) and",
        ),
        (
            of(F.cross_entropy, lambda targets: 1),
            OUTPUTS,
            LABELS,
            r"count\(\): it is 1 for 2 samples and 1 for the same",
        ),
        (of(F.mse_loss, lambda targets: float(targets.mean())), OUTPUTS[:, :1], LENGTHS, r"count\(\): it is "),
    ],
)
def test_what_can_be_no_mean_is_refused(workload, outputs, targets, says):
    with pytest.raises(ValueError, match=says):
        check_mean(workload, outputs, targets)
