"""The digits with batch sizes whose training hangs, dies, raises or prints: one fault each."""

import ctypes
import os
import signal
import sys
import time

from tune_sam.cluster.pulse import alive
from tune_sam.trainables.gcn import GCN

HANGS, CRASHES, KILLED, LEAVES, EXITS, RAISES, DAWDLES, TRAINS = range(17, 25)
FIRST_WORDS, LAST_WORDS = "the training begins", "the training is about to end"
DAWDLING = 0.8
"""Seconds that a step of a slow training takes at least."""


class Ill(GCN):
    name = "ill"
    batch_size = (HANGS, CRASHES, KILLED, LEAVES, EXITS, RAISES, DAWDLES, TRAINS)
    datasets = {"digits": GCN.datasets["digits"]}
    settings = {"digits": GCN.settings["digits"]}

    def loss(self, outputs, targets):
        if outputs.requires_grad:
            suffer(len(targets))
        return super().loss(outputs, targets)


def suffer(fault):
    if fault == HANGS:
        os.write(1, b"printed by native code\n")
        ctypes.PyDLL(None).pause()  # in native code, and nothing else in this process runs Python meanwhile
    if fault == CRASHES:
        ctypes.string_at(0)
    if fault == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == LEAVES:
        os._exit(4)
    if fault == EXITS:
        sys.exit(3)
    if fault == RAISES:
        print(FIRST_WORDS)
        for _ in range(30):
            print(100_000 * "x")
        print(LAST_WORDS)
        raise RuntimeError("this batch size is broken")
    if fault == DAWDLES:
        time.sleep(DAWDLING)


def go_on(seconds):
    """Give signs of life for so long."""
    for _ in range(10 * seconds):
        alive(time.sleep)(0.1)
    return "it went on"
