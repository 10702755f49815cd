"""What the driver does at each event of a trial: Optuna, MLflow and the screen are told the same."""

import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pyarrow.fs import LocalFileSystem
from ray import tune

from tune_sam.progress import Progress
from tune_sam.searcher import Ledger, NotPickled, Outcome
from tune_sam.study import ENDINGS
from tune_sam.tracking import Tracker

METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "gap/loss", "gap/accuracy", "lr", "time/epoch_s")
"""What MLflow gets: few fixed names, because its pages slow down with many."""


class Driver(NotPickled, tune.Callback):
    """Follows the trials of one optimizer.

    Args:
        ledger: the optimizer's trials in Optuna.
        tracker: the study's way to MLflow.
        tags: of every trial's run.
        storage: folder or URI of Ray's results.
        progress: the screen.
    """

    def __init__(self, ledger: Ledger, tracker: Tracker, tags: dict[str, str], storage: str,
                 progress: Progress) -> None:
        self.ledger, self.tracker, self.tags, self.storage, self.progress = ledger, tracker, tags, storage, progress

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config = trial.config
        params = {name: config[name] for name in ("optimizer", "rho", "lr", "batch_size", "seed", "epochs")
                  if config[name] is not None}
        tags = {**self.tags, "tune_sam.optimizer": config["optimizer"], "tune_sam.seed": str(config["seed"]),
                "tune_sam.dataset": config["dataset"], "tune_sam.tune_trial_id": trial.trial_id}
        number = config["number"]
        self.tracker.start(self.ledger.key(number), f"{config['optimizer']} {number}", params, tags, _milliseconds())
        self.progress.started(config["optimizer"], number)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any],
                        **info: Any) -> None:
        if result["diverged"]:
            return
        number, epoch = trial.config["number"], result["epoch"]
        # The scheduler reports every epoch but the last: Tune does not show it a result that says `done`.
        self.ledger.report(number, epoch, result["val/accuracy"])
        self.tracker.log(self.ledger.key(number), _metrics(result), epoch, _milliseconds())
        self.progress.epoch(self.ledger.optimizer, number, epoch)

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: tune.Checkpoint,
                      **info: Any) -> None:
        place = _place(checkpoint, self.storage)
        before = self.ledger.note_checkpoint(trial.config["number"], place)
        # Only the last is kept. Tune's own `num_to_keep` would make it write the experiment's state each time.
        if before and before != place:
            old = tune.Checkpoint(before)
            old.filesystem.delete_dir(old.path)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, trial.get_error())

    def _end(self, trial: Any, error: Exception | None) -> None:
        number, result = trial.config["number"], trial.last_result or {}
        state, reason = _ending(result, error, self.ledger.settings.epochs)
        outcome = Outcome(state=state, reason=reason, epochs=result.get("epoch", 0), metrics=_metrics(result),
                          seconds=result.get("seconds"), node=result.get("node"), pid=result.get("pid"))
        self.ledger.tell(number, outcome)
        self.tracker.end(self.ledger.key(number), ENDINGS[state].mlflow,
                         {"tune_sam.state": state, **({"tune_sam.reason": reason} if reason else {})}, _milliseconds())
        self.progress.ended(self.ledger.optimizer, number, outcome)


def _ending(result: dict[str, Any], error: Exception | None, epochs: int) -> tuple[str, str]:
    """Our word for how a trial ended, and why. Complete is whatever reached its epochs, whoever stopped it."""
    epoch = result.get("epoch", 0)
    if error is not None:
        return "failed", _last_line(error)
    if result.get("diverged"):
        return "diverged", f"a loss or a weight was not finite in epoch {epoch}"
    if epoch >= epochs:
        return "complete", ""
    return "pruned", f"not in the better half after epoch {epoch}"


def _place(checkpoint: tune.Checkpoint, storage: str) -> str:
    """A checkpoint's folder, or its URI with the options of the storage's, as `ray.tune.Checkpoint` opens it again."""
    if isinstance(checkpoint.filesystem, LocalFileSystem):
        return str(checkpoint.path)
    return urlunsplit(urlsplit(storage)._replace(netloc="", path="//" + checkpoint.path))


def _last_line(error: Exception) -> str:
    """What an exception of a worker says at its end, without the traceback before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _metrics(result: dict[str, Any]) -> dict[str, float]:
    return {name: result[name] for name in METRICS if name in result}


def _milliseconds() -> int:
    return int(time.time() * 1000)
