"""What the tests of faults share: who does harm in the middle of a search, and what has to be true afterwards."""

from tune_sam.study.records import open_study
from tune_sam.tuning.listener import Silent


class Saboteur(Silent):
    """Does something once, when a trial has trained an epoch."""

    def __init__(self, act):
        self.act = act

    def epoch(self, optimizer, number, epoch):
        act, self.act = self.act, lambda: None
        act()


def assert_trained_once(home, trials=6):
    """Assert that every trial of the study `one` is complete, and the ledger has each of its two epochs."""
    study = open_study("one", home)
    assert study.counts() == {"complete": trials}
    assert {tuple(study.history(trial)) for trial in study.records()} == {(1, 2)}
