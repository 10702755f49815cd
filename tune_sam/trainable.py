"""The Trainer under Ray Tune: one step is one epoch."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import ray
import torch
from ray import tune

from tune_sam.cluster.gpu import cap_gpu_memory, gpu_share
from tune_sam.cluster.sharing import Shared, share
from tune_sam.home import Home
from tune_sam.space import Configuration
from tune_sam.store import with_train_subset
from tune_sam.training import STATE_FILE, Epoch, Trainer, read_checkpoint
from tune_sam.workload import Workload, find_workload


class SAMTrainable(tune.Trainable):
    """One training of a workload as a Tune trial. :func:`trainable_for` makes the class of a workload.

    The trial's config has `optimizer`, `rho` (None for `base`), `lr` and `batch_size`, and may have

    - `seed` (0), `dataset` (the workload's first), `preset` (none), `epochs` (the workload's), `data` (an absolute
      path; $TUNE_SAM_DATA, else ~/.tune_sam/data), `train_subset` (all samples), `together` (False; True trains on the
      validation part too, which is not evaluated then);
    - `sharpness` (False): True measures `val/sharpness` after the last epoch, see :func:`tune_sam.flatness.quick`;
    - `precision` (`bf16` on CUDA, `fp32` on the CPU), `compile` (False);
    - `cpus_per_trial` (1), which is also the number of threads, and `gpus_per_trial` (the workload's share where the
      cluster has GPUs, else 0);
    - `resume_from` (none): a checkpoint to go on from.

    A result has the metrics of :class:`tune_sam.training.Epoch`, its number as `epoch`, and `diverged`; the last one
    has `done`. A diverged training ends itself and reports no metrics, so that no scheduler compares a NaN.
    """

    workload: ClassVar[Workload]

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(
            [{"CPU": config.get("cpus_per_trial", 1), "GPU": gpu_share(cls.workload, config)}]
        )

    def setup(self, config: dict[str, Any], data: Shared | None = None) -> None:
        """Build the training.

        Args:
            config: the trial's.
            data: what the config names as :func:`tune_sam.cluster.sharing.share` gives it, so that all trials of a node
                use one copy; a process reads its own without it.

        Raises:
            ValueError: the parts of `data` have other sizes than what the config names.
        """
        if self.trial_resources:
            cap_gpu_memory(self.trial_resources.required_resources.get("GPU", 0))
        self.node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else None
        self._given = data
        self._own = ExitStack()
        self._read(config)
        self._begin(config)

    def step(self) -> dict[str, Any]:
        # A training that was interrupted after its last epoch has nothing to train, only its last result to give again.
        last = self.trainer.last if self.trainer.finished else self.trainer.epoch()
        assert last is not None
        return {
            **last.metrics,
            **self._sharpness(last),
            "epoch": last.number,
            "diverged": last.diverged,
            "unperturbed": last.unperturbed,
            "seconds": self.trainer.seconds,
            "precision": self.trainer.precision,
            "node": self.node,
            "done": self.trainer.finished,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        state = {
            "dataset": self._dataset(self.config),
            "preset": self.config.get("preset"),
            "training": self.trainer.state_dict(),
        }
        torch.save(state, Path(checkpoint_dir) / STATE_FILE)

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.trainer.load_state_dict(read_checkpoint(checkpoint)["training"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process: imports and data stay, everything of the training is new."""
        if self._given is None and self._source(new_config) != self._read_from:
            self._read(new_config)
        del self.trainer  # before the next one has its data, on a GPU too
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._own.close()
        self._data.forget()

    def _sharpness(self, last: Epoch) -> dict[str, float]:
        """Of the network at the end of its training, if that is asked for."""
        if not self.config.get("sharpness") or not self.trainer.finished or last.diverged:
            return {}
        from tune_sam.flatness import quick  # not for every worker: it loads all of `analysis`

        return {"val/sharpness": quick(self.trainer)}

    def _begin(self, config: dict[str, Any]) -> None:
        setting = self.workload.setting(self._dataset(config), config.get("preset"))
        splits = self._data.splits()
        dataset, _, samples, together = self._source(config)
        sizes = self.workload.datasets[dataset]
        expected = samples or sizes.train, sizes.validation
        if together:
            expected = sum(expected), 0
        found = len(splits.train), len(splits.validation)
        if found != expected:
            raise ValueError(
                f"the data have {found[0]} training and {found[1]} validation samples, the config names "
                f"{expected[0]} and {expected[1]} of {dataset}; give it theirs"
            )
        self.trainer = Trainer(
            self.workload,
            setting,
            Configuration(
                optimizer=config["optimizer"],
                rho=config.get("rho"),
                lr=config["lr"],
                batch_size=config["batch_size"],
                seed=config.get("seed", 0),
            ),
            splits,
            epochs=config.get("epochs") or setting.epochs,
            threads=int(config.get("cpus_per_trial", 1)),
            precision=config.get("precision"),
            compile=config.get("compile", False),
        )
        if config.get("resume_from"):
            with tune.Checkpoint(config["resume_from"]).as_directory() as folder:
                self.load_checkpoint(folder)

    def _read(self, config: dict[str, Any]) -> None:
        """Find the data of a trial; those that this process reads itself are shared by its own trials."""
        self._own.close()
        self._read_from = dataset, root, samples, together = self._source(config)
        if self._given:
            self._data = self._given
            return
        if root == Home.at().data:  # a folder that a person named is only read
            self.workload.fetch(dataset, root)
        self.workload.check_data(dataset, root)
        splits = with_train_subset(self.workload.splits(dataset, root), samples)
        self._data = self._own.enter_context(share(splits.together() if together else splits))

    def _source(self, config: dict[str, Any]) -> tuple[str, Path, int | None, bool]:
        return (
            self._dataset(config),
            Path(config.get("data") or os.environ.get("TUNE_SAM_DATA") or Home.at().data),
            config.get("train_subset"),
            config.get("together", False),
        )

    def _dataset(self, config: dict[str, Any]) -> str:
        return config.get("dataset") or self.workload.default_dataset


def trainable_for(workload: Workload | str) -> type[SAMTrainable]:
    """The trainable of a workload, given as such or by name; it runs in any `ray.tune.Tuner`."""
    found = find_workload(workload) if isinstance(workload, str) else workload
    return type(f"{type(found).__name__}Trainable", (SAMTrainable,), {"workload": found})
