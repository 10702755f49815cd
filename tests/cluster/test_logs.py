import os
from dataclasses import replace

import pytest

from tune_sam.cluster import logs
from tune_sam.cluster.logs import TrialLog
from tune_sam.errors import Refused
from tune_sam.study.logs import is_hidden, last_attempt, printable, read_log
from tune_sam.study.records import open_study


def test_attempts_follow_each_other_in_one_log(tmp_path):
    place = str(tmp_path / "sam" / "0001.log")
    for attempt in (1, 2):
        log = TrialLog(place, attempt)
        with pytest.raises(ZeroDivisionError), log.noting(0):
            _ = attempt / 0
        log.close()
    text = read_log(place)
    assert text.count("ZeroDivisionError") == 2
    assert text.startswith("--- attempt 1, ")
    assert last_attempt(text).startswith("Traceback")
    assert last_attempt(text).count("ZeroDivisionError") == 1


def test_a_uri_has_the_log_as_a_file_has_it(tmp_path):
    place = f"file://{tmp_path}/sam/0001.log"
    for attempt in (1, 2):
        log = TrialLog(place, attempt)
        with pytest.raises(RuntimeError, match=r"the training called sys.exit\(3\)"), log.noting(0):
            raise SystemExit(3)
        assert read_log(place).count("SystemExit: 3") == attempt, "at once"
        log.close()
    assert read_log(place).count("--- attempt") == 2


def test_of_a_long_log_the_beginning_and_the_end_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LIMIT", 1000)
    place = tmp_path / "long.log"
    for attempt in range(1, 100):
        log = TrialLog(str(place), attempt)
        log.close()
    text = read_log(str(place))
    assert len(text) < 1000
    assert text.startswith("--- attempt 1, ")
    assert "bytes left out" in text
    assert text.splitlines()[-1].startswith("--- attempt 99, ")


@pytest.mark.parametrize("place", [None, "/proc/no/such.log"])
def test_a_training_does_not_need_a_log(place):
    log = TrialLog(place)
    with log.noting(0):
        pass
    log.close()
    assert read_log(str(place)) is None


def test_a_log_that_is_another_users_is_told_from_one_that_is_not_there(tmp_path, searched):
    trial = open_study("one", searched).records()[0]
    place = tmp_path / "sam.log"
    place.touch(0)
    before = os.geteuid()
    try:
        if before == 0:  # who may read everything
            os.seteuid(65534)
        assert is_hidden(str(place))
        assert read_log(str(place)) is None
        with pytest.raises(Refused, match="the log .*sam.log of trial one/base/0 is for the user alone"):
            replace(trial, log=str(place)).read_log()
    finally:
        os.seteuid(before)
    assert not is_hidden(str(tmp_path / "none.log"))


def test_what_a_log_says_to_a_terminal_is_left_out():
    assert printable("a \x1b[31mred\x1b[0m\x1b]0;title\x07 word\x00é\tλ\n") == "a red wordé\tλ\n"
    assert printable("epoch 1: 10 %\repoch 1: 99 %\r\nnext\n") == "epoch 1: 99 %\nnext\n"
