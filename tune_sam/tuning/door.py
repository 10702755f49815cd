"""A workload tried, in the driver or beside it, before anything is written: a step with each optimizer.

A training that cannot begin fails in a worker, a minute later and once for each trial. Here it is one sentence, which
names the member of the workload to mend.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tune_sam import generators
from tune_sam.cluster.data import prepared
from tune_sam.cluster.sharing import save
from tune_sam.errors import Refused
from tune_sam.metrics import Metrics, gathering, numbers
from tune_sam.optim import SharpnessAware
from tune_sam.space import Choice, Configuration, Domain, Point, Value
from tune_sam.store import DatasetStore, TensorStore
from tune_sam.study.settings import StudySettings
from tune_sam.training import Trainer, batch_sizes, build_optimizer, taking_steps
from tune_sam.trees import alike
from tune_sam.tuning.averages import check_mean
from tune_sam.tuning.fitting import check_finite, check_inputs, check_labels, check_rows, check_texts, said_by, taking
from tune_sam.workload import Given, Setting, Splits, Store, Workload

SAMPLES = 4
"""Samples of the step: more would take seconds with a large network on the CPU."""

READINGS = 4
"""Readings of each of as many samples: of a flip with even odds, 1 in 4,096 data sets would pass."""

LOOKED_AT = 1024
"""Samples among which those with a target that counts are sought: most have one, where they are read one by one."""


def tried(workload: Workload, settings: StudySettings, root: Path, file: Path) -> None:
    """Try a workload out as :func:`try_out` does, and write the data that its trials train on to a file."""
    save(prepared(try_out(workload, settings, root), workload, settings), file)


def try_out(workload: Workload, settings: StudySettings, root: Path) -> Splits:
    """Read a workload's data, and take a step with each optimizer on the CPU.

    torch's random state and threads are left as they were.

    Args:
        workload: the study's.
        settings: of the study to be made.
        root: folder of the data set, which is there.

    Returns:
        What was read, so that nobody reads it again.

    Raises:
        Refused: a training could not begin; the sentence names the workload's member to mend.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        try:
            with _member(workload, "splits()"):
                splits = workload.read(settings.dataset, root)
                _check_sizes(workload, settings.dataset, splits)
                _check_same(splits)
            given = _passed(workload, settings, splits)
        finally:
            torch.set_num_threads(threads)
    received = {name for one in given for name in one.received}
    if nowhere := {name for one in given for name in one.unused} - received:
        name = min(nowhere)
        raise Refused(
            f"workload {workload.name}, hyperparameters: nothing receives {name!r}; read it as "
            f"self.given[{name!r}], or give it the name of an option of the network or of the optimizer."
        )
    return splits


def _passed(workload: Workload, settings: StudySettings, splits: Splits) -> list[Given]:
    """Pass a few samples, or where a member fails a batch of each size: a loss of the ten hardest needs that many."""
    try:
        return _pass(workload, settings, splits, SAMPLES)
    except Refused as refused:
        searched = {size for space in settings.spaces.values() for size in space.batch_size}
        sizes = sorted({size for most in searched for size in batch_sizes(len(splits.train), most)})
        if not isinstance(refused.__cause__, ValueError):  # which says what is wrong
            with suppress(Refused):
                return [_pass(workload, settings, splits, size) for size in sizes][0]
        raise


def _pass(workload: Workload, settings: StudySettings, splits: Splits, samples: int) -> list[Given]:
    """Pass so many samples through all members of a workload, and take a step with each optimizer.

    Returns:
        The further hyperparameters of each optimizer, which know what received them.
    """
    train, validation = (split.subset(_some(workload, split, samples)) for split in _both(splits))
    few = replace(splits, train=train, validation=validation)
    with _member(workload, "splits(), joined as a refit trains on them"):
        _check_joined(few)
    few = _check_members(workload, settings, splits, few)
    return [_step(workload, settings, optimizer, few, samples) for optimizer in settings.optimizers]


@contextmanager
def _member(workload: Workload, name: str) -> Iterator[None]:
    """Name a member of the workload in whatever it raises: the one that the error names, or else this one."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        why = said_by(error).removeprefix(f"{name}: ").rstrip(".")
        member, named, _ = why.partition("(): ")
        said = why if named and hasattr(Workload, member) else f"{name}: {why}"
        raise Refused(f"workload {workload.name}, {said}.") from error


def _both(splits: Splits) -> tuple[Any, Any]:
    return splits.train, splits.validation


def _some(workload: Workload, split: Any, samples: int) -> Tensor:
    """Choose so many samples, the first with a target that counts, or else the first: no loss can be tried of these."""
    first = range(min(LOOKED_AT, len(split)))
    try:
        if workload.count(split.batch(torch.tensor(first[:samples]))[1]):  # a count may be of pairs of samples
            return torch.tensor(first[:samples])
        with_target = (index for index in first if workload.count(split.batch(torch.tensor([index]))[1]))
        found = list(islice(with_target, samples))
    except Exception:  # what is wrong with it is said where it is tried
        found = []
    return torch.tensor(found or first[:samples])


def _check_sizes(workload: Workload, dataset: str, splits: Splits) -> None:
    stated = workload.datasets[dataset]
    found = tuple(map(len, _both(splits)))
    if found != (stated.train, stated.validation):
        raise Refused(
            f"workload {workload.name}, datasets: {dataset!r} states {stated.train} training and {stated.validation} "
            f"validation samples, and splits() gives {found[0]} and {found[1]}; state what there is."
        )
    if not all(found):
        raise Refused(f"workload {workload.name}, splits(): a split is empty; give it samples.")


def _check_same(splits: Splits) -> None:
    """Expect that a data set gives the same sample each time."""
    for split in _both(splits):
        if isinstance(split, DatasetStore):
            for index in torch.arange(min(SAMPLES, len(split))).split(1):
                first, *others = (split.batch(index) for _ in range(READINGS))
                if not all(alike(first, other) for other in others):
                    raise ValueError(
                        "a sample differs from one reading to the next, so that no evaluation could be repeated; "
                        "change batches at random in augment()"
                    )


def _check_joined(few: Splits) -> None:
    """Expect that a refit, which trains on both splits as one, is given the validation samples as the search is."""
    if {type(split) for split in _both(few)} == {TensorStore, DatasetStore}:
        raise ValueError(
            "one split is tensors, and the other a data set whose pair() or collate_fn would change them; give both as "
            "data sets, or both as tensors"
        )
    together, samples = few.together().train, len(few.validation)
    together.batch(torch.arange(len(together)))
    if not isinstance(few.validation, DatasetStore):  # a store of one's own may have more in a batch than its samples
        return
    joined = together.batch(torch.arange(len(few.train), len(together)))
    if not alike(joined, few.validation.batch(torch.arange(samples))):
        raise ValueError(
            "its validation samples then are others, as where a loader's collate_fn changes those of its own split; "
            "give both splits one collate_fn, and change samples in the data set"
        )


def _check_members(workload: Workload, settings: StudySettings, splits: Splits, few: Splits) -> Splits:
    """Pass a batch through network, loss and metrics, one after the other.

    Returns:
        The few samples; of the training split as many as an evaluation's batch has, where its metrics need more.
    """
    optimizer = settings.optimizers[0]
    configured = workload.configured(_configuration(settings, optimizer))
    setting = configured.placed(workload.setting(settings.dataset, settings.preset))
    with _member(workload, "splits()"):
        inputs, targets = few.train.batch(torch.arange(len(few.train)))
        check_texts(targets)
    with _member(workload, "network()"):
        generators.seed(0)
        network = configured.build(setting)
        with taking(network, inputs):
            outputs = network(inputs)
        check_inputs(network, few.train)
        trained = (parameter for parameter in network.parameters() if parameter.requires_grad)
        another = workload.configured(_configuration(settings, optimizer))
        if _places(trained) & _places(another.build(setting).parameters()):
            raise ValueError(
                "it gives the same parameters each time, so that a trial would begin where another ended; make them "
                "anew"
            )
    with _member(workload, "splits()"):
        check_finite(network, splits)
        if isinstance(splits.validation, TensorStore):
            parts = splits.validation.y.split(workload.evaluation_batch)
            if not any(map(configured.count, parts)):
                raise ValueError("no target of the validation split counts, so there is nothing to judge a trial by")
        if _classifies(configured) and isinstance(outputs, Tensor) and outputs.ndim > 1 and outputs.shape[-1] > 1:
            in_memory = [split.y for split in _both(splits) if not isinstance(split, DatasetStore)]
            check_labels(configured, outputs, [targets, *in_memory])
    with _member(workload, "count()"):
        check_rows(configured, few.train)
        if not isinstance(configured.count(targets), (int, float)):
            raise ValueError(f"it gave {configured.count(targets)!r}; give a number, as by int() or float()")
    with _member(workload, "loss()"):
        loss = configured.loss(outputs, targets)
        if not isinstance(loss, Tensor) or loss.shape != ():
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"it gave {what}; give the batch's mean, a tensor of shape ()")
        if not loss.requires_grad:
            raise ValueError("it depends on no parameter that is trained")
        if configured.count(targets) and not loss.isfinite():  # it may need more samples, as one of each class
            more = _spread(splits.train, setting.batch_size)
            loss = configured.loss(*_evaluated(network, more))
            if not loss.isfinite():
                raise ValueError(
                    f"it is {float(loss):g} for {len(more)} samples before any training; give what is finite"
                )
        check_mean(configured, outputs, targets)
    with _member(workload, "metrics()"):
        try:
            found = _scores(configured, setting, *_evaluated(network, few.train))
        except Exception:  # they may need more samples, too, as some that can be compared
            few = replace(few, train=_spread(splits.train, max(setting.batch_size, workload.evaluation_batch)))
            found = _scores(configured, setting, *_evaluated(network, few.train))
        given, again = (_with_state(configured.metrics(setting)) for _ in range(2))
        if any(one is other for one in given for other in again):
            raise ValueError(
                "it gives the same metric each time, which would go on from one split to the next; make it anew"
            )
        if not isinstance(found, Mapping):
            raise ValueError("it gave one number without a name; give a mapping of metrics by name")
        numbers(found)
        if missing := [name for name in workload.scores if name not in found]:
            raise ValueError(f"it has no {missing[0]!r}, which `scores` names, but {', '.join(map(str, found))}")
        _check_names(found)
    with _member(workload, "base_optimizer"):
        _ = configured.base_optimizer.make
    return few


def _places(parameters: Iterable[Tensor]) -> set[int]:
    """Collect where in memory parameters lie; what is empty, or is made by a first batch, lies nowhere."""
    there = (parameter for parameter in parameters if not is_lazy(parameter) and parameter.numel())
    return {parameter.untyped_storage().data_ptr() for parameter in there}


def _with_state(metrics: Metrics) -> list[Any]:
    """List the metrics that gather batches; functions keep nothing."""
    there = metrics.values() if isinstance(metrics, Mapping) else [metrics]
    return [metric for metric in there if hasattr(metric, "update")]


def _spread(split: Store, batch_size: int) -> Store:
    """Take as many samples as a batch has from all over a split."""
    return split.subset(torch.linspace(0, len(split) - 1, min(len(split), batch_size)).long())


def _evaluated(network: nn.Module, split: Store) -> tuple[Any, Any]:
    """Give outputs and targets of a few samples."""
    inputs, targets = split.batch(torch.arange(len(split)))
    with torch.no_grad():
        return network(inputs), targets


def _scores(workload: Workload, setting: Setting, outputs: Any, targets: Any) -> Any:
    metric = gathering(workload.metrics(setting), torch.device("cpu"))
    metric.update(outputs, targets)
    return metric.compute()


def _classifies(workload: Workload) -> bool:
    """Whether a workload's loss is the default one, of classes."""
    return getattr(workload.loss, "__func__", None) is Workload.loss


def _check_names(found: Mapping[str, Any]) -> None:
    """Expect names that MLflow takes in the name of a metric, and none that a trial has a number of its own by."""
    for name in found:
        if name == "sharpness":
            raise ValueError("'sharpness' is the second value of --objective two; give that metric another name")
        if not all(character.isalnum() or character in "_-. :/" for character in name):
            raise ValueError(f"{name!r} cannot be the name of a metric in MLflow; use letters, digits and _-. :/")


def _configuration(settings: StudySettings, optimizer: str, samples: int = SAMPLES) -> Configuration:
    """Choose where a search would begin, with a small batch."""
    space = settings.spaces[optimizer]
    point = space.grid[0] if space.grid else {name: domain.start for name, domain in space.domains.items()}
    small = {"batch_size": samples} | ({"m": max(samples // 2, 1)} if "m" in point else {})
    return Configuration.at(optimizer, {**point, **small})


def _step(workload: Workload, settings: StudySettings, optimizer: str, few: Splits, samples: int) -> Given:
    """Take a step and evaluate; give the further hyperparameters, which know what received them."""
    setting = workload.setting(settings.dataset, settings.preset)
    if setting.microbatch:
        setting = replace(setting, microbatch=min(setting.microbatch, samples // 2))
    with _member(workload, f"a step of {optimizer}"):
        trainer = Trainer(
            workload,
            setting,
            _configuration(settings, optimizer, samples),
            few,
            epochs=settings.epochs,
            device=torch.device("cpu"),
            precision="fp32",
        )
        trainer.rehearse()
    with _member(workload, f"the learning rate of {optimizer}"):
        lr = trainer.configuration.lr
        if _option(trainer, "lr", {"lr": lr}).trained == _option(trainer, "lr", {"lr": lr / 2}).trained:
            raise ValueError(
                "it stays the same whatever rate is searched; in parameter_groups() give `lr_scale`, a factor of it, "
                "in place of `lr`, and in a schedule or a function that makes the optimizer no rate of their own"
            )
    with _member(workload, f"the radius of {optimizer}"):
        if (rho := trainer.configuration.rho) is not None and isinstance(trainer.optimizer, SharpnessAware):
            chosen, half = (replace(trainer.configuration, rho=one) for one in (rho, rho / 2))
            if _radii(trainer, chosen) == _radii(trainer, half):
                raise ValueError(
                    "it stays the same whatever ρ is searched; leave `rho` out of the groups of parameter_groups()"
                )
    with _member(workload, "hyperparameters"):
        for name in trainer.workload.given.among(trainer.workload.base_optimizer.options):
            if _is_fixed(trainer, settings.spaces[optimizer].more, name):
                raise ValueError(
                    f"the {name} of {optimizer} stays the same whatever is searched; leave it out of "
                    f"parameter_groups() and of the schedule, or give it there as self.given[{name!r}]"
                )
    return trainer.workload.given


def _radii(trainer: Trainer, configuration: Configuration) -> list[Any]:
    """Give ρ of each group of parameters with which a training at some configuration would begin."""
    configured = trainer.workload.configured(configuration)
    return [group["rho"] for group in build_optimizer(trainer.model, configured, configuration).param_groups]


def _is_fixed(trainer: Trainer, domains: Mapping[str, Domain], name: str) -> bool:
    """Whether an option of the base optimizer is searched and out of force: the groups or the schedule have their own.

    All others are at one end of their ranges, and then at the other, for it may be in force with one of their values.
    """
    ends = {other: _ends(domain) for other, domain in domains.items()}
    if ends[name][0] == ends[name][1]:
        return False
    for others in ({other: both[end] for other, both in ends.items()} for end in (0, 1)):
        try:
            low, high = (_option(trainer, name, {**others, name: end}) for end in ends[name])
        except Exception:  # no optimizer is made with the very end, which is hardly ever drawn
            return False
        # Where nobody names it, a function that makes the optimizer may have put it elsewhere than into the groups.
        own = low.in_each_group or low.made != high.made
        if not (own and low.trained and low.trained == high.trained):
            return False
    return True


@dataclass(frozen=True)
class _Option:
    """An option of the optimizer that takes the steps, in each of its groups that has it.

    Attributes:
        in_each_group: whether each of the workload's own groups names it.
        made: as the optimizer is made.
        trained: as the schedule begins.
    """

    in_each_group: bool
    made: list[Any]
    trained: list[Any]


def _option(trainer: Trainer, name: str, point: Point) -> _Option:
    """Say what an option is in the groups of parameters with which a training at some values would begin.

    Rates are without the schedule's factor, which a warm-up may begin with 0.
    """
    here = trainer.configuration
    there = Configuration.at(here.optimizer, {**here.point, **point}, here.seed)
    configured = trainer.workload.configured(there)  # which has what its network() may have put there for its groups
    groups = configured.parameter_groups(trainer.model)
    named = groups is not None and all(name in group for group in groups)
    optimizer = taking_steps(build_optimizer(trainer.model, configured, there))
    made = [group[name] for group in optimizer.param_groups if name in group]
    configured.schedule.make(optimizer, trainer.epochs)
    trained = [group.get(f"initial_{name}", group[name]) for group in optimizer.param_groups if name in group]
    return _Option(named, made, trained)


def _ends(domain: Domain) -> tuple[Value, Value]:
    return (domain.values[0], domain.values[-1]) if isinstance(domain, Choice) else (domain.low, domain.high)
