"""The transformer encoder: heartbeats of MIT-BIH, or handwritten digits as sequences."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.space import LogRange
from tune_sam.trainables.data import mitbih
from tune_sam.workload import AS_PUBLISHED, BaseOptimizer, DataSet, Preset, Score, Setting, Splits, Workload

if TYPE_CHECKING:
    from torch import nn

    from tune_sam.store import TensorStore
    from tune_sam.trainables.data.split import Indices

INTERPATIENT = "mitbih-interpatient"
BEATS = Setting(
    {
        "length": mitbih.LENGTH,
        "width": 200,
        "heads": 2,
        "feedforward": 128,
        "layers": 1,
        "dropout": 0.1,
        "head": (512, 256, 128),
        "classes": 5,
    },
    epochs=50,
    batch_size=128,
    lr=0.01,
    classes=mitbih.CLASSES,
    bf16_on_cpu=True,
)
THERE = {"position_dropout": 0.1, "attention_dropout": 0.0, "epsilon": 1e-12, "projection_gain": math.sqrt(2)}
"""How the published study's encoder differs from torch's own layer, which is trained otherwise."""

BEATS_THERE = replace(BEATS, network={**BEATS.network, **THERE}, bf16_on_cpu=False)


class Attention(Workload):
    """A transformer encoder whose head of linear layers holds 98.9 % of its parameters.

    The presets `report` and `report-network` have the published study's dropout, layer norms and initialisation; the
    rest has torch's.

    `mitbih` is the published study's split: class N is cut down, and a person's beats are in all splits.
    `mitbih-interpatient` trains, validates and tests on different persons, with all beats.

    Ranges of ρ: public results for SGD on transformers without batch norm support 0.003 to 0.1 for `sam`; those for
    `asam-all` in general support 0.1 to 5. There are none for `asam` on transformers, so its range is wide and
    unproven.
    """

    name = "attention"
    datasets = {
        "mitbih": DataSet(train=14_152, validation=1_572, test=3_935, classes=5),
        INTERPATIENT: DataSet(train=38_235, validation=10_802, test=49_690, classes=5),
        "digits": DataSet(train=1078, validation=179, test=540, classes=10, by_seed=True),
    }
    settings = {
        "mitbih": BEATS,
        INTERPATIENT: BEATS,
        "digits": Setting(
            {
                "length": 64,
                "width": 32,
                "heads": 2,
                "feedforward": 64,
                "layers": 1,
                "dropout": 0.1,
                "head": (64,),
                "classes": 10,
            },
            epochs=8,
            batch_size=32,
            lr=0.01,
        ),
    }
    presets = {"report": Preset(BEATS_THERE, AS_PUBLISHED), "report-network": Preset(BEATS_THERE)}
    scores = {"accuracy": Score(), "macro_f1": Score()}
    base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9, "weight_decay": 5e-4})
    rho = {"sam": LogRange(0.003, 0.1), "asam": LogRange(0.001, 1), "asam-all": LogRange(0.1, 5)}
    published = Path(__file__).with_name("published.yaml")
    published_rho = (0.1, 0.3, 0.5, 1)
    lr = LogRange(1e-3, 1e-1)
    batch_size = (32, 64, 128, 256)
    gpus_per_trial = 0.25
    evaluation_batch = 512

    def network(self, setting: Setting) -> "nn.Module":
        from tune_sam.trainables.networks.attention import SequenceClassifier

        return SequenceClassifier(**setting.network)

    def fetch(self, dataset: str, root: Path) -> None:
        if dataset != "digits" and not mitbih.present(root):
            mitbih.download(root)

    def check_data(self, dataset: str, root: Path) -> None:
        if dataset != "digits":
            mitbih.check(root, interpatient=dataset == INTERPATIENT)

    def splits(self, dataset: str, root: Path) -> Splits:
        import torch

        sequences, indices = _sequences(dataset, root, self.split_seed)
        return Splits(*(sequences.subset(torch.from_numpy(part)) for part in (indices.train, indices.validation)))

    def test_split(self, dataset: str, root: Path) -> "TensorStore":
        import torch

        sequences, indices = _sequences(dataset, root, self.split_seed)
        return sequences.subset(torch.from_numpy(indices.test))


def _sequences(dataset: str, root: Path, split_seed: int) -> "tuple[TensorStore, Indices]":
    """Read all sequences of a data set, and split them: the digits by a seed, the beats as they were published."""
    import torch

    from tune_sam.store import TensorStore
    from tune_sam.trainables.data import digits
    from tune_sam.trainables.data.split import stratified

    if dataset == "digits":
        sequences = digits.sequences()
        return sequences, stratified(sequences.y.numpy(), split_seed)
    beats = mitbih.load(root, interpatient=dataset == INTERPATIENT)
    indices = mitbih.interpatient(beats) if dataset == INTERPATIENT else mitbih.published(beats)
    return TensorStore(torch.tensor(beats.signals), torch.tensor(beats.labels)), indices
