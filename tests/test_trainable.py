import os
import time

import pytest
import ray
import torch
from ray import tune

from tune_sam.checkpoint import Checkpoint
from tune_sam.cluster.gpu import gpu_fraction
from tune_sam.cluster.sharing import share
from tune_sam.errors import Refused
from tune_sam.samples import with_train_subset
from tune_sam.trainable import trainable_for
from tune_sam.trainables import GCNTrainable
from tune_sam.workload import Splits, find_workload

GCN = find_workload("gcn")
SMALL = {"dataset": "digits", "train_subset": 128, "epochs": 2, "lr": 0.01, "batch_size": 64}
CONFIGS = [
    {**SMALL, "optimizer": "sam", "rho": 0.05, "seed": 1},
    {**SMALL, "optimizer": "base", "rho": None, "seed": 2, "batch_size": 128},
    {**SMALL, "optimizer": "asam", "rho": 0.1, "seed": 1},
]


@pytest.fixture(scope="module")
def data():
    with share(with_train_subset(GCN.splits("digits", None), 128)) as shared:
        yield shared


def numbers(result):
    return {name: value for name, value in result.items() if name.startswith(("train/", "val/", "gap/"))}


def _with(data):
    return tune.with_parameters(trainable_for(GCN), data=data)


@pytest.mark.slow
def test_a_reused_actor_gives_the_numbers_of_a_fresh_one(cluster, data, tmp_path):
    trainable = _with(data)
    expected = []
    for config in CONFIGS:
        actor = trainable(config)
        expected.append([numbers(actor.train()) for _ in range(2)])
    reused = trainable(CONFIGS[-1])
    reused.train()
    for config, results in zip(CONFIGS, expected, strict=True):
        assert reused.reset(config)
        assert [numbers(reused.train()) for _ in range(2)] == results


def test_a_reused_actor_reads_other_data_where_its_config_names_them():
    small, larger = ({**CONFIGS[0], "train_subset": samples} for samples in (64, 128))
    trainable = trainable_for(GCN)
    expected = numbers(trainable(larger).train())
    actor = trainable(small)
    first = actor.trainer.splits.train
    assert actor.reset({**small, "lr": 0.02})
    assert len(actor.trainer.splits.train) == 64
    assert actor.reset(larger)
    assert len(first) == 64
    assert numbers(actor.train()) == expected
    actor.stop()


def test_a_reused_actor_reads_another_split_where_its_config_names_one():
    ours, other = ({**CONFIGS[0], "split_seed": seed} for seed in (0, 3))
    actor = trainable_for(GCN)(ours)
    assert actor.reset(other)
    expected = with_train_subset(GCN.split_by(3).splits("digits", None), 128)
    assert torch.equal(actor.trainer.splits.train.x, expected.train.x)
    assert torch.equal(actor.trainer.splits.validation.y, expected.validation.y)
    actor.stop()


def test_data_other_than_what_the_config_names_are_refused(data):
    class Given(trainable_for(GCN)):
        def setup(self, config):
            super().setup(config, data)

    with pytest.raises(ValueError, match="128 training and 179 validation samples, the config names 100 "):
        Given({**CONFIGS[0], "train_subset": 100})


def test_data_of_another_split_with_as_many_training_samples_are_refused(data):
    splits = data.splits()
    with share(Splits(splits.train, splits.train)) as other:

        class Given(trainable_for(GCN)):
            def setup(self, config):
                super().setup(config, other)

        with pytest.raises(ValueError, match="128 training and 128 validation samples, the config names 128 a"):
            Given(CONFIGS[0])


def test_data_of_the_home_are_fetched_and_a_named_folder_is_only_read(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNE_SAM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TUNE_SAM_DATA", raising=False)
    fetched = []
    monkeypatch.setattr(type(GCN), "fetch", lambda self, dataset, root: fetched.append((dataset, root)))
    config = {"optimizer": "base", "lr": 0.01, "batch_size": 64}
    for options in ({}, {"data": str(tmp_path)}):
        with pytest.raises(Refused, match=r"Mutagenicity_A.txt is missing; put .* or let them be downloaded"):
            trainable_for(GCN)({**config, **options})
    assert fetched == [("mutagenicity", tmp_path / "home" / "data")]


def test_a_checkpoint_restores_another_actor(cluster, data, tmp_path):
    trainable = _with(data)
    first = trainable(CONFIGS[0])
    first.train()
    first.save_checkpoint(str(tmp_path))
    expected = numbers(first.train())
    second = trainable({**CONFIGS[0], "resume_from": [str(tmp_path)]})
    result = second.train()
    assert numbers(result) == expected
    assert result["epoch"] == 2
    assert result["done"]
    assert Checkpoint.read(tmp_path).dataset == "digits"


def test_a_training_that_had_reached_its_end_gives_its_last_result_again(cluster, data, tmp_path):
    trainable = _with(data)
    first = trainable(CONFIGS[0])
    results = [first.train() for _ in range(2)]
    first.save_checkpoint(str(tmp_path))
    again = trainable({**CONFIGS[0], "resume_from": [str(tmp_path)]}).train()
    assert numbers(again) == numbers(results[-1])
    assert again["epoch"] == 2
    assert again["done"]


def test_a_training_that_was_interrupted_where_it_was_to_stop_gives_that_result_again(cluster, data, tmp_path):
    trainable = _with(data)
    first = trainable(CONFIGS[0])
    result = first.train()
    first.save_checkpoint(str(tmp_path))
    again = trainable({**CONFIGS[0], "resume_from": [str(tmp_path)], "stop_after": 1}).train()
    assert numbers(again) == numbers(result)
    assert (again["epoch"], again["done"]) == (1, False)


def test_divergence_ends_a_trial_without_metrics(cluster, data):
    result = _with(data)({**CONFIGS[1], "lr": 1e30}).train()
    assert result["diverged"]
    assert result["done"]
    assert not numbers(result)


@pytest.mark.parametrize(("config", "share"), [({}, 0.1), ({"gpus_per_trial": 0.25}, 0.25), ({"gpus_per_trial": 0}, 0)])
def test_the_workloads_share_holds_where_the_cluster_has_gpus(cluster, config, share):
    assert gpu_fraction(GCN, config.get("gpus_per_trial")) == share
    request = trainable_for(GCN).default_resource_request({**config, "cpus_per_trial": 2})
    assert request.required_resources.get("GPU", 0) == share
    assert request.required_resources["CPU"] == 2


def test_a_trial_without_a_gpu_is_on_the_cpu_of_a_machine_that_has_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    actor = trainable_for(GCN)({**CONFIGS[0], "gpus_per_trial": 0})
    assert (actor.trainer.device.type, actor.trainer.precision) == ("cpu", "fp32")
    actor.stop()


def test_without_a_cluster_there_is_no_share(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert gpu_fraction(GCN, None) == 0


def meeting_trainable(place):
    """A trial that ends only if two of them run at the same time. Made in a function, so that it travels by value."""

    class Meeting(GCNTrainable):
        def step(self):
            (place / f"{os.getpid()}").touch()
            for _ in range(600):
                if len(list(place.iterdir())) == 2:
                    return {
                        **super().step(),
                        "device": str(self.trainer.device),
                        "done": True,
                        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
                    }
                time.sleep(0.1)
            raise TimeoutError("two trials were not at work at the same time")

    return Meeting


@pytest.mark.slow
def test_in_a_plain_tuner_trials_share_one_logical_gpu_and_compute_where_torch_can(cluster, tmp_path):
    (tmp_path / "meeting").mkdir()
    results = tune.Tuner(
        meeting_trainable(tmp_path / "meeting"),
        param_space={
            **CONFIGS[2],
            "seed": tune.grid_search([1, 2]),
            "gpus_per_trial": 0.5,
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=2),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "ray"), verbose=0),
    ).fit()
    assert not results.errors
    assert len({result.metrics["pid"] for result in results}) == 2
    assert {result.metrics["visible"] for result in results} == {"0"}, "each was on the one GPU"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert {result.metrics["device"] for result in results} == {device}
    for result in results:
        assert result.metrics["epoch"] == 1
        assert 0 < result.metrics["val/accuracy"] < 1
