"""Studies that a budget ends before their trials: honestly in every record, and resumed as if nothing had been."""

import math
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from studies import INLINE, searched_study

import tune_sam
from tune_sam.cli.tables import stage_table
from tune_sam.operations.doctor import doctor
from tune_sam.operations.status import status
from tune_sam.reporting.searched import searched_section
from tune_sam.study.records import open_study
from tune_sam.study.settings import StudySettings
from tune_sam.study.spent import Spent, ended_by, noted_seconds
from tune_sam.study.storage import open_storage
from tune_sam.tuning.listener import Silent
from tune_sam.tuning.meter import Meter


class Heard(Silent):
    """Keeps what is announced, and which trials started."""

    def __init__(self):
        self.said, self.trials = "", []

    def announced(self, text):
        self.said = text

    def started(self, optimizer, number):
        self.trials.append((optimizer, number))


@pytest.fixture(scope="module")
def heard():
    return Heard()


@pytest.fixture(scope="module")
def ended(tmp_path_factory, heard):
    """The study `one` of `searched`, which ends in the middle of its third trial."""
    return searched_study(tmp_path_factory.mktemp("ended"), listener=heard, epoch_budget=5)


def stage(study):
    return status(study.name, home=study.home.path)[0]


def test_a_budget_of_epochs_ends_a_study_after_so_many_and_its_optimizers_have_had_as_much(ended, heard):
    assert [trial.epochs for trial in ended.records() if trial.epochs] == [2, 1, 2]
    assert heard.trials == [("base", 0), ("sam", 0), ("base", 1)]
    assert heard.said == (
        "Study one ends with 2 of its 6 trials, for its budget of 5 epochs is spent; it is resumed by\n"
        "  tune-sam resume one --epoch-budget 10"
    )


def test_what_a_budget_interrupts_is_told_to_nobody_as_an_ending(ended):
    cut = ended.trial("base/1")
    assert (cut.state, cut.value, cut.epochs, cut.reason) == ("waiting", None, 1, "")
    assert cut.checkpoint, "from which it is resumed"
    storage = open_storage(ended.home)
    frozen = storage.get_all_trials(storage.get_study_id_from_name("one/base"))
    assert [trial.state.name for trial in frozen] == ["COMPLETE", "RUNNING"]
    client = MlflowClient(ended.tracking_uri)
    assert client.get_run(cut.mlflow_run_id).info.status == "RUNNING"
    own = client.get_run(ended.mlflow_run_id)
    assert (own.info.status, own.data.tags["tune_sam.state"]) == ("FINISHED", "its budget of 5 epochs is spent")
    found = doctor("one", home=ended.home.path)
    assert {one.trouble for one in found} == {""}
    assert found[-1].state == "its budget of 5 epochs is spent"


def test_the_status_says_which_budget_ended_a_study(ended):
    found = stage(ended)
    assert (found.done, found.parts, found.left, found.ended) == (2, 6, 0, "its budget of 5 epochs is spent")
    assert found.ended in [*stage_table([found]).columns[-1].cells]


def test_another_launch_with_the_same_budget_trains_nothing(ended):
    heard = Heard()
    tune_sam.resume("one", home=ended.home.path, executor=INLINE, listener=heard)
    assert heard.trials == []
    assert "its budget of 5 epochs is spent" in heard.said


@pytest.mark.slow
def test_a_study_that_budgets_ended_is_resumed_as_if_nothing_had_been(tmp_path, searched):
    home, heard = tmp_path / "home", Heard()
    searched_study(home, time_budget="0.001s", executor=INLINE, listener=heard)
    assert "its time budget of 0.001s is spent; it is resumed by\n  tune-sam resume one --time-budget " in heard.said
    for limits in ({"time_budget": "off", "epoch_budget": 5}, {"epoch_budget": 8}, {"epoch_budget": "off"}):
        study = tune_sam.resume("one", home=home, executor=INLINE, **limits)
    assert noted_seconds(study) > sum(trial.seconds for trial in study.records()), "of all launches"
    for one, two in zip(study.records(), open_study("one", searched).records(), strict=True):
        assert (one.config, one.state, one.value, one.epochs) == (two.config, two.state, two.value, two.epochs)
    own = MlflowClient(study.tracking_uri).get_run(study.mlflow_run_id)
    assert (own.info.status, own.data.tags["tune_sam.state"]) == ("FINISHED", "complete")
    assert {one.trouble for one in doctor("one", home=home)} == {""}


def idle(values, objective="val/accuracy", direction="maximize", samples=100):
    settings = StudySettings(
        workload="gcn", dataset="digits", optimizers=("base",), trials=9, epochs=1, spaces={},
        objective=objective, score=objective.partition("/")[2], score_direction=direction,
    )  # fmt: skip
    spent = Spent(samples=samples)
    for value in values:
        spent.end("base", "complete" if value else "pruned", value)
    return spent.idle(settings)


@pytest.mark.parametrize(
    ("values", "since"),
    [
        ([], 0),
        ([None, None], 0),  # there is no best yet
        ([0.5], 0),
        ([0.5, 0.54, None, 0.4], 3),  # one standard error of 0.5 is 0.05
        ([0.5, 0.56], 0),
        ([0.5, 0.54, 0.56, 0.4], 1),  # together they are more than one
        ([1.0, 1.0], 1),
        ([0.99, 1.0], 1),  # one more of a hundred, where the binomial error itself would be 0.01 and 0
    ],
)
def test_an_accuracy_improves_by_more_than_its_standard_error(values, since):
    assert idle(values) == since


def test_a_score_without_a_known_error_improves_by_anything_in_its_direction():
    assert idle([0.5, 0.499], "val/loss", "maximize") == 0, "a loss is better where it is less, whatever the score"
    assert idle([0.5, 0.501, 0.5], "val/loss") == 2
    assert idle([0.5, 0.499], "val/rmse", "minimize") == 0
    assert idle([0.5, 0.501], "val/r2") == 0
    assert idle([0.5, 0.501], samples=0) == 0, "of a workload that is not known here"


def test_a_study_ends_when_no_optimizer_has_improved_for_so_many_trials_and_failed_ones_do_not_count():
    settings = StudySettings(
        workload="gcn", dataset="digits", optimizers=("base", "sam"), trials=9, epochs=1, spaces={}, patience=2
    )
    meter = Meter(settings, Spent(samples=100), lambda seconds: None)
    for state, value in (("complete", 0.5), ("pruned", None), ("failed", None), ("failed", None), ("diverged", None)):
        for optimizer in settings.optimizers[: 1 if state == "diverged" else 2]:
            assert meter.ends() is None, "so that budgets stay equal"
            meter.end(optimizer, state, value)
    meter.end("sam", "complete", 0.51)
    why = "no optimizer's best has improved by more than its standard error in its last 2 trials"
    assert meter.ends() == (why, "--patience 4")
    meter.end("sam", "complete", 0.9)
    assert meter.ends() is None, "what ended while others were waited for is an improvement"


def test_a_finished_studys_records_tell_how_long_it_has_not_improved(searched):
    study = open_study("one", searched)

    def ended(patience, trials=9):
        return ended_by(replace(study, settings=replace(study.settings, patience=patience, trials=trials)))

    assert Spent.of(study).idle(study.settings) == 2, "the grid's points were the best"
    assert ended(2).more == "--patience 4"
    assert ended(3) is None
    assert ended(2, trials=3) is None, "all of its trials have ended"


def test_the_error_of_an_accuracy_is_known_where_the_workload_is_not(searched):
    study = open_study("one", searched)
    elsewhere = replace(study, settings=replace(study.settings, workload="nobody:Knows"))
    samples = study.workload.datasets["digits"].validation
    assert Spent.of(elsewhere).samples == Spent.of(study).samples == samples


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({"validation_samples": "many"}, "it was judged on 'many' samples"),
        ({"validation_samples": -1}, "it was judged on -1 samples"),
        ({"searched_s": math.inf}, "it was searched for inf seconds"),
        ({"searched_s": True}, "it was searched for True seconds"),
    ],
)
def test_a_record_with_impossible_numbers_is_refused(searched, monkeypatch, kept, told):
    monkeypatch.setattr("tune_sam.study.spent.attributes_in", lambda study, optimizer: kept)
    with pytest.raises(tune_sam.Refused, match=rf"the record of study one cannot be read \({told}\)"):
        Spent.of(open_study("one", searched))


def test_patience_wants_one_best(tmp_path):
    with pytest.raises(tune_sam.Refused, match="--patience 3 waits for a better best, and trials of --objective two"):
        tune_sam.search("gcn", dataset="digits", home=tmp_path, objective="two", patience=3, executor=INLINE)
    assert not list(tmp_path.iterdir())


OF_COMPUTE = StudySettings(
    workload="gcn", dataset="digits", optimizers=("base", "sam", "look-sam"), trials=12, epochs=1, spaces={},
    budget="compute",
)  # fmt: skip


@pytest.mark.parametrize(("trials", "of_each"), [(12, (24, 12, 20)), (20, (40, 20, 33)), (1, (2, 1, 1))])
def test_a_budget_of_compute_is_as_many_trials_as_cost_those_of_the_costliest(trials, of_each):
    settings = replace(OF_COMPUTE, trials=trials)
    assert tuple(map(settings.trials_of, settings.optimizers)) == of_each
    assert settings.trials_in_all == sum(of_each)
    alone = replace(settings, optimizers=("look-sam",))
    assert alone.trials_of("look-sam") == trials


@pytest.mark.parametrize("budget", ["trials", "compute"])
@pytest.mark.parametrize("needed", [1, 24, 25, 41])
def test_the_budget_for_a_point_of_ones_own_is_the_smallest_that_has_room_for_it(budget, needed):
    settings = replace(OF_COMPUTE, budget=budget)
    for optimizer in settings.optimizers:
        found = settings.budget_with(optimizer, needed)
        assert replace(settings, trials=found).trials_of(optimizer) >= needed
        assert found == settings.trials or replace(settings, trials=found - 1).trials_of(optimizer) < needed


def test_studies_of_equal_trials_have_no_word_of_compute_in_mlflow():
    """As those of earlier releases have none."""
    assert OF_COMPUTE.described()["budget"] == "compute"
    assert "budget" not in replace(OF_COMPUTE, budget="trials").described()


def test_a_grid_has_no_budget_of_compute(tmp_path):
    with pytest.raises(tune_sam.Refused, match="--budget compute changes nothing where the points of a grid are tried"):
        tune_sam.search("gcn", dataset="digits", home=tmp_path, sampler="grid", budget="compute", executor=INLINE)


@pytest.fixture(scope="module")
def of_compute(tmp_path_factory):
    """Its budget of one trial of SAM, which two of the base optimizer cost."""
    heard, options = Heard(), {"optimizers": ["base", "sam"], "trials": 1, "epochs": 1, "budget": "compute"}
    home = tmp_path_factory.mktemp("compute")
    return tune_sam.search("gcn", dataset="digits", home=home, executor=INLINE, listener=heard, **options), heard


def test_optimizers_of_equal_compute_take_turns_by_it(of_compute):
    study, heard = of_compute
    assert heard.trials == [("base", 0), ("sam", 0), ("base", 1)]
    assert (stage(study).done, stage(study).parts) == (3, 3)
    assert "Budgets are equal in compute" in " ".join(searched_section(study).sentences)
    with pytest.raises(tune_sam.Refused, match=f"study {study.name} exists with budget compute, not trials"):
        tune_sam.search("gcn", dataset="digits", home=study.home.path, name=study.name, trials=1, epochs=1,
                        optimizers=["base", "sam"])  # fmt: skip
