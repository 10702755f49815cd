from dataclasses import replace

import pytest

from tune_sam.study.records import Study, open_study
from tune_sam.tuning.delivery import Content


@pytest.mark.parametrize("backwards", [False, True])
def test_of_equal_trials_the_best_is_the_first_in_whatever_order_they_end(searched, monkeypatch, backwards):
    study, trial_of = open_study("one", searched), Study.trial_of

    def level(self, *given, **options):
        return replace(trial_of(self, *given, **options), value=0.75)

    monkeypatch.setattr(Study, "trial_of", level)
    content, bests = Content(study), {}
    order = list(content._loaded.items())
    for optimizer, loaded in reversed(order) if backwards else order:
        trials = loaded.get_trials()
        bests[optimizer] = trials[0].params
        for frozen in reversed(trials) if backwards else trials:
            content._run(optimizer, frozen)
    told = content._of_best()
    assert {optimizer: told[f"best/{optimizer}/lr"] for optimizer in bests} == {
        optimizer: params["lr"] for optimizer, params in bests.items()
    }
    assert told["val/loss"] == content._best[study.settings.optimizers[0]].metrics["val/loss"]
