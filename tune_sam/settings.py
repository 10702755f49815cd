"""What a person may choose, checked once, at the door.

Options reach the system from the command line, from a YAML file and from Python. All three become one
:class:`SearchOptions`; what is wrong with them is said here, before torch, Ray or MLflow is imported, as one sentence
in a :class:`Refused`.
"""

import inspect
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_args, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from tune_sam.durations import OFF, parse_limit, written
from tune_sam.errors import Refused, shorten
from tune_sam.extras import need
from tune_sam.home import unusable
from tune_sam.logins import of_results, plain, remember, without_login
from tune_sam.optimizers import OURS, find_optimizer, optimizer_names
from tune_sam.space import Choice, LogRange, Range, Values, parse_batch_sizes, parse_param, parse_values


@dataclass(frozen=True)
class Shown:
    """What a field's description does not say about its option, as metadata of the field.

    Attributes:
        default: what an option that nobody gives stands for, where the field's own default does not say it.
        metavar: what is typed after the flag; as the field's type says by default.
        flag: on the command line; the field's name with dashes by default.
    """

    default: str | None = None
    metavar: str | None = None
    flag: str | None = None


def shown(field: FieldInfo) -> Shown:
    """Return what is said about a field's option beside its description."""
    return next((one for one in field.metadata if isinstance(one, Shown)), Shown())


def shown_default(field: FieldInfo) -> str | None:
    """Return what an option stands for that nobody gives, in words; None where that is nothing."""
    value, said = field.default, shown(field).default
    if said or value is None or value == {}:
        return said
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _parse_gpus(given: Any) -> float | Literal["auto"] | None:
    if given is None:
        return None
    if given == "auto":
        return "auto"
    try:
        gpus = float(given)
    except (TypeError, ValueError):
        raise ValueError("a GPU fraction such as 0.25, 0, 1 or auto is possible") from None
    if not 0 <= gpus <= 1:
        raise ValueError("a GPU fraction from 0 to 1 is possible, for a training computes on one GPU")
    return gpus


def _parse_cpus(given: Any) -> float:
    try:
        cpus = float(given)
    except (TypeError, ValueError, OverflowError):
        cpus = 0.0
    if not (LEAST_CPU <= cpus < 1 or (1 <= cpus <= MOST and cpus.is_integer())):
        raise ValueError(f"a whole number of CPUs is possible, or a fraction of one from {LEAST_CPU} to 1")
    return int(cpus) if cpus.is_integer() else cpus


LEAST_CPU = 0.01
"""Of a CPU a trial asks for so much at least: a hundred of them on one would get nowhere."""


def _parse_count(given: Any) -> int:
    """Read a number of which there may be at most so many; 0 for `off`, where there is no limit."""
    text = str(given).strip().lower()
    if given is False or text == "off":
        return 0
    if given is True or not (text.isdecimal() and 1 <= int(text[:10]) <= MOST):
        raise ValueError(f"a whole number from 1 to {MOST} is possible, or off")
    return int(text)


MOST = 1_000_000
"""Trials and epochs that may be asked for: more are a slip of the hand."""

SEEDS = 5
"""Seeds that a refit trains with, unless others are asked for."""

SAMPLE = 2048
"""Training samples that flatness is measured on, unless others are asked for."""

STALL_TIMEOUT = 3600.0
"""Seconds without an epoch after which a trial is taken to hang. Data sets here fit in memory, so the longest take
minutes; and a trial that hangs takes no more than an hour of a night."""

GRID = 21
"""Points along a side of a loss surface, unless others are asked for."""

Budget = Literal["trials", "compute"]
Sampler = Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"]
Scheduler = Literal["asha", "hyperband", "median", "none"]
Logger = Literal["tensorboard", "csv", "wandb"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

RangeGiven = LogRange | Values | str | float | Sequence[float] | None
"""What is taken for a range or for the values of a plain grid: LOW:HIGH, X,X,…, one number or several."""

ParamGiven = LogRange | Range | Choice | str | float | Sequence[str | float]
"""What is taken for a further hyperparameter: LOW:HIGH, one value or several."""


def _by_name(given: Any) -> Any:
    """Read NAME=VALUES of the command line."""
    if not isinstance(given, (list, tuple)):
        return given
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = str(text).partition("=")
        if not equals or not name or name in found:
            why = f"{name} is given twice; give it once" if name in found else "expected NAME=LOW:HIGH or NAME=VALUE"
            raise ValueError(why)
        found[name] = value
    return found


RangeOption = Annotated[LogRange | Values, BeforeValidator(parse_values)]
BatchSizesOption = Annotated[tuple[int, ...], BeforeValidator(parse_batch_sizes)]
ParamsOption = Annotated[dict[str, Annotated[Range | Choice, BeforeValidator(parse_param)]], BeforeValidator(_by_name)]
GpusOption = Annotated[float | Literal["auto"] | None, BeforeValidator(_parse_gpus)]
CpusOption = Annotated[float, BeforeValidator(_parse_cpus), PlainSerializer(lambda cpus: cpus)]
LimitOption = Annotated[float, BeforeValidator(parse_limit), PlainSerializer(written)]
CountOption = Annotated[int, BeforeValidator(_parse_count), PlainSerializer(lambda count: count or "off")]


class RangeOptions(BaseModel):
    """A person's own ranges, in place of the workload's."""

    # What checks options is built where some are given: most commands take none.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_value(cls, given: Any, info: ValidationInfo) -> Any:
        """Take the numbers of NumPy and torch for Python's, and refuse what no option can be."""
        value = given.tolist() if hasattr(given, "tolist") else given
        name = info.field_name or ""
        is_off = value is False and name in LIMITS  # as YAML reads it
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool and not is_off:
            raise ValueError("yes and no, or true and false, are no value of this option")
        if isinstance(value, (str, Path)) and (wrong := unusable(str(value))):
            raise ValueError(wrong)
        return value

    rho: Annotated[RangeOption | None, Shown("the workload's", "LOW:HIGH or X,X,…")] = Field(
        default=None,
        description="ρ of every optimizer: log-uniform as LOW:HIGH, or values as 0.01,0.1 for --sampler grid. A YAML "
        "file has `ranges` of single ones.",
    )
    lr: Annotated[RangeOption | None, Shown("the workload's", "LOW:HIGH or X,X,…")] = Field(
        default=None, description="Learning rate: log-uniform as LOW:HIGH, or values as 0.01,0.1 for --sampler grid."
    )
    batch_size: Annotated[BatchSizesOption | None, Shown("the workload's", "N,N,…")] = Field(
        default=None, description="Batch sizes to choose from, as 32,64,128."
    )
    params: Annotated[ParamsOption, Shown("the workload's", "NAME=VALUES", "--param")] = Field(
        default={},
        description="A further hyperparameter that the workload declares, as NAME=LOW:HIGH, NAME=A,B or NAME=VALUE; or "
        "m=16,32, samples of a part of a batch that sharpness-aware optimizers perturb on its own.",
    )

    def over(self, other: "RangeOptions") -> "RangeOptions":
        """Return these ranges, and those of `other` where none is given here."""
        return RangeOptions(
            rho=self.rho or other.rho,
            lr=self.lr or other.lr,
            batch_size=self.batch_size or other.batch_size,
            params={**other.params, **self.params},
        )


def _listed(given: Any) -> Any:
    listed = given.split(",") if isinstance(given, str) else given
    return [_optimizer_named(one) for one in listed] if isinstance(listed, (list, tuple)) else listed


def _separate(given: Any) -> Any:
    return given.split(",") if isinstance(given, str) else given


def _named(given: Any) -> Any:
    """Name a class as `package.module:Class`."""
    if not isinstance(given, type):
        made_of = type(given)
        if not isinstance(given, str) and made_of.__module__ != "builtins":
            raise ValueError(f"it is an object; give the class itself, {made_of.__name__}")
        return given
    if "<locals>" in given.__qualname__:
        raise ValueError(f"the class {given.__name__} is defined inside a function; define it at the top of its module")
    return f"{given.__module__}:{given.__qualname__}"


def _optimizer_named(given: Any) -> Any:
    """Name an optimizer's class likewise. Workers import it by that name, from a module."""
    if isinstance(given, type) and given.__module__ == "__main__":
        raise ValueError("workers cannot import a class of the program itself; move it into a module")
    if isinstance(given, type) and given.__module__.startswith("tune_sam.optim."):
        raise ValueError(f"it makes one optimizer; give the name of what is searched, one of {', '.join(OURS)}")
    return _named(given)


NAME_LETTERS, NAME_BYTES = 80, 200
"""Of a study's name, at most: a folder's may have 255 bytes with what is put behind it."""


def is_name(text: str) -> bool:
    """Whether a text can be a study's name, which is a folder's, a part of every key, and what a person types again."""
    return text[:1].isalnum() and all(character.isalnum() or character in "-_." for character in text)


def wrong_with_name(text: str) -> str | None:
    """Say why a text can be no new study's name, and what can; None if it can."""
    if not is_name(text):
        return "use letters, digits, '-', '_' and '.', and begin with a letter or a digit"
    if len(text) > NAME_LETTERS:
        return f"it has {len(text)} characters; use at most {NAME_LETTERS} characters"
    if (size := len(text.encode())) > NAME_BYTES:
        return f"it has {size} bytes, too many for a folder's name; use at most {NAME_BYTES}"
    return None


ENVIRONMENT = {name: f"TUNE_SAM_{name.upper()}" for name in ("address", "storage", "tracking_uri", "study_storage")}
"""Options that name a service of a cluster, and the variable that gives each where nobody says another."""


class SearchOptions(RangeOptions):
    """Everything `tune-sam search` and :func:`tune_sam.search` can be given.

    This is the one list of options. The command line's flags, their help and defaults, and the documentation of
    :func:`tune_sam.search` are made of these fields. A field that is None is the workload's to fill.
    """

    workload: Annotated[str, BeforeValidator(_named)] = Field(
        description="Name of a workload, see `tune-sam workloads`, or package.module:Class."
    )
    optimizers: Annotated[
        tuple[str, ...], BeforeValidator(_listed), Shown(metavar="|".join(optimizer_names()), flag="--optimizer")
    ] = Field(
        default=("base", "sam", "asam"),
        min_length=1,
        description="Optimizers to search, each with its own budget, by name or as package.module:Class.",
    )
    trials: int = Field(default=20, ge=1, le=MOST, description="Trials of each optimizer, grid points included.")
    budget: Budget = Field(
        default="trials",
        description="What is equal between optimizers. compute: gradient evaluations of whole trials; --trials are "
        "then those of the costliest optimizer, and others have as many as cost the same: base 24 where sam has 12.",
    )
    epochs: Annotated[int | None, Shown("the workload's")] = Field(
        default=None, ge=1, le=MOST, description="Epochs of a trial."
    )
    dataset: Annotated[str | None, Shown("its first")] = Field(
        default=None, description="One of the workload's data sets, see `tune-sam workloads`."
    )
    preset: str | None = Field(
        default=None,
        description="A named setting of the workload, see `tune-sam workloads`; report is the published study's.",
    )
    data: Annotated[Path | None, Shown("$TUNE_SAM_DATA, else data in the --home")] = Field(
        default=None, description="Folder that holds the data set."
    )
    train_subset: Annotated[int | None, Shown("all")] = Field(
        default=None, ge=1, description="Train on so many samples, in the classes' proportions."
    )
    label_noise: Annotated[float | None, Shown("none")] = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the training labels that another class replaces at random, the same for all trials; "
        "validation and test labels stay.",
    )
    split_seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Seed by which the data are split into training, validation and test, where no split is published.",
    )
    name: Annotated[str | None, Shown("made of the workload and the time")] = Field(
        default=None, description="Name of the study."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the study; trial number n trains with seed + n.")
    grid: bool = Field(default=True, description="Start with the four-point grid of ρ.")
    sampler: Sampler = Field(
        default="tpe",
        description="tpe: TPE samples after the grid; gp: a Gaussian process; cmaes: CMA-ES; qmc: a "
        "quasi-random sequence; random. "
        "grid: a grid alone is tried, each combination of the values of ρ, learning rate and batch size.",
    )
    from_study: Annotated[str | None, Shown("none", "STUDY", "--from")] = Field(
        default=None,
        min_length=1,
        description="A study of the same search, whose finished trials the sampler begins with; they are none of the "
        "new study's.",
    )
    scheduler: Scheduler = Field(
        default="asha",
        description="asha: ASHA stops weak trials early; hyperband: Hyperband; median: those below the median at their "
        "epoch. none: all trials finish.",
    )
    objective: Annotated[str | None, Shown("the workload's first score, as val/accuracy", "val/SCORE|val/loss|two")] = (
        Field(
            default=None,
            description="What a trial is judged by after its last epoch: one of the workload's scores, as "
            "val/accuracy, or val/loss; two is the first score against val/sharpness, without ASHA.",
        )
    )
    ranges: dict[str, RangeOptions] = Field(
        default={}, description="Ranges of single optimizers, by their names; they come before those given to all."
    )
    cpus_per_trial: Annotated[CpusOption, Shown(metavar="N|FRACTION")] = Field(
        default=1,
        description="CPUs, and threads, of a trial; or a fraction of a CPU, as 0.5 for two trials of a thread on each.",
    )
    gpus_per_trial: Annotated[GpusOption, Shown("the workload's, where there are GPUs", "FRACTION|auto")] = Field(
        default=None,
        description="GPU fraction of a trial, or 0 for the CPU; auto measures what a step of each batch size takes.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="Precision of the network's passes: auto is bf16 on GPUs and, where the workload says so, on CPUs "
        "that multiply matrices of it, else fp32. A refit takes auto for fp32 on a CPU.",
    )
    compile: bool = Field(default=False, description="Run networks through torch.compile.")
    max_concurrent: Annotated[int | None, Shown("as many as fit")] = Field(
        default=None, ge=1, description="Trials at the same time."
    )
    trial_timeout: Annotated[LimitOption, Shown("off", "TIME")] = Field(
        default=OFF,
        description="Fail a trial that has trained for longer than TIME over all its attempts: seconds, or as 90m.",
    )
    stall_timeout: Annotated[LimitOption, Shown("1h", "TIME")] = Field(
        default=STALL_TIMEOUT,
        description="Fail a trial that has ended no epoch for so long, or a measurement that got no further, and "
        "replace its process; off for never.",
    )
    time_budget: Annotated[LimitOption, Shown("off", "TIME")] = Field(
        default=OFF,
        description="End the search after TIME, over all its launches: as 2h, 1h30m, or seconds. Trials that run end "
        "their epoch and wait; a resume with a larger budget goes on with them.",
    )
    epoch_budget: Annotated[CountOption, Shown("off", "N")] = Field(
        default=0,
        description="End the search after N epochs of all trials of all optimizers together. Trials that run wait, as "
        "with --time-budget.",
    )
    patience: Annotated[CountOption, Shown("off", "N")] = Field(
        default=0,
        description="End the search when the last N trials of no optimizer, failed ones left out, have beaten its best "
        "by more than a standard error (of an accuracy; by anything, of another score). Trials that run wait, as with "
        "--time-budget.",
    )
    log: Annotated[tuple[Logger, ...], BeforeValidator(_separate), Shown("none", "tensorboard|csv|wandb")] = Field(
        default=(),
        description="Log each epoch there, too, beside MLflow: below HOME/studies/STUDY, or to Weights & Biases.",
    )
    address: Annotated[str | None, Shown("$TUNE_SAM_ADDRESS, else one is started here, as with local")] = Field(
        default=None, description="Ray cluster to use: auto, HOST:PORT or ray://HOST:10001."
    )
    dashboard: bool = Field(
        default=False,
        description="Serve Ray's dashboard while a Ray that is started here runs; needs the extra cluster.",
    )
    storage: Annotated[str | None, Shown("$TUNE_SAM_STORAGE, else in the home")] = Field(
        default=None, repr=False, description="Folder or URI for Ray's results, such as s3://BUCKET/PATH."
    )
    tracking_uri: Annotated[str | None, Shown("$TUNE_SAM_TRACKING_URI, else a database in the home")] = Field(
        default=None, repr=False, description="MLflow server."
    )
    home: Annotated[Path | None, Shown("$TUNE_SAM_HOME, else ~/.tune_sam")] = Field(
        default=None, description="Folder where studies live."
    )
    study_storage: Annotated[str | None, Shown("$TUNE_SAM_STUDY_STORAGE, else a file in the home")] = Field(
        default=None, repr=False, description="Postgres for Optuna's records, as postgresql://USER@HOST/DATABASE."
    )

    @field_validator("log")
    @classmethod
    def _installed(cls, log: tuple[Logger, ...]) -> tuple[Logger, ...]:
        if "wandb" in log:
            need("wandb", "wandb")
        return log

    @field_validator("dashboard")
    @classmethod
    def _of_a_ray_here(cls, dashboard: bool, info: ValidationInfo) -> bool:
        if dashboard and info.data.get("address") not in (None, "local"):
            raise ValueError(f"the cluster at {info.data['address']} has a dashboard of its own; leave one of them out")
        if dashboard:
            need("aiohttp_cors", "cluster")
        return dashboard

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and (wrong := wrong_with_name(name)):
            raise ValueError(wrong)
        return name

    @field_validator("tracking_uri", "study_storage")
    @classmethod
    def _plain_address(cls, address: str | None) -> str | None:
        return address and plain(address)

    @field_validator("storage")
    @classmethod
    def _with_no_login(cls, storage: str | None, info: ValidationInfo) -> str | None:
        if not storage or (place := without_login(storage)) == storage:
            return storage
        of_a_bucket = f"s3://{storage.rpartition('@')[2]}" == place  # and nothing but KEY:SECRET@ was removed
        if not of_a_bucket or info.data.get("address") not in (None, "local"):
            raise ValueError(
                "each node writes results with its own login, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
                "leave it out of the address"
            )
        remember(storage)
        return of_results(storage)

    @field_validator("optimizers")
    @classmethod
    def _known_optimizers(cls, optimizers: tuple[str, ...]) -> tuple[str, ...]:
        for optimizer in optimizers:
            find_optimizer(optimizer)
        return tuple(dict.fromkeys(optimizers))

    @field_validator("ranges", mode="before")
    @classmethod
    def _ranges_by_name(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and any(isinstance(one, str) for one in given.values()):
            raise ValueError("say what is in that range, as {'sam': {'rho': '0.01:0.5'}}")
        return given

    @field_validator("ranges")
    @classmethod
    def _known_ranges(cls, ranges: dict[str, RangeOptions]) -> dict[str, RangeOptions]:
        cls._known_optimizers(tuple(ranges))
        return ranges

    @field_validator("sampler")
    @classmethod
    def _grid_to_sample(cls, sampler: str, info: ValidationInfo) -> str:
        if sampler == "grid" and not info.data.get("grid", True):
            raise ValueError("it tries the points of the grid, which --no-grid leaves out; drop one of them")
        return sampler

    @classmethod
    def read(cls, given: Mapping[str, Any], config: str | Path | None = None) -> "SearchOptions":
        """Options from a YAML file, with what was `given` directly on top of them; below both the :data:`ENVIRONMENT`.

        Raises:
            Refused: the file cannot be read, or an option is unknown or wrong.
        """
        config = Path(config) if config else None
        settings = _read_yaml(config) if config else {}
        settings.update({key: value for key, value in given.items() if value is not None})
        for name, variable in ENVIRONMENT.items():
            if settings.get(name) is None and (value := os.environ.get(variable)):
                settings[name] = value
        try:
            options = cls.model_validate(settings)
        except ValidationError as error:
            raise Refused(_sentence(error, config)) from None
        remember(options.tracking_uri or "")  # for the commands that find the study by its name
        return options

    def under(self, defaults: Mapping[str, Any]) -> "SearchOptions":
        """Give these options other defaults for those that nobody gave.

        Raises:
            Refused: what was given does not go with them.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        off = {name: "off" for name in LIMITS if given.get(name) == 0}  # as it is typed
        return self.read({**defaults, **given, **off})

    def ranges_of(self, optimizer: str) -> RangeOptions:
        """Give the person's ranges for one optimizer: its own, else those given for all."""
        common = RangeOptions(rho=self.rho, lr=self.lr, batch_size=self.batch_size, params=self.params)
        return self.ranges.get(optimizer, RangeOptions()).over(common)


class LimitKeywords(TypedDict, total=False):
    """The limits of a study's time and budgets beside its trials, which a later launch of it may have otherwise."""

    trial_timeout: float | str | timedelta | None
    stall_timeout: float | str | timedelta | None
    time_budget: float | str | timedelta | None
    epoch_budget: int | str | None
    patience: int | str | None


LIMITS = tuple(LimitKeywords.__annotations__)
"""The options that limit a study, of a name each."""


class SearchKeywords(LimitKeywords, total=False):
    """What the functions that search take as keywords: the fields of :class:`SearchOptions` but `workload`.

    A type checker and an editor read these, so they are written out. A test compares them with the fields.
    """

    optimizers: Sequence[str] | None
    trials: int | None
    budget: Budget | None
    epochs: int | None
    dataset: str | None
    preset: str | None
    data: str | Path | None
    train_subset: int | None
    label_noise: float | None
    split_seed: int | None
    name: str | None
    seed: int | None
    rho: RangeGiven
    lr: RangeGiven
    batch_size: str | int | Sequence[int] | None
    params: Mapping[str, ParamGiven] | None
    ranges: Mapping[str, RangeOptions | Mapping[str, Any]] | None
    grid: bool | None
    sampler: Sampler | None
    from_study: str | None
    scheduler: Scheduler | None
    objective: str | None
    cpus_per_trial: float | None
    gpus_per_trial: float | str | None
    precision: Literal["auto", "bf16", "fp32"] | None
    compile: bool | None
    max_concurrent: int | None
    log: str | Sequence[Logger] | None
    address: str | None
    dashboard: bool | None
    storage: str | None
    tracking_uri: str | None
    home: str | Path | None
    study_storage: str | None


def takes_options(function: FunctionT) -> FunctionT:
    """Write out, in the signature and the docstring of a function, the options that its last parameter takes."""
    *own, last = inspect.signature(function).parameters.values()
    (keywords,) = get_args(get_type_hints(function)[last.name])
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in get_type_hints(keywords).items()
    ]
    described = "\n".join(f"        {one.name}: {_description(one.name)}" for one in options)
    function.__signature__ = inspect.signature(function).replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nKeyword Args:\n{described}\n"
    return function


def _description(name: str) -> str:
    field = SearchOptions.model_fields[name]
    default = shown_default(field)
    return f"{field.description}{f' Default: {default}.' if default else ''}"


class _Loader(yaml.SafeLoader):
    """With the numbers of YAML 1.2: in 1.1, which PyYAML reads, 1:2 is the number 62 and 1e-3 is a text.

    A key that is given twice is refused, and so is an alias: some dozens of them stand for more than a memory holds.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"an alias, *{event.anchor}", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("int", "float")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

for _tag, _pattern in (("int", r"[-+]?[0-9]+"), ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list("-+.0123456789"))


LARGEST = 100_000
"""Bytes of a file of options, at most."""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise Refused(
                f"the config file {path} has more than {LARGEST:,} bytes; give --config a YAML file of options."
            )
        settings = yaml.load(content.decode("utf-8-sig"), _Loader)  # noqa: S506 (a safe one)
    except OSError as error:
        raise Refused(f"the config file {path} cannot be read ({error.strerror}); give --config a YAML file.") from None
    except RecursionError:
        raise Refused(f"the config file {path} is nested too deep for a file of options; write it flat.") from None
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError, TypeError, LookupError) as error:
        # Those that are no YAMLError: no UTF-8, a date that there is not, a tag on a value that it does not go with.
        where = " ".join(str(error).split())[:300]
        raise Refused(f"the config file {path} is not YAML ({where}); mend it or leave --config out.") from None
    if not isinstance(settings, dict):
        raise Refused(f"the config file {path} holds no `option: value` lines; see `tune-sam search --help`.")
    return {str(key): value for key, value in settings.items()}


def _sentence(error: ValidationError, config: Path | None) -> str:
    """Say the first thing that pydantic found, in one sentence that names the option and the value."""
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"] if isinstance(part, str)) or "options"
    if first["type"] == "extra_forbidden":
        known = ", ".join((RangeOptions if len(first["loc"]) > 1 else SearchOptions).model_fields)
        return f"unknown option {shorten(option)!r}{f' in {config}' if config else ''}; known options are {known}."
    if first["type"] == "missing":
        return f"the option {option!r} is missing; give it."
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    value = first["input"]
    text = " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    return f"{flag_of(option)} {shorten(text)}: {message}."


def flag_of(option: str) -> str:
    """Return the flag of an option, as --batch-size; of one optimizer's own range as --ranges.sam.rho."""
    name, _, of = option.partition(".")
    field = SearchOptions.model_fields.get(name)
    if field and (flag := shown(field).flag):
        return f"{flag} {of}".strip()
    return f"--{option.replace('_', '-')}"
