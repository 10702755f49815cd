"""Where a study's trainings and tasks run: on Ray's nodes, or one after the other in this process."""

import math
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tune_sam.cluster.connection import Stage, ahead, concurrency, connected
from tune_sam.cluster.pulse import Pulse
from tune_sam.cluster.ray_internals import DRIVER_STAYS_HERE, Signs, without_logins_handed_on, without_snapshots
from tune_sam.cluster.watch import Looks, Watch
from tune_sam.config import TrialConfig
from tune_sam.durations import OFF
from tune_sam.errors import Refused
from tune_sam.home import inside

if TYPE_CHECKING:
    from ray import tune
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    from tune_sam.cluster.sharing import Shared


@dataclass(frozen=True)
class Trainings:
    """The trials of a study, in the terms of Ray Tune.

    Attributes:
        name: of the folder below `storage` that their results get.
        storage: folder or URI of the study.
        trainable: what trains one of them.
        data: that all of them train on.
        searcher: gives the configs, until there are no more.
        scheduler: says where a trial stops early.
        callbacks: are told of every event, one after the other.
        watch: is told of the time that passes, where the scheduler cannot end a trial that takes too long.
        key: a trial's key, by its optimizer and its number; a function that can be pickled.
        cpus, gpus: of one trial; a fraction where several share one.
    """

    name: str
    storage: str
    trainable: "type[tune.Trainable]"
    data: "Shared"
    searcher: "Searcher"
    scheduler: "TrialScheduler"
    callbacks: "tuple[tune.Callback, ...]"
    watch: Watch[tuple[str, int]]
    key: Callable[[str, int], str]
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Failure:
    """Why a call gave no result."""

    reason: str


class Executor(Protocol):
    """Runs trainings, and calls of functions."""

    def ahead(self) -> AbstractContextManager[Callable[[], None]]:
        """Begin what :meth:`opened` will need and nobody need wait for; more of it when the function is called."""
        ...

    def opened(self, stage: Stage) -> AbstractContextManager[bool]:
        """Hold what it needs for as long as the context lasts; give whether other nodes may take part.

        Args:
            stage: is told what is waited for.

        Raises:
            Refused: it cannot be had.
        """
        ...

    def train(self, trainings: Trainings) -> None:
        """Train until the searcher has no more, or an interrupt stops it.

        Raises:
            Refused: no node has room for one.
        """
        ...

    def call(
        self, calls: Sequence[Callable[[], Any]], cpus: float, gpus: float, stall_timeout: float = OFF
    ) -> Iterator[tuple[int, Any]]:
        """Call each with these resources; give each index with what came of it, or a :class:`Failure`, as they end.

        Args:
            calls: of functions without arguments.
            cpus, gpus: of each; a fraction of one is below 1.
            stall_timeout: seconds without a sign of life, such as :func:`tune_sam.cluster.pulse.alive` gives, after
                which one is taken to hang, and ended if that can be done; 0 for no limit.

        Raises:
            Refused: no node has room for one.
        """
        ...


@dataclass(frozen=True)
class RayExecutor:
    """As many at a time as the nodes of a Ray cluster have room for.

    Attributes:
        address: of the cluster; one is started here by default.
        max_concurrent: trainings at the same time; as many as fit by default.
        dashboard: whether a cluster that is started here serves Ray's dashboard.
    """

    address: str | None = None
    max_concurrent: int | None = None
    dashboard: bool = False

    def ahead(self) -> AbstractContextManager[Callable[[], None]]:
        """Begin the workers' imports, and start Ray when the function is called, if one is to be started here."""
        return ahead(self.address, self.dashboard)

    def opened(self, stage: Stage) -> AbstractContextManager[bool]:
        """Connect to the cluster, or start one."""
        return connected(self.address, stage, self.dashboard)

    def train(self, trainings: Trainings) -> None:
        """Run Tune over the trainings."""
        from ray import tune
        from ray.tune import TuneError

        slots = concurrency(trainings.cpus, trainings.gpus, self.max_concurrent)
        key = trainings.key  # alone: Tune pickles what gives the names, for each trial
        try:
            with without_snapshots(), without_logins_handed_on():
                tune.run(
                    tune.with_parameters(trainings.trainable, data=trainings.data),
                    name=trainings.name,
                    storage_path=trainings.storage,
                    search_alg=trainings.searcher,
                    scheduler=trainings.scheduler,
                    num_samples=-1,  # the searcher says when there are no more
                    max_concurrent_trials=slots,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: key(*TrialConfig.identity(trial.config)),
                    trial_dirname_creator=lambda trial: TrialConfig.folder(trial.config),
                    # Every epoch, so that a crash loses one at most.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True),
                    callbacks=list(trainings.callbacks),
                    raise_on_failed_trial=False,
                    verbose=0,
                    **DRIVER_STAYS_HERE,
                )
        except TuneError as error:
            # Tune puts the traceback of what a callback raised into a text.
            raise error.__context__ or error from None

    def call(
        self, calls: Sequence[Callable[[], Any]], cpus: float, gpus: float, stall_timeout: float = OFF
    ) -> Iterator[tuple[int, Any]]:
        """Make each call a Ray task."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        concurrency(cpus, gpus, None)
        signs, looks = Signs(), Looks()
        watch: Watch[int] = Watch(OFF, stall_timeout, stalled="it got no further")
        # A function that fails on its data fails again, so only a lost worker is worth another try; that is Ray's
        # default.
        task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(_capped)
        pending = {
            task.remote(function, cpus, gpus, Pulse(partial(signs.note, index), stall_timeout / 10 or math.inf)): index
            for index, function in enumerate(calls)
        }
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=1)  # so that signals are seen
            if not ready:
                watch.passes(looks.passed())
                for index in signs.new():
                    watch.heard(index)
                for reference, index in pending.items():
                    if watch.overdue(index):
                        ray.cancel(reference, force=True)
                continue
            index = pending.pop(ready[0])
            try:
                outcome = ray.get(ready[0])
            except RayTaskError as error:
                if (failure := _failure(error.cause)) is None:
                    raise
                outcome = failure
            except RayError as error:  # its worker was killed, for want of memory mostly
                said, *_ = str(error).strip().splitlines() or [""]
                why = watch.forget(index) or f"its worker was lost ({said})"
                outcome = Failure(f"{why}; run the same command again")
            yield index, outcome
        signs.forget()


@dataclass(frozen=True)
class InlineExecutor:
    """One after the other in this process, without Ray: for tests, notebooks, and a machine where Ray cannot start.

    The numbers are those that Ray's workers give. What ends a process there ends this one. So nothing here can end an
    epoch that hangs; one that ends, but took longer than the study's time limits allow, fails its trial.
    """

    def ahead(self) -> AbstractContextManager[Callable[[], None]]:
        """Begin nothing."""
        return nullcontext(lambda: None)

    def opened(self, stage: Stage) -> AbstractContextManager[bool]:
        """Hold nothing: this process is there."""
        return nullcontext(False)

    def train(self, trainings: Trainings) -> None:
        """Take the trials from the searcher one by one, and give callback and scheduler what Tune gives them."""
        trials: list[Any] = []  # what Tune would have here is its own type
        while isinstance(config := trainings.searcher.suggest(f"inline{len(trials):05}"), dict):
            trial = _Trial(f"inline{len(trials):05}", config, trainings)
            trials.append(trial)
            trial.run(trials)

    def call(
        self, calls: Sequence[Callable[[], Any]], cpus: float, gpus: float, stall_timeout: float = OFF
    ) -> Iterator[tuple[int, Any]]:
        """Call one after the other."""
        for index, function in enumerate(calls):
            try:
                outcome = function()
            except Exception as error:
                if (failure := _failure(error)) is None:
                    raise
                outcome = failure
            yield index, outcome


def _capped(function: Callable[[], Any], cpus: float, gpus: float, pulse: Pulse) -> Any:
    """In a worker: call a function that is given some CPUs and a fraction of a GPU."""
    import torch

    from tune_sam.cluster.gpu import cap_gpu_memory

    with pulse.beating():
        torch.set_num_threads(max(1, int(cpus)))  # where torch was imported before Ray said how many there are
        cap_gpu_memory(gpus)
        return function()


def _failure(error: BaseException) -> Failure | None:
    """Explain an error that another call need not meet; None for one that is a mistake in a program."""
    from tune_sam.analysis.memory import is_shortage

    if is_shortage(error):
        return Failure("memory ran out; use a machine, or a GPU fraction, with more")
    return Failure(str(error)) if isinstance(error, (ValueError, Refused)) else None


@dataclass
class _Trial:
    """What callbacks and schedulers read of Tune's own trial."""

    trial_id: str
    config: dict[str, Any]
    trainings: Trainings
    last_result: dict[str, Any] = field(default_factory=dict)

    @property
    def placement_group_factory(self) -> "tune.PlacementGroupFactory | None":
        return self.trainings.trainable.default_resource_request(self.config)

    @property
    def error_file(self) -> str:
        return str(self._errors / "error.txt")

    @property
    def pickled_error_file(self) -> str:
        return str(self._errors / "error.pkl")

    def run(self, trials: list[Any]) -> None:
        """Train it to its end."""
        with tempfile.TemporaryDirectory(prefix="tune_sam-") as folder:
            self._errors = Path(folder)
            self._tell("on_trial_start", trials)
            try:
                self._train()
            except Exception as error:
                self._keep(error)
                self._tell("on_trial_error", trials)
            else:
                self._tell("on_trial_complete", trials)

    def _train(self) -> None:
        from ray.tune.schedulers import TrialScheduler

        data = self.trainings.data
        scheduler: Any = self.trainings.scheduler

        class Given(self.trainings.trainable):  # type: ignore[name-defined, misc]
            """The trainable with its data, as `tune.with_parameters` gives them to Ray's workers."""

            def setup(self, config: dict[str, Any]) -> None:
                ending.callback(shutil.rmtree, self.logdir, ignore_errors=True)  # Tune's own, below the user's home
                super().setup(config, data)

        who = TrialConfig.identity(self.config)
        begun = time.monotonic()
        self.trainings.watch.waits_for(who)
        with ExitStack() as ending:
            training = Given(self.config)
            ending.callback(training.stop)
            stop = False
            while not stop:
                result = training.train()
                self.trainings.watch.passes(time.monotonic() - begun)
                begun = time.monotonic()
                if overdue := self.trainings.watch.overdue(who):
                    raise TimeoutError(overdue)
                self.last_result = result
                stop = result["done"] or scheduler.on_trial_result(None, self, result) == TrialScheduler.STOP
                self._tell("on_trial_result", [], result)
                self._tell("on_checkpoint", [], self._saved(training))

    def _tell(self, event: str, trials: list[Any], *what: Any) -> None:
        for callback in self.trainings.callbacks:
            getattr(callback, event)(0, trials, self, *what)

    def _saved(self, training: "tune.Trainable") -> "tune.Checkpoint":
        """Save a checkpoint of the training where its results are."""
        from pyarrow.fs import FileSystem, copy_files
        from ray.tune import Checkpoint

        name = f"{TrialConfig.folder(self.config)}/checkpoint_{self.last_result['epoch'] - 1:06}"
        place = inside(self.trainings.storage, f"{self.trainings.name}/{name}")
        filesystem, path = FileSystem.from_uri(place)
        filesystem.create_dir(path)
        with tempfile.TemporaryDirectory(prefix="tune_sam-") as folder:
            training.save_checkpoint(folder)
            copy_files(folder, path, destination_filesystem=filesystem)
        return Checkpoint(path, filesystem)

    def _keep(self, error: BaseException) -> None:
        from ray import cloudpickle

        Path(self.error_file).write_text("".join(traceback.format_exception(error)))
        Path(self.pickled_error_file).write_bytes(cloudpickle.dumps(error))
