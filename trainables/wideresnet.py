"""The wide residual network: CIFAR-10, or handwritten digits as images."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.space import LogRange
from tune_sam.trainables.data import cifar10
from tune_sam.workload import AS_PUBLISHED, BaseOptimizer, DataSet, Preset, Setting, Splits, Workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tune_sam.store import TensorStore

AUGMENTATION = {"pad": 4, "cutout": 16, "cutout_probability": 0.5}


THERE = {"head_gain": 0.0}
"""How the published study's network differs from WRN-22-8 as it is trained otherwise: its last layer begins at zero."""


def _cifar(depth: int, width: int, epochs: int) -> Setting:
    return Setting(
        {"depth": depth, "width": width, "channels": 3, "classes": 10},
        epochs=epochs,
        batch_size=128,
        lr=0.1,
        classes=cifar10.CLASSES,
        augmentation=AUGMENTATION,
    )


CIFAR = _cifar(depth=22, width=8, epochs=50)
CIFAR_THERE = replace(CIFAR, network={**CIFAR.network, **THERE})


class WideResNet(Workload):
    """A wide residual network: WRN-22-8, which `report` and `report-network` initialise as the published study did.

    The preset `small` is WRN-16-1, for a machine without a GPU.

    Ranges of ρ: public results for SGD on convolutional networks support 0.01 to 0.5 for `sam`, 0.05 to 2 for `asam`
    and 0.1 to 5 for `asam-all`.
    """

    name = "wideresnet"
    datasets = {
        "cifar10": DataSet(train=45_000, validation=5_000, test=10_000, classes=10),
        "digits": DataSet(train=1078, validation=179, test=540, classes=10, by_seed=True),
    }
    settings = {
        "cifar10": CIFAR,
        "digits": Setting({"depth": 10, "width": 1, "channels": 1, "classes": 10}, epochs=10, batch_size=64, lr=0.1),
    }
    presets = {
        "report": Preset(CIFAR_THERE, AS_PUBLISHED),
        "report-network": Preset(CIFAR_THERE),
        "small": Preset(_cifar(depth=16, width=1, epochs=30)),
    }
    base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9, "weight_decay": 5e-4})
    rho = {"sam": LogRange(0.01, 0.5), "asam": LogRange(0.05, 2), "asam-all": LogRange(0.1, 5)}
    published = Path(__file__).with_name("published.yaml")
    published_rho = (0.1, 0.5, 1, 2)
    lr = LogRange(1e-2, 1)
    batch_size = (64, 128, 256)
    gpus_per_trial = 0.5
    evaluation_batch = 256  # activations of WRN-22-8 take 0.5 MB an image and layer

    def network(self, setting: Setting) -> "nn.Module":
        import torch

        from tune_sam.trainables.networks import wideresnet

        return wideresnet.WideResNet(**setting.network).to(memory_format=torch.channels_last)

    def augment(self, inputs: "Tensor", setting: Setting) -> "Tensor":
        """Crop normalised inputs after padding with black, flip them, and cut out squares, as the published study did.

        Digits stay as they are: mirrored, or without their middle, they would be other digits.
        """
        from tune_sam.trainables.data.images import Places

        options = setting.augmentation
        if not options:
            return inputs
        black = inputs.new_tensor([-mean / std for mean, std in zip(cifar10.MEAN, cifar10.STD, strict=True)])
        cropped = Places.crop_and_flip(inputs, options["pad"])
        return cropped.cutout(options["cutout"], options["cutout_probability"]).taken(inputs, black)

    def fetch(self, dataset: str, root: Path) -> None:
        if dataset == "cifar10" and not (root / cifar10.FOLDER).exists():
            cifar10.download(root)

    def check_data(self, dataset: str, root: Path) -> None:
        if dataset == "cifar10":
            cifar10.check(root)

    def splits(self, dataset: str, root: Path) -> Splits:
        import torch

        from tune_sam.trainables.data import digits
        from tune_sam.trainables.data.split import held_out, stratified

        if dataset == "cifar10":
            images: TensorStore = cifar10.load(root, train=True)
            parts = held_out(images.y.numpy(), self.datasets[dataset].validation)
        else:
            images = digits.images()
            indices = stratified(images.y.numpy(), self.split_seed)
            parts = indices.train, indices.validation
        return Splits(*(images.subset(torch.from_numpy(part)) for part in parts))

    def test_split(self, dataset: str, root: Path) -> "TensorStore":
        import torch

        from tune_sam.trainables.data import digits
        from tune_sam.trainables.data.split import stratified

        if dataset == "cifar10":
            return cifar10.load(root, train=False)
        images = digits.images()
        return images.subset(torch.from_numpy(stratified(images.y.numpy(), self.split_seed).test))
