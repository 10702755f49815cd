"""Our workloads keep the contract, on the digits and on their real data."""

import pytest

from tune_sam.testing import WorkloadContract


class TestGCNOnFewDigits(WorkloadContract):
    workload, dataset, samples = "gcn", "digits", 128


class TestWideResNetOnFewDigits(WorkloadContract):
    workload, dataset, samples = "wideresnet", "digits", 64


class TestAttentionOnFewDigits(WorkloadContract):
    workload, dataset, samples = "attention", "digits", 128


@pytest.mark.data
@pytest.mark.usefixtures("real_data")
class TestGCN(WorkloadContract):
    workload = "gcn"
    repeated = 0


@pytest.mark.data
@pytest.mark.usefixtures("real_data")
class TestWideResNet(WorkloadContract):
    workload, preset, samples = "wideresnet", "small", 128


@pytest.mark.data
@pytest.mark.usefixtures("real_data")
class TestAttention(WorkloadContract):
    workload, samples = "attention", 16


@pytest.mark.data
@pytest.mark.usefixtures("real_data")
class TestAttentionBetweenPatients(WorkloadContract):
    workload, dataset, samples = "attention", "mitbih-interpatient", 16
