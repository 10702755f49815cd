"""A training step of the transformer of the preset `report`, beside the published study's formulation in fp32.

Batches of 128 beats of 187 samples, SGD with momentum, one thread. The peer is the encoder as that study's code writes
it: a linear layer each for queries, keys and values, softmax, a layer norm of means and variances, and torch's dropout.
Values are random, for none changes the work. Both must compute the same outputs with the same weights.

    python benchmarks/attention.py
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import Row, apart_in_turns, parser, report

from tune_sam.space import Configuration
from tune_sam.store import TensorStore
from tune_sam.training import Trainer
from tune_sam.workload import Splits, find_workload

ATTENTION = find_workload("attention")
SETTING = ATTENTION.setting("mitbih", "report")
BATCH, STEPS, DROPOUT = 128, 3, 0.1


class Norm(nn.Module):
    """A layer norm, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return self.weight * ((x - mean) / torch.sqrt(variance + 1e-12)) + self.bias


class Published(nn.Module):
    """The published study's transformer, one layer."""

    def __init__(self, length: int, width: int, heads: int, feedforward: int, head: tuple[int, ...]) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(1, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2, self.norm = Norm(width), Norm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        sizes = (length * width, *head)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, head, strict=False))
        self.last = nn.Linear(head[-1], 5)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, sequences: Tensor) -> Tensor:
        """Compute logits [n, 5] of sequences [n, L]."""
        x = self.dropout(self.project(sequences[:, :, None]) + self.positions)
        n, steps, width = x.shape
        query, key, value = (
            layer(x).view(n, steps, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        score = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(width // self.heads), dim=-1)
        seen = self.out((score @ value).transpose(1, 2).contiguous().view(n, steps, width))
        x = self.norm1(self.dropout(seen) + x)
        x = self.norm2(self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))) + x)
        x = self.norm(x).flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.last(x)


def published(model: nn.Module) -> Published:
    """Make the peer with the weights of ours."""
    sizes = {name: SETTING.network[name] for name in ("length", "width", "heads", "feedforward", "head")}
    peer, ours = Published(**sizes), dict(model.named_parameters())
    peer.positions = model.positions
    pairs = {"project": "project", "norm": "norm", "last": f"head.{2 * len(peer.hidden)}"}
    pairs |= {name: f"encoder.0.{name}" for name in ("norm1", "norm2", "linear1", "linear2")}
    pairs |= {"out": "encoder.0.self_attn.out_proj"}
    pairs |= {f"hidden.{index}": f"head.{2 * index}" for index in range(len(peer.hidden))}
    with torch.no_grad():
        for kind in ("weight", "bias"):
            for theirs, name in pairs.items():
                peer.get_parameter(f"{theirs}.{kind}").copy_(ours[f"{name}.{kind}"])
            parts = ours[f"encoder.0.self_attn.in_proj_{kind}"].chunk(3)
            for theirs, part in zip(("query", "key", "value"), parts, strict=True):
                peer.get_parameter(f"{theirs}.{kind}").copy_(part)
    return peer


def beats() -> TensorStore:
    """Make random sequences and classes."""
    random = torch.Generator().manual_seed(0)
    values = torch.rand(BATCH * STEPS, SETTING.network["length"], generator=random)
    return TensorStore(values, torch.arange(len(values)) % 5)


def trainer(precision: str) -> Trainer:
    """Make ours."""
    configuration = Configuration(optimizer="base", rho=None, lr=0.01, batch_size=BATCH, seed=0)
    splits = Splits(beats(), beats().subset(torch.arange(0)))
    return Trainer(
        ATTENTION, SETTING, configuration, splits, epochs=1000, device=torch.device("cpu"), precision=precision
    )


def our_steps(precision: str) -> Callable[[], object]:
    """Make a function that takes the steps of an epoch."""
    ours = trainer(precision)
    ours.model.train()
    return lambda: [ours.step(batch) for batch in ours.batches()]


def their_steps() -> Callable[[], object]:
    """Make a function that takes as many steps of the peer, in a plain script's process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer, store = published(ATTENTION.network(SETTING)), beats()
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def steps() -> None:
        for part in torch.randperm(len(store)).split(BATCH):
            inputs, targets = store.batch(part)
            optimizer.zero_grad()
            ATTENTION.loss(peer(inputs), targets).backward()
            optimizer.step()

    return steps


def main() -> None:
    """Measure both sides in turns, check that they compute the same, and print the table."""
    chosen = parser(__doc__, repeats=3).parse_args()
    sides = {"peer": their_steps, "fp32": partial(our_steps, "fp32"), "bf16": partial(our_steps, "bf16")}
    taken = apart_in_turns(sides, chosen.repeats)
    for precision, close in (("fp32", 1e-4), ("bf16", 5e-2)):
        ours = trainer(precision)
        ours.model.eval()
        inputs, _ = beats().batch(torch.arange(8))
        expected = published(ours.model).eval()(inputs)
        torch.testing.assert_close(ours.outputs(inputs), expected, rtol=close, atol=close)
    rows = [
        Row(f"attention, {STEPS} steps, fp32", taken["peer"], taken["fp32"], 0.85),
        Row(f"attention, {STEPS} steps, bf16 against fp32", taken["peer"], taken["bf16"], 0.50),
    ]
    report(rows, chosen.output)


if __name__ == "__main__":
    main()
