"""The Trainer under Ray Tune: one step is one epoch.

What trains is imported by the trial, for a driver that only names the class needs no torch.
"""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import ray
from ray import tune

from tune_sam.checkpoint import Checkpoint, Damaged
from tune_sam.cluster.gpu import cap_gpu_memory, gpu_fraction, trial_device
from tune_sam.cluster.logs import TrialLog
from tune_sam.cluster.sharing import Shared, share
from tune_sam.config import TrialConfig
from tune_sam.home import Home
from tune_sam.workload import Workload, find_workload

if TYPE_CHECKING:
    from tune_sam.training import Epoch


class SAMTrainable(tune.Trainable):
    """One training of a workload as a Tune trial. :func:`trainable_for` makes the class of a workload.

    The trial's config has the fields of :class:`tune_sam.config.TrialConfig` as one flat dict: `optimizer`, `lr` and
    `batch_size` it must have, `rho` unless the optimizer is `base`, and the others have defaults. So a part of them may
    be Tune's own ranges, as in `{"optimizer": "sam", "rho": tune.loguniform(0.01, 1), "lr": 0.01, "batch_size": 64}`.

    A result has the metrics of :class:`tune_sam.training.Epoch`, its number as `epoch`, and `diverged`; the last one
    has `done`. A diverged training ends itself and reports no metrics, so that no scheduler compares a NaN.
    """

    workload: ClassVar[Workload]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Ask for the CPUs of the trial's config and for its GPUs, else for the workload's fraction of one."""
        cpus, gpus = TrialConfig.resources(config)
        return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpu_fraction(cls.workload, gpus)}])

    def setup(self, config: dict[str, Any], data: Shared | None = None) -> None:
        """Build the training.

        Args:
            config: the trial's.
            data: what the config names as :func:`tune_sam.cluster.sharing.share` gives it, so that all trials of a node
                use one copy; a process reads its own without it.

        Raises:
            ValueError: a key of the config is missing or unknown, or the splits of `data` have other sizes than those
                that the config names.
        """
        if self.trial_resources:
            cap_gpu_memory(self.trial_resources.required_resources.get("GPU", 0))
        self.node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
        self._given = data
        self._own = ExitStack()
        trial = TrialConfig.from_tune(config, self.workload)
        self._log = TrialLog(trial.log, trial.attempt)
        try:
            with self._log.noting(trial.stall_timeout):
                self._read(trial)
                self._begin(trial)
        except Exception:
            self._log.close()
            raise

    def step(self) -> dict[str, Any]:
        """Train one epoch and give its metrics."""
        from tune_sam.training import device_name

        # A training that was interrupted after its last epoch, or after the one that it was to stop at, has nothing to
        # train, only its last result to give again.
        stopped = self.trial.stop_after is not None and self.trainer.done >= self.trial.stop_after
        with self._log.noting(self.trial.stall_timeout):
            last = self.trainer.last if self.trainer.finished or stopped else self.trainer.epoch()
            assert last is not None
            sharpness = self._sharpness(last)
        return {
            **last.metrics,
            **sharpness,
            "epoch": last.number,
            "diverged": last.diverged,
            "unperturbed": last.unperturbed,
            "seconds": self.trainer.seconds,
            "precision": self.trainer.precision,
            "device": device_name(self.trainer.device),
            "node": self.node,
            "done": self.trainer.finished,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a :class:`tune_sam.checkpoint.Checkpoint`."""
        with self._log.noting(self.trial.stall_timeout):
            Checkpoint.of(self.trainer, self.trial).save(checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Resume from a folder that :meth:`save_checkpoint` wrote."""
        self.trainer.load_state_dict(Checkpoint.read(checkpoint).training)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process: imports and data stay, everything of the training is new."""
        trial = TrialConfig.from_tune(new_config, self.workload)
        self._log.close()
        self._log = TrialLog(trial.log, trial.attempt)
        with self._log.noting(trial.stall_timeout):
            self._reset(trial)
        return True

    def _reset(self, trial: TrialConfig) -> None:
        if self._given is None and _source(trial) != self._read_from:
            self._read(trial)
        del self.trainer  # before the next one has its data, on a GPU too
        self._begin(trial)

    def log_result(self, result: dict[str, Any]) -> None:
        """Write nothing: outside Tune, Ray below 2.55 writes results to files that `reset` closes."""

    def cleanup(self) -> None:
        """Remove this node's copy of the data, which the training maps, and end the log."""
        vars(self).pop("trainer", None)
        self._own.close()
        self._log.close()
        self._data.forget()

    def _sharpness(self, last: "Epoch") -> dict[str, float]:
        """Of the network at the end of its training, if that is asked for."""
        if not self.trial.sharpness or not self.trainer.finished or last.diverged:
            return {}
        from tune_sam.flatness import quick  # not for every worker: it loads all of `analysis`

        return {"val/sharpness": quick(self.trainer)}

    def _begin(self, trial: TrialConfig) -> None:
        from tune_sam.training import Trainer

        self.trial = trial
        splits = self._data.splits()
        sizes = self.workload.datasets[trial.dataset]
        expected = trial.train_subset or sizes.train, sizes.validation
        if trial.together:
            expected = sum(expected), 0
        elif trial.train_alone:
            expected = expected[0], 0
        found = len(splits.train), len(splits.validation)
        if found != expected:
            raise ValueError(
                f"the data have {found[0]} training and {found[1]} validation samples, the config names "
                f"{expected[0]} and {expected[1]} of {trial.dataset}; give it theirs"
            )
        self.trainer = Trainer(
            self.workload,
            self.workload.setting(trial.dataset, trial.preset),
            trial.configuration,
            splits,
            epochs=trial.epochs,
            device=trial_device(self.workload, trial.gpus_per_trial),
            threads=trial.threads,
            precision=trial.precision,
            compile=trial.compile,
        )
        for place in trial.resume_from:
            # What is not whole is left aside: epochs that are trained again give the same, on a GPU but for rounding.
            with (
                suppress(FileNotFoundError, NotADirectoryError, Damaged),
                tune.Checkpoint(place).as_directory() as folder,
            ):
                self.load_checkpoint(folder)
                return

    def _read(self, trial: TrialConfig) -> None:
        """Find the data of a trial; those that this process reads itself are shared by its own trials."""
        self._own.close()
        self._read_from = _source(trial)
        root = self._read_from[1]
        if self._given:
            self._data = self._given
            return
        if root == Home.at().data:  # a folder that a person named is only read
            self.workload.fetch(trial.dataset, root)
        self.workload.check_data(trial.dataset, root)
        from tune_sam.cluster.data import prepared  # not for every worker: it loads a study's records

        splits = self.workload.split_by(trial.split_seed).read(trial.dataset, root)
        self._data = self._own.enter_context(share(prepared(splits, self.workload, trial)))


def _source(trial: TrialConfig) -> tuple[str, Path, int, int | None, float | None, bool, bool]:
    """Give what a trial's data depend on."""
    root = Path(trial.data or os.environ.get("TUNE_SAM_DATA") or Home.at().data)
    chosen = trial.split_seed, trial.train_subset, trial.label_noise
    return trial.dataset, root, *chosen, trial.together, trial.train_alone


def trainable_for(workload: Workload | str) -> type[SAMTrainable]:
    """Make the trainable of a workload, given as such or by name; it runs in any `ray.tune.Tuner`."""
    found = find_workload(workload) if isinstance(workload, str) else workload
    return type(f"{type(found).__name__}Trainable", (SAMTrainable,), {"workload": found})
