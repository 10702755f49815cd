"""What the driver does at each event of a trial: Optuna, MLflow and the screen are told the same."""

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ray import cloudpickle, tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tune_sam.cluster.results import delete, place_of
from tune_sam.study.settings import OUT_OF_MEMORY, ending
from tune_sam.tracking.delivery import Tracker
from tune_sam.tuning.ledger import Ledger, Outcome
from tune_sam.tuning.listener import SearchListener

log = logging.getLogger(__name__)

PARAMETERS = ("optimizer", "rho", "lr", "batch_size", "seed", "epochs")
METRICS = (
    "train/loss",
    "train/accuracy",
    "train/lr",
    "val/loss",
    "val/accuracy",
    "val/macro_f1",
    "val/sharpness",
    "gap/loss",
    "gap/accuracy",
    "time/epoch_s",
)
"""What MLflow gets, and `val/f1/CLASS` where classes have names: few names, because its pages slow down with many."""


DEATHS = 3
"""After so many deaths of its process in one and the same epoch, it is the trial that kills it."""


class NotPickled:
    """Tune pickles what it is given, to restore an experiment from. Here a study is gone on with from Optuna's storage,
    and handles of a database, a thread or a screen cannot be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Driver(NotPickled, tune.Callback):
    """Follows the trials of one optimizer.

    Args:
        ledger: the optimizer's trials in Optuna.
        tracker: the study's way to MLflow.
        tags: of every trial's run.
        storage: folder or URI of Ray's results.
        listener: who is told how the search goes.
    """

    def __init__(
        self, ledger: Ledger, tracker: Tracker, tags: dict[str, str], storage: str, listener: SearchListener
    ) -> None:
        self.ledger, self.tracker, self.tags, self.storage, self.listener = ledger, tracker, tags, storage, listener
        self._started: set[int] = set()
        self._lost: dict[int, str] = {}
        self._deaths: Counter[tuple[int, int]] = Counter()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._start(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result["diverged"]:
            return
        number, epoch = trial.config["number"], result["epoch"]
        if result["done"]:  # the scheduler reported every other epoch; Tune does not show it the last one
            self.ledger.report(number, epoch, result[self.ledger.settings.judged_by])
        self.tracker.log(self.ledger.key(number), _metrics(result), epoch, _milliseconds())
        self.listener.epoch(self.ledger.optimizer, number, epoch)

    def on_checkpoint(
        self, iteration: int, trials: list[Any], trial: Any, checkpoint: tune.Checkpoint, **info: Any
    ) -> None:
        place = place_of(checkpoint, self.storage)
        try:
            before = self.ledger.note_checkpoint(trial.config["number"], place)
        except Exception as error:
            # Tune goes on after an exception here; the trial must not end with a value that its checkpoint lacks.
            self._lost[trial.config["number"]] = f"its checkpoint could not be noted ({error})"
            raise
        self._lost.pop(trial.config["number"], None)
        # Only the last is kept. Tune's own `num_to_keep` would make it write the experiment's state each time. What the
        # trial was resumed from stays until it ends: a new process of the trial would begin there again.
        if before and before not in (place, trial.config["resume_from"]):
            delete(before)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, _ending(trial.last_result or {}, self.ledger.settings.epochs))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._start(trial)  # a process that cannot even start gives no other sign
        number, error = trial.config["number"], _error(trial)
        if number not in self._lost and self._died_of_no_fault(number, error):
            self._put_back(trial, "its process or node died")
        elif number not in self._lost and _ran_out_of_memory(error):
            # Tune's own second try would have the same share again.
            share = trial.placement_group_factory.required_resources.get("GPU", 0)
            if 0 < share < 1 and not self.ledger.enlarged(number):
                self._put_back(trial, f"{share:g} of a GPU has too little memory for it", gpus=min(1.0, 2 * share))
            else:
                self._end(trial, ("failed", OUT_OF_MEMORY))
        else:
            self._end(trial, ("failed", _what_failed(trial)))

    def _died_of_no_fault(self, number: int, error: BaseException | None) -> bool:
        """Whether a trial's process ended without an exception, as with its node, and not always at the same place."""
        if not isinstance(error, RayActorError) or error.actor_init_failed:
            return False
        epoch = self.ledger.reported(number)
        self._deaths[number, epoch] += 1
        return error.preempted or self._deaths[number, epoch] < DEATHS

    def _put_back(self, trial: Any, why: str, gpus: float | None = None) -> None:
        """Let the search start a trial again, from its last checkpoint, for nothing is wrong with its training."""
        number = trial.config["number"]
        log.warning(
            "trial %s goes on%s, for %s.", self.ledger.key(number), f" with {gpus:g}" if gpus else " elsewhere", why
        )
        begun = trial.config["resume_from"]
        if begun and begun != self.ledger.checkpoint(number):
            delete(begun)
        self.ledger.suspend(number, gpus)
        self.listener.put_back(self.ledger.optimizer, number)

    def _start(self, trial: Any) -> None:
        config, number = trial.config, trial.config["number"]
        if number in self._started:
            return
        self._started.add(number)
        announce(self.tracker, self.ledger.key(number), config, {**self.tags, "tune_sam.tune_trial_id": trial.trial_id})
        self.listener.started(config["optimizer"], number)

    def _end(self, trial: Any, how: tuple[str, str]) -> None:
        number, result = trial.config["number"], trial.last_result or {}
        state, reason = ("failed", self._lost[number]) if number in self._lost else how
        outcome = Outcome(
            state=state,
            reason=reason,
            epochs=result.get("epoch") or self.ledger.reported(number),
            metrics=_metrics(result),
            seconds=result.get("seconds"),
            node=result.get("node"),
            pid=result.get("pid"),
            precision=result.get("precision"),
        )
        last = self.ledger.checkpoint(number)
        # MLflow first: a trial that is in Optuna's storage as ended is never looked at again, while one that is asked
        # again sets its run to RUNNING.
        self.tracker.end(
            self.ledger.key(number),
            ending(state, reason).mlflow,
            {
                "tune_sam.state": state,
                **({"tune_sam.reason": reason} if reason else {}),
                **({"tune_sam.precision": result["precision"]} if "precision" in result else {}),
            },
            _milliseconds(),
        )
        self.ledger.tell(number, outcome)
        if result.get("unperturbed"):
            log.warning(
                "trial %s: in %d steps the gradient was zero or not finite and gave no direction to climb in; "
                "they were steps of the base optimizer.",
                self.ledger.key(number),
                result["unperturbed"],
            )
        self.listener.ended(self.ledger.optimizer, number, outcome)
        if (begun := trial.config["resume_from"]) and begun != last:
            delete(begun)


def announce(tracker: Tracker, key: str, config: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> None:
    """Tell MLflow that a trial starts.

    Args:
        tracker: the study's.
        key: the trial's.
        config: what it is given.
        tags: more tags of its run.
    """
    params = {name: config[name] for name in PARAMETERS if config[name] is not None}
    told = {
        "tune_sam.optimizer": config["optimizer"],
        "tune_sam.seed": str(config["seed"]),
        **{
            f"tune_sam.{name}": str(config[name])
            for name in ("dataset", "preset", "train_subset")
            if config.get(name) is not None
        },
    }
    tracker.start(key, f"{config['optimizer']} {config['number']}", params, {**(tags or {}), **told}, _milliseconds())


def _ending(result: dict[str, Any], epochs: int) -> tuple[str, str]:
    """Our word for how a trial that did not fail ended, and why. Complete is what reached its epochs, whoever stopped
    it."""
    epoch = result.get("epoch", 0)
    if result.get("diverged"):
        return "diverged", f"a loss or a weight was not finite in epoch {epoch}"
    if epoch >= epochs:
        return "complete", ""
    return "pruned", f"not in the better half after epoch {epoch}"


def _error(trial: Any) -> BaseException | None:
    """The exception that ended a trial, if it is one that Ray keeps."""
    # Tune's own accessor reads the copy in the storage, which is written later.
    file = trial.pickled_error_file
    if not file or not Path(file).exists():
        return None
    try:
        error: BaseException = cloudpickle.loads(Path(file).read_bytes())
    except Exception:  # of a package that this process lacks
        return None
    return error.as_instanceof_cause() if isinstance(error, RayTaskError) else error


def _ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether a GPU's memory was too little, for a training or already for building it in a new process."""
    built = not (isinstance(error, RayActorError) and error.actor_init_failed)
    return isinstance(error, torch.OutOfMemoryError) if built else "torch.OutOfMemoryError" in str(error)


def _what_failed(trial: Any) -> str:
    """What went wrong in a worker, in one line: an exception's last, or what Ray says first of a process that died."""
    # Tune's own accessor reads the copy in the storage, which is written later.
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    exceptions = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return exceptions[-1] if exceptions else lines[1] if len(lines) > 1 else "the worker gave no reason"


def _metrics(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if name in METRICS or name.startswith("val/f1/")}


def _milliseconds() -> int:
    return int(time.time() * 1000)


class TuneSearcher(NotPickled, Searcher):
    """Gives a ledger's trials to Tune. Endings are told by the driver's callback, which knows why a trial ended.

    Args:
        ledger: whose.
        shares: of a GPU for each batch size; what the study says by default.
    """

    def __init__(self, ledger: Ledger, shares: Mapping[int, float] | None = None) -> None:
        super().__init__()
        self.ledger = ledger
        self.shares = shares or {}

    def suggest(self, trial_id: str) -> Any:
        asked = self.ledger.ask(trial_id)
        if asked is None:
            # What runs may be put back, and then it is asked for again.
            return None if self.ledger.running else Searcher.FINISHED
        gpus = asked.gpus or self.shares.get(asked.configuration.batch_size)
        return {
            **asdict(asked.configuration),
            "number": asked.number,
            "attempt": asked.attempt,
            "resume_from": asked.resume_from,
            **({} if gpus is None else {"gpus_per_trial": gpus}),
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the storage is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the storage is the state."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the storage is the state."""


class TuneScheduler(NotPickled, FIFOScheduler):
    """Stops a trial where the ledger says so. The rungs are in Optuna's storage, so a resumed search knows them."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self.ledger.report(trial.config["number"], result["epoch"], result[self.ledger.settings.judged_by])
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
