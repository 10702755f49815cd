"""Small instances of the three kinds of networks, with data, in float64; and what must be as before afterwards."""

import torch
import torch.nn.functional as F
from torch import nn

from tune_sam.trainables.data.graphs import GraphStore
from tune_sam.trainables.networks.attention import SequenceClassifier
from tune_sam.trainables.networks.gcn import GraphClassifier
from tune_sam.trainables.networks.wideresnet import WideResNet

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KINDS = ["gcn", "wideresnet", "attention"]
SAMPLES = 14


def network(kind: str, seed: int = 0) -> nn.Module:
    """In training mode, with weights, biases and running statistics that are not the initial ones."""
    torch.manual_seed(seed)
    model: nn.Module
    match kind:
        case "gcn":
            model = GraphClassifier(features=3, widths=(5, 6), hidden=4, classes=3, pool="mean", dropout=0.5)
        case "wideresnet":
            model = WideResNet(depth=10, width=1, channels=1, classes=3)
        case _:
            model = SequenceClassifier(
                length=6, width=4, heads=2, feedforward=5, layers=1, dropout=0.5, head=(7,), classes=3
            )
    model = model.double()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.3)
            elif name.endswith("running_var") or tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model


def batches(kind: str, sizes: tuple[int, ...] = (5, 5, 4), device: str = "cpu") -> list:
    """The same fourteen samples, cut into batches of `sizes`."""
    assert sum(sizes) == SAMPLES
    random = torch.Generator().manual_seed(9)
    targets = torch.randint(3, (SAMPLES,), generator=random)
    if kind == "gcn":
        nodes = torch.randint(1, 6, (SAMPLES,), generator=random)
        edges = 2 * nodes - 2
        store = GraphStore(
            x=torch.randn(int(nodes.sum()), 3, generator=random, dtype=torch.float64),
            edge_index=torch.cat(
                [torch.randint(int(n), (2, int(e)), generator=random) for n, e in zip(nodes, edges, strict=True)], dim=1
            ),
            node_start=F.pad(nodes.cumsum(0), (1, 0)),
            edge_start=F.pad(edges.cumsum(0), (1, 0)),
            y=targets,
        ).to(torch.device(device))
        return [store.batch(indices.to(device)) for indices in torch.arange(SAMPLES).split(list(sizes))]
    shape = (SAMPLES, 1, 8, 8) if kind == "wideresnet" else (SAMPLES, 6)
    inputs = torch.randn(shape, generator=random, dtype=torch.float64)
    return list(zip(inputs.to(device).split(list(sizes)), targets.to(device).split(list(sizes)), strict=True))


def everything(model: nn.Module) -> list:
    """Bits of all that a measurement must leave as it was, and where they are."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [
        [
            (name, t.detach().clone().view(torch.uint8).tolist() if t.dim() else t.item(), t.data_ptr())
            for name, t in tensors
        ],
        [
            (p.requires_grad, p.grad is None, None if p.grad is None else (id(p.grad), p.grad.tolist()))
            for p in model.parameters()
        ],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
        torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None,
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.backends.mha.get_fastpath_enabled(),
    ]


def disturbed(model: nn.Module) -> nn.Module:
    """With gradients, a frozen parameter, and one module in eval mode in a model that is training."""
    parameters = list(model.parameters())
    for parameter in parameters[1:]:
        parameter.grad = torch.full_like(parameter, 0.5)
    parameters[2].requires_grad_(False)
    model.train()
    list(model.modules())[-1].eval()
    return model


class Quadratic(nn.Module):
    """An "output" that is its own loss: g · w + w · H w / 2, with the weights in two tensors."""

    def __init__(self, hessian: torch.Tensor, slope: torch.Tensor, weights: torch.Tensor) -> None:
        super().__init__()
        self.hessian, self.slope = hessian, slope
        half = len(weights) // 2
        self.first = nn.Parameter(weights[:half].clone())
        self.second_weight = nn.Parameter(weights[half:].clone())

    def forward(self, scale: torch.Tensor) -> torch.Tensor:
        w = torch.cat([self.first, self.second_weight])
        return scale * (self.slope @ w + w @ self.hessian @ w / 2)

    @staticmethod
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    @staticmethod
    def batches() -> list:
        """Three samples in two batches whose mean scale is 1."""
        scales = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)
        return [(scales[:1], torch.zeros(1)), (scales[1:], torch.zeros(2))]
