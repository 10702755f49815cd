"""The description of a workload, and how workloads are found.

A workload is an architecture with its data, loss, base optimizer, schedule and search ranges, as in MLCommons AlgoPerf.
Its description is plain data: importing it must not import torch, so that every command answers at once. The methods
that build networks and read data import what they need.
"""

import copy
import importlib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from tune_sam import plugins
from tune_sam.errors import Refused, shorten
from tune_sam.optimizers import climbs, find_optimizer, optimizers
from tune_sam.schedules import IN_STEPS, Schedule
from tune_sam.space import ASCENT, Configuration, Domain, LogRange, Value, domain_to_json

if TYPE_CHECKING:
    from torch import Tensor, device, nn
    from torch.optim import Optimizer

    from tune_sam.groups import Group
    from tune_sam.metrics import Metrics

ENTRY_POINTS = "tune_sam.workloads"

NEEDED = ("name", "datasets", "settings", "base_optimizer", "lr", "batch_size")
"""What every workload sets."""


@dataclass(frozen=True)
class DataSet:
    """A data set and its splits.

    Attributes:
        train, validation, test: samples of each split.
        classes: how many there are; None where its targets are no classes.
        by_seed: whether :attr:`Workload.split_seed` draws the splits, so that a person may choose others by
            `--split-seed`; by default they are given, as those that others published are.
    """

    train: int
    validation: int
    test: int
    classes: int | None = None
    by_seed: bool = False


@dataclass(frozen=True)
class Score:
    """How a metric of a workload is read.

    Attributes:
        direction: which way is better.

    Raises:
        ValueError: it is neither of the two.
    """

    direction: Literal["maximize", "minimize"] = "maximize"

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(f"the direction of a score is {self.direction!r}; give 'maximize' or 'minimize'")

    @property
    def sign(self) -> int:
        """1 where a higher value is better, -1 where a lower one is."""
        return 1 if self.direction == "maximize" else -1


@dataclass(frozen=True)
class BaseOptimizer:
    """The workload's own optimizer.

    Attributes:
        name: of a class in `torch.optim`; or `package.module:Class`; or a class, or any function that makes an
            optimizer of its parameters and of options by name, `lr` among them.
        options: beside the learning rate.

    Raises:
        ValueError: the learning rate is among the options.
    """

    name: "str | Callable[..., Optimizer]"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "lr" in self.options:
            raise ValueError(
                f"base_optimizer: lr={self.options['lr']} among its options would put the searched learning rate out "
                "of force; give it as the lr of a Setting, and its range as the workload's `lr`"
            )

    @property
    def label(self) -> str:
        """What pages call it: the class's name."""
        return self.name.rpartition(":")[2] if isinstance(self.name, str) else getattr(self.name, "__name__", "base")

    @property
    def make(self) -> "Callable[..., Optimizer]":
        """What makes it of parameters and options.

        Raises:
            ValueError: there is nothing of that name.
        """
        if not isinstance(self.name, str):
            return self.name
        module, _, name = self.name.rpartition(":")
        try:
            found: Callable[..., Optimizer] = getattr(importlib.import_module(module or "torch.optim"), name)
        except (ImportError, AttributeError):
            raise ValueError(
                f"base_optimizer: there is no {self.name!r}; give a class of torch.optim, package.module:Class, or the "
                "class itself"
            ) from None
        return found


TUNABLE = ("clip_norm", "ema")
"""The fields of a :class:`Setting` that a further hyperparameter may be."""


@dataclass(frozen=True)
class Setting:
    """How a network is shaped and trained on one data set.

    Attributes:
        network: keyword arguments of the workload's network.
        epochs, batch_size, lr: the training's defaults. The grid has this batch size and learning rate.
        classes: names of the network's outputs, all different, of letters, digits and `_-. :`, which MLflow takes in
            the name of a metric. If they are given, the F1 score of each is reported.
        augmentation: options for :meth:`Workload.augment`; empty by default.
        clip_norm: largest Euclidean norm of the gradient of a step, all parameters together; larger ones are scaled
            down to it, after SAM's second pass. None by default: none is.
        microbatch: most samples that a pass takes at a time. The gradients of a batch's pieces add up, so that a larger
            batch fits into memory and the numbers stay, but for a batch norm's statistics, which are of each piece.
            None by default: a batch is passed as a whole.
        ema: decay of the exponential moving average of the weights, which is then what is evaluated, tested and
            measured; 0.999 is usual. None by default: the weights themselves are.
        bf16_on_cpu: whether a search's passes are in bf16 on a CPU that multiplies matrices of it, unless `--precision`
            says otherwise. False by default: it is for networks of which it is measured that it is faster there, and
            not shown to cost accuracy.
    """

    network: Mapping[str, Any]
    epochs: int
    batch_size: int
    lr: float
    classes: tuple[str, ...] = ()
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None
    microbatch: int | None = None
    ema: float | None = None
    bf16_on_cpu: bool = field(default=False, compare=False)  # it is the same network, trained the same way

    @property
    def places(self) -> dict[str, Any]:
        """What a hyperparameter of its name can replace: options of network and augmentation, and :data:`TUNABLE`."""
        return {**{name: getattr(self, name) for name in TUNABLE}, **self.augmentation, **self.network}

    def __post_init__(self) -> None:
        if not isinstance(self.network, Mapping):
            raise ValueError(f"network is {self.network!r}; give keyword arguments of the network, as {{}}")
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number, 1 or more")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}; give a number above 0, or None")
        if self.microbatch is not None and self.microbatch < 1:
            raise ValueError(f"microbatch is {self.microbatch}; give 1 or more, or None")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; give a decay between 0 and 1, such as 0.999, or None")
        for name in self.classes:
            if not re.fullmatch(r"[\w\-. :]+", name) or name in (".", ".."):
                raise ValueError(
                    f"the class {name!r} cannot be part of the name of a metric in MLflow; use letters, "
                    "digits and _-. :"
                )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"the classes {', '.join(self.classes)} are not all different; rename one")


@dataclass(frozen=True)
class Preset:
    """A named setting of the workload's default data set.

    Attributes:
        setting: takes the place of the data set's own.
        options: other defaults for fields of :class:`tune_sam.settings.SearchOptions`.
    """

    setting: Setting
    options: Mapping[str, Any] = field(default_factory=dict)


AS_PUBLISHED = {"optimizers": ("base", "asam-all"), "sampler": "grid", "scheduler": "none"}
"""Options of a preset `report`: the published study trained four values of ρ to the end and sampled nothing."""


class Store(Protocol):
    """The samples of one split, held in memory and indexed in batches.

    :class:`tune_sam.store.TensorStore` is one for data that fit into one tensor.
    """

    @property
    def y(self) -> "Tensor":
        """The targets of all samples, [samples, ...]; of a classifier int64 [samples]."""

    def __len__(self) -> int: ...

    def batch(self, indices: "Tensor") -> "tuple[Any, Any]":
        """Copy the network's inputs and the targets [n, ...] of the samples at `indices` (int64 [n])."""

    def subset(self, indices: "Tensor") -> Self:
        """Make a store of the samples at `indices` alone."""

    def joined(self, other: Self) -> Self:
        """Make a store of these samples, followed by those of `other`, which is of the same kind."""

    def to(self, device: "device") -> Self:
        """Move the samples to `device`."""


@dataclass(frozen=True)
class Splits:
    """The splits that a training may see.

    The test set is not among them: only a refit reads it, by `Workload.test_split`, when its trainings are done.

    A workload may give each as a :class:`Store`, as a map-style `torch.utils.data.Dataset` or as a `DataLoader` of one;
    :meth:`Workload.read` makes stores of them.

    Attributes:
        train: is trained on.
        validation: is evaluated after each epoch; empty in a refit, which trains on it, too.
        weights: with which each network begins, in place of some or all of its own, by their names in its state dict;
            they are read once for all trials of a node. See :meth:`Workload.weights`.
    """

    train: Store
    validation: Store
    weights: "Mapping[str, Tensor] | None" = field(default=None, kw_only=True)

    def to(self, device: "device") -> "Splits":
        """Move both to `device`."""
        return replace(self, train=self.train.to(device), validation=self.validation.to(device))

    def together(self) -> "Splits":
        """Join both to one training split, as for a refit."""
        return replace(self.alone(), train=self.train.joined(self.validation))

    def alone(self) -> "Splits":
        """Leave the validation split out, as for a refit on a part of the training split."""
        import torch

        return replace(self, validation=self.validation.subset(torch.arange(0)))


class Given(Mapping[str, Value]):
    """The further hyperparameters of one training by name, and a note of which were read.

    Args:
        chosen: of the training's configuration.
        defaults: of those that the workload declares and the configuration leaves out.

    Attributes:
        chosen: as above.
        received: the names that were read, or took their place in what is trained.
    """

    def __init__(self, chosen: Mapping[str, Value], defaults: Mapping[str, Value]) -> None:
        self.chosen = chosen
        self.received: set[str] = set()
        self._values = {**defaults, **chosen}

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            raise KeyError(f"there is no hyperparameter {name}, but {', '.join(self._values) or 'none'}")
        value = self._values[name]
        self.received.add(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._values})"

    @property
    def unused(self) -> list[str]:
        """The names of the configuration that nothing received."""
        return sorted(self.chosen.keys() - self.received)

    def among(self, names: Mapping[str, Any]) -> dict[str, Value]:
        """Take the chosen values whose names are among these, which receive them."""
        return {name: self[name] for name in self.chosen if name in names}


@dataclass(frozen=True)
class Criterion:
    """The loss of a workload, which knows what it is the mean of."""

    workload: "Workload"

    def __call__(self, outputs: Any, targets: Any) -> "Tensor":
        """Compute the mean loss of a batch, of shape ()."""
        return self.workload.loss(outputs, targets)

    def count(self, targets: Any) -> float:
        """Count what the loss of a batch is the mean of."""
        return self.workload.count(targets)


class Workload(ABC):
    """An architecture with its data, loss, base optimizer, schedule and search ranges.

    A subclass sets the attributes without a default, and implements `network`, `splits` and `test_split`.

    Attributes:
        name: by which a person chooses the workload.
        datasets: by name; the first is the default.
        settings: for each data set, the network and the defaults of its training.
        presets: named settings of the default data set; `report` is that of the published study.
        base_optimizer: the optimizer `base`, which the others wrap.
        rho: ranges of ρ by optimizer, in place of those that :mod:`tune_sam.optimizers` has; none by default.
        published_rho: a published study's values of ρ for `asam-all`, with which its search begins; none by default.
        published: YAML file with published results on its data sets, which a page shows beside ours; see
            :func:`tune_sam.reporting.published.read_published`. None by default.
        lr: range of the learning rate.
        batch_size: batch sizes to choose from.
        hyperparameters: further ones by name, each a :class:`tune_sam.space.LogRange`, a :class:`tune_sam.space.Range`
            or a :class:`tune_sam.space.Choice`, or one of these for each optimizer that has it. Each is received as
            :meth:`configured` says. None by default.
        gpus_per_trial: GPU fraction of one trial, if there are GPUs, or 0 for the CPU; 1 by default.
        schedule: how the learning rate changes; the published study's steps by default.
        scores: the metrics beside the loss that may judge a trial, and how they are read. Comparisons are made by the
            first, unless a search is judged by another; `accuracy` by default.
        ignored: value of targets that do not count, such as the padding of sequences; all count by default.
        label_smoothing: s of the loss, see :func:`tune_sam.loss.smoothed_kl`; 0.1 by default, as in the published
            study.
        evaluation_batch: samples that are evaluated at a time, 1024 by default. It limits memory, and changes results
            by rounding alone.
        split_seed: with which `splits` and `test_split` draw those of a data set that says `by_seed`; 0 by default, a
            person's `--split-seed` by :meth:`split_by`.
    """

    name: ClassVar[str]
    datasets: ClassVar[Mapping[str, DataSet]]
    settings: ClassVar[Mapping[str, Setting]]
    presets: ClassVar[Mapping[str, Preset]] = {}
    base_optimizer: ClassVar[BaseOptimizer]
    rho: ClassVar[Mapping[str, LogRange]] = {}
    published_rho: ClassVar[tuple[float, ...]] = ()
    published: ClassVar[Path | None] = None
    lr: ClassVar[LogRange]
    batch_size: ClassVar[tuple[int, ...]]
    hyperparameters: ClassVar[Mapping[str, Domain | Mapping[str, Domain]]] = {}
    gpus_per_trial: ClassVar[float] = 1.0
    schedule: ClassVar[Schedule] = IN_STEPS
    scores: ClassVar[Mapping[str, Score]] = {"accuracy": Score()}
    ignored: ClassVar[int | None] = None
    label_smoothing: ClassVar[float] = 0.1
    evaluation_batch: ClassVar[int] = 1024
    split_seed: int = 0

    @abstractmethod
    def network(self, setting: Setting) -> "nn.Module":
        """Build a fresh network, initialised from torch's global random state."""

    def parameter_groups(self, network: "nn.Module") -> "list[Group] | None":
        """Put the network's parameters into groups with options of their own.

        :func:`tune_sam.groups.without_decay` makes those that transformers are usually trained with.

        Returns:
            Groups with `params` and options of the base optimizer, or with `lr_scale`, by which the training's learning
            rate is multiplied. Parameters in none of them are frozen: they are not trained, clipped or perturbed, and
            no curvature is measured along them. None, the default, for all parameters with the same options.
        """
        return None

    def build(self, setting: Setting) -> "nn.Module":
        """Build a fresh network that can be called with the inputs of a batch, whatever arguments it takes.

        What is in no group is frozen.
        """
        from tune_sam.calling import taking_batches
        from tune_sam.groups import freeze_others

        network = self.network(setting)
        if (groups := self.parameter_groups(network)) is not None:
            freeze_others(network, groups)
        return taking_batches(network)

    def fetch(self, dataset: str, root: Path) -> None:
        """Download what is missing of a data set into `root`, a folder of the home; by default nothing is.

        Raises:
            Refused: the download failed.
        """

    def check_data(self, dataset: str, root: Path) -> None:
        """Check the files of a data set in `root` without torch; by default there are none.

        Raises:
            Refused: a file is missing, empty or cut short.
        """

    @abstractmethod
    def splits(self, dataset: str, root: Path) -> Splits:
        """Read the training and the validation split, which are the same for every trial."""

    @abstractmethod
    def test_split(self, dataset: str, root: Path) -> Store:
        """Read the test set. Only a refit may call this."""

    def read(self, dataset: str, root: Path) -> Splits:
        """Read what :meth:`splits` gives, as stores, and what :meth:`weights` gives.

        Raises:
            Refused: a split is nothing that a search can train on.
        """
        given = self.splits(dataset, root)
        if not isinstance(given, Splits):
            raise Refused(
                f"workload {self.name}, splits(): it gave a {type(given).__name__}; return Splits(train, validation)."
            )
        from tune_sam.store import of_one_kind

        train, validation = (_store_of(self, "splits", split) for split in (given.train, given.validation))
        train, validation = of_one_kind(train, validation)
        return Splits(train, validation, weights=given.weights or self.weights(dataset, root))

    def read_test(self, dataset: str, root: Path) -> Store:
        """Read what :meth:`test_split` gives, as a store. Only a refit may call this.

        Raises:
            Refused: it is nothing that a network can be tested on, or has another size than `datasets` states.
        """
        test = _store_of(self, "test_split", self.test_split(dataset, root))
        if len(test) != (stated := self.datasets[dataset].test):
            raise Refused(
                f"workload {self.name}, datasets: {dataset!r} states {stated} test samples, and test_split() gives "
                f"{len(test)}; state what there is, and run the same command again."
            )
        return test

    def weights(self, dataset: str, root: Path) -> "Mapping[str, Tensor] | None":
        """Read pretrained weights, with which every network begins; by default there are none.

        Returns:
            Tensors by their names in the network's state dict. Names that the network lacks are an error; weights that
            are not among them, such as a new head's, keep their initialisation.
        """
        return None

    def pair(self, batch: Any) -> tuple[Any, Any]:
        """Tell the network's inputs from the targets in a batch of a Dataset or a DataLoader.

        By default as :func:`tune_sam.store.paired` does: `(inputs, targets)`, a mapping with `labels`, a PyG batch.

        Returns:
            Inputs: one thing that the network is called with, a tuple of them, or a mapping by the names of its
            arguments. Targets: [n, ...] with a row for each sample.
        """
        from tune_sam.store import paired

        return paired(batch)

    def loss(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Compute the mean loss of a batch, of shape (), over what :meth:`count` counts.

        By default it is that of a classifier.

        Args:
            outputs: of the network, [n, …, classes].
            targets: int64 [n, …].
        """
        from tune_sam.loss import counted, smoothed_kl

        return smoothed_kl(*counted(outputs, targets, self.ignored), self.label_smoothing)

    def count(self, targets: "Tensor") -> float:
        """Count what the loss of a batch is the mean of, so that no number depends on how batches are cut.

        By default the targets' rows, of several targets those of the first; where some targets are ignored, the others.
        A loss with weights is a mean over the sum of its weights.
        """
        from tune_sam.trees import differing, rows

        return rows(targets) if self.ignored is None else int(differing(targets, self.ignored).sum())

    @property
    def criterion(self) -> "Criterion":
        """The loss with its count, as `tune_sam.analysis` takes it."""
        return Criterion(self)

    def metrics(self, setting: Setting) -> "Metrics":
        """Make what scores a network on a split; by default :class:`tune_sam.metrics.Classification`.

        Returns:
            A metric that gives several numbers by name, or several metrics by name: those of `torchmetrics`, or
            functions of all outputs and targets of a split. All of `scores` must be among the names.
        """
        from tune_sam.metrics import Classification

        return Classification(setting.classes, self.ignored)

    def augment(self, inputs: Any, setting: Setting) -> Any:
        """Change the inputs of a training batch at random; by default they stay as they are.

        The Trainer calls this once a batch, so that both passes of SAM see the same inputs. Draw from torch's generator
        of the inputs' device, which the trial's seed determines.
        """
        return inputs

    @cached_property
    def given(self) -> Given:
        """The further hyperparameters of a training, for the methods of the workload to read by name.

        Of a workload that is not :meth:`configured`, they are the defaults of the base optimizer.
        """
        return Given({}, self._defaults("base"))

    def hyperparameters_of(self, optimizer: str) -> dict[str, Domain]:
        """Give the further hyperparameters that the workload declares for an optimizer."""
        declared = {
            name: what.get(optimizer) if isinstance(what, Mapping) else what
            for name, what in self.hyperparameters.items()
        }
        left_out = () if climbs(optimizer) else ASCENT
        return {name: domain for name, domain in declared.items() if domain is not None and name not in left_out}

    def configured(self, configuration: Configuration) -> Self:
        """Copy the workload for one training; its further hyperparameters take their places by their names.

        A value becomes each of these that has its name: an option of the base optimizer, an attribute of the workload
        such as `label_smoothing`, and, by :meth:`placed`, what the setting has of that name. An option that the base
        optimizer's class takes counts where the name has no other place. Whatever else needs a value reads it as
        `self.given[name]`.
        """
        found = copy.copy(self)
        chosen = {name: value for name, value in configuration.more.items() if name not in ASCENT}
        given = Given(chosen, self._defaults(configuration.optimizer))
        own = {name: getattr(self, name) for name in chosen if name not in KEPT and hasattr(self, name)}
        attributes = given.among({name: before for name, before in own.items() if not callable(before)})
        listed = {name for setting in self._settings() for name in setting.places} | attributes.keys()
        base = self.base_optimizer
        taken = {name: None for name in _options_of(base) if name not in listed} if chosen else {}
        options = given.among({**taken, **base.options})
        placed = {"base_optimizer": replace(base, options={**base.options, **options})} if options else {}
        vars(found).update(attributes, given=given, **placed)
        return found

    def placed(self, setting: Setting) -> Setting:
        """Put the hyperparameters that a setting has by name into it: an argument of the network, or one beside it."""
        chosen = self.given.among(setting.places)
        if not chosen:
            return setting
        network, augmentation = (
            {**before, **{name: value for name, value in chosen.items() if name in before}}
            for before in (setting.network, setting.augmentation)
        )
        own: dict[str, Any] = {name: value for name, value in chosen.items() if name in TUNABLE}
        return replace(setting, network=network, augmentation=augmentation, **own)

    def _defaults(self, optimizer: str) -> dict[str, Value]:
        return {name: domain.start for name, domain in self.hyperparameters_of(optimizer).items()}

    def _settings(self) -> list[Setting]:
        return [*self.settings.values(), *(preset.setting for preset in self.presets.values())]

    def split_by(self, seed: int) -> Self:
        """Copy the workload with another :attr:`split_seed`; with the one that it has, give it itself."""
        if seed == self.split_seed:
            return self
        found = copy.copy(self)
        found.split_seed = seed
        return found

    @property
    def default_dataset(self) -> str:
        """The name of the first data set."""
        return next(iter(self.datasets))

    def setting(self, dataset: str, preset: str | None = None) -> Setting:
        """Return the setting of a data set, or that of a preset in its place."""
        return self.presets[preset].setting if preset is not None else self.settings[dataset]

    def parameters(self, setting: Setting) -> int:
        """Count the parameters of a setting's network."""
        import torch

        try:
            with torch.device("meta"):  # shapes alone
                network = self.network(setting)
        except (NotImplementedError, RuntimeError):  # it needs a number that it computes with tensors
            network = self.network(setting)
        return sum(parameter.numel() for parameter in network.parameters())

    def to_json(self) -> dict[str, Any]:
        """Describe the workload as plain data, which `tune-sam workloads --json` prints."""
        setting = self.settings[self.default_dataset]
        common = {"lr": self.lr.to_json(), "batch_size": list(self.batch_size)}
        rhos = {entry.name: self.rho_range(entry.name) for entry in optimizers()}
        return {
            "name": self.name,
            "parameters": self.parameters(setting),
            "datasets": {name: asdict(sizes) for name, sizes in self.datasets.items()},
            "base_optimizer": self.base_optimizer.label,
            "epochs": setting.epochs,
            "batch_size": setting.batch_size,
            "lr": setting.lr,
            "ranges": {
                name: {"rho": rho.to_json() if rho else None, **common, **self._further(name)}
                for name, rho in rhos.items()
            },
            "rho_grid": {name: list(self.rho_grid(name, rho)) for name, rho in rhos.items() if rho},
            "gpus_per_trial": self.gpus_per_trial,
            "presets": {
                name: {
                    "parameters": self.parameters(preset.setting),
                    "epochs": preset.setting.epochs,
                    "batch_size": preset.setting.batch_size,
                    "lr": preset.setting.lr,
                }
                for name, preset in self.presets.items()
            },
        }

    def _further(self, optimizer: str) -> dict[str, Any]:
        """Describe the further hyperparameters of an optimizer, if there are any."""
        domains = {name: domain_to_json(domain) for name, domain in self.hyperparameters_of(optimizer).items()}
        return {"hyperparameters": domains} if domains else {}

    def rho_range(self, optimizer: str) -> LogRange | None:
        """Choose the range of ρ of an optimizer: the workload's, else the optimizer's own; None if it has no ρ."""
        default = find_optimizer(optimizer).rho
        return self.rho.get(optimizer, default) if default else None

    def rho_grid(self, optimizer: str, rho: LogRange) -> tuple[float, ...]:
        """Choose the values of ρ that a search begins with.

        Args:
            optimizer: one with a ρ.
            rho: the range that is searched.

        Returns:
            The published values for `asam-all` that lie in the range, where there are any; else four that are spread
            over it.
        """
        published = self.published_rho if optimizer == "asam-all" else ()
        return tuple(value for value in published if value in rho) or rho.spread(4)


@dataclass(frozen=True)
class _Form:
    """What a member of a workload is.

    Attributes:
        kind: its class.
        example: how it is written.
        of: the class of its values, where it has any.
    """

    kind: type
    example: str
    of: type = object

    def fits(self, given: Any) -> bool:
        """Whether a value has this form."""
        values = given.values() if isinstance(given, Mapping) else given if isinstance(given, Sequence) else ()
        return isinstance(given, self.kind) and all(isinstance(value, self.of) for value in values)


FORMS = {
    "name": _Form(str, '"mine"'),
    "datasets": _Form(Mapping, '{"mine": DataSet(train=800, validation=100, test=100)}', DataSet),
    "settings": _Form(Mapping, '{"mine": Setting({}, epochs=10, batch_size=32, lr=0.1)}', Setting),
    "presets": _Form(Mapping, '{"small": Preset(Setting({}, epochs=10, batch_size=32, lr=0.1))}', Preset),
    "base_optimizer": _Form(BaseOptimizer, 'BaseOptimizer("SGD", {"momentum": 0.9})'),
    "rho": _Form(Mapping, '{"sam": LogRange(0.01, 0.5)}'),
    "batch_size": _Form(Sequence, "(16, 32)", Integral),
    "hyperparameters": _Form(Mapping, '{"weight_decay": LogRange(1e-5, 1e-2)}'),
    "gpus_per_trial": _Form(Real, "0.25"),
    "schedule": _Form(Schedule, "tune_sam.schedules.CONSTANT"),
    "scores": _Form(Mapping, '{"r2": Score("maximize")}', Score),
    "evaluation_batch": _Form(Integral, "1024"),
}
"""Of the members of a workload that are no methods; :func:`tune_sam.tuning.further.check_declared` sees to ranges."""


KEPT = {*vars(Workload), *NEEDED} - {"label_smoothing"}
"""Names that no further hyperparameter can have: what a workload has anyway, but for the smoothing of its labels."""


def _store_of(workload: Workload, member: str, split: Any) -> Store:
    """Give what a member of a workload returned for a split as a store."""
    from tune_sam.store import as_store

    try:
        store: Store = as_store(split, workload.pair)
    except ValueError as error:
        raise Refused(f"workload {workload.name}, {member}(): {error}.") from None
    return store


def _options_of(base: BaseOptimizer) -> list[str]:
    """List the options that a base optimizer takes beside its parameters and the learning rate."""
    names = list(inspect.signature(base.make).parameters)
    return [name for name in names if name not in ("params", "lr")]


def workload_names() -> list[str]:
    """List the names of the installed workloads, sorted."""
    return plugins.installed(ENTRY_POINTS)


def workloads() -> "list[Workload]":
    """List the installed workloads, by name; `to_json()` of each is its description. Needs no data."""
    return [find_workload(name) for name in workload_names()]


def find_workload(name: str) -> Workload:
    """Find the workload of this name, or the class at `package.module:Class`.

    Raises:
        Refused: there is no such workload, or the class cannot be imported or is no workload.
    """
    if name.startswith(f"{plugins.OF_A_PROGRAM}:"):  # a notebook may define its class anew
        made_workload.cache_clear()
    return made_workload(name)


@cache
def made_workload(name: str) -> Workload:
    """Make the workload of a name, once in a process; see :func:`find_workload`."""
    path = plugins.find(name, ENTRY_POINTS)
    if path is None:
        raise Refused(
            f"there is no workload {name!r}; choose from {', '.join(workload_names())}, "
            "or give your own as package.module:Class."
        )
    found: Workload = plugins.make(path, Workload, "workload", NEEDED)  # type: ignore[type-abstract]
    for member, form in FORMS.items():
        if not form.fits(given := getattr(found, member)):
            written = f"`{member} = {form.example}`"
            raise Refused(f"the workload {path!r} has {shorten(repr(given))} as its `{member}`; write it as {written}.")
    if not found.scores:
        raise Refused(f"the workload {path!r} has no score; give its `scores` one, or leave them out for accuracy.")
    if not found.datasets:
        raise Refused(f"the workload {path!r} has no data set; give its `datasets` one.")
    if without := [name for name in found.datasets if name not in found.settings]:
        raise Refused(f"the workload {path!r} has no setting for the data set {without[0]!r}; add one to `settings`.")
    return found


def known_workload(name: str) -> Workload:
    """Find the workload that a study's record names. Its code is never run for the record's sake.

    Args:
        name: of an installed workload, or `package.module:Class` of a module that is imported already, as by
            :func:`find_workload` where a person names it.

    Raises:
        Refused: there is no such workload, or its module is not imported.
    """
    plugins.refuse_unnamed(name, "workload")
    return find_workload(name)
