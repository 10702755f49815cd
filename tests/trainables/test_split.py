from dataclasses import astuple

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tune_sam.trainables.data.split import stratified
from tune_sam.trainables.gcn import GCN
from tune_sam.workload import find_workload

LABELS = {
    "digits": load_digits().target,
    "mutagenicity": np.random.default_rng(0).permutation(np.repeat([0, 1], [2401, 1936])),
}


@pytest.fixture(params=LABELS)
def dataset(request):
    return request.param


def test_parts_have_the_sizes_that_the_workload_states(dataset):
    sizes = GCN.datasets[dataset]
    parts = stratified(LABELS[dataset])
    assert [len(part) for part in astuple(parts)] == [sizes.train, sizes.validation, sizes.test]
    assert len(set(LABELS[dataset])) == sizes.classes


def test_every_sample_is_in_one_part(dataset):
    parts = astuple(stratified(LABELS[dataset]))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS[dataset])))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_each_part_has_the_shares_of_the_classes(dataset):
    labels = LABELS[dataset]
    for part in astuple(stratified(labels)):
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
            assert (labels[part] == label).sum() == pytest.approx(count * len(part) / len(labels), abs=1)


def test_a_split_is_the_same_every_time_and_no_ones_random_state_matters(dataset):
    np.random.seed(1)
    first = stratified(LABELS[dataset])
    state = np.random.get_state()[1].tolist()
    np.random.seed(2)
    again = stratified(LABELS[dataset])
    assert all((a == b).all() for a, b in zip(astuple(first), astuple(again), strict=True))
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() == state


def test_another_seed_is_another_split(dataset):
    assert (stratified(LABELS[dataset], seed=1).test != stratified(LABELS[dataset]).test).any()


@pytest.mark.parametrize("name", ["wideresnet", "attention", "gcn"])
def test_a_workload_splits_the_digits_by_the_seed_that_it_is_given(name):
    workload = find_workload(name)
    assert workload.split_by(0) is workload
    for seed in (0, 3):
        of_seed = workload.split_by(seed)
        splits, test = of_seed.read("digits", None), of_seed.read_test("digits", None)
        parts = astuple(stratified(LABELS["digits"], seed))
        for store, part in zip((splits.train, splits.validation, test), parts, strict=True):
            assert (store.y.numpy() == LABELS["digits"][part]).all()
