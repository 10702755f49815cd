"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146), pre-activation form."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM = 16
"""Channels after the first convolution; group k has STEM · 2^k · width."""


class WideResNet(nn.Module):
    """WRN-depth-width: a convolution, three groups of (depth - 4) / 6 units, batch norm, mean over the image, a head.

    Args:
        depth: layers, 6 n + 4 for n units a group.
        width: factor k of the channels.
        channels: of the images.
        classes: outputs.
        head_gain: by which the initial weights of the last layer are multiplied; with 0 it begins at zero.

    Raises:
        ValueError: the depth is not 6 n + 4.
    """

    def __init__(self, depth: int, width: int, channels: int, classes: int, head_gain: float = 1.0) -> None:
        super().__init__()
        units, rest = divmod(depth - 4, 6)
        if rest or units < 1:
            raise ValueError(f"a depth is 6 n + 4 with n units a group, for example 10, 16, 22 or 28; got {depth}")
        widths = [STEM, STEM * width, 2 * STEM * width, 4 * STEM * width]
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.units = nn.Sequential(
            *(
                Unit(widths[group] if first else widths[group + 1], widths[group + 1], 2 if first and group else 1)
                for group in range(3)
                for first in (True,) + (False,) * (units - 1)
            )
        )
        self.norm = nn.BatchNorm2d(widths[3])
        self.head = nn.Linear(widths[3], classes)
        self.apply(_initialise)
        with torch.no_grad():
            self.head.weight.mul_(head_gain)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [n, classes] of images [n, channels, height, width]."""
        x = self.units(self.stem(images))
        logits: Tensor = self.head(torch.relu(self.norm(x)).mean((2, 3)))
        return logits


class Unit(nn.Module):
    """Two convolutions, each after batch norm and ReLU, and a shortcut around them.

    Where the shape changes, the shortcut is a 1 × 1 convolution of the activated input, as in the published networks.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, inputs, height, width] to [n, outputs, height / stride, width / stride]."""
        active = F.relu(self.norm1(x))
        around: Tensor = self.shortcut(active) if self.shortcut else x
        inside: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return around + inside


def _initialise(module: nn.Module) -> None:
    """Initialise with variance 2 / inputs (He et al. 2015, arXiv 1502.01852, equation 10), except batch norms."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
