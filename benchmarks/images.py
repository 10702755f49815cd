"""Batches of CIFAR's images: cropped, flipped, cut out and normalised, beside torchvision in a DataLoader, on one core.

The peer is what the published study and most public code do: a data set of PIL images, torchvision's transforms image
by image, a DataLoader that stacks them. Images are random bytes, for no pixel's value changes the work. Checked are the
batches without augmentation, which must be equal, and the means and variances with it.

    python benchmarks/images.py
"""

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from turns import Row, in_turns, parser, report

from tune_sam.trainables.data import cifar10
from tune_sam.trainables.data.images import ImageStore
from tune_sam.training import prepare_process
from tune_sam.workload import find_workload

WIDERESNET = find_workload("wideresnet")
SETTING = WIDERESNET.settings["cifar10"]
IMAGES, BATCH = 5120, 128
NORMALISED = (transforms.ToTensor(), transforms.Normalize(cifar10.MEAN, cifar10.STD))


class Cutout:
    """The published study's: a square of an image, with probability ½."""

    def __call__(self, image: Tensor) -> Tensor:
        """Set the square to 0."""
        if torch.rand(()) < 0.5:
            return image
        row, column = (int(torch.randint(32, ())) for _ in range(2))
        image[:, max(row - 8, 0) : row + 8, max(column - 8, 0) : column + 8] = 0
        return image


class Pictures(Dataset):
    """PIL images and their transforms, as torchvision's own CIFAR10."""

    def __init__(self, store: ImageStore, *changes: object) -> None:
        self.pixels, self.targets = store.x.numpy(), store.y.tolist()
        self.transform = transforms.Compose(changes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.targets[index]


def main() -> None:
    """Check that both sides make the same, measure them in turns, and print the table."""
    chosen = parser(__doc__, repeats=7).parse_args()
    prepare_process(threads=1)
    torch.manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    store = ImageStore(pixels, torch.arange(IMAGES) % 10, cifar10.MEAN, cifar10.STD)
    plain, _ = next(iter(DataLoader(Pictures(store, *NORMALISED), BATCH)))
    torch.testing.assert_close(store.batch(torch.arange(BATCH))[0], plain, rtol=1e-5, atol=1e-5)
    changes = (transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip())
    loader = DataLoader(Pictures(store, *changes, *NORMALISED, Cutout()), BATCH, shuffle=True)
    drawn = (WIDERESNET.augment(store.batch(part)[0], SETTING) for part in torch.randperm(IMAGES).split(BATCH))
    mine, theirs = torch.cat(list(drawn)), torch.cat([images for images, _ in loader])
    torch.testing.assert_close(mine.mean((0, 2, 3)), theirs.mean((0, 2, 3)), rtol=0, atol=0.02)
    torch.testing.assert_close(mine.var((0, 2, 3)), theirs.var((0, 2, 3)), rtol=0.02, atol=0)

    def walked() -> None:
        for images, _ in loader:
            assert len(images) == BATCH

    def augmented() -> None:
        for part in torch.randperm(IMAGES).split(BATCH):
            WIDERESNET.augment(store.batch(part)[0], SETTING)

    taken = in_turns({"peer": walked, "ours": augmented}, chosen.repeats)
    report([Row(f"{IMAGES} images", taken["peer"], taken["ours"], 0.1)], chosen.output)


if __name__ == "__main__":
    main()
