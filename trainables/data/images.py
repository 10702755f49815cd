"""Images in memory as bytes, and their augmentation in batches on their device."""

from dataclasses import dataclass, replace
from typing import Any, Self

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
        # Row by row: an operation on the three channels of one pixel after another takes three times as long.
        rows, width = pixels.flatten(2), pixels.shape[2]
        normalised = (rows - mean.repeat(width)).div_(std.repeat(width))
        # A view of what is stored channels last already is channels last.
        return normalised.view(pixels.shape).permute(0, 3, 1, 2), targets


@dataclass(frozen=True)
class Places:
    """Where each pixel of a batch of images comes from, so that several changes copy it once.

    Attributes:
        rows: int64 [n, H, W], the pixel's number in the batch, which has n·H·W of them; n·H·W for one that lies
            outside of its image, and n·H·W + 1 for one that is cut out.
    """

    rows: Tensor

    @classmethod
    def crop_and_flip(cls, images: Tensor, pad: int) -> Self:
        """Shift each image by up to `pad` pixels each way, and mirror it with probability ½.

        This equals padding on all sides, cropping at random to the old size, and flipping.

        Args:
            images: [n, C, H, W].
            pad: largest shift in pixels.
        """
        n, _, height, width = images.shape
        device = images.device
        down, right = torch.randint(-pad, pad + 1, (2, n, 1), device=device)
        flip = torch.rand(n, 1, device=device) < 0.5
        rows = torch.arange(height, device=device) + down
        columns = torch.arange(width, device=device).expand(n, -1)
        columns = torch.where(flip, width - 1 - columns, columns) + right
        image = torch.arange(n, device=device)[:, None] * (height * width)
        # A place outside stays outside, whatever is added to it.
        beyond = n * height * width
        down_to = torch.where(_within(rows, height), image + rows * width, beyond)
        right_to = torch.where(_within(columns, width), columns, beyond)
        return cls((down_to[:, :, None] + right_to[:, None, :]).clamp_(max=beyond))

    def cutout(self, size: int, probability: float) -> Self:
        """Cut a square out of an image with some probability (DeVries & Taylor 2017, arXiv 1708.04552).

        The square's centre is anywhere in the image, so some of the square may lie outside.

        Args:
            size: side of the square in pixels, even.
            probability: that an image is cut.
        """
        n, height, width = self.rows.shape
        device = self.rows.device
        top = torch.randint(height, (n, 1), device=device) - size // 2
        left = torch.randint(width, (n, 1), device=device) - size // 2
        cut = torch.rand(n, 1, 1, device=device) < probability
        rows = _within(torch.arange(height, device=device) - top, size)
        columns = _within(torch.arange(width, device=device) - left, size)
        return replace(
            self, rows=torch.where(rows[:, :, None] & columns[:, None, :] & cut, n * height * width + 1, self.rows)
        )

    def taken(self, images: Tensor, border: Tensor) -> Tensor:
        """Copy the pixels of `images` [n, C, H, W] from their places.

        Args:
            images: normalised.
            border: the value of each channel outside the image, [C]; what is cut out is 0, the mean colour.
        """
        pixels = images.permute(0, 2, 3, 1)
        table = torch.cat([pixels.flatten(0, 2), border[None], torch.zeros_like(border)[None]])
        return table.index_select(0, self.rows.flatten()).view(pixels.shape).permute(0, 3, 1, 2)


def _within(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)
