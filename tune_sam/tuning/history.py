"""What a sampler is told of the trials so far, and a study in memory in which it is asked.

Optuna's own study tells a sampler only what Optuna thinks is its business: of Hyperband's, the trials of one bracket;
and a sampler may read fewer endings than there are. So the trials that a sampler is to go by are put together here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_sam.space import Choice, Domain, LogRange, Space

BEGUN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


class InMemory(BaseSampler):
    """Suggests what another sampler would in a study that had the trials which are given, and no others.

    Args:
        sampler: the other.
        trials: of the study so far, and what else the other is to learn from.
        space: of the study.
        seed: of what no sampler models.
    """

    def __init__(self, sampler: BaseSampler, trials: Sequence[FrozenTrial], space: Space, seed: int) -> None:
        self._sampler, self._trials, self._space = sampler, trials, space
        self._independent = RandomSampler(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Give all of the space: a point is suggested as a whole."""
        return {name: distribution_of(domain) for name, domain in self._space.domains.items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest a point in a study in memory, which has the trials."""
        memory = optuna.create_study(directions=study.directions, sampler=self._sampler)
        memory.add_trials(self._trials)
        return memory.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw at random what is not in the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def trials_before(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """List the trials of a study that have begun, but for the one that a suggestion is for."""
    return [one for one in study.get_trials(deepcopy=False, states=BEGUN) if one.number != number]


def as_complete(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """Give every ending that says something as a complete trial, for a sampler that reads no others.

    A trial that was stopped counts as its last value, but as no better than the worst complete one: it was stopped for
    being worse, though an early value may look better than a late one. A trial that diverged or had no memory counts as
    the worst of all these, whatever it had reported before; with two objectives, as the worst in each. While there is
    no value at all, these are left out. So are trials that failed for another reason; those that run stay as they are.

    Args:
        trials: in the order in which they are to be given.
        directions: of the objectives.
    """
    signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])

    def worst(values: list[list[float]]) -> list[float]:
        return [float(value) for value in signs * np.max(signs * np.array(values), axis=0)]

    complete = [one.values for one in trials if one.state == TrialState.COMPLETE]
    stopped = {
        at: worst([one.values, worst(complete)] if complete else [one.values])
        for at, one in enumerate(trials)
        if one.state == TrialState.PRUNED and not is_hopeless(one)
    }
    known = [*complete, *stopped.values()]
    told = []
    for at, one in enumerate(trials):
        if one.state in (TrialState.COMPLETE, TrialState.RUNNING):
            told.append(one)
        elif at in stopped:
            told.append(_complete(one, stopped[at]))
        elif is_hopeless(one) and known:
            told.append(_complete(one, worst(known)))
    return told


def is_hopeless(trial: FrozenTrial) -> bool:
    """Say whether a trial diverged or had no memory, or was stopped without a value."""
    stopped_without = trial.state == TrialState.PRUNED and not (trial.values or trial.intermediate_values)
    return stopped_without or any(value > 0 for value in trial.constraints.values())


def distribution_of(domain: Domain) -> BaseDistribution:
    """Give Optuna's distribution of a domain, as the ledger suggests from it."""
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    return FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogRange))


def _complete(trial: FrozenTrial, values: list[float]) -> FrozenTrial:
    return create_trial(values=values, params=trial.params, distributions=trial.distributions)
