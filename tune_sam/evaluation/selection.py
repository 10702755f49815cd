"""The choice of a refit: which configurations of a search are trained again, with which seeds."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from tune_sam.durations import OFF
from tune_sam.errors import Refused
from tune_sam.space import MAX_SEED, Configuration, Point, Space, each_once
from tune_sam.study.records import Study, refits_of
from tune_sam.study.settings import Kind, StudySettings, now

log = logging.getLogger(__name__)

C = TypeVar("C")

FIRST_SEED = 10_000
"""A refit's first seed is the study's seed plus this, so that no trial was chosen for it."""


@dataclass(frozen=True)
class Choice:
    """Which configurations of each optimizer are trained again.

    Attributes:
        top: number of configurations of each optimizer, the best by validation.
        each_batch_size: take the best configuration of each batch size instead.
        planned: take all points of the study's grid instead, whatever a search found.
    """

    top: int = 1
    each_batch_size: bool = False
    planned: bool = False

    def of(self, study: Study, optimizer: str) -> list[Configuration]:
        """Choose an optimizer's configurations, the best first, or a grid's in its order; none where none is complete.

        Each has the seed of its trial.
        """
        if self.planned:
            settings = study.settings
            return [Configuration.at(optimizer, point, settings.seed) for point in settings.spaces[optimizer].grid]
        ranked = study.ranked(study.records(optimizer))
        best = _different([trial.config for trial in ranked if trial.config])
        if not self.each_batch_size:
            return best[: self.top]
        of_size: dict[int, Configuration] = {}
        for config in best:
            of_size.setdefault(config.batch_size, config)
        return list(of_size.values())

    def best_of(self, chosen: Sequence[C]) -> list[C]:
        """Take the first of an optimizer's configurations; none of a grid's several, of which nothing chose one."""
        return [] if self.planned and len(chosen) > 1 else list(chosen[:1])

    def of_all(self, study: Study) -> dict[str, list[Configuration]]:
        """Choose the configurations by optimizer, without optimizers that have no complete trial."""
        found = {optimizer: self.of(study, optimizer) for optimizer in study.settings.optimizers}
        return {optimizer: chosen for optimizer, chosen in found.items() if chosen}


def were_given(study: Study) -> bool:
    """Whether a study's points were given, not searched: none of its trials began, and its whole grid was refitted."""
    searched = any(trial.started for trial in study.records())
    return not searched and any((child.settings.choice or {}).get("planned") for child in refits_of(study))


def _different(configurations: Iterable[Configuration]) -> list[Configuration]:
    """Leave out configurations that differ in their seeds alone, which a refit would take for one."""
    first: dict[tuple[object, ...], Configuration] = {}
    for one in configurations:
        first.setdefault(tuple(one.point.items()), one)
    return list(first.values())


def chosen_configurations(study: Study, choice: Choice, by: str) -> dict[str, list[Configuration]]:
    """Choose the configurations by optimizer, and warn of optimizers that are left out, unless all are.

    Args:
        study: a search.
        choice: of its configurations.
        by: what leaves optimizers out, for the warning.
    """
    chosen = choice.of_all(study)
    for optimizer in study.settings.optimizers:
        if chosen and optimizer not in chosen:
            log.warning(
                "study %s has no complete trial of %s, which %s leaves out; `%s` gives it more.",
                study.name,
                optimizer,
                by,
                study.command("resume", "--trials N"),
            )
    return chosen


def check_seeds(asked: int | Sequence[int]) -> None:
    """Refuse a number of seeds, or a list of them, that no refit can have.

    Raises:
        Refused: there are none, one repeats, or one is out of range.
    """
    if isinstance(asked, int):
        if asked < 1:
            raise Refused(f"--seeds {asked}: there is nothing to train; give 1 or more.")
        return
    shown = ",".join(map(str, asked))
    if len(set(asked)) < len(asked):
        raise Refused(f"--seeds {shown}: a seed comes twice, which would be the same training; give each once.")
    if not asked or not all(0 <= seed <= MAX_SEED for seed in asked):
        raise Refused(f"--seeds {shown}: give a number of seeds, or a list of seeds from 0 to {MAX_SEED}.")


def chosen_seeds(asked: int | Sequence[int], study: Study) -> tuple[int, ...]:
    """Turn a number of seeds, or a list of them, into seeds.

    Raises:
        Refused: no refit can have these seeds.
    """
    check_seeds(asked)
    first = study.settings.seed + FIRST_SEED
    return tuple(range(first, first + asked)) if isinstance(asked, int) else tuple(asked)


def refit_settings(
    study: Study, kind: Kind, epochs: int, chosen: dict[str, list[Configuration]], seeds: Sequence[int], choice: Choice
) -> StudySettings:
    """Turn a search's settings into those of a study of just these configurations, each with each seed."""
    spaces = {optimizer: Space.of(configurations, seeds) for optimizer, configurations in chosen.items()}
    return replace(
        study.settings,
        optimizers=tuple(chosen),
        epochs=epochs,
        precision=None if study.settings.precision == "auto" else study.settings.precision,  # on a CPU then fp32
        scheduler="none",
        sampler="grid",
        from_study=None,
        spaces=spaces,
        gradients={optimizer: study.settings.gradients_of(optimizer) for optimizer in chosen},
        trials=max(len(space.grid) for space in spaces.values()),
        objective=f"train/{study.settings.score}",
        trial_timeout=OFF,  # of the search's trials, which may be shorter
        time_budget=OFF,
        epoch_budget=0,
        patience=0,
        budget="trials",
        kind=kind,
        refit_of=study.name,
        choice=asdict(choice),
        asked=now(),
        train_alone=bool(study.settings.train_subset or study.settings.label_noise),
    )


def configurations(settings: StudySettings) -> dict[str, list[Point]]:
    """List what each optimizer trains, without the seeds."""
    found: dict[str, list[Point]] = {}
    for optimizer, space in settings.spaces.items():
        points = [{name: value for name, value in point.items() if name != "seed"} for point in space.grid]
        found[optimizer] = each_once(points)
    return found


def control_points(points: Mapping[str, Sequence[Point]]) -> list[Point]:
    """Choose the base optimizer's matched controls: each other row's configuration, without what the ascent has alone.

    Args:
        points: of a refit, by optimizer, as :func:`configurations` lists them.

    Returns:
        Each once, without those that the refit trains the base optimizer with anyway.
    """
    others = [(optimizer, point) for optimizer, of_it in points.items() if optimizer != "base" for point in of_it]
    matched = each_once([Configuration.at(optimizer, point).matched.point for optimizer, point in others])
    return [point for point in matched if point not in points.get("base", ())]


def best_alone(study: Study) -> StudySettings:
    """Turn a search's settings into those of the plain grid of each optimizer's best configuration.

    An optimizer without a complete trial is left out.

    Raises:
        Refused: the study's preset has a grid of its own, so that no file with it can name another.
        NothingComplete: no trial is complete.
    """
    preset = study.workload.presets.get(study.settings.preset or "")
    if preset and preset.options.get("sampler") == "grid":
        raise Refused(
            f"study {study.name} tries the grid of preset {study.settings.preset}, with which no file can "
            f"name its best points alone; train them again with `{study.command('refit')}`."
        )
    study.best()  # there is one, or this says so
    chosen = chosen_configurations(study, Choice(), "the file")
    settings = refit_settings(study, "refit", study.settings.epochs, chosen, (0,), Choice())
    points = configurations(settings)
    spaces = {name: replace(space, grid=tuple(points[name])) for name, space in settings.spaces.items()}
    return replace(
        settings,
        spaces=spaces,
        objective=study.settings.objective,
        kind="search",
        refit_of=None,
        choice=None,
        asked=None,
        train_alone=False,
    )


def seeds_in(settings: StudySettings) -> set[int]:
    """Collect the seeds of a refit's points."""
    return {int(point["seed"]) for space in settings.spaces.values() for point in space.grid}
