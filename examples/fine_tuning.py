"""Fine-tuning a network of torchvision with AdamW, cosine and a searched weight decay, on digits as images.

Give the weights to begin with as `--data FOLDER` with a file `shufflenet.pt` in it, the state dict of a
`torchvision.models.shufflenet_v2_x0_5`; its last layer is left out, as it is of other classes. Without one the network
begins untrained.

    tune-sam run fine_tuning:FineTuning --optimizer base --optimizer sam --trials 6
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tune_sam.groups import without_decay
from tune_sam.schedules import cosine
from tune_sam.space import LogRange
from tune_sam.split import split
from tune_sam.workload import BaseOptimizer, DataSet, Setting, Splits, Workload


class FineTuning(Workload):
    name = "fine-tuning"
    datasets = {"digits": DataSet(train=1197, validation=300, test=300, classes=10)}
    settings = {"digits": Setting({}, epochs=5, batch_size=32, lr=1e-3, ema=0.99)}
    base_optimizer = BaseOptimizer("AdamW", {"weight_decay": 0.01})
    schedule = cosine(warmup=0.1)
    rho = {"sam": LogRange(0.005, 0.2), "sam-on": LogRange(0.05, 2)}
    lr = LogRange(1e-4, 1e-2)
    batch_size = (32, 64)
    hyperparameters = {"weight_decay": LogRange(1e-4, 1e-1, default=0.01)}
    evaluation_batch = 256

    def network(self, setting: Setting) -> nn.Module:
        from torchvision.models import shufflenet_v2_x0_5

        return shufflenet_v2_x0_5(num_classes=10)

    def weights(self, dataset: str, root: Path) -> dict[str, Tensor] | None:
        file = root / "shufflenet.pt"
        if not file.exists():
            return None
        found = torch.load(file, weights_only=True)
        return {name: value for name, value in found.items() if not name.startswith("fc.")}

    def parameter_groups(self, network: nn.Module):
        return without_decay(network)

    def splits(self, dataset: str, root: Path) -> Splits:
        train, validation, _ = digits()
        return Splits(train, validation)

    def test_split(self, dataset: str, root: Path) -> TensorDataset:
        return digits()[2]


def digits() -> list[TensorDataset]:
    """Training, validation and test split of the digits as images of 32 × 32 with three channels."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    x = nn.functional.interpolate(x, scale_factor=4).expand(-1, 3, -1, -1)
    parts = split(len(labels), validation=300, test=300, labels=labels)
    return [TensorDataset(x[part].contiguous(), torch.from_numpy(labels[part])) for part in parts]
