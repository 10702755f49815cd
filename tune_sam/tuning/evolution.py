"""CMA-ES, whose state follows from a study's trials.

Optuna's own keeps its state as a pickle in the records, which may come from somebody else and are never unpickled here.
This one tells :class:`cmaes.CMA` all trials that have ended, in the order in which they ended, before each suggestion.
It goes by ranks alone, so that every ending counts as what it is: a complete trial before one that was stopped, one
that was stopped later before one that was earlier, and one that diverged or had no memory last.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cmaes import CMA
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tune_sam.tuning.history import is_hopeless

STEP = 1 / 6
"""Standard deviation of the first generation, as a fraction of each range; it is about the best trial before it."""

DIMENSIONS = 2
"""The fewest that :class:`cmaes.CMA` takes; where the space has one, another is added that means nothing."""


class EvolutionSampler(BaseSampler):
    """Suggests by CMA-ES (Hansen 2016, arXiv:1604.00772) over ranges, and over choices among numbers by their order.

    What is neither, and all of the trials before the first generation, is drawn at random.

    Args:
        seed: of one suggestion.
        startup: trials that have ended before the first generation.
    """

    def __init__(self, seed: int, startup: int) -> None:
        self._seed, self._startup = seed, startup
        self._random = RandomSampler(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Choose what CMA-ES searches: nothing before the first generation."""
        ended = _ended(study)
        space = intersection_search_space(ended) if len(ended) >= self._startup else {}
        return {name: one for name, one in space.items() if not one.single() and _is_ordered(one)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from the distribution that the trials so far have led to."""
        if not search_space:
            return {}
        ended = _ended(study)
        before, since = ended[: self._startup], ended[self._startup :]
        best = min(before, key=_rank(study))
        missing = max(DIMENSIONS - len(search_space), 0)
        mean = np.append(_place(best, search_space), [0.5] * missing)
        search = CMA(mean, STEP, np.tile([0.0, 1.0], (len(mean), 1)), seed=self._seed)

        def place(trial: FrozenTrial) -> "np.ndarray":
            # In a dimension that is none, chance alone places a trial: a fixed place would make the steps too small.
            return np.append(_place(trial, search_space), [search.ask()[-1] for _ in range(missing)])

        size = search.population_size
        for begin in range(0, len(since) - size + 1, size):
            ranked = sorted(since[begin : begin + size], key=_rank(study))
            search.tell([(place(one), float(rank)) for rank, one in enumerate(ranked)])
        point = search.ask()[: len(search_space)]
        return {name: _value(float(at), one) for (name, one), at in zip(search_space.items(), point, strict=True)}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw at random what CMA-ES does not search."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _ended(study: Study) -> list[FrozenTrial]:
    """List the trials whose ending says something about their configuration, in the order in which they ended."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    telling = [trial for trial in ended if trial.state != TrialState.FAIL or is_hopeless(trial)]
    return sorted(telling, key=lambda trial: (trial.datetime_complete, trial.number))


def _rank(study: Study) -> Callable[[FrozenTrial], tuple[float, ...]]:
    """Make a key by which the better of two trials comes first."""
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1

    def rank(trial: FrozenTrial) -> tuple[float, ...]:
        if is_hopeless(trial):
            return (2,)
        if trial.state == TrialState.COMPLETE:
            return (0, sign * trial.values[0])
        step, value = max(trial.intermediate_values.items())
        return (1, -step, sign * value)

    return rank


def _is_ordered(distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in distribution.choices)
    return isinstance(distribution, FloatDistribution)


def _in_order(distribution: CategoricalDistribution) -> list[Any]:
    return sorted(distribution.choices)


def _place(trial: FrozenTrial, space: Mapping[str, Any]) -> "np.ndarray":
    """Give where a trial lies in the unit cube."""
    return np.array([_to_unit(trial.params[name], distribution) for name, distribution in space.items()])


def _to_unit(value: Any, distribution: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return (_in_order(distribution).index(value) + 0.5) / len(distribution.choices)
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def _value(at: float, distribution: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        ordered = _in_order(distribution)
        return ordered[min(int(at * len(ordered)), len(ordered) - 1)]
    low, high = distribution.low, distribution.high
    if distribution.log:
        return min(max(math.exp(math.log(low) + at * (math.log(high) - math.log(low))), low), high)
    return low + at * (high - low)
