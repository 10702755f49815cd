"""Trainings that hang, die, raise or take too long: how they end, what is said of them, and what their logs have."""

import sys

import ill_workload
import pytest
from ill_workload import CRASHES, DAWDLES, EXITS, FIRST_WORDS, HANGS, KILLED, LAST_WORDS, LEAVES, RAISES, TRAINS
from odd_workload import PYTHONPATH
from studies import INLINE

import tune_sam
from tune_sam.cli.main import main
from tune_sam.cluster.executor import RayExecutor
from tune_sam.cluster.logs import LIMIT
from tune_sam.cluster.watch import Looks
from tune_sam.errors import NothingComplete
from tune_sam.operations.doctor import diagnose
from tune_sam.operations.refit import refit_grid
from tune_sam.tracking.content import LOG_TAG, STATE_TAG
from tune_sam.tuning.listener import Silent

ILL = "ill_workload:Ill"


def search(home, faults, executor=INLINE, **options):
    """Search a grid of the base optimizer with one trial for each fault, in their order."""
    study = tune_sam.search(
        ILL,
        optimizers=["base"],
        sampler="grid",
        batch_size=faults,
        train_subset=60,
        epochs=2,
        name="ill",
        home=home,
        executor=executor,
        **options,
    )
    return {trial.config.batch_size: trial for trial in study.records()}


def command(capfd, *words):
    """Run the command line in this process; give its status and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tune-sam", *words])
        with pytest.raises(SystemExit) as left:
            main()
    return left.value.code, "".join(capfd.readouterr())


def agrees(study):
    return not [one for one in diagnose(study.name, home=study.home) if one.trouble]


def tags(study, trial):
    from mlflow import MlflowClient

    return MlflowClient(study.tracking_uri).get_run(trial.mlflow_run_id).data.tags


@pytest.mark.slow
def test_an_epoch_that_took_longer_than_the_stall_timeout_fails_its_trial(tmp_path):
    found = search(tmp_path, [DAWDLES, RAISES], stall_timeout="1s")
    assert (found[DAWDLES].state, found[DAWDLES].epochs) == ("failed", 0)
    assert found[DAWDLES].reason == "it ended no epoch in 1s, its study's --stall-timeout"
    assert "most recent call first" in found[DAWDLES].read_log(), "where it was when the time was nearly over"
    assert found[RAISES].has_ended
    assert agrees(tune_sam.open_study("ill", tmp_path))


@pytest.mark.slow
def test_the_same_refit_trains_again_what_failed_before(tmp_path, monkeypatch):
    grid = tmp_path / "ill.yaml"
    grid.write_text(f"optimizers: [base]\nsampler: grid\nepochs: 2\ntrain_subset: 60\nbatch_size: [{RAISES}]\n")

    def refit(home):
        return refit_grid(ILL, config=grid, name="ill", home=tmp_path / home, seeds=2, controls=False, executor=INLINE)

    with pytest.raises(NothingComplete, match="this batch size is broken.*the same command trains it again; or choose"):
        refit("mended")
    refused = tune_sam.open_study("ill.refit", tmp_path / "mended")
    assert [trial.state for trial in refused.records()] == ["failed"] * 2

    monkeypatch.setattr(ill_workload, "suffer", lambda fault: None)
    mended, whole = refit("mended"), refit("whole")
    assert mended.table().drop(columns="seconds").equals(whole.table().drop(columns="seconds"))
    study = mended.studies[0]
    assert [trial.reason for trial in study.records()] == [""] * 2
    assert [one.trouble for one in diagnose(study.name, home=study.home)] == [""] * 3
    assert {
        (told[STATE_TAG], told["tune_sam.reason"]) for told in (tags(study, trial) for trial in study.records())
    } == {("complete", "")}


@pytest.mark.slow
def test_what_a_training_raises_is_its_reason_and_the_traceback_is_in_its_log(tmp_path, capfd):
    found = search(tmp_path, [RAISES, EXITS, TRAINS])
    assert found[RAISES].reason == "RuntimeError: this batch size is broken"
    assert found[EXITS].reason == "RuntimeError: the training called sys.exit(3)"
    assert found[TRAINS].state == "complete"
    study = tune_sam.open_study("ill", tmp_path)
    assert agrees(study)
    home = ("--home", str(tmp_path))
    for words in (("trials", "ill"), ("best", "ill"), ("status", "ill")):
        _, said = command(capfd, *words, *home)
        number = found[RAISES].number
        assert f"Failed: base/{number}: RuntimeError: this batch size is broken; see " in said
        assert f"`tune-sam logs ill base/{number}`" in said
    status, said = command(capfd, "logs", "ill", f"base/{number}", *home)
    assert status == 0
    assert "Traceback (most recent call last)" in said
    assert said.rstrip().endswith("RuntimeError: this batch size is broken")
    assert tags(study, found[RAISES])["tune_sam.reason"] == found[RAISES].reason
    assert tags(study, found[RAISES])[LOG_TAG] == f"tune-sam logs ill base/{number}"
    status, said = command(capfd, "logs", "ill", *home)
    assert [line.split()[:2] for line in said.splitlines()[1:]] == [
        [f"base/{trial.number}", trial.state] for trial in study.records()
    ]
    status, said = command(capfd, "logs", "ill", "base/7", *home)
    assert status == 2
    assert "study ill has no trial 'base/7', it has base/0 to base/2; name one as sam/3." in " ".join(said.split())


class Ended(Silent):
    """Counts the trials that have ended."""

    trials = 0

    def ended(self, optimizer, number, outcome):
        self.trials += 1


@pytest.fixture(scope="module")
def suffered(tmp_path_factory):
    """A search under Ray of all faults; a process that dies is not tried again.

    A loaded machine takes a minute to start a process, which counts. So time passes once one trial alone is left.
    """
    home = tmp_path_factory.mktemp("ill")
    faults = [HANGS, CRASHES, KILLED, LEAVES, EXITS, RAISES, TRAINS]
    listener, passed = Ended(), Looks.passed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune_sam.tuning.callback.DEATHS", 1)
        patch.setattr(Looks, "passed", lambda looks: passed(looks) * (listener.trials == len(faults) - 1))
        patch.setenv("PYTHONPATH", PYTHONPATH)
        found = search(home, faults, RayExecutor(), stall_timeout=15, listener=listener)
    return tune_sam.open_study("ill", home), found


@pytest.mark.slow
def test_under_ray_each_fault_fails_its_own_trial_with_a_sentence(suffered):
    study, found = suffered
    killed = "its process was killed, by the system where memory ran out or by a person with SIGKILL"
    for fault, reason in {
        HANGS: "it ended no epoch in 15s, its study's --stall-timeout",
        CRASHES: "its process crashed in native code (Segmentation fault)",
        KILLED: killed,
        LEAVES: killed,
        EXITS: "RuntimeError: the training called sys.exit(3)",
        RAISES: "RuntimeError: this batch size is broken",
    }.items():
        assert found[fault].state == "failed"
        assert found[fault].reason.startswith(reason)
        assert tags(study, found[fault])["tune_sam.reason"] == found[fault].reason
    assert found[TRAINS].state == "complete"
    assert agrees(study)


@pytest.mark.slow
def test_under_ray_a_log_has_what_was_printed_and_where_the_training_hung(suffered):
    _, found = suffered
    hung = found[HANGS].read_log()
    assert "printed by native code" in hung
    assert "in suffer" in hung, "the line of the program at which it hung"
    assert "in suffer" in found[CRASHES].read_log()
    raised = found[RAISES].read_log()
    assert raised.index(FIRST_WORDS) < raised.index("bytes left out") < raised.index(LAST_WORDS)
    assert raised.rstrip().endswith("RuntimeError: this batch size is broken")
    assert len(raised) <= LIMIT
