"""CMA-ES over a study's trials: what it goes by, and that it comes nearer to the best than chance."""

import math

import numpy as np
import optuna
import pytest
from cmaes import CMA
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from tune_sam.tuning.evolution import STEP, EvolutionSampler

STARTUP = 4
SIZES = (16, 32, 64, 128)
BEST = {"rho": 0.03, "lr": 0.2, "size": 64}


def distance(trial):
    """Measure how far a trial is from the best, with each range of width 1."""
    rho, lr = (math.log(trial.params[name] / BEST[name]) / math.log(1e3) for name in ("rho", "lr"))
    return math.hypot(rho, lr, (SIZES.index(trial.params["size"]) - SIZES.index(BEST["size"])) / len(SIZES))


def suggested(study):
    trial = study.ask()
    trial.suggest_float("rho", 0.001, 1, log=True)
    trial.suggest_float("lr", 0.001, 1, log=True)
    trial.suggest_categorical("size", SIZES)
    return trial


def searched(sampler, trials, direction="maximize"):
    """Search with a sampler that is made anew for every suggestion, as a search does."""
    study = optuna.create_study(direction=direction)
    sign = -1 if direction == "maximize" else 1
    for number in range(trials):
        study.sampler = sampler(number)
        trial = suggested(study)
        study.tell(trial, sign * distance(trial))
    return study


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_it_comes_nearer_to_the_best_than_chance(direction):
    def last(sampler):
        return np.mean([distance(one) for one in searched(sampler, 64, direction).trials[-16:]])

    found, chance = last(lambda seed: EvolutionSampler(seed, STARTUP)), last(RandomSampler)
    assert found < 0.4 * chance, (found, chance)


def test_it_is_cmaes_about_the_best_trial_before():
    study = searched(lambda seed: EvolutionSampler(seed, STARTUP), STARTUP + 20)

    def place(trial):
        logs = [(math.log10(trial.params[name]) + 3) / 3 for name in ("lr", "rho")]
        return np.array([*logs, (SIZES.index(trial.params["size"]) + 0.5) / 4])

    best = min(study.trials[:STARTUP], key=distance)
    search = CMA(place(best), STEP, np.array([[0, 1]] * 3), seed=7)
    for generation in (study.trials[STARTUP:][at : at + 7] for at in (0, 7)):
        search.tell([(place(one), distance(one)) for one in generation])
    lr, rho, size = search.ask()
    study.sampler = EvolutionSampler(7, STARTUP)
    params = suggested(study).params
    assert params["lr"] == pytest.approx(10 ** (3 * lr - 3))
    assert params["rho"] == pytest.approx(10 ** (3 * rho - 3))
    assert params["size"] == SIZES[int(4 * size)]


def test_every_ending_has_its_rank():
    """The trial about which the first generation is drawn is the best that there is."""

    def about(endings):
        study = optuna.create_study(direction="maximize")
        for number, ending in enumerate(endings):
            study.enqueue_trial({"rho": 10.0 ** (number - 3), "lr": 0.1, "size": 32})
            trial = suggested(study)
            for step, value in enumerate(ending.get("reports", ())):
                trial.report(value, step)
            if ending.get("diverged"):
                trial.set_constraint("diverged", 1.0)
            study.tell(trial, ending.get("value"), state=ending["state"])
        study.sampler = EvolutionSampler(0, len(endings))
        drawn = []
        for seed in range(40):
            study.sampler = EvolutionSampler(seed, len(endings))
            drawn.append(math.log10(suggested(study).params["rho"]) + 3)
        return round(float(np.median(drawn)))

    complete = {"state": TrialState.COMPLETE, "value": 0.1}
    early = {"state": TrialState.PRUNED, "reports": (0.9,)}
    late = {"state": TrialState.PRUNED, "reports": (0.2, 0.3)}
    diverged = {"state": TrialState.PRUNED, "reports": (0.9, 0.9, 0.9), "diverged": True}
    no_memory = {"state": TrialState.FAIL, "diverged": True}
    assert about([early, complete, diverged]) == 1
    assert about([complete, {**complete, "value": 0.2}, late]) == 1
    # Nothing is known of the ranges before a trial is complete.
    assert about([diverged, no_memory, late, complete]) == 3


def test_it_searches_a_single_dimension():
    def last(sampler):
        study = optuna.create_study()
        for number in range(64):
            study.sampler = sampler(number)
            trial = study.ask()
            lr = trial.suggest_float("lr", 0.001, 1, log=True)
            trial.suggest_categorical("schedule", ["steps", "cosine"])
            study.tell(trial, abs(math.log(lr / BEST["lr"])))
        return np.mean([trial.value for trial in study.trials[-16:]])

    found, chance = last(lambda seed: EvolutionSampler(seed, STARTUP)), last(RandomSampler)
    assert found < 0.4 * chance, (found, chance)


def test_what_has_no_order_is_drawn_at_random():
    study = optuna.create_study()
    for number in range(12):
        study.sampler = EvolutionSampler(number, STARTUP)
        trial = study.ask()
        trial.suggest_float("lr", 0.001, 1, log=True)
        trial.suggest_categorical("schedule", ["steps", "cosine"])
        study.tell(trial, 0.0)
    assert {trial.params["schedule"] for trial in study.trials} == {"steps", "cosine"}
