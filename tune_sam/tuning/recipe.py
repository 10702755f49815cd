"""A study's settings as the options of a search that would make the same again."""

import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from tune_sam.home import Home
from tune_sam.settings import SearchOptions, flag_of
from tune_sam.space import Choice, Domain, LogRange, Value, Values, text_of_value
from tune_sam.study.settings import StudySettings
from tune_sam.workload import known_workload

PARAMETERS = ("rho", "lr", "batch_size")


def as_yaml(settings: StudySettings) -> str:
    """Write what :func:`as_options` gives, as a file for `--config` on any machine."""
    import yaml

    return yaml.safe_dump(as_options(settings), sort_keys=False, allow_unicode=True)


def as_command(settings: StudySettings, home: Home) -> str:
    """Write what :func:`as_options` gives as a command, without the options that have their defaults.

    Args:
        settings: of a study whose optimizers have the same ranges but for ρ, which one of them has: on a command line
            a range is all optimizers'.
        home: where the study is to be made.
    """
    options, defaults = as_options(settings), _defaults(settings)
    if settings.data not in (None, str(home.data)):
        options["data"] = settings.data
    ranges = options.pop("ranges").values()
    params = {name: value for of_one in ranges for name, value in of_one.get("params", {}).items()}
    options |= {name: value for of_one in ranges for name, value in of_one.items() if name != "params"}
    words = [word for name, value in options.items() if value != defaults[name] for word in _words(name, value)]
    own = {name: value for name, value in params.items() if value != defaults["params"].get(name)}
    return shlex.join(["tune-sam", "search", settings.workload, *words, *_words("params", own)])


def _words(option: str, value: Any) -> list[str]:
    """Write an option as the words of a command line."""
    flag = flag_of(option)
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if option == "params":
        texts = [f"{name}={_joined(one) if isinstance(one, list) else one}" for name, one in value.items()]
    else:
        texts = (
            value if option in ("optimizers", "log") else [_joined(value) if isinstance(value, list) else str(value)]
        )
    return [word for text in texts for word in (flag, text)]


def _joined(values: Sequence[Value]) -> str:
    return ",".join(map(text_of_value, values))


def _defaults(settings: StudySettings) -> dict[str, Any]:
    """Give what the options stand for that nobody gives, written as :func:`as_options` does."""
    workload, preset = known_workload(settings.workload), settings.preset
    of_workload: dict[str, Any] = {
        "dataset": workload.default_dataset,
        "epochs": workload.setting(settings.dataset, preset).epochs,
        "objective": f"val/{next(iter(workload.scores))}",
    }
    if settings.sampler != "grid":  # whose points tell a value that is given from one that is not
        of_workload |= {
            "lr": str(workload.lr),
            "params": {
                name: _written(domain)
                for optimizer in settings.optimizers
                for name, domain in workload.hyperparameters_of(optimizer).items()
            },
        }
    of_preset = workload.presets[preset].options if preset else {}
    given = SearchOptions.model_validate({"workload": settings.workload, **of_preset}).model_dump(mode="json")
    return {**of_workload, **{name: one for name, one in given.items() if name in of_preset or name not in of_workload}}


def as_options(settings: StudySettings) -> dict[str, Any]:
    """Turn a study's settings into the options of a search that would make the same again, wherever its data lie."""
    resolved = ("workload", "trials", "spaces", "data")
    names = [field.name for field in fields(settings) if field.name in SearchOptions.model_fields]
    values = {name: getattr(settings, name) for name in names if name not in resolved}
    written = SearchOptions.model_construct(**values).model_dump(mode="json", include=set(values))
    found = {name: value for name, value in written.items() if value is not None and value is not False and value != []}
    if settings.sampler == "grid":
        preset = known_workload(settings.workload).presets.get(settings.preset or "")
        if preset is None or preset.options.get("sampler") != "grid":  # of such a preset the grid is its own
            found["ranges"] = {optimizer: _of_grid(settings, optimizer) for optimizer in settings.optimizers}
    else:
        found["trials"] = settings.trials
        found["grid"] = all(space.grid for space in settings.spaces.values())
        workload, own_sizes = known_workload(settings.workload), _own_sizes(settings)
        found["ranges"] = {
            optimizer: {
                **_of_range("rho", space.rho, workload.rho.get(optimizer)),
                **_of_range("lr", space.lr, workload.lr),
                **({"batch_size": list(space.batch_size)} if space.batch_size != own_sizes else {}),
                **({"params": {name: _written(one) for name, one in space.more.items()}} if space.more else {}),
            }
            for optimizer, space in settings.spaces.items()
        }
    return found


def _of_range(name: str, searched: LogRange | None, own: LogRange | None) -> dict[str, str]:
    """Give a range as an option; none where the workload fixes the value, as a person cannot give such a range."""
    if searched is None or (own and searched.low == searched.high and searched.to_json() == own.to_json()):
        return {}
    return {name: str(searched)}


def _own_sizes(settings: StudySettings) -> tuple[int, ...]:
    """Give the batch sizes that are searched where nobody gives any: the workload's that the training samples fill.

    Returns:
        The sizes; none where the preset gives its own.
    """
    workload = known_workload(settings.workload)
    if settings.preset and "batch_size" in workload.presets[settings.preset].options:
        return ()
    samples = settings.train_subset or workload.datasets[settings.dataset].train
    return tuple(size for size in workload.batch_size if size <= samples)


def _of_grid(settings: StudySettings, optimizer: str) -> dict[str, Any]:
    """Give the options that make an optimizer's plain grid: those without which it would have other points or ranges.

    Of a hyperparameter that nobody gives, a grid has one value; of one that somebody gives, every value.
    """
    workload, space = known_workload(settings.workload), settings.spaces[optimizer]
    setting = workload.setting(settings.dataset, settings.preset)
    tried = {name: tuple(dict.fromkeys(point[name] for point in space.grid if name in point)) for name in space.domains}
    rhos, lrs, sizes = (tried.get(name, ()) for name in PARAMETERS)
    found: dict[str, Any] = {}
    if space.rho:
        # A published value alone has a range from itself to itself, whose grid it is; a person cannot give that range.
        spread = space.rho.low < space.rho.high and rhos == workload.rho_grid(optimizer, space.rho)
        found["rho"] = str(space.rho if spread else Values(rhos))
    if (lrs, space.lr) != ((setting.lr,), workload.lr):
        found["lr"] = str(Values(lrs))
    own_sizes = _own_sizes(settings)
    if space.batch_size != own_sizes or sizes != (min(setting.batch_size, max(own_sizes)),):
        found["batch_size"] = list(space.batch_size)
    own = workload.hyperparameters_of(optimizer)
    if more := {
        name: _written(one) for name, one in space.more.items() if one != own.get(name) or tried[name] != (one.start,)
    }:
        found["params"] = more
    return found


def _written(domain: Domain) -> Any:
    """Write a further hyperparameter's domain as `params` reads it."""
    return list(domain.values) if isinstance(domain, Choice) else str(domain)
