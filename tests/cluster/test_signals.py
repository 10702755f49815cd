import os
import signal
import sys
import threading
import time

import pytest

from tune_sam.cluster.signals import ENDING, interruptible


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """As in a terminal, wherever the tests run."""
    own = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL)
    before = [signal.signal(number, handler) for number, handler in zip(ENDING, own, strict=True)]
    yield
    for number, handler in zip(ENDING, before, strict=True):
        signal.signal(number, handler)


def interrupted(*sent, again=None):
    """Send this process signals, one after the other, inside an `interruptible`; what comes of the last is raised."""
    with interruptible(again=again):
        for number in sent[:-1]:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        signal.raise_signal(sent[-1])


@pytest.mark.parametrize("sent", ENDING)
def test_what_ends_a_job_interrupts_and_says_so(sent, caplog):
    with pytest.raises(KeyboardInterrupt):
        interrupted(sent)
    (said,) = caplog.messages
    assert said.startswith("Stopping: ")
    assert "once more stops at once" in said


def test_a_second_one_does_what_it_is_told_to(caplog):
    told = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(signal.SIGINT, signal.SIGTERM, again=lambda: told.append("now"))
    assert told == ["now"]
    assert len(caplog.messages) == 1, "it is said once"


def test_inside_another_one_it_is_that_ones_handler_that_counts():
    told = []
    with interruptible(waits_for="", again=lambda: told.append("now")):
        with pytest.raises(KeyboardInterrupt):
            interrupted(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does when it starts
        with pytest.raises(KeyboardInterrupt):
            interrupted(signal.SIGTERM)
    assert told == ["now"]


def test_the_callers_handlers_are_there_again_afterwards():
    before = [signal.getsignal(number) for number in ENDING]
    with interruptible():
        signal.signal(signal.SIGINT, lambda *_: None)
    assert [signal.getsignal(number) for number in ENDING] == before


@pytest.mark.parametrize(("ignored", "sent"), [(signal.SIGINT, signal.SIGTERM), (signal.SIGHUP, signal.SIGINT)])
def test_what_is_ignored_stays_ignored_and_the_others_interrupt(ignored, sent):
    """A shell without job control lets its background jobs ignore SIGINT; `nohup` lets them ignore SIGHUP."""
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        interrupted(ignored)
        with pytest.raises(KeyboardInterrupt):
            interrupted(sent)
    finally:
        signal.signal(ignored, before)


def test_in_another_thread_signals_are_left_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def look():
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]


def test_when_the_terminal_is_closed_lines_go_nowhere():
    """A process whose terminal has gone gets SIGHUP, and an error for each line that it prints."""
    child, terminal = os.forkpty()
    if not child:
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        try:
            with interruptible():
                print("ready", flush=True)
                while True:  # a signal just before signal.pause() would go unseen
                    time.sleep(0.1)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            os._exit(7)
        finally:
            os._exit(8)
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
