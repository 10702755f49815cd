"""Small models of the three kinds with a few batches, and their dense Hessians in float64 by another way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from tune_sam.loss import smoothed_kl
from tune_sam.trainables.data.graphs import GraphStore
from tune_sam.trainables.networks import wideresnet
from tune_sam.trainables.networks.attention import SequenceClassifier
from tune_sam.trainables.networks.gcn import GraphClassifier


@dataclass
class Case:
    """A model in training mode, batches of unequal size, and a way to make one batch of them."""

    model: nn.Module
    batches: list[tuple[Any, Tensor]]
    whole: tuple[Any, Tensor]
    loss: Callable[[Any, Tensor], Tensor] = smoothed_kl


def graphs(count: int, features: int, dtype: torch.dtype) -> GraphStore:
    """Random graphs of 3 to 8 nodes, each a ring with some chords, in both directions."""
    random = torch.Generator().manual_seed(2)
    nodes = torch.randint(3, 9, (count,), generator=random).tolist()
    edges = []
    for size in nodes:
        ring = torch.stack([torch.arange(size), (torch.arange(size) + 1) % size])
        chords = torch.randint(0, size, (2, size // 3), generator=random)
        one_way = torch.cat([ring, chords], dim=1)
        edges.append(torch.cat([one_way, one_way.flip(0)], dim=1))
    return GraphStore(
        x=torch.randn(sum(nodes), features, generator=random, dtype=torch.float64).to(dtype),
        edge_index=torch.cat(edges, dim=1),
        node_start=torch.tensor([0, *nodes]).cumsum(0),
        edge_start=torch.tensor([0, *(part.shape[1] for part in edges)]).cumsum(0),
        y=torch.randint(0, 2, (count,), generator=random),
    )


def gcn(dtype: torch.dtype = torch.float64, device: str = "cpu") -> Case:
    torch.manual_seed(0)
    model = GraphClassifier(features=4, widths=(6, 7), hidden=5, classes=2, pool="mean", dropout=0.5)
    store = graphs(30, 4, dtype).to(torch.device(device))
    parts = [store.batch(part) for part in torch.arange(30, device=device).split([13, 13, 4])]
    return Case(model.to(device, dtype), parts, store.batch(torch.arange(30, device=device)))


def tensors(model: nn.Module, dtype: torch.dtype, device: str, classes: int, *shape: int) -> Case:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(18, *shape, generator=random, dtype=torch.float64).to(device, dtype)
    y = torch.randint(0, classes, (18,), generator=random).to(device)
    model = model.to(device, dtype)
    with torch.no_grad():
        model(x)  # running statistics of batch norm that are not 0 and 1
    return Case(model, list(zip(x.split([8, 7, 3]), y.split([8, 7, 3]), strict=True)), (x, y))


def wide_resnet(dtype: torch.dtype = torch.float64, device: str = "cpu") -> Case:
    torch.manual_seed(0)
    stem, wideresnet.STEM = wideresnet.STEM, 1
    try:
        model = wideresnet.WideResNet(depth=10, width=1, channels=1, classes=3)
    finally:
        wideresnet.STEM = stem
    return tensors(model, dtype, device, 3, 1, 8, 8)


def attention(dtype: torch.dtype = torch.float64, device: str = "cpu") -> Case:
    torch.manual_seed(0)
    model = SequenceClassifier(length=6, width=4, heads=2, feedforward=5, layers=1, dropout=0.1, head=(7,), classes=3)
    return tensors(model, dtype, device, 3, 6)


CASES = {"gcn": gcn, "wide_resnet": wide_resnet, "attention": attention}


@cache
def dense(kind: str) -> Tensor:
    """The Hessian [n, n] of a case in eval mode, in float64, all batches as one; by torch alone."""
    case = CASES[kind]()
    names, params = zip(*case.model.named_parameters(), strict=True)
    inputs, targets = case.whole

    def loss(flat: Tensor) -> Tensor:
        pieces = [piece.view(p.shape) for piece, p in zip(flat.split([p.numel() for p in params]), params, strict=True)]
        return case.loss(functional_call(case.model, dict(zip(names, pieces, strict=True)), (inputs,)), targets)

    case.model.eval()
    with sdpa_kernel(SDPBackend.MATH):
        flat = torch.cat([p.detach().flatten() for p in params])
        return torch.autograd.functional.hessian(loss, flat)
