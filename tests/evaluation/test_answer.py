"""The three lines and the next step; of a search alone, and of tables as a refit and an analysis give them."""

from copy import copy
from dataclasses import replace
from functools import partial
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from foreign_workload import Regression

from tune_sam.evaluation.answer import _headline, answer_of, next_step, short_answer, why_not_known
from tune_sam.evaluation.claims import Answers, Claim, Radius, at_equal_loss, claims
from tune_sam.evaluation.names import row_names
from tune_sam.evaluation.selection import Choice
from tune_sam.evaluation.statistics import Difference, Mean, family
from tune_sam.settings import SearchOptions
from tune_sam.space import LogRange
from tune_sam.study.records import Study, open_study
from tune_sam.tuning.plan import define

NAMES = {"base": "Adam", "sam": "SAM", "asam": "ASAM"}
NOISE = np.array([0.0, 0.01, -0.01, 0.005, -0.005])
SLIGHT = np.array([0.001, -0.001, 0.002, -0.002, 0.0])


def table(*rows):
    """Five trainings of each row: its name, kind, optimizer, ρ, learning rate, batch size, accuracy, loss and λ_max."""
    columns = ("row", "kind", "optimizer", "rho", "lr", "batch_size", "test/accuracy", "train/loss", "lambda_max")
    found = pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows for _ in NOISE])
    found["matched"] = found["lr"].astype(str) + " " + found["batch_size"].astype(str)
    found["epochs"] = np.where(found["kind"] == "equal-compute", 20, 10)
    found["base_epochs"] = np.where(found["kind"].isin(["control", "refit"]) & (found["optimizer"] == "base"), 10, 20)
    found["seed"] = np.tile(np.arange(5), len(rows))
    found["test/accuracy"] += np.tile(NOISE, len(rows)) + found["seed"] * 0.0001 * (found["optimizer"] == "sam")
    found["train/loss"] += np.tile(NOISE, len(rows))
    found["lambda_max"] *= 1 + np.tile(SLIGHT, len(rows)) * np.repeat(np.arange(1, len(rows) + 1), 5)
    return found


ROWS = (
    ("a", "refit", "base", None, 0.01, 64, 0.80, 0.30, 20.0),
    ("b", "refit", "sam", 0.05, 0.02, 64, 0.82, 0.31, 10.0),
    ("c", "equal-compute", "base", None, 0.01, 64, 0.82, 0.20, 30.0),
    ("d", "control", "base", None, 0.02, 64, 0.80, 0.30, 20.0),
)


def refit_of(found, seeds=5):
    return SimpleNamespace(
        table=lambda: found,
        seeds=tuple(range(seeds)),
        choice=Choice(),
        command="tune-sam refit one",
        listed=",".join(map(str, range(seeds))),
        stale=False,
        earlier=[],
        best_rows={"base": "a", "sam": "b"},
        lacks_controls=False,
        lacks_equal_compute=False,
        controls=None,
    )


def answered(found):
    """What the questions find in a table of :data:`ROWS`."""
    return Answers(
        help=claims(found, [("b", "a")], ("test/accuracy",)),
        help_at_equal_compute=claims(found, [("b", "c")], ("test/accuracy",)),
        by_rho=claims(found, [("b", "d")], ("test/accuracy",)),
        flatter=claims(found, [("b", "d")], ("lambda_max",)),
        flatter_at_equal_loss=at_equal_loss(found, [("b", "d")]),
    )


@pytest.fixture
def study(searched):
    return open_study("one", searched)


def test_a_search_alone_says_which_radius_it_chose_and_what_is_next(study):
    answer = answer_of(study)
    assert [line.question for line in answer.lines] == ["Help?", "Which ρ?", "Flatter?"]
    assert (answer.help.sign, answer.flatter.sign) == ("not known", "not known")
    assert f"SAM: {study.best('sam').config.rho:.3g}" in answer.rho.sentence
    assert answer.next_step.command == "tune-sam resume one --trials 5"
    assert answer.next_step.why == "Only 3 trials of Adam are complete, so search at least 5 of each optimizer"


@pytest.mark.parametrize(
    ("state", "reason", "command"),
    [
        ("failed", "IndexError: Target 3 is out of bounds.", "tune-sam logs one sam/0"),
        ("diverged", "a loss or a weight was not finite in epoch 1", "tune-sam trials one"),
    ],
)
def test_more_trials_are_no_advice_where_none_of_an_optimizer_could_be_trained(study, state, reason, command):
    def spoiled(trial):
        ended = "diverged" if trial.number else state
        return replace(trial, state=ended, value=None, reason=reason) if trial.optimizer == "sam" else trial

    found = [spoiled(trial) for trial in study.records()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "records", lambda *_: found)
        own = replace(study, settings=replace(study.settings, workload=f"{Regression.__module__}:Regression"))
        step = next_step(own, None, Answers())
    assert step.command == command
    assert step.why == f"All trials of SAM failed or diverged ({reason}), so mend that before you search more"


def test_a_shown_gain_is_a_yes_with_its_numbers(study):
    found = table(*ROWS)
    answer = short_answer(study, refit_of(found), answered(found))
    assert answer.help.sign == "yes"
    assert answer.help.sentence.startswith(
        "SAM against Adam in test accuracy at equal epochs: +2.02 points (95 % interval +2.00 to +2.04, "
    )
    assert "at equal compute, against Adam × 2 epochs, +0.02 points (95 % interval" in answer.help.sentence
    assert answer.flatter.sign == "yes"
    assert "λ_max of SAM is 10 against 20 of Adam with the same learning rate" in answer.flatter.sentence
    assert "batch size, over 5 seeds, 0.50 times as large" in answer.flatter.sentence
    assert "At equal training loss 0.50 times (95 % interval" in answer.flatter.sentence


def test_nothing_is_so_many_times_as_large_as_nothing(study):
    found = table(*(row[:-1] + (0.0,) for row in ROWS))
    answer = short_answer(study, refit_of(found), answered(found))
    assert "λ_max of SAM is 0 against 0 of Adam" in answer.flatter.sentence
    assert "times as large" not in answer.flatter.sentence


def test_a_shown_loss_is_a_no_and_noise_is_not_shown(study):
    worse = replace_row(ROWS, "b", accuracy=0.78, sharpness=45.0)
    found = table(*worse)
    answer = short_answer(study, refit_of(found), answered(found))
    assert (answer.help.sign, answer.flatter.sign) == ("no", "no")
    same = table(*replace_row(ROWS, "b", accuracy=0.80, sharpness=20.0))
    same["test/accuracy"] += np.where(same["row"] == "b", np.tile(SLIGHT, 4), 0)
    answer = short_answer(study, refit_of(same), answered(same))
    assert (answer.help.sign, answer.flatter.sign) == ("not shown", "not shown")
    assert ", not shown)" in answer.help.sentence


GRID = (
    ("a", "refit", "base", None, 0.01, 64, 0.80, 0.30, 200.0),
    ("b", "refit", "sam", 0.01, 0.01, 64, 0.82, 0.31, 150.0),
    ("c", "refit", "sam", 0.1, 0.01, 64, 0.78, 0.33, 20.0),
    ("d", "refit", "sam", 1.0, 0.01, 64, 0.30, 2.00, 1.0),
)


@pytest.mark.parametrize(
    ("accuracy", "sign", "of"),
    [
        (0.82, "yes", "SAM, ρ = 0.01"),  # although that of ρ = 1 is the clearest difference
        (0.80, "not shown", "SAM, ρ = 0.01"),
        (0.79, "no", "SAM, ρ = 1"),
    ],
)
def test_of_a_grid_one_radius_that_helps_is_a_yes_and_no_takes_all(study, monkeypatch, accuracy, sign, of):
    found = table(*replace_row(GRID, "b", accuracy, 150.0))
    found["test/accuracy"] += np.where(found["row"] == "b", np.tile(SLIGHT, len(GRID)), 0)
    pairs = [(row, "a") for row in "bcd"]
    claimed = Answers(
        help=claims(found, pairs, ("test/accuracy",)),
        by_rho=claims(found, pairs, ("test/accuracy",)),
        flatter=claims(found, pairs, ("lambda_max",)),
    )
    monkeypatch.setattr("tune_sam.evaluation.answer._best_by_validation", lambda *_: None)
    refit = refit_of(found)
    refit.choice = Choice(planned=True)
    answer = short_answer(study, refit, claimed)
    assert answer.help.sign == sign
    assert answer.help.sentence.startswith(f"{of} against Adam")
    assert answer.flatter.sign == "yes"
    assert f"λ_max of {of} is" in answer.flatter.sentence, "both lines are of one row"
    others = [claim for claim in claimed.flatter if claim.row != ("d" if sign == "no" else "b")]
    without = replace(claimed, flatter=tuple(others), by_rho=tuple(others))
    answer = short_answer(study, refit, without)
    assert (answer.flatter.sign, answer.flatter.sentence) == (
        "not known",
        f"{of} has no matched control that is complete.",
    )


def test_a_grids_answer_does_not_depend_on_the_order_of_its_rows():
    def claim(row, p, value):
        mean = Mean(value, 0.001, 5)
        return Claim(row, "a", "sam", "test/accuracy", mean, mean, Difference(mean, p, p, 1.0))

    found = [claim("worse", 0.024, -0.01), claim("better", 0.013, 0.02)]
    for rows in permutations(found):
        corrected = family([one.difference for one in rows])
        assert corrected[0].corrected == corrected[1].corrected, "Holm's method ties them"
        judged = [replace(one, difference=difference) for one, difference in zip(rows, corrected, strict=True)]
        assert _headline(judged, None, 1).row == "better"
        assert _headline(judged, None, -1).row == "worse"


def replace_row(rows, name, accuracy, sharpness):
    return tuple((*row[:6], accuracy, row[7], sharpness) if row[0] == name else row for row in rows)


def test_two_seeds_give_no_verdict(study):
    found = table(*ROWS)
    found = found[found["seed"] < 2]
    answer = short_answer(study, refit_of(found, seeds=2), answered(found))
    assert (answer.help.sign, answer.flatter.sign) == ("not known", "not known")
    assert "of 2 seeds, too few for an interval" in answer.help.sentence
    assert "At equal training loss nothing can be said: too few networks." in answer.flatter.sentence


@pytest.mark.parametrize(
    ("end", "tried", "sign", "word"),
    [("", 6, "yes", "0.05"), ("smallest", 4, "not shown", "≤ 0.05"), ("largest", 4, "not shown", "≥ 0.05")],
)
def test_a_radius_at_the_end_of_those_tried_is_no_answer_yet(study, end, tried, sign, word):
    answer = short_answer(study, None, Answers(radii=(Radius("sam", 0.05, 0.02, 0.1, tried, end),)))
    assert (answer.rho.sign, answer.rho.word) == (sign, word)
    assert "within one standard error of the best in validation are 0.02 to 0.1" in answer.rho.sentence
    assert (f"the {end} of the 4 values of complete trials, so a better" in answer.rho.sentence) == bool(end)


@pytest.mark.parametrize(
    ("end", "beyond", "said"),
    [
        ("smallest", 5, "the smallest of the 4 values of complete trials; 5 smaller ones were tried, and pruned"),
        ("largest", 1, "the largest of the 4 values of complete trials; one larger was tried, and pruned"),
    ],
)
def test_a_radius_beyond_which_others_were_stopped_lies_at_no_open_end(enough, end, beyond, said):
    found = table(*ROWS)
    radii = (Radius("sam", 0.05, 0.02, 0.1, 4, end, beyond),)
    answer = short_answer(enough, refit_of(found), replace(answered(found), radii=radii))
    assert (answer.rho.sign, answer.rho.word, answer.next_step) == ("yes", "0.05", None)
    assert said in answer.rho.sentence


def test_a_single_radius_is_not_known_to_be_best(study):
    answer = short_answer(study, None, Answers(radii=(Radius("sam", 0.05, 0.05, 0.05, 1, ""),)))
    assert (answer.rho.sign, answer.rho.sentence) == ("not known", "SAM: 0.05, the only one whose trial is complete.")


def test_why_equal_compute_is_not_compared(study):
    rows = table(*ROWS)
    settings, equal = replace(study.settings, kind="refit"), rows["kind"] == "equal-compute"
    refit = SimpleNamespace(**vars(refit_of(rows)), studies=[SimpleNamespace(settings=settings)])
    assert "has a batch size that no other optimizer was refitted with" in why_not_known(study, refit, "compute")
    for untested in (rows[~equal], rows.assign(base_epochs=rows["base_epochs"].mask(equal, 30))):
        refit.table = partial(copy, untested)
        assert why_not_known(study, refit, "compute") == "Adam at equal compute is not tested with these seeds."
    alike = replace(settings, gradients={"base": 1.0, "sam": 1.0})
    refit.studies = [SimpleNamespace(settings=alike)]
    assert why_not_known(study, refit, "compute") == (
        "Each optimizer takes as many gradients as Adam, so the comparison above is at equal compute."
    )
    nearly = replace(settings, gradients={"base": 1.0, "sam": 1.2})
    refit.studies = [SimpleNamespace(settings=nearly)]
    assert why_not_known(study, refit, "compute") == (
        "In whole epochs Adam cannot cost what the others do; nearest are those that are compared above."
    )


def test_where_no_other_optimizer_was_refitted_nothing_is_said_of_the_base_optimizer(study):
    rows = table(*(row for row in ROWS if row[2] == "base" and row[1] != "control"))
    alone = SimpleNamespace(**vars(refit_of(rows)) | {"best_rows": {"base": "a"}})
    said = {why_not_known(study, alone, question) for question in ("use", "compute")}
    assert said == {"Only Adam was refitted, so there is nothing to compare it with."}


def test_batch_sizes_that_no_two_optimizers_share_are_not_called_a_lack_of_trials(study):
    other = ("a", "refit", "base", None, 0.01, 32, 0.80, 0.30, 20.0)
    refit = SimpleNamespace(**vars(refit_of(table(other, *ROWS[1:]))) | {"choice": Choice(each_batch_size=True)})
    assert why_not_known(study, refit, "use") == "Adam was refitted with none of the batch sizes of the others."
    refit.best_rows = {"sam": "b"}
    assert why_not_known(study, refit, "use") == "Adam has no complete trial, so there is nothing to compare with."


def test_rows_of_one_batch_size_are_not_called_the_best_of_all(study):
    found = table(*ROWS)
    of_sizes = SimpleNamespace(**vars(refit_of(found)) | {"choice": Choice(each_batch_size=True)})
    assert "Both have one batch size" not in short_answer(study, of_sizes, answered(found)).help.sentence
    of_sizes.best_rows = {"base": "c", "sam": "b"}
    sentence = short_answer(study, of_sizes, answered(found)).help.sentence
    assert "Both have one batch size; by validation" in sentence
    assert sentence.endswith("is better than Adam.")


@pytest.fixture
def enough(study, monkeypatch):
    """The study as if five trials of each optimizer were complete."""
    records = Study.records
    monkeypatch.setattr(Study, "records", lambda self, optimizer=None: records(self, optimizer) * 2)
    return study


def as_found(study, monkeypatch, **changed):
    """Give the best trial of the study's SAM another configuration, and make it the best of all."""
    best = study.best("sam")
    first = replace(best, config=replace(best.config, **changed), optimizer=changed.get("optimizer", "sam"))
    monkeypatch.setattr(Study, "ranked", lambda self, trials: [first, best])


def test_the_best_trial_can_have_a_hyperparameter_that_no_refitted_row_has(study, monkeypatch):
    as_found(study, monkeypatch, more={"m": 16})
    found = table(*ROWS)
    answer = short_answer(study, refit_of(found), answered(found))
    assert answer.help.sentence.startswith("SAM against Adam")


def test_an_own_optimizer_without_a_radius_is_not_what_the_lines_speak_of(study, monkeypatch):
    as_found(study, monkeypatch, optimizer="own_optimizers:Plain", rho=None)
    found = table(*ROWS)
    answer = short_answer(study, refit_of(found), answered(found))
    assert answer.help.sentence.startswith("SAM against Adam")


def test_the_next_step_is_what_is_missing_first(enough):
    found = table(*ROWS)
    full = answered(found)
    steps = [
        next_step(enough, None, Answers()),
        next_step(enough, refit_of(found, seeds=2), full),
        next_step(enough, SimpleNamespace(**vars(refit_of(found)) | {"lacks_controls": True}), full),
        next_step(enough, refit_of(found), replace(full, flatter=())),
        next_step(enough, refit_of(found), replace(full, radii=(Radius("sam", 0.05, 0.05, 0.05, 6, "smallest"),))),
    ]
    assert [step.command for step in steps] == [
        "tune-sam refit one",
        "tune-sam refit one --seeds 5",
        "tune-sam refit one --seeds 0,1,2,3,4",
        "tune-sam analyze one",
        "tune-sam search gcn --optimizer base --optimizer sam --epochs 2 --dataset digits --train-subset 256 "
        "--scheduler none --trials 3 --rho 0.005:0.05",
    ]
    assert next_step(enough, refit_of(found), full) is None
    assert next_step(enough, refit_of(found), replace(full, by_rho=(), flatter=())) is None, (
        "no control can be complete"
    )


def test_networks_that_are_not_measured_are_asked_for(enough):
    found = table(*ROWS)
    full = answered(found)
    fewer = claims(found[found["seed"] < 3], [("b", "d")], ("lambda_max",))
    step = next_step(enough, refit_of(found), replace(full, flatter=fewer))
    assert (step.why, step.command) == ("Some networks of the refit are not measured yet", "tune-sam analyze one")


def test_what_a_search_found_since_its_refit_is_said_and_trained_next(enough):
    found = table(*ROWS)
    stale = SimpleNamespace(**vars(refit_of(found)) | {"stale": True, "earlier": ["b", "a"]})
    answer = short_answer(enough, stale, answered(found))
    assert answer.help.sentence.endswith(". The search has another best by now than b and a.")
    assert answer.flatter.sentence.endswith(". The search has another best by now than b.")
    assert answer.next_step.command == "tune-sam refit one --seeds 0,1,2,3,4"
    assert "other bests since" in answer.next_step.why


@pytest.mark.parametrize(
    ("there", "row", "said"),
    [
        ((), "", "SAM, the best by validation, is not in the refit."),
        ((), "b", "SAM, the best by validation, has no matched control that is complete."),
        (("by_rho",), "b", "SAM, the best by validation, was not measured together with its matched control."),
        (("by_rho", "trace"), "b", "λ_max is not resolved with the sample that was measured."),
    ],
    ids=["not refitted", "no control", "not measured", "not resolved"],
)
def test_that_the_best_row_is_missing_is_said(study, there, row, said):
    full = answered(table(*ROWS))
    others = {
        name: tuple(replace(claim, row="other", optimizer="asam") for claim in getattr(full, name))
        for name in ("help", "help_at_equal_compute", "by_rho", "flatter")
    }
    own = {
        "by_rho": full.by_rho if "by_rho" in there else (),
        "flatter": tuple(replace(claim, measure="trace") for claim in full.flatter if "trace" in there),
    }
    found = Answers(**{name: (*claims_of_it, *own.get(name, ())) for name, claims_of_it in others.items()})
    refit = SimpleNamespace(**vars(refit_of(table(*ROWS))) | {"best_rows": {"sam": row}})
    answer = short_answer(study, refit, found)
    assert answer.flatter.sentence == said
    assert (answer.help.sentence == said) == (not row)


def test_measured_networks_that_nothing_compares_are_not_called_unmeasured(study):
    """As when the newest analysis is of one optimizer alone."""
    found = table(*ROWS)
    without = replace(answered(found), flatter=(), flatter_at_equal_loss=())
    said = [
        short_answer(study, refit_of(found), replace(without, measured=measured)).flatter.sentence
        for measured in (False, True)
    ]
    assert said == ["Not measured.", "In the newest analysis no row can be compared with its matched control."]


LARGEST = (Radius("asam-all", 0.1, 0.1, 0.1, 6, "largest"),)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"seed": 7, "lr": "0.002:0.02", "batch_size": "32,64", "scheduler": "median", "label_noise": 0.1},
            "--epochs 20 --seed 7 --label-noise 0.1 --scheduler median --rho 0.1:1 --lr 0.002:0.02 --batch-size 32,64",
        ),
        (
            {"sampler": "grid", "lr": "0.002,0.02"},
            "--epochs 20 --sampler grid --rho 0.1334,0.2371,0.4217,0.7499 --lr 0.002,0.02",
        ),
        (
            {"preset": "report"},
            "--epochs 20 --preset report-network --sampler grid --scheduler none --rho 0.1334,0.2371,0.4217,0.7499",
        ),
    ],
)
def test_a_search_beyond_the_range_is_otherwise_the_same(study, monkeypatch, given, words):
    given = {"optimizers": ["base", "sam", "asam-all"], "epochs": 20, **given}
    settings = define(SearchOptions.read({"workload": "gcn", **given}), study.home)
    enough = [replace(study.best(), optimizer=optimizer) for optimizer in settings.optimizers for _ in range(5)]
    monkeypatch.setattr(Study, "records", lambda self: enough)
    found = table(*ROWS)
    step = next_step(replace(study, settings=settings), refit_of(found), replace(answered(found), radii=LARGEST))
    begin, _, rest = step.command.partition(" --optimizer asam-all ")
    assert begin == "tune-sam search gcn --optimizer base"
    assert sorted(rest.split()) == sorted(words.split())


def test_a_base_optimizer_of_other_ranges_is_not_searched_beside_it(enough):
    spaces = {**enough.settings.spaces, "base": replace(enough.settings.spaces["base"], lr=LogRange(0.01, 0.02))}
    other = replace(enough, settings=replace(enough.settings, spaces=spaces))
    found = table(*ROWS)
    radii = (Radius("sam", 0.05, 0.05, 0.05, 6, "largest"),)
    step = next_step(other, refit_of(found), replace(answered(found), radii=radii))
    assert step.command.startswith("tune-sam search gcn --optimizer sam --epochs 2 ")


def test_rows_have_plain_names():
    assert row_names(table(*ROWS), NAMES) == {"a": "Adam", "b": "SAM", "c": "Adam × 2 epochs", "d": "control of SAM"}


def test_configurations_of_one_optimizer_are_told_apart_by_what_differs():
    second = ("e", "refit", "sam", 0.1, 0.02, 64, 0.8, 0.3, 10.0)
    asam = ("f", "refit", "asam", 0.5, 0.02, 64, 0.8, 0.3, 10.0)
    names = row_names(table(*ROWS, second, asam), NAMES)
    assert (names["b"], names["e"], names["f"]) == ("SAM, ρ = 0.05", "SAM, ρ = 0.1", "ASAM")
    assert names["d"] == "control of SAM, ρ = 0.05 and SAM, ρ = 0.1 and ASAM"
    large = ("e", "refit", "sam", 0.1, 0.03, 128, 0.8, 0.3, 10.0)
    assert row_names(table(*ROWS, large), NAMES)["e"] == "SAM, batch 128"
    base = ("g", "refit", "base", None, 0.1, 64, 0.8, 0.3, 10.0)
    assert row_names(table(ROWS[0], base), NAMES) == {"a": "Adam, lr = 0.01", "g": "Adam, lr = 0.1"}
