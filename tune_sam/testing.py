"""The contract of a workload: tests that every workload has to pass, your own included.

With pytest installed, three lines run it:

    from tune_sam.testing import WorkloadContract

    class TestMine(WorkloadContract):
        workload = "mine:Mine"

The data are read from the folder $TUNE_SAM_DATA. Trainings use few of the samples, so a run takes seconds to a minute.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._pytree import tree_map

from tune_sam.cluster.sharing import Shared, share
from tune_sam.errors import Refused
from tune_sam.optimizers import optimizer_names
from tune_sam.reporting.published import read_published
from tune_sam.samples import with_train_subset
from tune_sam.settings import SearchOptions
from tune_sam.space import Configuration
from tune_sam.trainable import trainable_for
from tune_sam.training import Trainer
from tune_sam.trees import tensors_in
from tune_sam.tuning.plan import search_space
from tune_sam.workload import Setting, Splits, Store, Workload, find_workload

ON_EACH_DEVICE = pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"))],
)
SEARCHED = SearchOptions.model_fields["optimizers"].default
"""The optimizers of a search that names none, with which a workload without ranges of ρ is tested."""
WITH_EACH_OPTIMIZER = pytest.mark.parametrize("optimizer", optimizer_names())


class WorkloadContract:
    """The tests of a workload. Derive a class from this one and name the workload; pytest finds the tests.

    Attributes:
        workload: name of a workload, or `package.module:Class`.
        dataset: one of its data sets; the first by default.
        preset: one of its presets; none by default.
        samples: of each split that the trainings use; 256 by default.
        epochs: of a training, after which its loss must have fallen; 3 by default.
        repeated: samples that may be in two splits, because the data set really has them twice; 0 by default.
    """

    workload: ClassVar[str]
    dataset: ClassVar[str | None] = None
    preset: ClassVar[str | None] = None
    samples: ClassVar[int] = 256
    epochs: ClassVar[int] = 3
    repeated: ClassVar[int] = 0

    # -- what the tests work with

    @classmethod
    def subject(cls) -> Workload:
        return find_workload(cls.workload)

    @classmethod
    def data_set(cls) -> str:
        return cls.dataset or cls.subject().default_dataset

    @classmethod
    def setting(cls) -> Setting:
        return cls.subject().setting(cls.data_set(), cls.preset)

    @classmethod
    def root(cls) -> Path:
        return Path(os.environ.get("TUNE_SAM_DATA") or ".").absolute()

    @pytest.fixture(scope="class")
    @classmethod
    def splits(cls) -> Splits:
        return cls.subject().read(cls.data_set(), cls.root())

    @pytest.fixture(scope="class")
    @classmethod
    def few(cls, splits: Splits) -> Splits:
        """Take few samples of each split, which train in no time."""
        held = torch.arange(min(cls.samples, len(splits.validation)))
        trained = with_train_subset(splits, min(cls.samples, len(splits.train))).train
        return Splits(trained, splits.validation.subset(held))

    @pytest.fixture(autouse=True)
    def _leaves_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Keep Ray's folders of trainables out of ~/ray_results."""
        monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))

    def labels(self, split: Store) -> set[int]:
        """Collect the classes that a split has samples of."""
        return {int(label) for label in split.y.unique().tolist() if label != self.subject().ignored}

    def configuration(self, optimizer: str, seed: int = 0) -> Configuration:
        rho = self.subject().rho_range(optimizer)
        return Configuration(
            optimizer,
            rho.start if rho else None,
            self.setting().lr,
            min(self.setting().batch_size, self.samples // 4),
            seed,
            {name: domain.start for name, domain in self.subject().hyperparameters_of(optimizer).items()},
        )

    def trainer(self, splits: Splits, optimizer: str, device: str = "cpu", seed: int = 0) -> Trainer:
        return Trainer(
            self.subject(),
            self.setting(),
            self.configuration(optimizer, seed),
            splits,
            epochs=self.epochs,
            device=torch.device(device),
            precision="fp32",
        )

    # -- the contract

    def test_the_description_is_complete(self) -> None:
        workload = self.subject()
        assert set(workload.settings) == set(workload.datasets), "each data set needs a setting, and only those"
        assert set(workload.rho) <= set(optimizer_names()) - {"base"}, "`rho` has ranges for known optimizers only"
        assert callable(workload.base_optimizer.make), "the base optimizer is made of parameters and options"
        assert 0 <= workload.gpus_per_trial <= 1, "a training computes on one GPU"
        settings = [
            *workload.settings.items(),
            *((workload.default_dataset, p.setting) for p in workload.presets.values()),
        ]
        for dataset, setting in settings:
            assert len(setting.classes) in (0, workload.datasets[dataset].classes), "name each class, or none"
        json.dumps(workload.to_json(), allow_nan=False)
        if workload.published:
            assert set(read_published(workload.published).rows) & set(workload.datasets), (
                "published rows of no data set"
            )
        for optimizer in (
            "base",
            *(workload.rho or SEARCHED),
        ):  # refuses points of the grid that lie outside the ranges
            search_space(SearchOptions.read({"workload": self.workload}), workload, self.data_set(), optimizer)

    def test_each_hyperparameter_is_received(self, few: Splits) -> None:
        for optimizer in ("base", "sam"):
            trainer = self.trainer(few, optimizer)
            trainer.rehearse()
            unused = trainer.workload.given.unused
            assert not unused, f"nothing receives {', '.join(unused)}; read it as self.given[{unused[0]!r}]"

    def test_the_splits_have_the_stated_sizes(self, splits: Splits) -> None:
        stated, test = self.subject().datasets[self.data_set()], self.subject().read_test(self.data_set(), self.root())
        assert [len(splits.train), len(splits.validation), len(test)] == [stated.train, stated.validation, stated.test]
        if stated.classes:
            trained, others = self.labels(splits.train), self.labels(splits.validation) | self.labels(test)
            assert trained == set(range(stated.classes)), "some class has no training sample"
            assert others <= trained
        for split in (splits.train, splits.validation, test):
            indices = torch.tensor([len(split) - 1, 0])
            inputs, targets = split.batch(indices)
            assert _fingerprint(targets) == _fingerprint(tree_map(lambda part, at=indices: part[at], split.y)), (
                "targets come in the order of the indices"
            )
            assert _fingerprint(split.subset(indices).batch(torch.tensor([0, 1]))) == _fingerprint((inputs, targets))

    def test_the_splits_are_the_same_every_time(self, splits: Splits) -> None:
        again = self.subject().read(self.data_set(), self.root())
        for split, other in ((splits.train, again.train), (splits.validation, again.validation)):
            assert _fingerprint(split.y) == _fingerprint(other.y)
            some = torch.arange(0, len(split), max(len(split) // 500, 1))
            assert _fingerprint(split.batch(some)) == _fingerprint(other.batch(some)), "splits differ from call to call"

    def test_a_refit_trains_on_both_splits(self, few: Splits) -> None:
        whole = few.together()
        assert len(whole.validation) == 0
        for split, begin in ((few.train, 0), (few.validation, len(few.train))):
            place = torch.arange(len(split))
            assert _fingerprint(whole.train.batch(place + begin)) == _fingerprint(split.batch(place))

    def test_no_sample_is_in_two_splits(self, splits: Splits) -> None:
        test = self.subject().read_test(self.data_set(), self.root())
        train, validation, held = (_samples(split) for split in (splits.train, splits.validation, test))
        common = len(train & validation) + len(train & held) + len(validation & held)
        assert common <= self.repeated, (
            f"{common} samples are in two splits; set `repeated` if the data have them twice"
        )

    @ON_EACH_DEVICE
    def test_outputs_have_a_loss(self, few: Splits, device: str) -> None:
        trainer = self.trainer(few, "base", device)
        inputs, targets = trainer.splits.train.batch(torch.arange(3, device=device))
        outputs = trainer.outputs(inputs)
        if classes := self.subject().datasets[self.data_set()].classes:
            assert outputs.shape == (*targets.shape, classes), "outputs have a value for each class"
        loss = self.subject().loss(outputs, targets)
        assert loss.shape == ()
        assert loss.isfinite()
        changed = self.subject().augment(inputs, self.setting())
        assert trainer.outputs(changed).shape == outputs.shape

    def test_no_number_depends_on_how_batches_are_cut(self, few: Splits) -> None:
        trainer, losses = self.trainer(few, "base"), []
        for size in (len(few.train), max(len(few.train) // 3, 1)):
            trainer.workload.evaluation_batch = size  # type: ignore[misc]  # a copy, which the trainer configured
            losses.append(trainer.evaluate(few.train).loss)
        assert losses[1] == pytest.approx(losses[0], rel=1e-3), (
            "the loss is no mean of what `count` counts, or the network's outputs depend on the batch beside them"
        )

    def test_a_trial_cannot_change_the_data(self, few: Splits) -> None:
        some = torch.arange(4)
        with share(few) as data:
            train, before = data.splits().train, _fingerprint(few.train.batch(some))
            for tensor in tensors_in(train.batch(some)):
                tensor.zero_()
            assert _fingerprint(train.batch(some)) == before, "`batch` returns views of the store; return copies"
            for tensor in tensors_in(train):
                tensor.zero_()
            assert _fingerprint(data.splits().train.batch(some)) == before

    @ON_EACH_DEVICE
    @WITH_EACH_OPTIMIZER
    def test_the_loss_falls(self, few: Splits, optimizer: str, device: str) -> None:
        if optimizer not in ("base", *(self.subject().rho or SEARCHED)):
            pytest.skip(f"the workload has no range of ρ of its own for {optimizer}")
        trainer = self.trainer(few, optimizer, device)
        before = trainer.evaluate(few.train).loss
        while not trainer.finished:
            last = trainer.epoch()
        assert not last.diverged
        assert last.metrics["train/loss"] < before

    def test_the_seed_decides(self, few: Splits) -> None:
        first, again, other = (_numbers(self.trainer(few, "sam", seed=seed).epoch().metrics) for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_a_training_is_resumed_bitwise(self, few: Splits, tmp_path: Path) -> None:
        straight = self.trainer(few, "sam")
        straight.epoch()
        torch.save(straight.state_dict(), tmp_path / "state.pt")
        resumed = self.trainer(few, "sam", seed=9)
        resumed.configuration = straight.configuration
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert _numbers(straight.epoch().metrics) == _numbers(resumed.epoch().metrics)
        for ours, theirs in zip(straight.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs)

    def test_a_reused_process_gives_the_numbers_of_a_fresh_one(
        self, few: Splits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # On a GPU sums come in any order, and no two trainings are equal to the last digit.
        monkeypatch.setattr("tune_sam.training.default_device", lambda: torch.device("cpu"))
        configs = [self._config("sam", 1), self._config("base", 2)]
        with share(few) as data:
            fresh = [self._trainable(config, data).train() for config in configs]
            reused = self._trainable(configs[1], data)
            reused.train()
            for config, expected in zip(configs, fresh, strict=True):
                assert reused.reset(config)
                assert _numbers(reused.train()) == _numbers(expected)

    def test_no_training_reads_the_test_set(self, few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
        def read(*_: Any) -> Store:
            raise AssertionError("the test set was read")

        monkeypatch.setattr(type(self.subject()), "test_split", read)
        self.subject().read(self.data_set(), self.root())
        with share(few) as data:
            self._trainable(self._config("sam", 0), data).train()

    def test_an_empty_folder_is_refused_in_a_sentence(self, tmp_path: Path) -> None:
        try:
            self.subject().check_data(self.data_set(), tmp_path)
        except Refused as error:
            said = str(error)
        else:  # then nothing is read from the folder
            self.subject().read(self.data_set(), tmp_path)
            return
        assert str(tmp_path) in said, "name what is missing"

    def _config(self, optimizer: str, seed: int) -> dict[str, Any]:
        chosen = self.configuration(optimizer, seed)
        return {
            "optimizer": optimizer,
            "rho": chosen.rho,
            "lr": chosen.lr,
            "batch_size": chosen.batch_size,
            **chosen.more,
            "seed": seed,
            "epochs": self.epochs,
            "dataset": self.data_set(),
            "preset": self.preset,
            "precision": "fp32",
        }

    def _trainable(self, config: dict[str, Any], data: Shared) -> Any:
        """Make the workload's trainable in this process, on few samples of each split. Ray types no method of it."""
        workload, splits = copy(self.subject()), data.splits()
        sizes = replace(workload.datasets[self.data_set()], train=len(splits.train), validation=len(splits.validation))
        workload.datasets = {**workload.datasets, self.data_set(): sizes}  # type: ignore[misc]

        class Given(trainable_for(workload)):  # type: ignore[misc]
            def setup(self, config: dict[str, Any]) -> None:
                super().setup(config, data)

        return Given(config)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith(("train/", "val/", "gap/"))}


def _samples(split: Store) -> set[str]:
    return {_fingerprint(split.batch(torch.tensor([index]))[0]) for index in range(len(split))}


def _fingerprint(value: Any) -> str:
    """Hash the numbers in anything that a store returns."""
    digest = hashlib.sha256()
    for tensor in tensors_in(value):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
