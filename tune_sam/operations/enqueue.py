"""A person's own points, which a search trains before it suggests any of its own."""

from collections.abc import Mapping

from tune_sam.errors import Refused
from tune_sam.home import Place
from tune_sam.space import IN_WORDS, Choice, Domain, Point, Space, Value, narrowed, parse_param, text_of_value
from tune_sam.study.optuna_internals import enqueued_point
from tune_sam.study.records import Study, Trial, open_search
from tune_sam.study.settings import trial_key
from tune_sam.study.storage import open_storage
from tune_sam.tuning.ledger import OWN, trials_needed


def enqueue(
    name: str,
    *,
    lr: float,
    rho: float | None = None,
    batch_size: int | None = None,
    params: Mapping[str, Value] | None = None,
    optimizer: str | None = None,
    home: Place = None,
) -> Trial:
    """Have a study try a point of your own next: before grid points that wait, and before what the sampler suggests.

    It counts among the study's trials, whose number is the same for each optimizer. A search that is running takes it
    up, else :func:`tune_sam.resume` does; where all trials have begun already, with more `trials`.

    Args:
        name: the study's.
        lr: learning rate.
        rho: radius ρ; none of an optimizer without one.
        batch_size: that of the study's grid by default, or the only one that is searched.
        params: further hyperparameters by name; each has its default where it is not given.
        optimizer: whose trial it is; needed where the study has several.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Returns:
        The trial that it will be.

    Raises:
        Refused: there is no such study, it tries a grid alone, or the point is outside of its space or was tried.
    """
    import optuna

    study = open_search(name, home)
    optimizer = _chosen(study, optimizer)
    of_study = {"rho": rho, "lr": lr, "batch_size": batch_size}
    point = _point(study, optimizer, {one: value for one, value in of_study.items() if value is not None}, params or {})
    tried = [one for one in study.records(optimizer) if one.config and one.config.point == point]
    if same := next((one for one in tried if one.state != "failed"), None):
        raise Refused(f"trial {same.key} is at this point already, it is {same.state}; give another point.")
    # Under no lock: Optuna's storage takes a trial from anybody at any time, and a search looks there when it suggests.
    ledger = optuna.load_study(study_name=f"{name}/{optimizer}", storage=open_storage(study.home))
    ledger.enqueue_trial(point, user_attrs={OWN: True})
    own = [one.number for one in ledger.get_trials(deepcopy=False) if enqueued_point(one) == point]
    return study.trial(trial_key(name, optimizer, own[-1]))


def budget_for(trial: Trial, home: Place = None) -> int:
    """Give the trials of each optimizer that a study must have for a point of a person's own to be tried."""
    import optuna

    study = open_search(trial.study, home)
    ledger = optuna.load_study(study_name=f"{study.name}/{trial.optimizer}", storage=open_storage(study.home))
    return study.settings.budget_with(trial.optimizer, trials_needed(ledger))


def _chosen(study: Study, optimizer: str | None) -> str:
    """Choose the optimizer whose trial it is."""
    settings = study.settings
    if settings.sampler == "grid":
        raise Refused(
            f"study {study.name} tries the points of its grid alone; search with another --sampler under another "
            "--name."
        )
    chosen = optimizer or (settings.optimizers[0] if len(settings.optimizers) == 1 else None)
    if chosen not in settings.optimizers:
        which = f"did not search {optimizer!r}" if optimizer else "has several optimizers"
        raise Refused(f"study {study.name} {which}; give --optimizer as one of {', '.join(settings.optimizers)}.")
    return chosen


def _point(study: Study, optimizer: str, of_study: Point, params: Mapping[str, Value]) -> Point:
    """Make a point of what a person gives and of defaults.

    Raises:
        Refused: it has another hyperparameter than the space, lacks one, or lies outside.
    """
    space = study.settings.spaces[optimizer]
    if unknown := next((one for one in params if one not in space.more), None):
        there = f"it has {', '.join(space.more)}" if space.more else "it has none"
        raise Refused(f"{optimizer} of study {study.name} has no further hyperparameter {unknown!r} ({there}).")
    further = {one: domain.start for one, domain in space.more.items()}
    given = {one: _value(study, one, value, space.more[one]) for one, value in params.items()}
    point = {**_default_batch_size(space), **of_study, **further, **given}
    for one in space.domains.keys() ^ point.keys():
        flag = f"--{one.replace('_', '-')}"
        what = (
            f"needs a {_called(one)}; give {flag} from {space.domains[one]}"
            if one in space.domains
            else f"has no {_called(one)}; leave {flag} out"
        )
        raise Refused(f"{optimizer} of study {study.name} {what}.")
    for one, domain in space.domains.items():
        if point[one] not in domain:
            raise Refused(
                f"{_called(one)} {text_of_value(point[one])} is not in {domain}, where study {study.name} searches "
                f"{optimizer}; give a point that is."
            )
    return point


def _default_batch_size(space: Space) -> Point:
    """Give the batch size of the grid, or the only one that is searched; nothing where there are several."""
    sizes = {point["batch_size"] for point in space.grid} or set(space.batch_size)
    return {"batch_size": sizes.pop()} if len(sizes) == 1 else {}


def _value(study: Study, name: str, given: Value, domain: Domain) -> Value:
    """Read the value of a further hyperparameter, which a command line has as a text."""
    try:
        found = narrowed(domain, parse_param(given))
        if not isinstance(found, Choice) or len(found.values) > 1:
            raise ValueError("a point has one value of each")
        return found.values[0]
    except ValueError as error:
        raise Refused(f"--param {name}={given} is no value that study {study.name} searches: {error}.") from None


def _called(name: str) -> str:
    return IN_WORDS.get(name, name)
