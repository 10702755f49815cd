"""What was searched, and the configurations that the search chose."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tune_sam.evaluation.answer import at_end
from tune_sam.evaluation.claims import OF_OTHER_LOSSES, Radius, chosen_radii
from tune_sam.evaluation.names import optimizer_names
from tune_sam.reporting.pictures import CHOOSING, pictures_in
from tune_sam.reporting.sections import Section, Table
from tune_sam.scores import decimal
from tune_sam.space import IN_WORDS, Choice, LogRange, Range, Space, Value, cells, text_of_value
from tune_sam.study.records import Study, Trial
from tune_sam.study.settings import STATES, StudySettings
from tune_sam.study.spent import ended_by
from tune_sam.tuning.recipe import PARAMETERS

EDGE = 0.05
"""A value lies at the edge of its range within this fraction of the range's width, on the range's scale."""


SAMPLERS = {
    "tpe": "Optuna's TPE sampler",
    "gp": "Optuna's Gaussian-process sampler",
    "cmaes": "CMA-ES over ranges and ordered choices",
    "qmc": "a scrambled Sobol sequence",
    "random": "random sampling",
}

SCHEDULERS = {
    "asha": "ASHA stops the worse half at each rung",
    "hyperband": "Hyperband stops the worse half at each rung of a trial's bracket",
    "median": "trials below the median of the others at their epoch are stopped",
    "none": "no trial is stopped early",
}


def searched_section(study: Study) -> Section:
    """Tabulate the ranges and the budget, and say how trials ended."""
    settings, names = study.settings, optimizer_names(study)
    trials, header = study.records(), ("optimizer", *COLUMNS, *study.settings.more)
    counts = {one: [trial.state for trial in trials if trial.optimizer == one] for one in settings.optimizers}
    seen = [state for state in STATES if any(state in states for states in counts.values())]
    rows = tuple(
        (
            names[optimizer],
            *_tried(space, settings.sampler == "grid", settings.more),
            str(settings.trials_of(optimizer)),
            *(str(counts[optimizer].count(state) or "") for state in seen),
        )
        for optimizer, space in settings.spaces.items()
    )
    ended = [state for states in counts.values() for state in states if state not in ("waiting", "running")]
    numbers = ", ".join(f"{ended.count(state)} {state}" for state in STATES if state in ended)
    if not ended:
        return Section(
            "What was searched",
            ("Nothing: the refit trains all points of a grid.",),
            (Table((*header, "points"), tuple(row[: len(header) + 1] for row in rows)),),
        )
    how = (
        "the points of the grid alone"
        if settings.sampler == "grid"
        else f"{SAMPLERS[settings.sampler]}, after the grid where there is one"
    )
    stop = SCHEDULERS[settings.scheduler]
    subset = f", on {settings.train_subset:,} training samples" if settings.train_subset else ""
    split = f", split by seed {settings.split_seed}" if settings.split_seed else ""
    noise = f", of whose labels {100 * settings.label_noise:g} % are wrong" if settings.label_noise else ""
    return Section(
        "What was searched",
        (
            f"{settings.workload} on {settings.dataset}{split}{subset}{noise}, {settings.epochs} epochs a trial, by "
            f"{how}; {stop}. "
            f"A trial is judged by the {' and the '.join(settings.directions)} of its last epoch.",
            *_equal(settings),
            f"Of {len(ended)} trials that ended: {numbers}.",
            *_seeded(study),
            *([f"The search ended before its other trials, for {budget.why}."] if (budget := ended_by(study)) else []),
        ),
        (Table((*header, "budget", *seen), rows), *_failures(trials)),
    )


def _equal(settings: StudySettings) -> Iterator[str]:
    """Say what optimizers had equally much of, where it is not trials."""
    if settings.budget == "compute":
        yield (
            "Budgets are equal in compute: each optimizer has as many trials as take the gradient evaluations of "
            f"{settings.trials} of the costliest one, if all are trained to their ends."
        )


def _seeded(study: Study) -> Iterator[str]:
    """Say what the sampler began with."""
    if study.settings.from_study:
        from tune_sam.tuning.seeding import count_seeds  # it needs Optuna, which a refusal does not wait for

        counts = ", ".join(f"{count} of {optimizer}" for optimizer, count in count_seeds(study).items())
        yield (
            f"The sampler began with the finished trials of study {study.settings.from_study} ({counts}), which are "
            "none of this study's."
        )


def _failures(trials: Sequence[Trial]) -> tuple[Table, ...]:
    """Tabulate why trials failed, and how to see what they printed; no table where none failed."""
    rows = tuple(
        (
            f"{trial.optimizer} {trial.number}",
            trial.reason,
            f"tune-sam logs {trial.study} {trial.optimizer}/{trial.number}",
        )
        for trial in trials
        if trial.state == "failed"
    )
    return (Table(("failed trial", "why", "its log"), rows),) if rows else ()


COLUMNS = ("ρ", "learning rate", "batch size")
"""What tables call :data:`tune_sam.tuning.recipe.PARAMETERS`; a further hyperparameter has its name."""


def _tried(space: Space, alone: bool, more: Sequence[str]) -> tuple[str, ...]:
    """Write the cells for each hyperparameter: the ranges, or the values of a plain grid."""
    if not alone:
        domains = [space.domains.get(name, "") for name in (*PARAMETERS, *more)]
        return tuple(str(domain).replace(",", ", ") for domain in domains)
    values = [dict.fromkeys(point[name] for point in space.grid if name in point) for name in (*PARAMETERS, *more)]
    return tuple(", ".join(text_of_value(value, 3) for value in one) for one in values)


def chosen_section(study: Study, best: Sequence[Trial], folder: Path) -> Section:
    """Tabulate the best trial of each optimizer, and name the values that lie at the edge of their range."""
    if not best:
        return Section("What the search chose", ("Nothing was searched.",))
    rows, edges, judged_by, names = [], [], study.settings.judged_by, optimizer_names(study)
    more = study.settings.more
    radii = {radius.optimizer: radius for radius in chosen_radii(study, [trial.optimizer for trial in best])}
    for trial in best:
        assert trial.config
        assert trial.value is not None  # it is complete
        config, space = trial.config, study.settings.spaces[trial.optimizer]
        rows.append(
            (
                names[trial.optimizer],
                str(trial.number),
                *cells(config.point, (*PARAMETERS, *more)),
                decimal(trial.value, 4),
                f"{trial.seconds:.0f}",
            )
        )
        tried = [point for point in space.grid if study.settings.sampler == "grid"]
        for key, among in space.domains.items():
            name, value = IN_WORDS.get(key, key), config.point[key]
            if isinstance(among, Choice):
                if tried:  # of a plain grid, some of those that were offered
                    among = Choice(*dict.fromkeys(point[key] for point in tried))
                if where := _at_end(value, among):
                    edges.append(
                        f"{names[trial.optimizer]}: the best {name}, {text_of_value(value, 4)}, is the {where} of "
                        f"{among}; the optimum may lie beyond, so search others."
                    )
                continue
            if tried:  # of values, the edge is the first or the last of them
                values = [point[key] for point in tried]
                among = type(among)(min(values), max(values))
            if end := at_edge(value, among):
                edges.append(
                    f"{names[trial.optimizer]}: the best {name}, {value:.4g}, lies at the {end} edge of {among}; the "
                    "optimum may lie beyond, so search a wider range."
                )
            elif key == "rho" and (radius := radii.get(trial.optimizer)) and (where := _where(radius)):
                edges.append(f"{names[trial.optimizer]}: the best ρ, {value:.4g}, is {where}.")
    return Section(
        "What the search chose",
        (
            "Judged on the validation split, one training each: a search shows where to look, not which "
            "optimizer is better.",
            *([OF_OTHER_LOSSES] if study.settings.searches("label_smoothing") else []),
            *(edges or ["Every best value lies inside its range, and every best ρ between others that were tried."]),
        ),
        (
            Table(("optimizer", "trial", *COLUMNS, *more, judged_by, "seconds"), tuple(rows)),
            *_fronts(study),
        ),
        pictures_in(folder, CHOOSING),
    )


def _at_end(value: Value, among: Choice) -> str:
    """Say whether a value is the smallest or the largest of some numbers; empty if it is neither, or the only one."""
    numbers = [one for one in among.values if not isinstance(one, (str, bool))]
    if len(numbers) < 2 or len(numbers) < len(among.values):
        return ""
    return "smallest" if value == min(numbers) else "largest" if value == max(numbers) else ""


def _where(radius: Radius) -> str:
    """Say why a best ρ is not known to lie between worse ones; empty if it does."""
    if radius.tried < 2:
        return "the only one whose trial is complete, so nothing is known of others"
    return at_end(radius)


def _fronts(study: Study) -> tuple[Table, ...]:
    """Tabulate the Pareto front of a search with two objectives; no table otherwise."""
    if len(study.settings.directions) < 2:
        return ()
    names = optimizer_names(study)
    rows = [
        (
            names[trial.optimizer],
            str(trial.number),
            *cells(config.point, (*PARAMETERS, *study.settings.more)),
            *(decimal(trial.metrics[name], 4) for name in study.settings.directions),
        )
        for trial in study.pareto()
        if (config := trial.config)
    ]
    return (
        Table(
            ("on the Pareto front", "trial", *COLUMNS, *study.settings.more, *study.settings.directions),
            tuple(rows),
        ),
    )


def at_edge(value: float, among: LogRange | Range) -> str:
    """Say at which end of a range a value lies, on the range's scale.

    Args:
        value: inside the range.
        among: the range.

    Returns:
        `lower` or `upper`; empty if the value lies at neither end, or the range has no width.
    """
    if among.high <= among.low:
        return ""
    if isinstance(among, LogRange):
        place = math.log(value / among.low) / math.log(among.high / among.low)
    else:
        place = (value - among.low) / (among.high - among.low)
    return "lower" if place < EDGE else "upper" if place > 1 - EDGE else ""
