import pytest
import torch

from tune_sam.errors import Refused
from tune_sam.samples import with_label_noise, with_train_subset
from tune_sam.store import TensorStore
from tune_sam.workload import Splits, find_workload


def store(counts):
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    return TensorStore(torch.arange(len(y), dtype=torch.float32)[:, None], y)


def trained(counts, samples, seed=0):
    whole = store(counts)
    return with_train_subset(Splits(whole, store([3, 3])), samples, seed)


def test_batches_are_indexed_copies():
    whole = store([4, 6])
    inputs, targets = whole.batch(torch.tensor([7, 2, 2]))
    assert inputs[:, 0].tolist() == [7, 2, 2]
    assert targets.tolist() == whole.y[[7, 2, 2]].tolist()
    inputs.zero_()
    targets.zero_()
    assert torch.equal(whole.x, store([4, 6]).x)
    assert torch.equal(whole.y, store([4, 6]).y)


def test_a_subset_holds_its_samples_alone():
    part = store([4, 6]).subset(torch.tensor([9, 3]))
    assert len(part) == 2
    assert part.x[:, 0].tolist() == [9, 3]
    assert part.subset(torch.tensor([1])).x.item() == 3


@pytest.mark.parametrize(
    ("counts", "samples"),
    [([50, 50, 50, 50], 20), ([50, 50], 7), ([90, 10], 20), ([97, 3], 50), ([5, 5], 10), ([1, 1], 1)],
)
def test_a_training_subset_has_the_classes_shares(counts, samples):
    part = trained(counts, samples).train
    assert len(part) == samples
    assert len(set(part.x[:, 0].tolist())) == samples, "no sample twice"
    for label, count in enumerate(counts):
        assert abs(int((part.y == label).sum()) - samples * count / sum(counts)) <= 1
    whole = store(counts)
    assert all(whole.y[int(place)] == label for place, label in zip(part.x[:, 0], part.y, strict=True))


def test_of_a_balanced_set_the_subset_is_balanced():
    assert torch.bincount(trained([500] * 10, 120).train.y).tolist() == [12] * 10


def test_the_validation_part_stays_whole():
    assert len(trained([50, 50], 10).validation) == 6


def test_without_a_number_the_splits_stay_as_they_are():
    whole = Splits(store([5, 5]), store([3, 3]))
    assert with_train_subset(whole, None) is whole


def test_a_subset_is_chosen_once_and_grows_from_within():
    first, again, other = (trained([300, 200], 60, seed).train.x[:, 0].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert set(first) < set(trained([300, 200], 90).train.x[:, 0].tolist())


def test_more_than_there_are_is_refused():
    with pytest.raises(Refused, match="--train-subset 11 is more than the 10 training samples"):
        trained([5, 5], 11)


def test_label_noise_replaces_a_share_of_the_training_labels_and_no_other():
    clean = Splits(store([50, 50, 50]), store([2, 1, 1]))
    noisy, again = (with_label_noise(clean, 0.2) for _ in range(2))
    assert int((noisy.train.y != clean.train.y).sum()) == 30
    assert set(noisy.train.y.tolist()) == {0, 1, 2}
    assert noisy.train.y.equal(again.train.y), "drawn once, whatever the trial"
    assert noisy.validation is clean.validation
    assert noisy.train.x is clean.train.x
    assert with_label_noise(clean, None) is clean


def test_few_graphs_with_wrong_labels_keep_their_nodes_and_a_refit_adds_right_ones():
    whole = find_workload("gcn").read("digits", None)
    few = with_train_subset(whole, 108)
    noisy = with_label_noise(few, 0.4)
    assert int((noisy.train.y != few.train.y).sum()) == 43
    assert noisy.train.x is few.train.x
    refitted = noisy.together().train
    assert len(refitted) == 108 + len(whole.validation)
    assert refitted.y[108:].equal(whole.validation.y)


def test_labels_that_do_not_count_stay_as_they_are():
    clean = Splits(TensorStore(torch.zeros(100, 1), torch.arange(100) % 4 - 1), store([2]))
    noisy = with_label_noise(clean, 0.4, ignored=-1)
    changed = noisy.train.y != clean.train.y
    assert int(changed.sum()) == 30
    assert set(noisy.train.y[changed].tolist()) == set(clean.train.y[changed].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("classes", "share"), [([50], 0.2), ([5, 5], 0.01)])
def test_a_share_that_changes_no_label_is_refused(classes, share):
    with pytest.raises(Refused, match=rf"--label-noise {share:g} changes none of {sum(classes)} training labels of"):
        with_label_noise(Splits(store(classes), store([2])), share)


def test_a_store_whose_labels_cannot_be_replaced_is_refused():
    class Own:
        y = torch.tensor([0, 1])

    with pytest.raises(Refused, match=r"--label-noise 0\.2 needs a store that is a dataclass with a field y, not Own"):
        with_label_noise(Splits(Own(), Own()), 0.2)
