"""Images in memory as bytes, and their augmentation in batches on their device."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tune_sam.store import TensorStore


@dataclass(frozen=True)
class ImageStore(TensorStore):
    """n images; a batch of them is normalised, float32 [n, C, H, W] in channels-last order.

    Attributes:
        x: pixels, uint8 [n, H, W, C]: a quarter of the memory that floats take.
        y: class of each image, int64 [n].
        mean, std: of each channel, with pixels from 0 to 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Normalise the images at `indices` (int64 [n]), and return their classes (int64 [n]), too."""
        pixels, targets = super().batch(indices)
        mean, std = pixels.new_tensor([self.mean, self.std], dtype=torch.float32) * 255
        # A view of what is stored channels last already is channels last.
        return ((pixels - mean) / std).permute(0, 3, 1, 2), targets


def crop_and_flip(images: Tensor, pad: int, border: Tensor) -> Tensor:
    """Shift each image by up to `pad` pixels each way, fill its border, and mirror it with probability ½.

    This equals padding on all sides, cropping at random to the old size, and flipping.

    Args:
        images: [n, C, H, W].
        pad: largest shift in pixels.
        border: the value of each channel outside the image, [C].
    """
    n, _, height, width = images.shape
    device = images.device
    down, right = torch.randint(-pad, pad + 1, (2, n, 1), device=device)
    flip = torch.rand(n, 1, device=device) < 0.5
    rows = torch.arange(height, device=device) + down
    columns = torch.arange(width, device=device).expand(n, -1)
    columns = torch.where(flip, width - 1 - columns, columns) + right
    inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
    picked = images.permute(0, 2, 3, 1)[
        torch.arange(n, device=device)[:, None, None],
        rows.clamp(0, height - 1)[:, :, None],
        columns.clamp(0, width - 1)[:, None, :],
    ]
    return torch.where(inside[..., None], picked, border).permute(0, 3, 1, 2)


def cutout(images: Tensor, size: int, probability: float) -> Tensor:
    """Set a square of an image to 0, the mean colour, with some probability (DeVries & Taylor 2017, arXiv 1708.04552).

    The square's centre is anywhere in the image, so some of the square may lie outside.

    Args:
        images: normalised, [n, C, H, W].
        size: side of the square in pixels, even.
        probability: that an image is cut.
    """
    n, _, height, width = images.shape
    device = images.device
    top = torch.randint(height, (n, 1), device=device) - size // 2
    left = torch.randint(width, (n, 1), device=device) - size // 2
    cut = torch.rand(n, 1, 1, device=device) < probability
    rows = _within(torch.arange(height, device=device) - top, size)
    columns = _within(torch.arange(width, device=device) - left, size)
    return torch.where((rows[:, :, None] & columns[:, None, :] & cut)[:, None], 0, images)


def _within(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)
