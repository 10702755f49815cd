"""Refit: train the best configurations again, test them, and log what came of it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from tune_sam.cluster.connection import check_offer
from tune_sam.cluster.executor import Executor, RayExecutor
from tune_sam.errors import Refused
from tune_sam.evaluation.elsewhere import Elsewhere
from tune_sam.evaluation.models import check_name, log_models
from tune_sam.evaluation.refit import Refit, cost_in_words, equal_epochs, refit_study, scores, test_all
from tune_sam.evaluation.selection import (
    Choice,
    check_seeds,
    chosen_configurations,
    chosen_seeds,
    configurations,
    control_points,
    refit_settings,
    were_given,
)
from tune_sam.evaluation.summary import log_summary
from tune_sam.home import Home, Place
from tune_sam.settings import SEEDS, SearchOptions
from tune_sam.space import Configuration
from tune_sam.study.records import Study, open_search
from tune_sam.study.settings import Kind
from tune_sam.tuning.delivery import publish
from tune_sam.tuning.listener import SearchListener
from tune_sam.tuning.plan import home_of, plan
from tune_sam.tuning.progress import heard_by
from tune_sam.tuning.runner import launch


def refit(
    name: str,
    *,
    home: Place = None,
    seeds: int | Sequence[int] = SEEDS,
    top: int = 1,
    each_batch_size: bool = False,
    epochs: int | None = None,
    controls: bool = True,
    register: str | None = None,
    address: str | None = None,
    max_concurrent: int | None = None,
    listener: SearchListener | None = None,
    progress: bool | None = None,
    executor: Executor | None = None,
) -> Refit:
    """Train the best configurations of a study again, on train + validation, and test each training once.

    A study on a part of the training split, or on wrong labels, is trained again on just these. Of a plain grid that
    was trained without a search, all points are, as :func:`refit_grid` does.

    The best configuration of each optimizer is the best by validation. All have the same seeds, so that initialisation
    and order of the samples agree and differences are paired. The base optimizer is also trained for as many epochs as
    cost what each other costs, twice as many for SAM, and with the learning rate and the batch size of each other row,
    so that only ρ differs from that row. The test set is read when all trainings are done, once for each.

    Args:
        name: of the study.
        home: where it lives; $TUNE_SAM_HOME by default, else ~/.tune_sam.
        seeds: how many, or which. A later call with more trains the new ones only.
        top: number of configurations of each optimizer, the best first.
        each_batch_size: take the best configuration of each batch size instead.
        epochs: of each training; the study's by default. A refit may be longer than its search.
        controls: train the matched controls, which a refit that has none gets without being trained again.
        register: name of the model in MLflow's registry that gets each optimizer's network as a version, with the
            optimizer as its alias; nothing is registered by default. The networks are logged as models anyway, see
            :func:`tune_sam.evaluation.models.modelled`.
        address: Ray cluster to use; one is started here by default.
        max_concurrent: trainings at the same time; as many as fit by default.
        listener: is told as trainings and tests begin and end, in place of the screen.
        progress: whether the screen shows how it goes; see :func:`tune_sam.search`.
        executor: what runs the trainings and tests; by default Ray at `address`.

    Raises:
        Refused: there is no such study, the seeds repeat, no trial is complete, or another process holds its lock.
        NothingComplete: a training of the refit did not end complete.
        KeyboardInterrupt: it was interrupted; the same call resumes it.
    """
    if top < 1 or (each_batch_size and top > 1):
        with_it = " with --each-batch-size" if each_batch_size else ""
        raise Refused(f"--top {top} is not possible{with_it}; give 1 or more, or the best of each batch size alone.")
    study, choice = open_search(name, home), Choice(top, each_batch_size)
    if were_given(study):
        if choice != Choice():
            chosen = "--each-batch-size" if each_batch_size else f"--top {top}"
            raise Refused(f"all points of study {name} are trained, for they were given; leave {chosen} out.")
        choice = Choice(planned=True)
    with heard_by(listener, progress) as hears:
        return _refit(
            study,
            choice,
            seeds,
            epochs,
            controls,
            register,
            address,
            executor or RayExecutor(address, max_concurrent),
            hears,
        )


def refit_grid(
    workload: str,
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    name: str | None = None,
    home: Place = None,
    data: str | Path | None = None,
    trained: Path | None = None,
    split_seed: int | None = None,
    seeds: int | Sequence[int] = SEEDS,
    epochs: int | None = None,
    controls: bool = True,
    register: str | None = None,
    address: str | None = None,
    max_concurrent: int | None = None,
    listener: SearchListener | None = None,
    progress: bool | None = None,
    executor: Executor | None = None,
) -> Refit:
    """Train all points of a plain grid, without a search; as :func:`refit` otherwise.

    Of several points of the base optimizer none is trained at equal compute, for none of them is known to be best.

    Args:
        workload: to train.
        preset: one that is a plain grid, such as `report`, the published study's settings and values of ρ.
        config: a YAML file of a search's options with `sampler: grid`, as `tune-sam best STUDY --yaml` prints it.
        name: of the study whose grid is trained, which is made if there is none; that of `config` by default, else
            WORKLOAD-PRESET, or WORKLOAD and the file's name.
        home, address, max_concurrent: as for :func:`refit`; those of `config` by default.
        seeds, epochs, controls, register, listener, progress, executor: as for :func:`refit`.
        data: folder that holds the data set; $TUNE_SAM_DATA by default, else the home's.
        trained: a file of trainings that were made and tested elsewhere, as `benchmarks/gpu` writes it, which are
            entered in place of being made; their networks are not here.
        split_seed: by which the data are split, where no split is published; that of `config` by default, else 0.

    Raises:
        Refused: as for :func:`refit` and :func:`tune_sam.search`, or it is no plain grid.
        KeyboardInterrupt: it was interrupted; the same call resumes it.
    """
    if preset is None and config is None:
        raise Refused("a refit without a search needs the points that it trains; give a preset or a config.")
    check_seeds(seeds)
    if trained and register:
        raise Refused(f"--register {register} needs networks, and {trained} has none; leave it out.")
    given = Elsewhere.read(trained) if trained else None
    named_after = preset or (Path(config).stem if config else "grid")
    own = {"name": name, "address": address, "max_concurrent": max_concurrent}
    chosen = SearchOptions.read({"workload": workload, **own}, config)
    place = home_of(chosen) if home is None else Home.at(home)
    study = plan(
        workload,
        config=config,
        preset=preset,
        home=place.path,
        study_storage=place.study_storage,
        storage=place.named_storage,
        tracking_uri=place.named_tracking_uri,
        data=data,
        split_seed=split_seed,
        address=chosen.address,
        name=chosen.name or f"{workload.rpartition(':')[2].lower()}-{named_after}",
    )
    where, choice = chosen.address, Choice(planned=True)
    executor = executor or RayExecutor(where, chosen.max_concurrent)
    with heard_by(listener, progress) as hears:
        return _refit(study, choice, seeds, epochs, controls, register, where, executor, hears, given)


def _refit(
    study: Study,
    choice: Choice,
    seeds: int | Sequence[int],
    epochs: int | None,
    controls: bool,
    register: str | None,
    address: str | None,
    executor: Executor,
    listener: SearchListener,
    trained: Elsewhere | None = None,
) -> Refit:
    study.refuse_unnamed()
    study.refuse_unnamed_optimizers()
    check_name(register)
    shared_seeds = chosen_seeds(seeds, study)
    check_offer(study.settings.cpus_per_trial, study.settings.gpu_fraction or 0, address)
    epochs = study.settings.epochs if epochs is None else epochs
    if epochs < 1:
        raise Refused(f"--epochs {epochs}: there is nothing to train; give 1 or more.")
    chosen = chosen_configurations(study, choice, "the refit")
    if not chosen:
        raise Refused(
            f"study {study.name} has no complete trial, so there is nothing to train again; give it more "
            f"with `{study.command('resume', '--trials N')}`."
        )
    settings = refit_settings(study, "refit", epochs, chosen, shared_seeds, choice)
    parts: list[tuple[Kind, int, dict[str, list[Configuration]], str]] = [("refit", epochs, chosen, "")]
    best = choice.best_of(chosen.get("base", []))
    for more in equal_epochs(settings) if best else ():
        suffix = "" if more == 2 * epochs else f"{more / epochs:.3g}-times"
        parts.append(("equal-compute", more, {"base": best}, suffix))
    if controls and (points := control_points(configurations(settings))):
        parts.append(("control", epochs, {"base": [Configuration.at("base", point) for point in points]}, ""))
    if trained:
        trained.refuse_missing(
            [refit_settings(study, kind, length, some, shared_seeds, choice) for kind, length, some, _ in parts]
        )
    made = [
        refit_study(study, kind, length, some, shared_seeds, choice, suffix) for kind, length, some, suffix in parts
    ]
    listener.announced(cost_in_words(made, shared_seeds))
    tests: dict[str, dict[str, float]] = {}
    with nullcontext() if trained else executor.opened(listener.stage):  # once for all
        for child in made:
            if trained:
                trained.enter(child, listener)
            else:
                launch(child, executor, listener, again=shared_seeds)
        for child in made:  # what was entered is tested already
            tests |= test_all(child, shared_seeds, executor, listener)
    listener.stage("Bringing MLflow up to date")
    found = Refit(study, tuple(made), tests, shared_seeds, "")
    left = log_summary(study)  # first, for the ledger gets the numbers whatever MLflow takes
    return replace(found, undelivered=_publish(found) or left or log_models(found, register))


def _publish(found: Refit) -> str:
    """Log the test results to the trainings' runs, and return why they could not be logged; empty if they were."""
    for study in found.studies:
        folder = study.home.study(study.name) / "test"
        runs = {
            trial.mlflow_run_id: scores(study, trial, found.tests[trial.key])
            for trial in study.records()
            if trial.key in found.tests and trial.mlflow_run_id
        }
        if left := publish(study, runs, study.settings.epochs, folder, "test"):
            return left
    return ""
