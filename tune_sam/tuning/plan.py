"""From options to the settings of a study, and the study made of them; everything wrong is refused here."""

import logging
import os
import secrets
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Unpack

from tune_sam.cluster.beside import Call, NoAnswer, offered
from tune_sam.cluster.connection import check_offer
from tune_sam.cluster.data import Read, prepared
from tune_sam.cluster.results import chosen_storage
from tune_sam.errors import Refused, masked
from tune_sam.home import Home, absolute, folder_of
from tune_sam.logins import same_place
from tune_sam.optimizers import find_optimizer
from tune_sam.provenance import versions
from tune_sam.settings import ENVIRONMENT, LIMITS, SearchKeywords, SearchOptions
from tune_sam.space import Choice, LogRange, Space, Value, Values, ends, grid
from tune_sam.study.lock import study_lock
from tune_sam.study.old_logins import remove_logins
from tune_sam.study.optuna_internals import attributes_of_studies
from tune_sam.study.records import Study, find_study
from tune_sam.study.settings import CHANGEABLE, StudySettings, now
from tune_sam.study.storage import open_storage
from tune_sam.tracking import client, runs
from tune_sam.tuning.further import check_declared, check_named, further_domains
from tune_sam.workload import Workload, find_workload, known_workload

log = logging.getLogger(__name__)


def plan(workload: str, *, config: str | Path | None = None, **options: Unpack[SearchKeywords]) -> Study:
    """Make the study of a plain grid that :func:`search` would make with these options, or find it; train nothing.

    Raises:
        Refused: as for :func:`search`, or the study is no plain grid, so that only a search can say what is best.
    """
    chosen = SearchOptions.read({"workload": workload, **options}, config)
    if define(chosen, home_of(chosen)).sampler != "grid":
        what = f"--preset {chosen.preset}" if chosen.preset and not config else str(config)
        raise Refused(
            f"{what} is no plain grid, so it has to be searched before anything can be chosen; search with "
            "it, and refit that study."
        )
    study, _ = planned(chosen)
    return study


def planned(chosen: SearchOptions, right: Callable[[], None] = lambda: None) -> tuple[Study, Read | None]:
    """Create the study that the options describe, or open the one of that name with their budget.

    Args:
        chosen: the options.
        right: called when those of a new study are found right, and there is a home for it, before its workload is
            tried and its records are made.

    Returns:
        The study; and of a new one its data, which were read to try the workload out.
    """
    home = home_of(chosen)
    settings = define(chosen, home)
    study = find_study(chosen.name, home) if chosen.name else None
    if study:
        refuse_other(study, settings)
        study = limited(grown(where_it_is(study, chosen), settings.trials), chosen)
    check_offer(settings.cpus_per_trial, settings.gpu_fraction or 0, chosen.address)
    if study:
        return study, None
    if settings.from_study:
        from tune_sam.tuning.seeding import source_of, tell_other_training

        tell_other_training(settings, source_of(settings, home))
    name = chosen.name or _made_up(settings)
    _refuse_beyond_ascii(name, chosen.storage or "")
    storage = chosen_storage(chosen.storage, home)
    if chosen.tracking_uri:
        client.check(chosen.tracking_uri)
    _refuse_without_records(name, home)
    with home.made():
        right()
        read = _tried(settings, home, chosen.tracking_uri or home.tracking_uri)
        study = create(name, settings, home, chosen.tracking_uri or home.tracking_uri, storage)
    _tell_sizes_left_out(chosen, settings)  # last, for who is refused is told one thing
    return study, read


def _tried(settings: StudySettings, home: Home, uri: str) -> Read:
    """Try the workload of a new study out, with its data, which are fetched where they are the home's.

    Where that happens beside this process, what the study's records need is imported here meanwhile.
    """
    workload = find_workload(settings.workload).split_by(settings.split_seed)
    root = Path(settings.data or home.data)
    if settings.data is None:
        _fetch(workload, settings.dataset, root, home)
    if offered():
        file = TemporaryFile(dir=home.path)  # noqa: SIM115 (the data are there until they are shared)
        there = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        with suppress(NoAnswer), Call("tune_sam.tuning.door:tried", workload, settings, root, there) as call:
            client.import_store(uri)
            call.result()
            return Read(partial(_copied, file))
    from tune_sam.cluster.sharing import save
    from tune_sam.tuning.door import try_out

    return Read(partial(save, prepared(try_out(workload, settings, root), workload, settings)))


def _copied(data: IO[bytes], file: Path) -> None:
    with data, file.open("wb") as copy:
        shutil.copyfileobj(data, copy)


def home_of(chosen: SearchOptions) -> Home:
    """Choose the home that the options name, with the places outside of it that they name."""
    return Home.at(chosen.home, chosen.study_storage, chosen.storage, chosen.tracking_uri)


def define(chosen: SearchOptions, home: Home) -> StudySettings:
    """Give the settings that the options describe, with the workload's own values where none were given."""
    workload = find_workload(chosen.workload)
    dataset = _dataset(chosen, workload)
    if chosen.preset is not None:
        chosen = _preset(chosen, chosen.preset, workload, dataset)
    sizes = workload.datasets[dataset]
    fewest = sizes.classes or 1
    if chosen.train_subset and not fewest <= chosen.train_subset <= sizes.train:
        of_classes = f" of {sizes.classes} classes" if sizes.classes else ""
        raise Refused(
            f"--train-subset {chosen.train_subset} is not possible, {dataset} has {sizes.train} training "
            f"samples{of_classes}; give from {fewest} to {sizes.train}."
        )
    _refuse_patience(chosen, chosen.objective or "")
    if chosen.label_noise and not sizes.classes:
        raise Refused(
            f"--label-noise {chosen.label_noise:g} replaces classes, and {workload.name} states none of {dataset}; "
            "give its DataSet the number of its `classes`, or leave --label-noise out."
        )
    if chosen.split_seed and not sizes.by_seed:
        raise Refused(
            f"--split-seed {chosen.split_seed} is not possible, the splits of {dataset} are given; leave it out, or "
            "draw them by `split_seed` in the workload and let its DataSet say `by_seed`."
        )
    check_declared(workload)
    check_named(chosen, workload)
    spaces = {optimizer: search_space(chosen, workload, dataset, optimizer) for optimizer in chosen.optimizers}
    root, trials = _data(chosen, workload, dataset, home), chosen.trials
    if chosen.sampler == "grid":
        trials = max(len(space.grid) for space in spaces.values())
        _refuse_what_a_grid_lacks(chosen, trials)
    given = {field.name: getattr(chosen, field.name) for field in fields(StudySettings) if hasattr(chosen, field.name)}
    resolved = {
        "dataset": dataset,
        "data": None if root == home.data else str(root),
        "trials": trials,
        "epochs": chosen.epochs or workload.setting(dataset, chosen.preset).epochs,
        "scheduler": _scheduler(chosen),
        "spaces": spaces,
        "gradients": {optimizer: find_optimizer(optimizer).gradients for optimizer in chosen.optimizers},
        **_judged(chosen, workload),
    }
    settings = StudySettings(**given | resolved)
    if settings.objective in ("val/loss", "two") and settings.searches("label_smoothing"):
        raise Refused(
            f"--objective {settings.objective} is another function for each label_smoothing, which is searched; judge "
            f"by val/{settings.score}, or give one value, as in --param label_smoothing=0."
        )
    return settings


def _judged(chosen: SearchOptions, workload: Workload) -> dict[str, Any]:
    """Choose what trials are judged by, and the score that comparisons are made by."""
    first = next(iter(workload.scores))
    objective = chosen.objective or f"val/{first}"
    named = objective.removeprefix("val/")
    if objective not in ("two", "val/loss") and (named == objective or named not in workload.scores):
        possible = ", ".join((*(f"val/{name}" for name in workload.scores), "val/loss"))
        raise Refused(f"--objective {objective} is nothing that {workload.name} has; choose from {possible}, two.")
    score = named if named in workload.scores else first
    return {"objective": objective, "score": score, "score_direction": workload.scores[score].direction}


def _refuse_patience(chosen: SearchOptions, objective: str) -> None:
    if chosen.patience and objective == "two":
        raise Refused(
            f"--patience {chosen.patience} waits for a better best, and trials of --objective two have none; leave it "
            "out, or give one objective."
        )


def _scheduler(chosen: SearchOptions) -> str:
    """Choose the scheduler: each compares trials by one number, so two objectives have none."""
    if chosen.objective != "two":
        return chosen.scheduler
    if chosen.sampler == "cmaes":
        raise Refused(
            "--sampler cmaes compares trials by one number, and --objective two has two; sample by tpe or gp."
        )
    if chosen.scheduler != "none" and "scheduler" in chosen.model_fields_set:
        raise Refused(
            f"--scheduler {chosen.scheduler} compares trials by one number, and --objective two has two; leave it "
            "out, or give one objective."
        )
    return "none"


def _refuse_what_a_grid_lacks(chosen: SearchOptions, points: int) -> None:
    """Refuse options that would change nothing where the points of a grid are tried alone."""
    for optimizer in chosen.optimizers:
        if isinstance(lr := chosen.ranges_of(optimizer).lr, LogRange):
            raise Refused(
                f"--lr {lr} changes nothing where a grid alone is tried; give values, as in --lr 0.001,0.01, "
                "or leave it out."
            )
        for name, given in chosen.ranges_of(optimizer).params.items():
            if not isinstance(given, Choice):
                raise Refused(
                    f"--param {name}={given} changes nothing where a grid alone is tried; give values, as in "
                    f"--param {name}={given.low:g},{given.high:g}, or leave it out."
                )
    if chosen.budget != "trials":
        raise Refused(
            f"--budget {chosen.budget} changes nothing where the points of a grid are tried, each once; leave it out."
        )
    if "trials" in chosen.model_fields_set and chosen.trials != points:
        raise Refused(
            f"--trials {chosen.trials} does not go with a grid of {points} points, which is tried alone; "
            "leave --trials out."
        )


def _preset(chosen: SearchOptions, name: str, workload: Workload, dataset: str) -> SearchOptions:
    """Put the preset's defaults below the options."""
    if name not in workload.presets:
        there = f"choose from {', '.join(workload.presets)}" if workload.presets else "leave --preset out"
        raise Refused(f"workload {chosen.workload} has no preset {name!r}; {there}.")
    if dataset != workload.default_dataset:
        raise Refused(
            f"preset {name!r} is of the data set {workload.default_dataset}, not of {dataset}; "
            "leave --preset or --dataset out."
        )
    options = workload.presets[name].options
    if options.get("sampler") == "grid":
        for option, value in (
            ("--rho", chosen.rho),
            ("--lr", chosen.lr),
            ("--batch-size", chosen.batch_size),
            ("--param", ",".join(chosen.params) or None),
            ("ranges", chosen.ranges or None),
        ):
            if value is not None:
                shown = ",".join(map(str, value)) if isinstance(value, (tuple, dict)) else value
                raise Refused(
                    f"preset {name!r} is a plain grid over ρ, and {option} {shown} would make it another "
                    f"study; leave {option} or --preset out."
                )
        for option, given, plain in (
            ("--no-grid", chosen.grid, True),
            (f"--sampler {chosen.sampler}", chosen.sampler, "grid"),
        ):
            if given != plain and option.strip("-").split()[0].removeprefix("no-") in chosen.model_fields_set:
                raise Refused(
                    f"preset {name!r} is a plain grid, and {option} would make it another study; leave "
                    f"{option} or --preset out."
                )
    return chosen.under(options)


def _data(chosen: SearchOptions, workload: Workload, dataset: str, home: Home) -> Path:
    """Find the folder of the data set. One that a person named is checked and only read; the home's is filled later."""
    named = chosen.data or os.environ.get("TUNE_SAM_DATA")
    root = folder_of(named or home.data, "--data")
    if named:
        workload.check_data(dataset, root)
        if root != home.data and not os.path.isdir(root):  # the home's may be made yet
            option = "--data" if chosen.data else "$TUNE_SAM_DATA"
            raise Refused(f"{option} {root} is no folder; name the one that has the data, or leave it out.")
    return root


def prepared_data(chosen: SearchOptions, home: Home) -> tuple[Workload, str, Path]:
    """Find the workload, its data set and the folder that has it; one in the home is filled.

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
        raise Refused(
            f"workload {chosen.workload} has no data set {dataset!r}; choose from {', '.join(workload.datasets)}."
        )
    return dataset


def _fetch(workload: Workload, dataset: str, root: Path, home: Home) -> None:
    """Fill the home's data folder, where it is the data's. Nothing that can be refused at once comes after this."""
    if root == home.data and not home.data_are_linked:
        workload.fetch(dataset, root)
    if root == home.data:
        workload.check_data(dataset, root)


def refuse_other(study: Study, settings: StudySettings) -> None:
    """Refuse options that describe another study than the one of that name."""
    kept = {**study.settings.to_json(), "data": str(study.data)}
    asked = {**settings.to_json(), "data": settings.data or str(study.home.data)}
    if not kept["gradients"]:  # of an earlier release
        del kept["gradients"]
    if kept["precision"] is None and asked["precision"] == "auto":  # of one, too: on a CPU it stays fp32
        del kept["precision"]
    for name, before in kept.items():
        wanted = asked[name]
        if name not in CHANGEABLE and wanted != before:
            what = (
                "another search space"
                if name == "spaces"
                else "optimizers that took another number of gradients in a step"
                if name == "gradients"
                else f"{name.replace('_', ' ')} {_shown(before)}, not {_shown(wanted)}"
            )
            elsewhere = name == "data" and not os.path.exists(before)  # and $TUNE_SAM_DATA is not set, or not that
            way_out = f"set TUNE_SAM_DATA to {wanted}, if those are the same data" if elsewhere else "the same options"
            raise Refused(f"study {study.name} exists with {what}; give another --name, or {way_out}.")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def where_it_is(study: Study, chosen: SearchOptions) -> Study:
    """Give the study with a login that has changed; its results and runs stay where they are."""
    storage = absolute(chosen.storage) if chosen.storage else study.storage
    uri = chosen.tracking_uri or study.tracking_uri
    for name, before, wanted in (("storage", study.storage, storage), ("tracking_uri", study.tracking_uri, uri)):
        if not same_place(wanted, before):
            option = name.replace("_", "-")
            raise Refused(
                f"study {study.name} exists with --{option} {before}, not {wanted}; give "
                f"another --name, or this one without --{option} and ${ENVIRONMENT[name]}."
            )
    if uri != study.tracking_uri:
        client.check(uri)
    return replace(study, storage=storage, tracking_uri=uri)


def grown(study: Study, trials: int) -> Study:
    """Give the study a larger budget."""
    if trials < study.settings.trials:
        raise Refused(
            f"study {study.name} has {study.settings.trials} trials of each optimizer already, "
            f"more than {trials}; --trials is the total, so give at least that."
        )
    if study.settings.sampler == "grid" and trials > study.settings.trials:
        raise Refused(
            f"study {study.name} tries the points of a grid, to which --trials {trials} can add none; leave "
            "--trials out, or search without --sampler grid under another --name."
        )
    return replace(study, settings=replace(study.settings, trials=trials))


def limited(study: Study, chosen: SearchOptions) -> Study:
    """Give the study the loggers and those of the :data:`LIMITS` that a person chose; the others stay as they were.

    Raises:
        Refused: the study has no best that one could have patience with.
    """
    given: dict[str, Any] = {
        name: getattr(chosen, name) for name in ("log", *LIMITS) if name in chosen.model_fields_set
    }
    _refuse_patience(chosen, study.settings.objective)
    return replace(study, settings=replace(study.settings, **given))


def _made_up(settings: StudySettings) -> str:
    """Make up a name with the time, in which no two agree."""
    workload = settings.workload.rpartition(":")[2].lower()
    return f"{workload}-{now()[:19].replace(':', '')}-{secrets.token_hex(2)}"


def _refuse_beyond_ascii(name: str, storage: str) -> None:
    """Refuse a name that no folder at a URI can have: pyarrow reads none that has other characters."""
    if "://" in storage and not name.isascii():
        raise Refused(
            f"--name {name} has characters beyond ASCII, which no folder in {masked(storage)} can have; give another "
            "--name."
        )


def create(name: str, settings: StudySettings, home: Home, uri: str, storage: str) -> Study:
    """Make a study in MLflow and in Optuna, before any trial can race for it.

    Args:
        name: of the study; there is none of that name.
        settings: what it is.
        home: where it will live.
        uri: MLflow's; see :func:`tune_sam.tracking.client.check`.
        storage: folder or URI for Ray's results.

    Raises:
        Refused: MLflow does not take it, data cannot be fetched, the name was taken just now, or results or trials of a
            study of this name are there, whose records are not.
    """
    _refuse_without_records(name, home)
    home.refuse_links(name)
    with home.made():
        if settings.data is None:
            _fetch(known_workload(settings.workload), settings.dataset, home.data, home)
        run = study_run(name, settings, home, uri)
    study = Study(name, home, settings, now(), uri, run.experiment_id, run.run_id, storage, versions())
    with study_lock(study.home, study.name):
        # Another process may have been making a study of this name since it was looked for.
        if find_study(name, home):
            raise Refused(
                f"study {name} was made by another process just now; resume it with `{study.command('resume')}`."
            )
        _remove_begun(study)
        store(study)
    return study


def _refuse_without_records(name: str, home: Home) -> None:
    """Refuse a name whose study has lost its records: the new one's would mix with what is left of it."""
    own = home.study(name)
    if any(own.glob("ray-*")) or any((own / kept).exists() for kept in ("test", "flatness")):
        records = masked(home.study_storage) if home.study_storage else home.optuna_file
        raise Refused(
            f"the results of a study {name} are in {own}, but its records are not in {records}; put back a copy of "
            "them, remove that folder, or give another --name."
        )


def _remove_begun(study: Study) -> None:
    """Remove what was begun of a study of this name and never finished: Optuna's studies without a trial.

    Raises:
        Refused: one has trials, of an import or a deletion that was cut off; they would be taken for the new study's.
    """
    storage = open_storage(study.home)
    begun = [name for name in attributes_of_studies(storage) if name.rpartition("/")[0] == study.name]
    for one in map(storage.get_study_id_from_name, begun):
        if storage.get_n_trials(one):
            raise Refused(
                f"an import or a deletion of a study {study.name} was cut off and left trials in {study.home.path}; "
                f"remove them with `{study.command('delete')}`, or give another --name."
            )
        storage.delete_study(one)


def study_run(name: str, settings: StudySettings, home: Home, uri: str) -> client.StudyRun:
    """Get or create the run of a new study in MLflow.

    Args:
        name: the study's.
        settings: what it is.
        home: where it lives.
        uri: MLflow's.

    Raises:
        Refused: MLflow does not take it.
    """
    return runs.open_study_run(
        uri,
        experiment=settings.workload,
        artifact_root=str(home.artifacts) if uri == home.tracking_uri else None,
        name=name,
        home=home.identity,
        tags={**told(settings), **versions()},
    )


def store(study: Study) -> None:
    """Write the study's record to each of its Optuna studies; those that are missing are made."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    from tune_sam.tuning.seeding import SEEDS, seeds_for
    from tune_sam.tuning.strategies import BRACKETS

    storage = open_storage(study.home)
    remove_logins(storage)
    for optimizer in study.settings.optimizers:
        made = optuna.create_study(
            storage=storage,
            study_name=f"{study.name}/{optimizer}",
            directions=list(study.settings.directions.values()),
            load_if_exists=True,
        )
        if study.settings.scheduler == "hyperband" and BRACKETS not in made.user_attrs:
            made.set_user_attr(BRACKETS, made.study_name)
        if study.settings.from_study and SEEDS not in made.user_attrs:
            made.set_user_attr(SEEDS, seeds_for(study.settings, optimizer, study.home))
        made.set_user_attr("record", study.to_record())
        with warnings.catch_warnings(category=ExperimentalWarning, action="ignore"):
            made.set_metric_names(list(study.settings.directions))  # which Optuna's dashboard shows


def told(settings: StudySettings) -> dict[str, str]:
    """Give what the tags of a study's run say of it: its settings, and all of them in words."""
    return {"mlflow.note.content": _description(settings), **_tags(settings)}


def _description(settings: StudySettings) -> str:
    """Describe a study for MLflow's page, as Markdown."""
    what = "Search of" if settings.kind == "search" else f"Refit of {settings.refit_of},"
    more = settings.more
    lines = [
        f"{what} **{settings.workload}** on **{settings.dataset}**. The value of a trial is "
        f"{' and '.join(settings.directions)} after its last epoch.",
        "",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in settings.described().items()),
        "",
        _row("optimizer", "ρ", "learning rate", "batch size", *more),
        "|---" * (4 + len(more)) + "|",
    ]
    for optimizer, space in settings.spaces.items():
        further = (space.more.get(name, "–") for name in more)
        lines.append(_row(optimizer, space.rho or "–", space.lr, ", ".join(map(str, space.batch_size)), *further))
    return "\n".join(lines)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _tags(settings: StudySettings) -> dict[str, str]:
    """Give the settings as tags of the study's run."""
    return {f"tune_sam.{name}": str(value) for name, value in settings.described().items()}


def _batch_sizes(given: tuple[int, ...] | None, workload: Workload, samples: int, dataset: str) -> tuple[int, ...]:
    """Choose the batch sizes to search: a person's own, or those of the workload that the training samples fill."""
    sizes = given or workload.batch_size
    fitting = tuple(size for size in sizes if size <= samples)
    if not fitting or (given and fitting != sizes):
        raise Refused(
            f"--batch-size {max(sizes)} is larger than the {samples} training samples of {dataset}; "
            f"give sizes up to {samples}."
        )
    return fitting


def _tell_sizes_left_out(chosen: SearchOptions, settings: StudySettings) -> None:
    workload = find_workload(settings.workload)
    samples = settings.train_subset or workload.datasets[settings.dataset].train
    by_workload = any(chosen.ranges_of(optimizer).batch_size is None for optimizer in settings.optimizers)
    if by_workload and (left_out := [str(size) for size in workload.batch_size if size > samples]):
        log.warning("Batches of %s are left out, for there are %d training samples.", " and ".join(left_out), samples)


def _fitting(size: int, sizes: tuple[int, ...], given: tuple[int, ...] | None) -> int:
    """Give the setting's batch size for the grid, or the largest of the workload's that is searched in its place."""
    return size if given or size <= max(sizes) else max(sizes)


def search_space(chosen: SearchOptions, workload: Workload, dataset: str, optimizer: str) -> Space:
    """Merge the workload's ranges with a person's own into the search space of one optimizer.

    Raises:
        Refused: a batch size exceeds the training split, a grid point lies outside a range, values are given where a
            range is sampled, or nobody gives a range of ρ.
    """
    own, setting = chosen.ranges_of(optimizer), workload.setting(dataset, chosen.preset)
    own_rho = workload.rho_range(optimizer)
    rho = (own.rho or own_rho) if own_rho else None
    lr, alone = own.lr or workload.lr, chosen.sampler == "grid"
    for option, given in (("--rho", rho), ("--lr", lr)):
        if isinstance(given, Values) and not alone:
            raise Refused(
                f"{option} {given}: values are for a plain grid, and the sampler takes a range; give "
                "LOW:HIGH, or --sampler grid."
            )
    sizes = _batch_sizes(own.batch_size, workload, chosen.train_subset or workload.datasets[dataset].train, dataset)
    rhos = rho.points if isinstance(rho, Values) else workload.rho_grid(optimizer, rho) if rho else ()
    lrs = lr.points if isinstance(lr, Values) else (setting.lr,)
    of_grid = own.batch_size if alone and own.batch_size else (_fitting(setting.batch_size, sizes, own.batch_size),)
    more = further_domains(own, workload, optimizer)
    further: dict[str, tuple[Value, ...]] = {
        name: domain.values if alone and name in own.params and isinstance(domain, Choice) else (domain.start,)
        for name, domain in more.items()
    }
    points = grid(rhos, lrs, of_grid, further) if chosen.grid else ()
    space = Space(rho=ends(rho) if rho else None, lr=ends(lr), batch_size=sizes, grid=points, more=more)
    if outside := space.outside():
        way_out = "give its values instead" if alone else "or search without the grid (--no-grid)"
        raise Refused(f"a grid point of {optimizer} lies outside its ranges ({outside}); widen the range, {way_out}.")
    return space
