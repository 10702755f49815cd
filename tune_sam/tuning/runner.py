"""Search and resume: the trials of a study, which share the workers; each optimizer has its own, equal budget."""

import logging
from collections.abc import Container
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from tune_sam.cluster.connection import check_offer
from tune_sam.cluster.data import Read, shared
from tune_sam.cluster.executor import Executor, RayExecutor, Trainings
from tune_sam.cluster.results import probe
from tune_sam.cluster.signals import interruptible
from tune_sam.errors import Refused
from tune_sam.home import Place, inside
from tune_sam.settings import LimitKeywords, SearchKeywords, SearchOptions, takes_options
from tune_sam.study.lock import study_lock
from tune_sam.study.records import Study, open_study
from tune_sam.study.settings import trial_key
from tune_sam.study.spent import Spent, note_samples, note_seconds
from tune_sam.study.storage import open_storage
from tune_sam.tuning.delivery import tracked
from tune_sam.tuning.listener import SearchListener
from tune_sam.tuning.meter import Meter
from tune_sam.tuning.plan import grown, limited, planned, store
from tune_sam.tuning.progress import heard_by
from tune_sam.workload import Workload

if TYPE_CHECKING:
    from tune_sam.cluster.sharing import Shared
    from tune_sam.tuning.ledger import Ledger

log = logging.getLogger(__name__)


@takes_options
def search(
    workload: str | type[Workload],
    *,
    config: str | Path | None = None,
    listener: SearchListener | None = None,
    progress: bool | None = None,
    executor: Executor | None = None,
    **options: Unpack[SearchKeywords],
) -> Study:
    """Search a workload's hyperparameters: create the study, or resume it if one of that name exists.

    Args:
        workload: name of a workload, `package.module:Class`, or the class itself.
        config: a YAML file of options; those given here come on top.
        listener: follows the search, in place of the screen.
        progress: whether the screen shows how it goes, on standard error; by default where that is a terminal or a
            notebook.
        executor: what runs the trainings; by default Ray at the address that the options have.
        options: each below.

    Returns:
        The study, at the end of its budget.

    Raises:
        Refused: an option, file, range or server is wrong; nothing was created.
        KeyboardInterrupt: it was interrupted; :func:`resume` resumes it.
    """
    chosen = SearchOptions.read({"workload": workload, **options}, config)
    executor = executor or RayExecutor(chosen.address, chosen.max_concurrent, chosen.dashboard)
    with heard_by(listener, progress) as hears, executor.ahead() as begin:
        hears.stage("Checking options, data and services")
        study, read = planned(chosen, begin)
        return launch(study, executor, hears, read)


@takes_options
def resume(
    name: str,
    *,
    home: Place = None,
    trials: int | None = None,
    address: str | None = None,
    max_concurrent: int | None = None,
    listener: SearchListener | None = None,
    progress: bool | None = None,
    executor: Executor | None = None,
    **limits: Unpack[LimitKeywords],
) -> Study:
    """Resume a study: trials that were interrupted first, from their last checkpoint, and then the rest.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        trials: a new budget of each optimizer, in all, not on top; as before by default.
        address: Ray cluster to use; one is started here by default.
        max_concurrent: trials at the same time; as many as fit by default.
        listener: follows the search, in place of the screen.
        progress: whether the screen shows how it goes; see :func:`tune_sam.search`.
        executor: what runs the trainings; by default Ray at `address`.
        limits: each below; as before by default.

    Raises:
        Refused: there is no such study, it has more trials than that already, a limit is none, or it is being
            searched now.
        KeyboardInterrupt: it was interrupted again.
    """
    study = open_study(name, home)
    chosen = SearchOptions.read({"workload": study.settings.workload, **limits})
    check_offer(study.settings.cpus_per_trial, study.settings.gpu_fraction or 0, address)
    study = grown(study, study.settings.trials if trials is None else trials)
    study = limited(study, chosen)
    with heard_by(listener, progress) as hears:
        return launch(study, executor or RayExecutor(address, max_concurrent), hears)


def launch(
    study: Study,
    executor: Executor,
    listener: SearchListener,
    read: Read | None = None,
    again: Container[int] = (),
) -> Study:
    """Train until the trials of every optimizer have ended, or a budget of the study is spent.

    What was interrupted is resumed first. What a budget ends is interrupted after the epoch that it is in.

    Args:
        study: that was created, perhaps with more trials than before.
        executor: what runs the trainings.
        listener: follows it.
        read: the study's data, where they were read already.
        again: seeds whose trials are tried again where they failed.

    Raises:
        Refused: another process is at it, or has deleted or changed it meanwhile, or no node has room for a trial.
        KeyboardInterrupt: it was interrupted.
    """
    listener.stage("Opening the records")
    from tune_sam.tuning.ledger import Ledger

    study.refuse_unnamed()
    study.refuse_unnamed_optimizers()
    study.records()  # refused now, if one cannot be read
    with study_lock(study.home, study.name):
        _refuse_changed(study)
        store(study)
        storage = open_storage(study.home)
        ledgers = [Ledger(storage, study.name, optimizer, study.settings) for optimizer in study.settings.optimizers]
        for ledger in ledgers:
            ledger.try_again(again)
            if ledger.needed > ledger.budget:
                log.warning(
                    "Points of your own wait that %d trials leave no room for; `%s` tries those of %s.",
                    ledger.budget,
                    study.command("resume", f"--trials {study.settings.budget_with(ledger.optimizer, ledger.needed)}"),
                    ledger.optimizer,
                )  # fmt: skip
        waiting = [ledger for ledger in ledgers if ledger.open]
        note_samples(study)
        meter = Meter(study.settings, Spent.of(study), partial(note_seconds, study))
        with tracked(study):
            with listener.following(study), ExitStack() as stack:
                if waiting and not meter.ends():
                    with probe(study.own_storage):  # it may have gone since the study was made
                        pass
                    other_nodes = stack.enter_context(executor.opened(listener.stage))
                    listener.stage("Preparing the data")
                    data = stack.enter_context(shared(study, other_nodes, read=read))
                    listener.stage("Starting workers")
                    _tune(study, {ledger.optimizer: ledger for ledger in waiting}, data, executor, listener, meter)
            left = sum(ledger.open for ledger in waiting)
            if left and not (ended := meter.ends()):
                raise KeyboardInterrupt
            if left and ended:
                whole = study.settings.trials_in_all
                listener.announced(
                    f"Study {study.name} ends with {whole - left} of its {whole} trials, for {ended.why}; "
                    f"it is resumed by\n  {study.command('resume', ended.more)}"
                )
            listener.stage("Bringing MLflow up to date")
    return study


def _refuse_changed(study: Study) -> None:
    """Refuse a study that is another one than was read: its lock may have been waited for.

    Raises:
        Refused: another process has deleted or renamed it, made it anew, or given it more trials.
    """
    there = open_study(study.name, study.home)
    if there.mlflow_run_id != study.mlflow_run_id or there.settings.trials > study.settings.trials:
        raise Refused(
            f"study {study.name} was made anew, or given more trials, by another process just now; give the command "
            "again."
        )


def _tune(
    study: Study,
    ledgers: dict[str, "Ledger"],
    data: "Shared",
    executor: Executor,
    listener: SearchListener,
    meter: Meter,
) -> None:
    """Run the open trials of each optimizer, until they have ended or an interrupt or a budget stops them."""
    from tune_sam.cluster.gpu import gpu_fraction, measured_fractions
    from tune_sam.cluster.watch import Watch
    from tune_sam.trainable import trainable_for
    from tune_sam.tuning.callback import Driver, TuneScheduler, TuneSearcher
    from tune_sam.tuning.loggers import logging_aside

    settings = study.settings
    workload = study.workload
    measured: dict[str, dict[int, float]] = {}
    if settings.gpus_per_trial == "auto":
        measured = {
            optimizer: measured_fractions(workload, ledger.sample(), ledger.space.batch_size, data)
            for optimizer, ledger in ledgers.items()
        }
    watch: Watch[tuple[str, int]] = Watch(
        settings.trial_timeout, settings.stall_timeout, trained=lambda trial: ledgers[trial[0]].trained(trial[1])
    )
    smallest = min(
        (fraction for fractions in measured.values() for fraction in fractions.values()),
        default=gpu_fraction(workload, settings.gpu_fraction),
    )
    meter.start()
    with interruptible(), logging_aside(study) as asides, closing(meter):  # waiting for loggers is no search
        executor.train(
            Trainings(
                name=study.results_folder,
                storage=inside(study.own_storage, study.name),
                trainable=trainable_for(workload),
                data=data,
                searcher=TuneSearcher(ledgers, study, meter, measured),
                scheduler=TuneScheduler(ledgers, watch, meter),
                callbacks=(Driver(ledgers, study, listener, watch, meter), *asides),
                watch=watch,
                key=partial(trial_key, study.name),
                cpus=settings.cpus_per_trial,
                gpus=smallest,
            )
        )
