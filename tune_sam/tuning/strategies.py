"""Samplers and pruners by the names of the options `--sampler` and `--scheduler`.

Each is made anew from a seed for every suggestion, and knows of a study what its records hold, so that a resumed search
suggests and stops as a straight one.
"""

import warnings
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from tune_sam.study.optuna_internals import hyperband
from tune_sam.tuning.history import as_complete

STARTUP = 8
"""Trials before the sampler models anything: the four of the grid and as many at random."""

HALVING = 2
"""ASHA and Hyperband keep the better half at each rung. Rungs follow the first two drops of the learning rate, which
lie a factor 2 apart; a single validation accuracy is too noisy for the usual quarter."""


def sampler(name: str, seed: int, of_study: int) -> BaseSampler:
    """Make the sampler of one suggestion.

    Args:
        name: as `--sampler` has it; a grid's points are not sampled.
        seed: of this suggestion.
        of_study: seed of all suggestions of an optimizer, by which a quasi-random sequence is scrambled.
    """
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        return _SAMPLERS[name](seed, of_study)


def _tpe(seed: int, of_study: int) -> BaseSampler:
    # Optuna's constant liar takes a trial that runs for a bad one; with eight side by side that did not help.
    return TPESampler(n_startup_trials=STARTUP, constant_liar=False, seed=seed)


def _cmaes(seed: int, of_study: int) -> BaseSampler:
    from tune_sam.tuning.evolution import EvolutionSampler  # its import takes a second

    return EvolutionSampler(seed, STARTUP)


def _qmc(seed: int, of_study: int) -> BaseSampler:
    # What has no place in the sequence, as choices have none, is drawn at random.
    independent = RandomSampler(seed)
    return QMCSampler(scramble=True, seed=of_study, independent_sampler=independent, warn_independent_sampling=False)


_SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": lambda seed, of_study: GPSampler(n_startup_trials=STARTUP, seed=seed),
    "cmaes": _cmaes,
    "qmc": _qmc,
    "random": lambda seed, of_study: RandomSampler(seed),
    "grid": lambda seed, of_study: RandomSampler(seed),
}

TELLING: dict[str, Callable[[list[FrozenTrial], list[StudyDirection]], list[FrozenTrial]]] = {
    "gp": as_complete,
    "cmaes": lambda trials, directions: trials,
}
"""What the samplers are told of all trials so far that would not see these in Optuna's study: a Gaussian process
reads complete trials alone, and CMA-ES would have those of one bracket of Hyperband's."""


BRACKETS = "brackets"
"""The attribute of Optuna's study that keeps the name by which its trials were given their brackets of Hyperband."""


def pruner(name: str, first: int, epochs: int, brackets: str) -> BasePruner:
    """Make what stops trials early.

    Args:
        name: as `--scheduler` has it.
        first: epoch after which one may be stopped.
        epochs: of a whole training.
        brackets: what :data:`BRACKETS` says; another name would put the trials so far into other brackets, whose epochs
            they were not judged at.
    """
    return _PRUNERS[name](first, epochs, brackets)


_PRUNERS: dict[str, Callable[[int, int, str], BasePruner]] = {
    "none": lambda first, epochs, brackets: NopPruner(),
    "asha": lambda first, epochs, brackets: SuccessiveHalvingPruner(min_resource=first, reduction_factor=HALVING),
    "hyperband": lambda first, epochs, brackets: hyperband(brackets, first, max(epochs, first), HALVING),
    "median": lambda first, epochs, brackets: MedianPruner(n_startup_trials=STARTUP // 2, n_warmup_steps=first - 1),
}
