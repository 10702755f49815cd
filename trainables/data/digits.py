"""scikit-learn's handwritten digits: 1,797 real 8 × 8 images that come with the package.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998 (its
test set). The data need no download. Each architecture has them in its own form: images, sequences of 64 values in
reading order, grid graphs.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from tune_sam.store import TensorStore
from tune_sam.trainables.data.graphs import GraphStore

SIDE = 8
MEAN, STD = 0.3053, 0.3760
"""Of the pixels of all images, with pixels from 0 to 1."""


def images() -> TensorStore:
    """Return the digits as images [1797, 1, 8, 8], pixels from 0 to 1."""
    pixels, classes = _load()
    return TensorStore(pixels.reshape(-1, 1, SIDE, SIDE), classes)


def sequences() -> TensorStore:
    """Return the digits as sequences [1797, 64], pixels with mean 0 and variance 1 over all images.

    Compared with the positional encoding, a signal from 0 to 1 is so small that many trainings do not start to learn.
    """
    pixels, classes = _load()
    return TensorStore((pixels - MEAN) / STD, classes)


def grid_graphs() -> GraphStore:
    """Return each digit as a graph of 64 nodes, joined to their neighbours above, below, left and right.

    A node carries its pixel (0 to 1) and the pixel times the one-hot of its row and of its column: 17 features. Without
    row and column a graph network could not tell the image from its mirror image.
    """
    pixels, classes = _load()
    count, nodes = pixels.shape
    edges = _grid_edges()
    return GraphStore(
        x=_features(pixels),
        edge_index=edges.repeat(1, count),
        node_start=torch.arange(count + 1) * nodes,
        edge_start=torch.arange(count + 1) * edges.shape[1],
        y=classes,
    )


def _load() -> tuple[Tensor, Tensor]:
    """Read the pixels [1797, 64], 0 to 1, and the classes [1797]."""
    digits = load_digits()
    return torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target.astype(np.int64))


def _features(pixels: Tensor) -> Tensor:
    """Turn pixels [n, 64] into node features [n · 64, 17]."""
    place = torch.arange(SIDE * SIDE)
    one_hot = torch.eye(SIDE)
    constant = torch.cat([torch.ones(SIDE * SIDE, 1), one_hot[place // SIDE], one_hot[place % SIDE]], dim=1)
    return (pixels[:, :, None] * constant).reshape(-1, 1 + 2 * SIDE)


def _grid_edges() -> Tensor:
    """List both directions of every edge of the 8 × 8 grid, int64 [2, 224]."""
    place = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    across = torch.stack([place[:, :-1].flatten(), place[:, 1:].flatten()])
    down = torch.stack([place[:-1].flatten(), place[1:].flatten()])
    one_way = torch.cat([across, down], dim=1)
    return torch.cat([one_way, one_way.flip(0)], dim=1)
