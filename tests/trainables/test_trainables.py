"""The trainables in a plain Tuner, without our search, study or MLflow."""

import pytest
import torch
from pages import blocks
from ray import tune

import tune_sam.trainables
from tune_sam.trainables import AttentionTrainable, GCNTrainable, WideResNetTrainable

SHARES = {AttentionTrainable: 0.25, GCNTrainable: 0.1, WideResNetTrainable: 0.5}


def test_each_is_a_trainable_of_its_workload():
    assert [cls.workload.name for cls in SHARES] == ["attention", "gcn", "wideresnet"]
    assert all(issubclass(cls, tune.Trainable) for cls in SHARES)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = tune_sam.trainables.Nothing


@pytest.mark.slow
def test_each_runs_in_a_plain_tuner_with_its_share_of_a_gpu(cluster, tmp_path):
    for trainable, share in SHARES.items():
        assert trainable.default_resource_request({}).required_resources == {"CPU": 1, "GPU": share}
        results = tune.Tuner(
            trainable,
            param_space={
                "optimizer": "asam",
                "rho": tune.grid_search([0.01, 0.1]),
                "lr": 0.01,
                "batch_size": 64,
                "dataset": "digits",
                "epochs": 2,
                "train_subset": 64,
            },
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
        assert not results.errors
        assert [result.metrics["epoch"] for result in results] == [2, 2]
        assert all(0 < result.metrics["val/accuracy"] <= 1 for result in results)
        assert len({result.metrics["val/loss"] for result in results}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("workloads.md", "python"), ids=["plain", "shared"])
def test_the_tuner_of_the_page_runs(code, cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray has its results
    for there, here in (
        ('"dataset": "digits"', '"dataset": "digits", "epochs": 1'),
        ("tune.Tuner(", "found = tune.Tuner("),
    ):
        assert code.count(there) == 1
        code = code.replace(there, here)
    names = {}
    exec(compile(code, "workloads.md", "exec"), names)
    assert [result.metrics["epoch"] for result in names["found"]] == [1]
    assert not names["found"].errors


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("trainable", SHARES, ids=lambda cls: cls.__name__)
def test_a_trial_fits_its_share_of_a_gpu(trainable, real_data):
    """Of a GPU with 24 GB, at the report's setting and the largest batch that is searched."""
    workload = trainable.workload
    config = {
        "optimizer": "asam",
        "rho": 0.1,
        "lr": 0.01,
        "batch_size": max(workload.batch_size),
        "preset": "report",
        "data": str(real_data),
        "train_subset": 4 * max(workload.batch_size),
    }
    torch.cuda.reset_peak_memory_stats()
    actor = trainable(config)
    actor.train()
    actor.stop()
    assert torch.cuda.max_memory_reserved() < SHARES[trainable] * 24e9
