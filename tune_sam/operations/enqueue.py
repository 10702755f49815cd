"""A person's own points, which the next launch of a study trains before it suggests any of its own."""

from tune_sam.errors import Refused
from tune_sam.home import Place
from tune_sam.space import Value, text_of_value
from tune_sam.study.lock import study_lock
from tune_sam.study.records import open_search
from tune_sam.study.storage import open_storage


def enqueue(
    name: str,
    *,
    lr: float,
    batch_size: int,
    rho: float | None = None,
    optimizer: str | None = None,
    home: Place = None,
    **more: Value,
) -> int:
    """Have the next launch of a study try a point before what the sampler suggests, within the study's budget.

    Args:
        name: the study's.
        lr, batch_size, rho: the point, inside the study's space; no ρ for an optimizer without one.
        optimizer: whose trial it is; needed where the study has several.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.
        more: further hyperparameters; each has its default where it is not given.

    Returns:
        The number of the trial that it will be.

    Raises:
        Refused: there is no such study, a process drives it, or the point is outside of its space or was tried.
    """
    import optuna

    study = open_search(name, home)
    settings = study.settings
    if settings.sampler == "grid":
        raise Refused(
            f"study {name} tries the points of its grid alone; search with another --sampler under another --name."
        )
    optimizer = optimizer or (settings.optimizers[0] if len(settings.optimizers) == 1 else None)
    if optimizer not in settings.optimizers:
        raise Refused(f"study {name} has the optimizers {', '.join(settings.optimizers)}; name one of them.")
    space = settings.spaces[optimizer]
    given = {"lr": lr, "batch_size": batch_size, **({} if rho is None else {"rho": rho}), **more}
    point = {one: domain.start for one, domain in space.more.items()} | given
    for one in space.domains.keys() ^ point.keys():
        raise Refused(
            f"{optimizer} of study {name} {'needs' if one in space.domains else 'has no'} {one}; mend the point."
        )
    for one, domain in space.domains.items():
        if point[one] not in domain:
            raise Refused(f"{one} {text_of_value(point[one])} is outside of {domain}, where study {name} searches.")
    with study_lock(study.home, name):
        ledger = optuna.load_study(study_name=f"{name}/{optimizer}", storage=open_storage(study.home))
        before = len(ledger.get_trials(deepcopy=False))
        ledger.enqueue_trial(point, skip_if_exists=True)
        if len(ledger.get_trials(deepcopy=False)) == before:
            raise Refused(f"{optimizer} of study {name} has a trial at this point already; give another.")
    return before
