from types import SimpleNamespace

import odd_workload
import pytest
import torch

import tune_sam
from tune_sam.cluster import gpu
from tune_sam.cluster.gpu import Need, measured_fractions, trial_device
from tune_sam.cluster.sharing import share
from tune_sam.cluster.tasks import prepare_worker
from tune_sam.config import TrialConfig
from tune_sam.operations import doctor
from tune_sam.space import Configuration
from tune_sam.workload import find_workload

GIB = 2**30


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Need(4 * GIB, 0, 80 * GIB), 1 / 16),  # 4.8 of 80 GiB
        (Need(15 * GIB, 1 * GIB, 80 * GIB), 1 / 4),
        (Need(30 * GIB, 1 * GIB, 80 * GIB), 1 / 2),
        (Need(60 * GIB, 1 * GIB, 80 * GIB), 1),
        (Need(80 * GIB, 0, 80 * GIB), 1),
    ],
)
def test_a_share_is_one_of_equal_parts_that_the_need_fits_into(need, expected):
    assert need.fraction == expected
    assert need.fraction == 1 or need.fraction * need.total >= need.peak * gpu.MARGIN + need.context


@pytest.mark.parametrize(("asked", "expected"), [(0, "cpu"), (0.25, "cuda"), (None, "cuda")])
def test_a_trial_that_is_to_have_no_gpu_computes_on_the_cpu(asked, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gcn = find_workload("gcn")
    assert trial_device(gcn, asked).type == expected
    study = SimpleNamespace(workload=gcn, settings=SimpleNamespace(threads=1, gpu_fraction=asked))
    assert prepare_worker(study, study.workload).type == expected


def test_a_workload_may_want_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    workload = find_workload("gcn")
    monkeypatch.setattr(type(workload), "gpus_per_trial", 0)
    assert trial_device(workload, None).type == "cpu"


def test_a_training_that_leaves_cublas_no_memory_is_measured_as_one_that_needs_the_whole_gpu(monkeypatch):
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    def fails(*_, **__):
        raise error

    monkeypatch.setattr("tune_sam.training.Trainer", fails)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16 * GIB))
    trial = TrialConfig(dataset="digits", epochs=1, configuration=Configuration("sam", 0.05, 0.01, 32, 0))
    data = SimpleNamespace(splits=lambda: None)
    assert gpu._need(find_workload("gcn"), trial, data).fraction == 1
    error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        gpu._need(find_workload("gcn"), trial, data)


@pytest.mark.slow
def test_a_trial_without_memory_goes_on_once_with_twice_its_share(cluster, tmp_path):
    study = tune_sam.search(
        "odd_workload:Hungry",
        dataset="digits",
        train_subset=128,
        optimizers=["sam"],
        sampler="grid",
        rho="0.05",
        lr="0.01",
        batch_size=",".join(map(str, odd_workload.Hungry.batch_size)),
        epochs=2,
        scheduler="none",
        gpus_per_trial=0.25,
        name="hungry",
        home=tmp_path,
    )
    assert {trial.config.batch_size: (trial.state, trial.reason) for trial in study.records()} == {
        odd_workload.FITS: ("complete", ""),
        odd_workload.FITS_HALF: ("complete", ""),
        odd_workload.NEVER_FITS: ("failed", "out of memory"),
    }
    attempts = {trial.number: trial.user_attrs["attempt"] for trial in optuna_trials(study)}
    assert {trial.config.batch_size: attempts[trial.number] for trial in study.records()} == {
        odd_workload.FITS: 1,
        odd_workload.FITS_HALF: 2,
        odd_workload.NEVER_FITS: 2,
    }
    assert not [one for one in doctor.diagnose("hungry", home=tmp_path) if one.trouble]


@pytest.mark.slow
def test_a_training_that_cannot_even_be_built_has_a_second_attempt_too(cluster, tmp_path, caplog):
    """With the workload's own share at first, which holds where torch sees no GPU that could be measured."""
    seen = torch.cuda.is_available()
    study = tune_sam.search(
        "odd_workload:Heavy",
        dataset="digits",
        train_subset=128,
        optimizers=["sam"],
        trials=1,
        epochs=1,
        scheduler="none",
        gpus_per_trial=odd_workload.Heavy.gpus_per_trial if seen else "auto",
        name="heavy",
        home=tmp_path,
    )
    assert study.counts() == {"complete": 1}
    assert {trial.user_attrs["attempt"] for trial in optuna_trials(study)} == {2}
    assert seen or "takes the workload's fraction, 0.25" in caplog.text


def optuna_trials(study):
    from tune_sam.study.storage import open_storage

    storage = open_storage(study.home)
    return storage.get_all_trials(storage.get_study_id_from_name(f"{study.name}/sam"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_measured_share_holds_its_training(cluster):
    workload = find_workload("gcn")
    with share(workload.splits("digits", None)) as data:
        trial = TrialConfig(dataset="digits", epochs=1, configuration=Configuration("sam", 0.05, 0.01, 32, 0))
        shares = measured_fractions(workload, trial, (32, 64), data)
    assert shares.keys() == {32, 64}
    assert all(0 < part <= 1 for part in shares.values())
