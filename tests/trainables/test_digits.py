from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits

from tune_sam.trainables.data import digits

IMAGES = load_digits()


@pytest.fixture(scope="module")
def store():
    return digits.grid_graphs()


def test_every_image_is_a_graph_of_its_class(store):
    assert len(store) == 1797
    assert store.y.tolist() == IMAGES.target.tolist()
    assert store.node_start.tolist() == list(range(0, 1797 * 64 + 1, 64))
    assert store.x.shape == (1797 * 64, 17)
    assert store.x.dtype == torch.float32


@pytest.mark.parametrize("image", [0, 1, 900, 1796])
def test_pixels_are_joined_to_the_four_next_to_them(store, image):
    place = {(row, column): 8 * row + column for row in range(8) for column in range(8)}
    wanted = {
        (here, place[row + down, column + right])
        for (row, column), here in place.items()
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if (row + down, column + right) in place
    }
    batch, _ = store.batch(torch.tensor([image]))
    edges = list(map(tuple, batch.edge_index.T.tolist()))
    assert len(edges) == len(wanted) == 224
    assert set(edges) == wanted
    assert all((there, here) in wanted and here != there for here, there in edges)


@pytest.mark.parametrize("image", [0, 7, 1796])
def test_a_node_carries_its_pixel_and_where_it_is(store, image):
    batch, _ = store.batch(torch.tensor([image]))
    for row in range(8):
        for column in range(8):
            pixel = IMAGES.images[image][row, column] / 16
            wanted = [0.0] * 17
            wanted[0] = wanted[1 + row] = wanted[9 + column] = pixel
            assert batch.x[8 * row + column].tolist() == pytest.approx(wanted)


def test_a_mirror_image_has_other_nodes(store, monkeypatch):
    mirrored = SimpleNamespace(data=IMAGES.images[:, :, ::-1].reshape(-1, 64), target=IMAGES.target)
    monkeypatch.setattr(digits, "load_digits", lambda: mirrored)
    other = digits.grid_graphs()
    for image in range(0, 1797, 300):
        nodes, theirs = (graphs.x[64 * image : 64 * (image + 1)] for graphs in (store, other))
        # A mirrored grid is the same grid: without row and column the two would be one graph.
        assert torch.equal(nodes[:, 0].sort().values, theirs[:, 0].sort().values)
        assert sorted(nodes.tolist()) != sorted(theirs.tolist())
