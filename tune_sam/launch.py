"""A study: one run of Tune per optimizer, each with the same budget, created or gone on with."""

import logging
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam import tracking
from tune_sam.cluster import check_offer, concurrency, connected
from tune_sam.progress import Progress
from tune_sam.results import absolute, chosen_storage, folder_of, tried, without_login
from tune_sam.settings import ENVIRONMENT, Home, Place, Refused, SearchOptions, masked
from tune_sam.space import Range
from tune_sam.storage import driving, open_storage
from tune_sam.study import (
    Study,
    StudySettings,
    every_study,
    note_run,
    now,
    open_study,
    refits_of,
)
from tune_sam.workload import Workload, find_workload

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from tune_sam.searcher import Ledger
    from tune_sam.sharing import Shared

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds that a search waits at its end for the tracking server; what is left then is kept and delivered later."""


def search(workload: str, *, config: Path | None = None, progress: Progress | None = None, **options: Any) -> Study:
    """Search a workload's hyperparameters: create the study, or go on with it if one of that name exists.

    Args:
        workload: name of a workload, or `package.module:Class`.
        config: a YAML file of options; those given here come on top.
        progress: where to show it; nowhere by default.
        options: the fields of :class:`tune_sam.settings.SearchOptions`.

    Returns:
        The study, at the end of its budget.

    Raises:
        Refused: an option, file, range or server is wrong; nothing was created.
        KeyboardInterrupt: it was interrupted; :func:`resume` goes on.
    """
    chosen = SearchOptions.read({"workload": workload, **options}, config)
    return launch(_planned(chosen), chosen.address, chosen.max_concurrent, progress)


def plan(workload: str, *, config: Path | None = None, **options: Any) -> Study:
    """Make the study of a plain grid that :func:`search` would make with these options, or find it; train nothing.

    Raises:
        Refused: as for :func:`search`, or the study is no plain grid, so that only a search can say what is best.
    """
    chosen = SearchOptions.read({"workload": workload, **options}, config)
    if _define(chosen, Home.at(chosen.home, chosen.study_storage)).sampler != "grid":
        what = f"--preset {chosen.preset}" if chosen.preset and not config else str(config)
        raise Refused(f"{what} is no plain grid, so it has to be searched before anything can be chosen; search with "
                      "it, and refit that study.")
    return _planned(chosen)


def _planned(chosen: SearchOptions) -> Study:
    """The study that the options describe, with their budget: a new one, or the one of that name."""
    home = Home.at(chosen.home, chosen.study_storage)
    settings = _define(chosen, home)
    study = next((study for study in every_study(home) if study.name == chosen.name), None)
    if study:
        _refuse_other(study, settings)
        study = _grown(_where_it_is(study, chosen), settings.trials)
    check_offer(settings.cpus_per_trial, settings.share_said or 0, chosen.address)
    if study:
        return study
    storage = chosen_storage(chosen.storage, home)
    if chosen.tracking_uri:
        tracking.check(chosen.tracking_uri)
    return create(chosen.name or _made_up(settings), settings, home, chosen.tracking_uri or home.tracking_uri, storage)


def resume(name: str, *, home: Place = None, trials: int | None = None, address: str | None = None,
           max_concurrent: int | None = None, progress: Progress | None = None) -> Study:
    """Go on with a study: trials that were interrupted go on from their last checkpoint, then the rest follows.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        trials: a new budget of each optimizer, in all, not on top; as before by default.
        address: Ray cluster to use; one is started here by default.
        max_concurrent: trials at the same time; as many as fit by default.
        progress: where to show it; nowhere by default.

    Raises:
        Refused: there is no such study, it has more trials than that already, or it is being searched now.
        KeyboardInterrupt: it was interrupted again.
    """
    study = open_study(name, home)
    check_offer(study.settings.cpus_per_trial, study.settings.share_said or 0, address)
    study = _grown(study, study.settings.trials if trials is None else trials)
    return launch(study, address, max_concurrent, progress)


def sync(name: str, *, home: Place = None, patience: float = PATIENCE) -> int:
    """Deliver to MLflow what could not be delivered while trials of a study and of its refits ran.

    Args:
        name: the study's.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        patience: seconds to wait for a server that is away, for each study.

    Returns:
        How many events are still not delivered; they are kept.

    Raises:
        Refused: there is no such study, or a search of it is going on, which delivers on its own.
    """
    study = open_study(name, home)
    return sum(deliver(one, patience) for one in (study, *refits_of(study)))


def deliver(study: Study, patience: float) -> int:
    """Deliver what a study's journal holds for MLflow; how many of its events are left then."""
    storage = open_storage(study.home)
    return tracking.deliver(study.tracking_uri, study.home.study(study.name), patience,
                            lambda key, run_id: note_run(storage, key, run_id))


def _define(chosen: SearchOptions, home: Home) -> StudySettings:
    """The study that the options describe, with the workload's own values where none were given."""
    workload = find_workload(chosen.workload)
    dataset = _dataset(chosen, workload)
    if chosen.preset is not None:
        chosen = _preset(chosen, chosen.preset, workload, dataset)
    sizes = workload.datasets[dataset]
    if chosen.train_subset and not sizes.classes <= chosen.train_subset <= sizes.train:
        raise Refused(f"--train-subset {chosen.train_subset} is not possible, {dataset} has {sizes.train} training "
                      f"samples of {sizes.classes} classes; give from {sizes.classes} to {sizes.train}.")
    spaces = {optimizer: workload.space(chosen, optimizer, dataset) for optimizer in chosen.optimizers}
    root, trials = _data(chosen, workload, dataset, home), chosen.trials
    if chosen.sampler == "grid":
        trials = max(len(space.grid) for space in spaces.values())
        _refuse_what_a_grid_lacks(chosen, trials)
    return StudySettings(
        workload=chosen.workload, dataset=dataset, preset=chosen.preset,
        data=None if root == home.data else str(root), optimizers=chosen.optimizers, trials=trials,
        epochs=chosen.epochs or workload.setting(dataset, chosen.preset).epochs, seed=chosen.seed,
        scheduler=_scheduler(chosen), sampler=chosen.sampler, train_subset=chosen.train_subset,
        precision=chosen.precision, compile=chosen.compile, cpus_per_trial=chosen.cpus_per_trial,
        gpus_per_trial=chosen.gpus_per_trial, spaces=spaces, objective=chosen.objective,
    )


def _scheduler(chosen: SearchOptions) -> str:
    """ASHA compares trials by one number at each rung, and of two objectives none is that number."""
    if chosen.objective != "two":
        return chosen.scheduler
    if chosen.scheduler == "asha" and "scheduler" in chosen.model_fields_set:
        raise Refused("--scheduler asha compares trials by one number, and --objective two has two; leave it out, or "
                      "give one objective.")
    return "none"


def _refuse_what_a_grid_lacks(chosen: SearchOptions, points: int) -> None:
    """What is given and would change nothing must not stand in a record."""
    for optimizer in chosen.optimizers:
        if isinstance(lr := chosen.ranges_of(optimizer).lr, Range):
            raise Refused(f"--lr {lr} changes nothing where a grid alone is tried; give values, as in --lr 0.001,0.01, "
                          "or leave it out.")
    if "trials" in chosen.model_fields_set and chosen.trials != points:
        raise Refused(f"--trials {chosen.trials} does not go with a grid of {points} points, which is tried alone; "
                      "leave --trials out.")


def _preset(chosen: SearchOptions, name: str, workload: Workload, dataset: str) -> SearchOptions:
    """The options with the preset's defaults below them."""
    if name not in workload.presets:
        there = f"choose from {', '.join(workload.presets)}" if workload.presets else "leave --preset out"
        raise Refused(f"workload {chosen.workload} has no preset {name!r}; {there}.")
    if dataset != workload.default_dataset:
        raise Refused(f"preset {name!r} is of the data set {workload.default_dataset}, not of {dataset}; "
                      "leave --preset or --dataset out.")
    options = workload.presets[name].options
    if options.get("sampler") == "grid":
        for option, value in (("--rho", chosen.rho), ("--lr", chosen.lr), ("--batch-size", chosen.batch_size),
                              ("ranges", chosen.ranges or None)):
            if value is not None:
                shown = ",".join(map(str, value)) if isinstance(value, (tuple, dict)) else value
                raise Refused(f"preset {name!r} is a plain grid over ρ, and {option} {shown} would make it another "
                              f"study; leave {option} or --preset out.")
        for option, given, plain in (("--no-grid", chosen.grid, True), (f"--sampler {chosen.sampler}",
                                                                        chosen.sampler, "grid")):
            if given != plain and option.strip("-").split()[0].removeprefix("no-") in chosen.model_fields_set:
                raise Refused(f"preset {name!r} is a plain grid, and {option} would make it another study; leave "
                              f"{option} or --preset out.")
    return chosen.under(options)


def _data(chosen: SearchOptions, workload: Workload, dataset: str, home: Home) -> Path:
    """The folder of the data set. One that a person named is checked, and only read; the home's is filled later."""
    named = chosen.data or os.environ.get("TUNE_SAM_DATA")
    try:
        root = Path(named or home.data).expanduser().absolute()
    except RuntimeError as error:
        raise Refused(f"--data {named} cannot be used ({error}); give a folder.") from None
    if named:
        workload.check_data(dataset, root)
    return root


def prepared_data(chosen: SearchOptions, home: Home) -> tuple[Workload, str, Path]:
    """The workload, its data set and the folder that has it; one in the home is filled.

    Raises:
        Refused: data are missing and cannot be fetched.
    """
    workload = find_workload(chosen.workload)
    dataset = _dataset(chosen, workload)
    root = _data(chosen, workload, dataset, home)
    _fetch(workload, dataset, root, home)
    return workload, dataset, root


def _dataset(chosen: SearchOptions, workload: Workload) -> str:
    dataset = chosen.dataset or workload.default_dataset
    if dataset not in workload.datasets:
        raise Refused(f"workload {chosen.workload} has no data set {dataset!r}; "
                      f"choose from {', '.join(workload.datasets)}.")
    return dataset


def _fetch(workload: Workload, dataset: str, root: Path, home: Home) -> None:
    """Fill the home's data folder, where it is the data's. Nothing that can be refused at once comes after this."""
    if root == home.data:
        workload.fetch(dataset, root)
        workload.check_data(dataset, root)


def _refuse_other(study: Study, settings: StudySettings) -> None:
    """A study is gone on with only as what it is."""
    kept = {**asdict(study.settings), "data": str(study.data)}
    asked = {**asdict(settings), "data": settings.data or str(study.home.data)}
    for name, before in kept.items():
        wanted = asked[name]
        if name != "trials" and wanted != before:
            what = ("another search space" if name == "spaces"
                    else f"{name.replace('_', ' ')} {_shown(before)}, not {_shown(wanted)}")
            raise Refused(f"study {study.name} exists with {what}; give another --name, or the same options.")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _where_it_is(study: Study, chosen: SearchOptions) -> Study:
    """The study, whose results and runs stay where they are; a login that is another one now is taken."""
    storage = absolute(chosen.storage) if chosen.storage else study.storage
    uri = chosen.tracking_uri or study.tracking_uri
    for name, before, wanted in (("storage", study.storage, storage), ("tracking_uri", study.tracking_uri, uri)):
        if without_login(wanted) != without_login(before):
            option = name.replace("_", "-")
            raise Refused(f"study {study.name} exists with --{option} {masked(before)}, not {masked(wanted)}; give "
                          f"another --name, or this one without --{option} and ${ENVIRONMENT[name]}.")
    if uri != study.tracking_uri:
        tracking.check(uri)
    return replace(study, storage=storage, tracking_uri=uri)


def _grown(study: Study, trials: int) -> Study:
    """The study with a larger budget."""
    if trials < study.settings.trials:
        raise Refused(f"study {study.name} has {study.settings.trials} trials of each optimizer already, "
                      f"more than {trials}; --trials is the total, so give at least that.")
    if study.settings.sampler == "grid" and trials > study.settings.trials:
        raise Refused(f"study {study.name} tries the points of a grid, to which --trials {trials} can add none; leave "
                      "--trials out, or search without --sampler grid under another --name.")
    return replace(study, settings=replace(study.settings, trials=trials))


def _made_up(settings: StudySettings) -> str:
    """A name with the time, in which no two agree."""
    workload = settings.workload.rpartition(":")[2].lower()
    return f"{workload}-{now()[:19].replace(':', '')}-{secrets.token_hex(2)}"


def create(name: str, settings: StudySettings, home: Home, uri: str, storage: str) -> Study:
    """Make a study in MLflow and in Optuna, before any trial can race for it.

    Args:
        name: of the study; there is none of that name.
        settings: what it is.
        home: where it will live.
        uri: MLflow's; see :func:`tune_sam.tracking.check`.
        storage: folder or URI for Ray's results.

    Raises:
        Refused: MLflow does not take it, data cannot be fetched, or the name was taken just now.
    """
    own = uri == home.tracking_uri
    with home.made():
        if settings.data is None:
            _fetch(find_workload(settings.workload), settings.dataset, home.data, home)
        run = tracking.open_study_run(
            uri, experiment=settings.workload, artifact_root=str(home.artifacts) if own else None,
            name=name, home=home.identity, description=_description(settings),
            tags={**_tags(settings), **versions()},
        )
    study = Study(name, home, settings, now(), uri, run.experiment_id, run.run_id, storage)
    with driving(study.home, study.name):
        # Another process may have been making a study of this name since it was looked for.
        if any(known.name == name for known in every_study(home)):
            raise Refused(f"study {name} was made by another process just now; go on with `tune-sam resume {name}`.")
        store(study)
    return study


def store(study: Study) -> None:
    """Write the study's record to each of its Optuna studies; those that are missing are made."""
    import optuna

    storage = open_storage(study.home)
    record = {"settings": study.settings.to_json(), "created": study.created, "tracking_uri": study.tracking_uri,
              "experiment_id": study.experiment_id, "mlflow_run_id": study.mlflow_run_id, "storage": study.storage}
    for optimizer in study.settings.optimizers:
        made = optuna.create_study(storage=storage, study_name=f"{study.name}/{optimizer}",
                                   directions=list(study.settings.directions.values()), load_if_exists=True)
        made.set_user_attr("record", record)


def launch(study: Study, address: str | None, max_concurrent: int | None, progress: Progress | None) -> Study:
    """Train until the budget of every optimizer is spent; what was interrupted goes on first.

    Args:
        study: that was created, perhaps with more trials than before.
        address, max_concurrent, progress: as for :func:`search`.

    Raises:
        Refused: another process is at it, or no node has room for a trial.
        KeyboardInterrupt: it was interrupted.
    """
    from tune_sam.searcher import Ledger

    progress = progress or Progress()
    with driving(study.home, study.name):
        store(study)
        storage = open_storage(study.home)
        ledgers = [Ledger(storage, study.name, optimizer, study.settings) for optimizer in study.settings.optimizers]
        waiting = [ledger for ledger in ledgers if ledger.open]
        with _tracked(study, storage) as tracker, progress.following(study):
            tracker.set_study("RUNNING")
            if waiting:
                with tried(study.storage):  # it may have gone since the study was made
                    pass
                with connected(address) as other_nodes, shared(study, other_nodes) as data:
                    for ledger in waiting:
                        _tune(study, ledger, tracker, data, max_concurrent, progress)
                        if ledger.open:
                            raise KeyboardInterrupt
            tracker.set_study("FINISHED")
    return study


def provide(study: Study) -> None:
    """See that a study's data are there; a home, be it another than the one that it was made in, gets its own.

    Raises:
        Refused: data are missing and cannot be fetched.
    """
    workload, dataset = find_workload(study.settings.workload), study.settings.dataset
    if study.data == study.home.data:
        with study.home.made():
            workload.fetch(dataset, study.data)
    workload.check_data(dataset, study.data)


@contextmanager
def shared(study: Study, other_nodes: bool, sample: int | None = None) -> "Iterator[Shared]":
    """The study's data, read once for all its trials; this process keeps none.

    Call it inside :func:`tune_sam.storage.driving`.

    Args:
        study: whose.
        other_nodes: whether they may be needed on other nodes.
        sample: so many of its training samples, chosen once; all by default.
    """
    from tune_sam.sharing import share
    from tune_sam.store import with_train_subset

    settings = study.settings
    provide(study)
    splits = find_workload(settings.workload).splits(settings.dataset, study.data)
    splits = with_train_subset(splits, settings.train_subset)
    if settings.refit_of:
        splits = splits.together()
    if sample:
        splits = with_train_subset(splits, min(sample, len(splits.train)))
    with share(splits, folder=data_folder(study), other_nodes=other_nodes) as data:
        del splits
        yield data


def data_folder(study: Study) -> Path:
    """An empty folder of the study for data that are shared; what a killed driver left there goes."""
    folder = study.home.study(study.name) / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _tune(study: Study, ledger: "Ledger", tracker: tracking.Tracker, data: "Shared", max_concurrent: int | None,
          progress: Progress) -> None:
    """Run the open trials of one optimizer, until they have ended or an interrupt stops them."""
    from ray import tune

    from tune_sam.driver import Driver
    from tune_sam.gpu import measured_shares
    from tune_sam.searcher import TuneScheduler, TuneSearcher
    from tune_sam.trainable import gpu_share, trainable_for

    settings = study.settings
    workload = find_workload(settings.workload)
    constants = {"dataset": settings.dataset, "preset": settings.preset, "train_subset": settings.train_subset,
                 "together": settings.refit_of is not None, "epochs": settings.epochs,
                 "precision": settings.precision, "compile": settings.compile,
                 "sharpness": "val/sharpness" in settings.directions,
                 "cpus_per_trial": settings.cpus_per_trial, "gpus_per_trial": settings.share_said}
    prefix = f"{study.name}/{ledger.optimizer}"
    shares: dict[int, float] = {}
    if settings.gpus_per_trial == "auto":
        space = ledger.space
        shares = measured_shares(workload, constants, ledger.optimizer, space.rho.low if space.rho else None,
                                 space.lr.low, space.batch_size, data)
    smallest = min(shares.values(), default=gpu_share(workload, constants))
    slots = concurrency(settings.cpus_per_trial, smallest, max_concurrent)
    with terminate_as_interrupt():
        tune.run(
            tune.with_parameters(trainable_for(workload), data=data),
            name=ledger.optimizer, storage_path=folder_of(study), config=constants,
            search_alg=TuneSearcher(ledger, shares), scheduler=TuneScheduler(ledger),
            num_samples=-1,  # the searcher says when there are no more
            max_concurrent_trials=slots, reuse_actors=True,
            trial_name_creator=lambda trial: f"{prefix}/{trial.config['number']}",
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04}.{trial.config['attempt']}",
            # Every epoch, so that a crash loses one at most.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=True),
            callbacks=[Driver(ledger, tracker, versions(), study.storage, progress)],
            raise_on_failed_trial=False, verbose=0,
            # Over Ray's client a Tuner would send searcher and callbacks to the head, where their databases are not.
            _remote=False,
        )


@contextmanager
def _tracked(study: Study, storage: "RDBStorage") -> Iterator[tracking.Tracker]:
    """A way to MLflow for the length of a launch. What cannot be delivered at its end is kept."""
    run = tracking.StudyRun(study.experiment_id, study.mlflow_run_id)
    tracker = tracking.Tracker(study.tracking_uri, study.home.study(study.name), run,
                               lambda key, run_id: note_run(storage, key, run_id))
    patience = 5.0  # after an interrupt or an error, nobody wants to wait long
    try:
        yield tracker
        patience = PATIENCE
    finally:
        if kept := tracker.close(patience):
            log.warning("%d events of study %s could not be delivered to %s; they are kept, and `tune-sam sync %s` "
                        "delivers them.", kept, study.name, masked(study.tracking_uri), study.name)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, with which schedulers end a job, stop a search as SIGINT does: trials wait for the next launch.

    Tune leaves its own handler of SIGINT behind, which would swallow the caller's next Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    def interrupt(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a script starts in the background
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _description(settings: StudySettings) -> str:
    """What MLflow's page shows about a study, as Markdown."""
    # Not the number of trials, which may grow.
    trials = "the same number of trials for each optimizer" if settings.sampler != "grid" else "the points of a grid"
    preset = f", preset {settings.preset}" if settings.preset else ""
    subset = f" ({settings.train_subset} training samples)" if settings.train_subset else ""
    what = f"Refit of {settings.refit_of}," if settings.refit_of else "Search of"
    lines = [f"{what} **{settings.workload}** on **{settings.dataset}**{subset}{preset}: {trials}, "
             f"{settings.epochs} epochs each, seed {settings.seed}, scheduler {settings.scheduler}. The value of a "
             f"trial is {' and '.join(settings.directions)} after its last epoch.", "",
             "| optimizer | ρ | learning rate | batch size |", "|---|---|---|---|"]
    for optimizer, space in settings.spaces.items():
        lines.append(f"| {optimizer} | {space.rho or '–'} | {space.lr} | {', '.join(map(str, space.batch_size))} |")
    return "\n".join(lines)


def _tags(settings: StudySettings) -> dict[str, str]:
    """What was trained on what, as tags of the study's run."""
    told = {"dataset": settings.dataset, "preset": settings.preset, "train_subset": settings.train_subset,
            "sampler": settings.sampler, "scheduler": settings.scheduler, "objective": settings.objective,
            "precision": settings.precision,
            "compile": settings.compile or None}
    return {f"tune_sam.{name}": str(value) for name, value in told.items() if value is not None}


def versions() -> dict[str, str]:
    """The versions that a number depends on, as tags of every run."""
    tags = {f"version.{package}": version(package) for package in
            ("tune-sam", "torch", "torchvision", "torch-geometric", "wfdb", "scipy", "ray", "optuna")}
    if commit := _commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def _commit() -> str | None:
    """The commit this package is at; None if it is installed without its repository, or there is no git."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # An environment may lie in a folder of somebody else's repository, whose commit says nothing about us.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True)
        return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
