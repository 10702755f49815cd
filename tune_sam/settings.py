"""What a person may choose, checked once, at the door.

Options reach the system from the command line, from a YAML file and from Python. All three become one
:class:`SearchOptions`; what is wrong with them is said here, before torch, Ray or MLflow is imported, as one sentence
in a :class:`Refused`.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from filelock import FileLock
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from tune_sam.space import OPTIMIZERS, Range, Values, parse_batch_sizes, parse_values


class Refused(ValueError):
    """A request that cannot be carried out. The text is one sentence that names the value and the way out."""


class NothingComplete(LookupError):
    """A question that only a complete trial answers, asked of a study that has none."""


def masked(text: str) -> str:
    """The text without the user and password of a URI in it, also where they hold a slash or are options of it."""
    text = re.sub(r"://\S*@", "://***@", text)
    return re.sub(r"(?i)([?&][\w-]*(?:user|password|secret|key|token)[\w-]*=)[^&\s]*", r"\1***", text)


@dataclass(frozen=True)
class Home:
    """Where studies live: Optuna's storage, MLflow's database and artifacts, Ray's results, data sets.

    Attributes:
        path: the folder of what is not said to be elsewhere.
        study_storage: the database that Optuna's storage is in; None for a file in the folder. It may hold a password.
    """

    path: Path
    study_storage: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, path: "Place" = None, study_storage: str | None = None) -> "Home":
        """The home at `path`, else at $TUNE_SAM_HOME, else at ~/.tune_sam. Nothing is created.

        Args:
            path: of the folder; a Home is taken as it is.
            study_storage: `postgresql://USER@HOST/DATABASE`; $TUNE_SAM_STUDY_STORAGE, else a file in the folder.

        Raises:
            Refused: the path is a file, or lies below one or where nobody may look; the storage is no Postgres.
        """
        if isinstance(path, Home):
            return path
        storage = study_storage or os.environ.get("TUNE_SAM_STUDY_STORAGE") or None
        if storage and not re.match(r"postgresql(\+\w+)?://", storage):
            raise Refused(f"--study-storage {masked(storage)} is no database that many nodes can write to; give "
                          "postgresql://USER@HOST/DATABASE, or leave it out for a file in the home.")
        asked = path or os.environ.get("TUNE_SAM_HOME") or "~/.tune_sam"
        try:
            chosen = Path(asked).expanduser().absolute()
        except RuntimeError as error:
            raise Refused(f"home {asked} cannot be used ({error}); give --home a folder.") from None
        if {"?", "%"} & set(str(chosen)):
            raise Refused(f"home {chosen} has a '?' or '%', which mean something else in the address of a database; "
                          "give --home another folder.")
        for part in (chosen, *chosen.parents):
            try:
                usable = part.is_dir() or not part.exists()
            except OSError as error:
                raise Refused(f"home {chosen} cannot be used ({error.strerror}); give --home another folder.") from None
            if not usable:
                raise Refused(f"home {chosen} cannot be used because {part} is a file; give --home a folder.")
        return cls(chosen, storage)

    @contextmanager
    def made(self) -> Iterator[None]:
        """The folder, made if there is none, and taken away again if what follows is refused.

        One process at a time is inside: two that download one file or make MLflow's tables at once fail.

        Raises:
            Refused: it cannot be made or written to.
        """
        missing = [part for part in (self.path, *self.path.parents) if not part.exists()]
        try:
            self._create()
            with FileLock(self.path / "home.lock"):
                yield
        except Refused:
            if self.path in missing:
                (self.path / "home.lock").unlink(missing_ok=True)
            for folder in missing:
                with suppress(OSError):  # it has something in it by now, or was never made
                    folder.rmdir()
            raise

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.path, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise Refused(f"home {self.path} cannot be written; give --home a folder that you may write to.")

    @property
    def optuna_file(self) -> Path:
        return self.path / "optuna.db"

    @property
    def tracking_uri(self) -> str:
        # Optuna and MLflow both keep a table `alembic_version`, so each has a database of its own.
        return f"sqlite:///{self.tracking_file}"

    @property
    def tracking_file(self) -> Path:
        return self.path / "mlflow.db"

    @property
    def identity(self) -> str:
        """What tells its studies from others of the same names on a tracking server that several homes share."""
        return masked(self.study_storage) if self.study_storage else f"{socket.gethostname()}:{self.path}"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def data(self) -> Path:
        return self.path / "data"

    def study(self, name: str) -> Path:
        """The folder of one study: Ray's results, the journal for MLflow, the lock of its driver."""
        return self.path / "studies" / name


Place = str | Path | Home | None
"""What names a home: its folder, the home itself, or nothing for the default."""

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

    rho: RangeOption | None = Field(default=None, description="ρ, log-uniform as LOW:HIGH, or values as 0.01,0.1 for "
                                    "--sampler grid")
    lr: RangeOption | None = Field(default=None, description="learning rate, likewise")
    batch_size: BatchSizesOption | None = Field(default=None, description="batch sizes to choose from, as 32,64,128")

    def over(self, other: "RangeOptions") -> "RangeOptions":
        """These ranges, and those of `other` where none is given here."""
        return RangeOptions(rho=self.rho or other.rho, lr=self.lr or other.lr,
                            batch_size=self.batch_size or other.batch_size)


ENVIRONMENT = {name: f"TUNE_SAM_{name.upper()}" for name in ("address", "storage", "tracking_uri", "study_storage")}
"""Options that name a service of a cluster, and the variable that gives each where nobody says another."""


class SearchOptions(RangeOptions):
    """Everything `tune-sam search` and :func:`tune_sam.search` can be told. Empty fields are the workload's to fill."""

    workload: str = Field(description="name of a workload, or package.module:Class")
    name: str | None = Field(None, max_length=80,
                             description="name of the study; a name with the time is made up if there is none")
    dataset: str | None = Field(None, description="one of the workload's data sets; its first by default")
    preset: str | None = Field(None, description="a named setting of the workload; report trains the report's model at "
                               "its four values of ρ")
    data: Path | None = Field(None, description="folder that holds the data set; $TUNE_SAM_DATA, else HOME/data")
    optimizers: tuple[str, ...] = Field(("base", "sam", "asam"), min_length=1, description="optimizers to search")
    trials: int = Field(20, ge=1, description="trials of each optimizer, grid points included")
    epochs: int | None = Field(None, ge=1, description="epochs of a trial; the workload's by default")
    train_subset: int | None = Field(None, ge=1, description="train on so many samples, with the classes' shares; "
                                     "all by default")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the study; trial number n trains with seed + n")
    scheduler: Literal["asha", "none"] = Field("asha", description="asha stops weak trials early, none lets all finish")
    grid: bool = Field(True, description="start with the four-point grid of ρ")
    sampler: Literal["tpe", "grid"] = Field("tpe", description="tpe samples after the grid; grid tries a grid alone: "
                                            "each combination of the values of ρ, learning rate and batch size")
    objective: Literal["val/accuracy", "val/loss", "two"] = Field(
        "val/accuracy", description="what a trial is judged by after its last epoch; two is val/accuracy against "
        "val/sharpness, without asha")
    ranges: dict[str, RangeOptions] = Field({}, description="own ranges of single optimizers")
    cpus_per_trial: int = Field(1, ge=1, description="CPUs, and threads, of a trial")
    gpus_per_trial: ShareOption = Field(None, description="share of a GPU, or auto, which measures what a step of each "
                                        "batch size takes; the workload's where there are GPUs")
    precision: Literal["bf16", "fp32"] | None = Field(None, description="of a network's passes; bf16 on CUDA, fp32 on "
                                                      "the CPU by default")
    compile: bool = Field(False, description="run networks through torch.compile")
    max_concurrent: int | None = Field(None, ge=1, description="trials at the same time; as many as fit by default")
    home: Path | None = Field(None, description="folder where studies live; $TUNE_SAM_HOME, else ~/.tune_sam")
    address: str | None = Field(None, description="Ray cluster to use: auto, HOST:PORT or ray://HOST:10001; "
                                "$TUNE_SAM_ADDRESS, else one is started here, as with local")
    storage: str | None = Field(None, repr=False, description="folder or URI for Ray's results, such as "
                                "s3://BUCKET/PATH; $TUNE_SAM_STORAGE, else in the home")
    tracking_uri: str | None = Field(None, repr=False, description="MLflow server; $TUNE_SAM_TRACKING_URI, else a "
                                     "database in the home")
    study_storage: str | None = Field(None, repr=False, description="Postgres for Optuna's records, as postgresql://"
                                      "USER@HOST/DATABASE; $TUNE_SAM_STUDY_STORAGE, else a file in the home")

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
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()}
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
