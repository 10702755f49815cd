"""A transformer that takes dict batches, in the manner of Hugging Face: is the first of the tokens even?

Sequences have different lengths; a collate function pads them. A network of the package `transformers`, such as
`AutoModelForSequenceClassification`, fits in the same way: its outputs have `logits`, and its inputs are named.

    tune-sam run transformer:Parity --optimizer base --optimizer sam --trials 10
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tune_sam.groups import without_decay
from tune_sam.schedules import cosine
from tune_sam.space import LogRange, Range
from tune_sam.workload import BaseOptimizer, DataSet, Setting, Splits, Workload

TOKENS, LONGEST = 8, 12


class Parity(Workload):
    name = "parity"
    datasets = {"parity": DataSet(train=800, validation=200, test=200, classes=2)}
    settings = {
        "parity": Setting({"width": 32, "dropout": 0.1}, epochs=10, batch_size=40, lr=3e-3, classes=("even", "odd"))
    }
    base_optimizer = BaseOptimizer("AdamW", {"weight_decay": 0.01})
    schedule = cosine(warmup=0.1)
    rho = {"sam": LogRange(0.005, 0.5)}
    lr = LogRange(5e-4, 1e-2)
    batch_size = (20, 40)
    hyperparameters = {"dropout": Range(0, 0.5, default=0.1), "weight_decay": LogRange(1e-4, 1e-1, default=0.01)}

    def network(self, setting: Setting) -> nn.Module:
        return Classifier(**setting.network)

    def parameter_groups(self, network: nn.Module):
        return without_decay(network)

    def splits(self, dataset: str, root: Path) -> Splits:
        train, validation = (DataLoader(Numbers(*part), collate_fn=padded) for part in ((800, 0), (200, 1)))
        return Splits(train, validation)

    def test_split(self, dataset: str, root: Path) -> DataLoader:
        return DataLoader(Numbers(200, 2), collate_fn=padded)


class Numbers(Dataset):
    """Sequences of 4 to 12 tokens, the same every time."""

    def __init__(self, samples: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.lengths = torch.randint(4, LONGEST + 1, (samples,), generator=random)
        self.tokens = torch.randint(1, TOKENS, (samples, LONGEST), generator=random)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = self.tokens[index, : self.lengths[index]]
        return {"input_ids": tokens, "labels": int(tokens[0] % 2)}


def padded(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Make a batch: token 0 fills up, and the mask says where."""
    tokens = nn.utils.rnn.pad_sequence([sample["input_ids"] for sample in samples], batch_first=True)
    labels = torch.tensor([sample["labels"] for sample in samples])
    return {"input_ids": tokens, "attention_mask": tokens > 0, "labels": labels}


@dataclass
class Output:
    logits: Tensor


class Classifier(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, width), nn.Embedding(LONGEST, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Output:
        places = self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        states = self.layers(self.tokens(input_ids) + places, src_key_padding_mask=~attention_mask)
        return Output(self.head(states[:, 0]))
