"""What a person may choose, checked once, at the door.

Options reach the system from the command line, from a YAML file and from Python. All three become one
:class:`SearchOptions`; what is wrong with them is said here, before torch, Ray or MLflow is imported, as one sentence
in a :class:`Refused`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from tune_sam.errors import Refused
from tune_sam.space import OPTIMIZERS, Range, Values, parse_batch_sizes, parse_values

RangeOption = Annotated[Range | Values, BeforeValidator(parse_values)]


def _parse_share(given: Any) -> float | Literal["auto"] | None:
    if given is None or given == "auto":
        return given
    try:
        gpus = float(given)
    except (TypeError, ValueError):
        raise ValueError("a share of a GPU, such as 0.25, a whole number or auto is possible") from None
    if not (gpus >= 0 and (gpus < 1 or gpus.is_integer())):
        raise ValueError("a share from 0 to 1 or a whole number is possible")
    return gpus


ShareOption = Annotated[float | Literal["auto"] | None, BeforeValidator(_parse_share)]

BatchSizesOption = Annotated[tuple[int, ...], BeforeValidator(parse_batch_sizes)]


class RangeOptions(BaseModel):
    """A person's own ranges, in place of the workload's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rho: RangeOption | None = Field(
        default=None, description="ρ, log-uniform as LOW:HIGH, or values as 0.01,0.1 for --sampler grid"
    )
    lr: RangeOption | None = Field(default=None, description="learning rate, likewise")
    batch_size: BatchSizesOption | None = Field(default=None, description="batch sizes to choose from, as 32,64,128")

    def over(self, other: "RangeOptions") -> "RangeOptions":
        """These ranges, and those of `other` where none is given here."""
        return RangeOptions(
            rho=self.rho or other.rho, lr=self.lr or other.lr, batch_size=self.batch_size or other.batch_size
        )


ENVIRONMENT = {name: f"TUNE_SAM_{name.upper()}" for name in ("address", "storage", "tracking_uri", "study_storage")}
"""Options that name a service of a cluster, and the variable that gives each where nobody says another."""


class SearchOptions(RangeOptions):
    """Everything `tune-sam search` and :func:`tune_sam.search` can be told. Empty fields are the workload's to fill."""

    workload: str = Field(description="name of a workload, or package.module:Class")
    name: str | None = Field(
        None, max_length=80, description="name of the study; a name with the time is made up if there is none"
    )
    dataset: str | None = Field(None, description="one of the workload's data sets; its first by default")
    preset: str | None = Field(
        None, description="a named setting of the workload; report trains the report's model at its four values of ρ"
    )
    data: Path | None = Field(None, description="folder that holds the data set; $TUNE_SAM_DATA, else HOME/data")
    optimizers: tuple[str, ...] = Field(("base", "sam", "asam"), min_length=1, description="optimizers to search")
    trials: int = Field(20, ge=1, description="trials of each optimizer, grid points included")
    epochs: int | None = Field(None, ge=1, description="epochs of a trial; the workload's by default")
    train_subset: int | None = Field(
        None, ge=1, description="train on so many samples, with the classes' shares; all by default"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the study; trial number n trains with seed + n")
    scheduler: Literal["asha", "none"] = Field("asha", description="asha stops weak trials early, none lets all finish")
    grid: bool = Field(True, description="start with the four-point grid of ρ")
    sampler: Literal["tpe", "grid"] = Field(
        "tpe",
        description="tpe samples after the grid; grid tries a grid alone: "
        "each combination of the values of ρ, learning rate and batch size",
    )
    objective: Literal["val/accuracy", "val/loss", "two"] = Field(
        "val/accuracy",
        description="what a trial is judged by after its last epoch; two is val/accuracy against "
        "val/sharpness, without asha",
    )
    ranges: dict[str, RangeOptions] = Field({}, description="own ranges of single optimizers")
    cpus_per_trial: int = Field(1, ge=1, description="CPUs, and threads, of a trial")
    gpus_per_trial: ShareOption = Field(
        None,
        description="share of a GPU, or auto, which measures what a step of each "
        "batch size takes; the workload's where there are GPUs",
    )
    precision: Literal["bf16", "fp32"] | None = Field(
        None, description="of a network's passes; bf16 on CUDA, fp32 on the CPU by default"
    )
    compile: bool = Field(False, description="run networks through torch.compile")
    max_concurrent: int | None = Field(None, ge=1, description="trials at the same time; as many as fit by default")
    home: Path | None = Field(None, description="folder where studies live; $TUNE_SAM_HOME, else ~/.tune_sam")
    address: str | None = Field(
        None,
        description="Ray cluster to use: auto, HOST:PORT or ray://HOST:10001; "
        "$TUNE_SAM_ADDRESS, else one is started here, as with local",
    )
    storage: str | None = Field(
        None,
        repr=False,
        description="folder or URI for Ray's results, such as s3://BUCKET/PATH; $TUNE_SAM_STORAGE, else in the home",
    )
    tracking_uri: str | None = Field(
        None, repr=False, description="MLflow server; $TUNE_SAM_TRACKING_URI, else a database in the home"
    )
    study_storage: str | None = Field(
        None,
        repr=False,
        description="Postgres for Optuna's records, as postgresql://"
        "USER@HOST/DATABASE; $TUNE_SAM_STUDY_STORAGE, else a file in the home",
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        # The name is a folder's, a part of every key, and what a person types again.
        if name is not None and not (name[:1].isalnum() and all(c.isalnum() or c in "-_." for c in name)):
            raise ValueError("use letters, digits, '-', '_' and '.', and begin with a letter or a digit")
        return name

    @field_validator("optimizers")
    @classmethod
    def _known_optimizers(cls, optimizers: tuple[str, ...]) -> tuple[str, ...]:
        for optimizer in optimizers:
            if optimizer not in OPTIMIZERS:
                raise ValueError(f"there is no optimizer {optimizer!r}; choose from {', '.join(OPTIMIZERS)}")
        return tuple(dict.fromkeys(optimizers))

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
    def read(cls, given: dict[str, Any], config: Path | None = None) -> "SearchOptions":
        """Options from a YAML file, with what was `given` directly on top of them; below both the :data:`ENVIRONMENT`.

        Raises:
            Refused: the file cannot be read, or an option is unknown or wrong.
        """
        settings = _read_yaml(config) if config else {}
        settings.update({key: value for key, value in given.items() if value is not None})
        for name, variable in ENVIRONMENT.items():
            if settings.get(name) is None and (value := os.environ.get(variable)):
                settings[name] = value
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise Refused(_sentence(error, config)) from None

    def under(self, defaults: Mapping[str, Any]) -> "SearchOptions":
        """These options, with other defaults for those that nobody gave.

        Raises:
            Refused: what was given does not go with them.
        """
        return self.read({**defaults, **{name: getattr(self, name) for name in self.model_fields_set}})

    def ranges_of(self, optimizer: str) -> RangeOptions:
        """The person's ranges for one optimizer: its own, else those given for all."""
        common = RangeOptions(rho=self.rho, lr=self.lr, batch_size=self.batch_size)
        return self.ranges.get(optimizer, RangeOptions()).over(common)


class _Loader(yaml.SafeLoader):
    """With the numbers of YAML 1.2: in 1.1, which PyYAML reads, 1:2 is the number 62 and 1e-3 is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in ("int", "float")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

for _tag, _pattern in (("int", r"[-+]?[0-9]+"), ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list("-+.0123456789"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.load(path.read_text(), _Loader)  # noqa: S506 (a safe one)
    except OSError as error:
        raise Refused(f"the config file {path} cannot be read ({error.strerror}); give --config a YAML file.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date that there is not
        where = str(error).replace("\n", " ")
        raise Refused(f"the config file {path} is not YAML ({where}); mend it or leave --config out.") from None
    if not isinstance(settings, dict):
        raise Refused(f"the config file {path} holds no `option: value` lines; see `tune-sam search --help`.")
    return {str(key): value for key, value in settings.items()}


def _sentence(error: ValidationError, config: Path | None) -> str:
    """The first thing that pydantic found, as one sentence that names the option and the value."""
    first = error.errors()[0]
    option = ".".join(str(part) for part in first["loc"] if isinstance(part, str)) or "options"
    if first["type"] == "extra_forbidden":
        known = ", ".join((RangeOptions if len(first["loc"]) > 1 else SearchOptions).model_fields)
        return f"unknown option {option!r}{f' in {config}' if config else ''}; known options are {known}."
    if first["type"] == "missing":
        return f"the option {option!r} is missing; give it."
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    value = first["input"]
    shown = " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
    flag = option.replace("_", "-")
    flag = {"optimizers": "optimizer"}.get(flag, flag)
    return f"--{flag} {shown}: {message}."
