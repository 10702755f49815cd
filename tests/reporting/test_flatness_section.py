"""The section on flatness says what is missing, and names the command that makes it."""

from types import SimpleNamespace

import pandas as pd
import pytest

from tune_sam.evaluation.claims import Answers, claims, pairs
from tune_sam.evaluation.selection import Choice
from tune_sam.reporting.flatness import _flatness_rows, flatter_section

STUDY = SimpleNamespace(
    name="one",
    settings=SimpleNamespace(optimizers=("base", "sam")),
    workload=SimpleNamespace(base_optimizer=SimpleNamespace(label="Adam")),
    command="tune-sam {} one".format,
)
REFIT = SimpleNamespace(command="tune-sam refit one", listed="0,1,2", controls=None, lacks_controls=True)


def trainings(*rows):
    """Three trainings of each row: its name, kind, optimizer and learning rate."""
    table = pd.DataFrame(
        [
            {
                **dict(zip(("row", "kind", "optimizer", "lr"), row, strict=True)),
                "batch_size": 64,
                "seed": seed,
                "base_epochs": 10,
                "matched": str(row[-1]),
                "test/accuracy": 0.8 + 0.01 * seed,
            }
            for row in rows
            for seed in range(3)
        ]
    )
    by_rho = pairs(table, Choice(), "rho")
    return by_rho, Answers(by_rho=claims(table, by_rho, ("test/accuracy",)))


BASE, SAM = ("a", "refit", "base", 0.01), ("b", "refit", "sam", 0.01)


@pytest.mark.parametrize(
    ("rows", "compared"),
    [
        ((BASE, SAM), [("b", "a")]),  # one rate, as of a sweep over ρ: the base row is the control
        ((BASE, ("b", "refit", "sam", 0.02), ("c", "control", "base", 0.02)), [("b", "c")]),
    ],
    ids=["the base row", "a study of its own"],
)
def test_with_a_control_of_either_kind_only_the_measurement_is_missing(rows, compared):
    by_rho, found = trainings(*rows)

    assert by_rho == compared
    assert flatter_section(STUDY, REFIT, found, None, {}).sentences == (
        "Not measured; tune-sam analyze one measures all seeds.",
    )
    some = SimpleNamespace()  # as of one optimizer alone
    assert flatter_section(STUDY, REFIT, found, some, {}).sentences == (
        "In the newest analysis no row can be compared with its matched control; tune-sam analyze one measures all "
        "seeds.",
    )


def test_without_a_control_it_is_the_controls_that_are_missing():
    by_rho, found = trainings(BASE, ("b", "refit", "sam", 0.02))

    assert not by_rho
    assert flatter_section(STUDY, REFIT, found, None, {}).sentences == (
        "No matched controls are tested. tune-sam refit one --seeds 0,1,2 trains and tests them.",
    )


def test_controls_of_which_none_is_complete_are_not_called_untrained():
    _, found = trainings(BASE, ("b", "refit", "sam", 0.02))
    diverged = SimpleNamespace(**vars(REFIT) | {"controls": STUDY, "lacks_controls": False})

    assert flatter_section(STUDY, diverged, found, None, {}).sentences == (
        "No matched control of these seeds is complete.",
    )


def test_means_are_of_the_networks_that_were_measured_and_resolved():
    table = pd.DataFrame({"row": "a", "lambda_max": [2.0, 4.0, None, None], "trace": [9.0, 9.0, 9.0, None]})
    table["train/loss"] = [0.1, 0.1, 0.1, 0.9]
    ((name, largest, trace, worst, average, loss),) = _flatness_rows(table, {"a": "SAM"})
    assert (name, worst, average) == ("SAM", "", "")
    assert loss.startswith("0.1"), "without that of the network that was not measured"
    assert largest == "3 (n = 2)"
    assert trace.startswith("9")
    assert "n =" not in trace
