"""The file that a training is resumed from."""

import pytest
import torch

from tune_sam.checkpoint import FILE, FORMAT, Checkpoint
from tune_sam.config import TrialConfig
from tune_sam.provenance import versions
from tune_sam.space import Configuration
from tune_sam.training import Trainer
from tune_sam.workload import Splits, find_workload

GCN = find_workload("gcn")
TRIAL = TrialConfig(dataset="digits", epochs=2, split_seed=3, configuration=Configuration("sam", 0.05, 0.01, 64, 3))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    splits = GCN.splits("digits", tmp_path_factory.mktemp("data"))
    few = Splits(splits.train.subset(torch.arange(128)), splits.validation.subset(torch.arange(32)))
    training = Trainer(GCN, GCN.setting("digits"), TRIAL.configuration, few, epochs=2, precision="fp32")
    training.epoch()
    return training


def test_a_checkpoint_says_what_it_is_the_state_of(trainer, tmp_path):
    Checkpoint.of(trainer, TRIAL).save(tmp_path)
    found = Checkpoint.read(tmp_path)
    assert (found.workload, found.dataset, found.preset, found.epoch) == ("gcn", "digits", None, 1)
    assert found.configuration == TRIAL.configuration
    assert (found.split_seed, found.versions) == (3, versions())
    for ours, theirs in zip(found.training["model"].values(), trainer.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_the_release_before_is_read(trainer, tmp_path):
    torch.save({"dataset": "digits", "preset": None, "training": trainer.state_dict()}, tmp_path / FILE)
    found = Checkpoint.read(tmp_path)
    assert (found.dataset, found.epoch, found.configuration, found.versions) == ("digits", 1, None, None)


def test_a_checkpoint_of_a_later_release_is_refused_in_a_sentence(trainer, tmp_path):
    Checkpoint.of(trainer, TRIAL).save(tmp_path)
    state = torch.load(tmp_path / FILE, weights_only=True)
    torch.save(state | {"format": FORMAT + 1}, tmp_path / FILE)
    with pytest.raises(ValueError, match=f"format {FORMAT + 1} is of a later release than format {FORMAT}; upgrade"):
        Checkpoint.read(tmp_path)
