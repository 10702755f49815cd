"""What the real data cost in memory."""

import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from pathlib import Path
from tune_sam.space import Configuration
from tune_sam.training import Trainer
from tune_sam.workload import find_workload
workload = find_workload("wideresnet")
splits = workload.splits("cifar10", Path(sys.argv[1]))
training = Trainer(workload, workload.setting("cifar10", "small"), Configuration("sam", 0.05, 0.1, 128, 0), splits,
                   epochs=1)
training.rehearse()
assert len(splits.validation) == 5000
training.evaluate(splits.validation)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""

TRIAL = """
import sys
from pathlib import Path
from tune_sam.cluster.sharing import Shared
from tune_sam.trainables import WideResNetTrainable
import tune_sam.training  # which a trial imports first
class Given(WideResNetTrainable):
    def setup(self, config):
        super().setup(config, Shared(Path(sys.argv[1])))
def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
before = private()
trial = Given({"optimizer": "sam", "rho": 0.05, "lr": 0.1, "batch_size": 128, "preset": "small"})
splits = trial.trainer.splits
import torch
total = sum(int(splits.train.x[part].sum()) for part in torch.arange(len(splits.train)).split(64))
print(total, flush=True)
sys.stdin.readline()
print(private() - before, flush=True)
sys.stdin.readline()
"""


@pytest.mark.data
def test_cifar10_takes_less_than_1200_mb(real_data):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(real_data)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1200, f"{done.stdout} MiB above torch"


@pytest.mark.data
def test_four_trials_at_once_hold_one_copy_of_cifar10(real_data):
    from tune_sam.cluster.sharing import share
    from tune_sam.workload import find_workload

    splits = find_workload("wideresnet").splits("cifar10", real_data)
    size, total = splits.train.x.numel() / (1 << 20), int(splits.train.x.sum())
    with share(splits) as data:
        trials = [
            subprocess.Popen(
                [sys.executable, "-c", TRIAL, str(data.path)], stdin=subprocess.PIPE, text=True, stdout=subprocess.PIPE
            )
            for _ in range(4)
        ]
        assert [int(trial.stdout.readline()) for trial in trials] == [total] * 4
        private = []
        for trial in trials:  # once all four have read all of it
            trial.stdin.write("\n")
            trial.stdin.flush()
            private.append(float(trial.stdout.readline()))
        for trial in trials:
            trial.communicate("\n")
    assert size > 130
    assert max(private) < size, private  # the rest of a trial; with a copy it would be 200 MiB and more
