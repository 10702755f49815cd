import pickle
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pyarrow.fs import LocalFileSystem

from tune_sam.checkpoint import FILE
from tune_sam.cluster.results import delete
from tune_sam.cluster.watch import Watch
from tune_sam.home import Home
from tune_sam.study.records import Study
from tune_sam.study.settings import OUT_OF_MEMORY
from tune_sam.study.spent import Spent
from tune_sam.tuning.callback import Driver, ending_of
from tune_sam.tuning.listener import Silent
from tune_sam.tuning.meter import Meter


@pytest.mark.parametrize(
    ("result", "ending"),
    [
        ({"epoch": 10, "diverged": False}, ("complete", "")),
        ({"epoch": 12, "diverged": False}, ("complete", "")),
        ({"epoch": 4, "diverged": False}, ("pruned", "not in the better half after epoch 4")),
        ({"epoch": 10, "diverged": True}, ("diverged", "a loss or a weight was not finite in epoch 10")),
    ],
)
def test_complete_is_what_reached_its_epochs_with_finite_weights(result, ending):
    assert ending_of(result, 10) == ending


PRUNED = 4
"""The epoch after which the ledger stops trials."""

TRIAL = {"optimizer": "sam", "number": 0, "rho": 0.05, "lr": 0.01, "batch_size": 64, "dataset": "digits"}


def study(folder, run="1234567890", scheme=""):
    """A study whose results are in a folder: `s/ray-12345678` below it."""
    storage = f"{scheme}{folder}"
    return Study("s", Home(folder, named_storage=storage), Book.settings, "", "", "1", run, storage)


def results(folder):
    return folder / "s" / "ray-12345678" / "sam"


class Listener(Silent):
    put = ()

    def put_back(self, optimizer, number):
        self.put = optimizer, number


METER = Meter(SimpleNamespace(time_budget=0, epoch_budget=0, patience=0), Spent(), None)


class Book:
    """A ledger that only knows checkpoints."""

    optimizer, kept, outcome = "sam", (), None
    settings = SimpleNamespace(epochs=10, workload="gcn", judged_by="val/accuracy", split_seed=0)

    def reported(self, number):
        return 0

    def reached(self, number):
        return {"val/accuracy": 0.5}

    def trained(self, number):
        return 12.5

    def checkpoints(self, number):
        return self.kept

    def note_checkpoint(self, number, place):
        kept = (place, *self.kept)
        self.kept = kept[:2]
        return kept[2:]

    def end(self, number, outcome):
        self.outcome = outcome

    def suspend(self, number, gpus):
        self.suspended = number

    def pruned(self, number, epoch):
        return epoch == PRUNED

    def key(self, number):
        return f"s/sam/{number}"


@pytest.mark.parametrize("epoch", [PRUNED, PRUNED + 1])
def test_a_trial_that_its_ledger_did_not_stop_was_interrupted_by_a_budget_and_goes_on_later(tmp_path, epoch):
    book, listener = Book(), Listener()
    driver = Driver({"sam": book}, study(tmp_path), listener, Watch(0, 0, None), METER)
    driver.on_trial_complete(0, [], SimpleNamespace(config=TRIAL, last_result={"epoch": epoch, "diverged": False}))
    if epoch == PRUNED:
        assert book.outcome.state == "pruned"
    else:
        assert (book.suspended, book.outcome, listener.put) == (0, None, ("sam", 0))


def test_a_trial_that_fails_before_an_epoch_of_its_own_keeps_what_attempts_before_it_trained(tmp_path):
    book = Book()
    driver = Driver({"sam": book}, study(tmp_path), Listener(), Watch(0, 0, None), METER)
    (tmp_path / "error.txt").write_text("Traceback\nValueError: no\n")
    failed = SimpleNamespace(
        config=TRIAL, last_result={}, pickled_error_file=None, error_file=str(tmp_path / "error.txt")
    )
    driver.on_trial_error(0, [], failed)
    assert (book.outcome.state, book.outcome.seconds) == ("failed", 12.5)
    assert book.outcome.metrics == {"val/accuracy": 0.5}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory\nFor debugging consider"), OUT_OF_MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OUT_OF_MEMORY),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access"), "RuntimeError: CUDA error: an illegal memory access"),
    ],
)
@pytest.mark.parametrize("kept", [True, False])
def test_a_gpu_runs_out_of_memory_in_its_allocator_its_driver_or_its_libraries(tmp_path, error, reason, kept):
    book = Book()
    driver = Driver({"sam": book}, study(tmp_path), Listener(), Watch(0, 0, None), METER)
    (tmp_path / "error.txt").write_text("".join(["Traceback\n", *traceback.format_exception_only(error)]))
    (tmp_path / "error.pkl").write_bytes(pickle.dumps(error))
    failed = SimpleNamespace(
        config=TRIAL,
        last_result={},
        pickled_error_file=str(tmp_path / "error.pkl") if kept else None,
        error_file=str(tmp_path / "error.txt"),
        placement_group_factory=SimpleNamespace(required_resources={"GPU": 1}),
    )
    driver.on_trial_error(0, [], failed)
    assert (book.outcome.state, book.outcome.reason) == ("failed", reason)


def test_a_trial_that_was_put_back_is_told_to_start_again(tmp_path):
    told = []

    class Heard(Listener):
        def started(self, optimizer, number):
            told.append((optimizer, number))

    driver = Driver({"sam": Book()}, study(tmp_path), Heard(), Watch(0, 0, None), METER)
    trial = SimpleNamespace(config=TRIAL, last_result={"epoch": PRUNED + 1, "diverged": False})
    for _ in range(2):
        driver.on_trial_start(0, [], trial)
        driver.on_trial_complete(0, [], trial)
    assert told == [("sam", 0)] * 2


def test_a_checkpoint_that_could_not_be_noted_fails_the_trial_unless_a_later_one_was(tmp_path):
    for noted_again, state in ((False, "failed"), (True, "complete")):
        book = Book()
        driver = Driver({"sam": book}, study(tmp_path), Listener(), Watch(0, 0, None), METER)
        trial = SimpleNamespace(config=TRIAL, last_result={"epoch": 10, "diverged": False, "val/accuracy": 0.5})
        checkpoint = SimpleNamespace(filesystem=LocalFileSystem(), path=str(results(tmp_path) / "c"))
        book.note_checkpoint = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            driver.on_checkpoint(0, [], trial, checkpoint)
        if noted_again:
            del book.note_checkpoint
            driver.on_checkpoint(0, [], trial, checkpoint)
        driver.on_trial_complete(0, [], trial)
        assert book.outcome.state == state


@pytest.mark.parametrize("whole", [True, False])
def test_the_last_checkpoint_stays_and_others_that_may_be_needed_until_it_is_known_to_be_whole(tmp_path, whole):
    places = [results(tmp_path) / name for name in ("0", "1", "2", "3", "4")]
    for place in places:
        place.mkdir(parents=True)
        torch.save({}, place / FILE)
    book = Book()
    book.kept = ("sam/0",)
    driver = Driver({"sam": book}, study(tmp_path), Listener(), Watch(0, 0, None), METER)
    trial = SimpleNamespace(
        config=TRIAL | {"resume_from": [str(places[0])]},
        last_result={"epoch": 10, "diverged": False, "val/accuracy": 0.5},
    )
    for place in places[1:]:
        driver.on_checkpoint(0, [], trial, SimpleNamespace(filesystem=LocalFileSystem(), path=str(place)))
        assert places[0].exists(), "a new process of this trial would begin there"
    assert [place.exists() for place in places] == [True, False, False, True, True]
    if not whole:
        (places[-1] / FILE).write_bytes(b"")
    driver.on_trial_complete(0, [], trial)
    assert [place.exists() for place in places] == [not whole, False, False, not whole, True]
    assert book.outcome.state == "complete"


def test_what_a_record_says_of_a_checkpoint_elsewhere_is_never_removed(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for foreign in (str(mine), "../../../mine", f"{results(tmp_path)}/../../../mine", f"file://{mine}"):
        book = Book()
        book.kept = (foreign,)
        driver = Driver({"sam": book}, study(tmp_path), Listener(), Watch(0, 0, None), METER)
        last = {"epoch": 10, "diverged": False, "val/accuracy": 0.5}
        trial = SimpleNamespace(config=TRIAL | {"resume_from": [foreign]}, last_result=last)
        place = str(results(tmp_path) / "1")
        driver.on_checkpoint(0, [], trial, SimpleNamespace(filesystem=LocalFileSystem(), path=place))
        driver.on_trial_complete(0, [], trial)
        assert mine.is_dir(), foreign
        assert book.kept[0] == "sam/1"


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("named", ["%2e%2e/%2e%2e/%2e%2e/mine", "./../../mine", ".", "sam//", "sam/1?x=1", "sam/1#x"])
def test_a_record_names_only_what_is_below_its_studys_results(tmp_path, scheme, named):
    mine = tmp_path / "mine"
    mine.mkdir()
    (results(tmp_path) / "1").mkdir(parents=True)
    there = study(tmp_path, scheme=scheme)
    assert there.checkpoint(named) is None
    with pytest.raises(ValueError, match="so it is not removed"):
        delete(there, named)
    assert mine.is_dir()
    assert results(tmp_path).is_dir()


@pytest.mark.parametrize("run", ["../../..", "x/../../..", ""])
def test_no_run_that_a_record_names_leads_out_of_the_studys_folder(tmp_path, run):
    there = study(tmp_path, run)
    assert Path(there.results).resolve().parent == tmp_path / "s"
    assert Path(there.checkpoint("sam/1")).resolve().is_relative_to(tmp_path / "s")
