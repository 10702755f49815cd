"""Loggers that people have beside MLflow, each on a thread of its own, so that no training waits for one.

They are given what the ledger is given, and nothing is read back from them.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from ray import tune

from tune_sam.config import TrialConfig
from tune_sam.errors import Refused
from tune_sam.extras import need
from tune_sam.settings import Logger
from tune_sam.study.records import Study
from tune_sam.tuning.callback import metrics_of

log = logging.getLogger(__name__)

PROJECT = "tune_sam"
"""The project of the runs at Weights & Biases, unless $WANDB_PROJECT names another."""

PATIENCE = 120.0
"""Seconds that loggers have at a search's end for what they have not written yet."""


class _Trial:
    """What Ray's loggers read of Tune's own trial, with our configuration and below our home."""

    checkpoint = None

    def __init__(self, study: Study, folder: Path, config: Mapping[str, Any], name: str) -> None:
        self.local_path, self.config, self.evaluated_params = str(folder), dict(config), dict(config)
        self.trial_id, self.experiment_dir_name, self._name = f"{study.name}-{name}", study.name, name

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self._name


class _Wandb:
    """Runs at Weights & Biases, one for each trial, with the events of Ray's loggers.

    Ray's own callback starts two processes for each trial, and where one fails nobody is told.

    Raises:
        Refused: nobody is logged in, or by something that is no key.
    """

    def __init__(self, study: Study) -> None:
        need("wandb", "wandb")
        import wandb

        # Asked on a terminal, `wandb.init` itself would wait for an answer. Whether the server takes it is seen there.
        if wandb.run is None and wandb.setup().settings.mode == "online":
            try:
                known = wandb.login(prompt=False, verify=False)
            except (wandb.errors.Error, ValueError) as error:
                raise Refused(f"--log wandb cannot use its login ({error}); run `wandb login`.") from None
            if not known:
                raise Refused(
                    "--log wandb has no login; run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to keep "
                    "the runs in files."
                )
        self._study = study
        self._runs: dict[str, Any] = {}

    def log_trial_start(self, trial: _Trial) -> None:
        """Begin the trial's run, or go on with it where it was interrupted."""
        import wandb

        trial.init_local_path()
        self._runs[trial.trial_id] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=self._study.name,
            # A study of the same name in another home has other runs.
            id=re.sub(r"[/\\#?%:]", "-", f"{trial.trial_id}-{self._study.mlflow_run_id[:8]}"),
            name=str(trial),
            config=trial.config,
            dir=trial.local_path,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def log_trial_result(self, iteration: int, trial: _Trial, result: Mapping[str, Any]) -> None:
        """Log an epoch's metrics; the step is the epoch."""
        self._runs[trial.trial_id].log(dict(result), step=iteration)

    def log_trial_end(self, trial: _Trial, failed: bool) -> None:
        """End the trial's run, as failed or as finished."""
        if run := self._runs.pop(trial.trial_id, None):
            run.finish(exit_code=int(failed))

    def on_experiment_end(self, trials: list[_Trial]) -> None:
        """End the runs of trials that were cut off, as failed."""
        for trial in trials:
            self.log_trial_end(trial, failed=True)


class Aside(tune.Callback):
    """Passes each event of a trial on to a logger such as Ray has, in another thread.

    A logger that raises logs no more; the search goes on.

    Args:
        kind: as `--log` names it.
        logger: with the methods of Ray's loggers.
        study: whose trials it logs.
    """

    def __init__(self, kind: Logger, logger: Any, study: Study) -> None:
        self._kind, self._logger, self._study = kind, logger, study
        self._trials: dict[tuple[str, int], _Trial] = {}
        self._events: SimpleQueue[tuple[str, tuple[Any, ...]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"tune_sam-{kind}", daemon=True)
        self._thread.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial starts."""
        self._note("log_trial_start", self._seen(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note an epoch's metrics; the step is the epoch."""
        epoch = result["epoch"]
        # Ray's table has the columns of its first row, and `val/sharpness` comes with the last epoch.
        later = dict.fromkeys(self._study.settings.directions, "") if self._kind == "csv" else {}
        metrics = {"training_iteration": epoch, **later, **metrics_of(result)}
        self._note("log_trial_result", epoch, self._seen(trial), metrics)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has ended, or waits."""
        self._note("log_trial_end", self._seen(trial), False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has failed."""
        self._note("log_trial_end", self._seen(trial), True)

    def close(self) -> None:
        """Wait until all is logged, for a while."""
        self._note("on_experiment_end", list(self._trials.values()))
        self._events.put(None)
        self._thread.join(PATIENCE)

    def _seen(self, trial: Any) -> _Trial:
        who = TrialConfig.identity(trial.config)
        if who not in self._trials:
            name = "{}-{}".format(*who)
            folder = self._study.home.study(self._study.name) / self._kind / name
            found = TrialConfig.from_tune(trial.config, self._study.workload).configuration
            config = {"optimizer": found.optimizer, **found.point, "seed": found.seed}
            self._trials[who] = _Trial(self._study, folder, config, name)
        return self._trials[who]

    def _note(self, event: str, *given: Any) -> None:
        self._events.put((event, given))

    def _run(self) -> None:
        while noted := self._events.get():
            event, given = noted
            try:
                getattr(self._logger, event)(*given)
            except Exception as error:
                log.warning("--log %s logs no more of this search (%s); the search goes on.", self._kind, error)
                return


@contextmanager
def logging_aside(study: Study) -> Iterator[tuple[Aside, ...]]:
    """Have a study's loggers at hand, and let them finish at the end."""
    asides = tuple(Aside(kind, _made(kind, study), study) for kind in study.settings.log)
    try:
        yield asides
    finally:
        for aside in asides:
            aside.close()


def _made(kind: Logger, study: Study) -> Any:
    if kind == "wandb":
        return _Wandb(study)
    from ray.tune.logger import CSVLoggerCallback, TBXLoggerCallback

    return CSVLoggerCallback() if kind == "csv" else TBXLoggerCallback()
