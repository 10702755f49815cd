"""Our workloads keep the contract, on the digits and on their real data."""

import pytest
from foreign_workload import TwoTasks

from tune_sam.testing import WorkloadContract


class TestGCNOnFewDigits(WorkloadContract):
    workload, dataset, samples = "gcn", "digits", 128


class TestWideResNetOnFewDigits(WorkloadContract):
    workload, dataset, samples = "wideresnet", "digits", 64


class TestAttentionOnFewDigits(WorkloadContract):
    workload, dataset, samples = "attention", "digits", 128


class CountsRows(TwoTasks):
    """Its loss is a mean over weights, which it does not count."""

    def count(self, targets):
        return len(targets["size"])


class _OfCountsRows(WorkloadContract):
    workload = f"{__name__}:CountsRows"


def test_a_count_of_something_else_breaks_the_contract(tmp_path):
    kept = _OfCountsRows()
    splits = kept.subject().read("d", tmp_path)
    with pytest.raises(AssertionError, match="the loss is no mean of what `count` counts"):
        kept.test_no_number_depends_on_how_batches_are_cut(splits)


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
