from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch

from tune_sam.cluster.data import ensure_data
from tune_sam.errors import NothingComplete, Refused
from tune_sam.home import Home
from tune_sam.settings import SearchOptions
from tune_sam.space import LogRange, Space, grid
from tune_sam.study.lock import study_lock
from tune_sam.study.records import Study, best_of_each, load, note_run, open_study, studies
from tune_sam.study.settings import ENDINGS, STATES, StudySettings, now
from tune_sam.study.storage import open_storage
from tune_sam.tuning.ledger import Ledger, Outcome
from tune_sam.tuning.plan import limited, refuse_other

SPACES = {
    "base": Space(None, LogRange(1e-4, 1e-1), (32, 64), grid((), (0.01,), (64,))),
    "sam": Space(LogRange(0.001, 1), LogRange(1e-4, 1e-1), (32, 64), grid((0.01, 0.1), (0.01,), (64,))),
}
SETTINGS = StudySettings(
    workload="gcn",
    dataset="digits",
    data="/data",
    optimizers=("base", "sam"),
    trials=4,
    epochs=10,
    seed=7,
    spaces=SPACES,
)


@pytest.fixture
def study(tmp_path):
    """A study as a launch makes it, without trials."""
    made = Study(
        "one",
        Home(tmp_path),
        SETTINGS,
        "2026-01-02T03:04:05+00:00",
        "sqlite:////m.db",
        "1",
        "parent",
        str(tmp_path / "studies"),
    )
    record = {
        "settings": SETTINGS.to_json(),
        "created": made.created,
        "tracking_uri": made.tracking_uri,
        "experiment_id": made.experiment_id,
        "mlflow_run_id": made.mlflow_run_id,
        "storage": made.storage,
    }
    for optimizer in SETTINGS.optimizers:
        optuna.create_study(
            storage=open_storage(made.home), study_name=f"one/{optimizer}", direction="maximize"
        ).set_user_attr("record", record)
    return made


def end(ledger, state, value, epochs=10):
    asked = ledger.suggest("tune")
    metrics = {"val/accuracy": value} if value is not None else {}
    ledger.end(asked.number, Outcome(state, "" if state == "complete" else "why", epochs, metrics, 2.5, "node", 9))


def test_a_study_of_a_later_release_is_refused_in_a_sentence(study):
    later = study.to_record() | {"format": 99, "settings": {"what": "is not known here"}}
    with pytest.raises(Refused, match="later release of tune_sam, its record has format 99"):
        Study.from_record("one", study.home, later)


def test_settings_survive_json():
    assert StudySettings.from_json(SETTINGS.to_json()) == SETTINGS


def test_a_study_is_read_back_as_it_was_made(study):
    assert open_study("one", study.home.path) == study
    assert study.to_json() == {
        "name": "one",
        "kind": "search",
        "workload": "gcn",
        "dataset": "digits",
        "epochs": 10,
        "seed": 7,
        "scheduler": "asha",
        "cpus_per_trial": 1,
        "gpus_per_trial": None,
        "preset": None,
        "train_subset": None,
        "label_noise": None,
        "split_seed": 0,
        "sampler": "tpe",
        "train_alone": False,
        "precision": None,
        "compile": False,
        "trial_timeout": 0.0,
        "stall_timeout": 3600.0,
        "time_budget": 0.0,
        "epoch_budget": 0,
        "budget": "trials",
        "patience": 0,
        "from_study": None,
        "log": [],
        "objective": "val/accuracy",
        "score": "accuracy",
        "score_direction": "maximize",
        "refit_of": None,
        "optimizers": ["base", "sam"],
        "trials_asked": 4,
        "counts": {},
        "created": "2026-01-02T03:04:05+00:00",
        "mlflow_run_id": "parent",
    }


def test_a_study_whose_creation_was_cut_short_is_not_listed(study):
    optuna.create_study(storage=open_storage(study.home), study_name="half/base")
    assert [found.name for found in studies(study.home.path)] == ["one"]


def test_a_study_that_is_half_made_is_not_listed(study):
    storage = open_storage(study.home)
    storage.delete_study(storage.get_study_id_from_name("one/sam"))
    assert studies(study.home.path) == []


def test_a_home_without_studies_is_left_as_it_is(tmp_path):
    assert studies(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(Refused, match="there is no study 'x'.*it has none yet"):
        open_study("x", tmp_path / "none")


def test_states_while_a_driver_is_at_work_and_after_it_died(study):
    ledger = Ledger(open_storage(study.home), "one", "sam", SETTINGS)
    ledger.suggest("tune")
    with study_lock(study.home, "one"):
        assert [trial.state for trial in study.records("sam")] == ["running", "waiting"]
    assert [trial.state for trial in study.records("sam")] == ["waiting", "waiting"]
    assert study.counts() == {"waiting": 2}


def test_a_waiting_trial_shows_what_it_will_be_given(study):
    Ledger(open_storage(study.home), "one", "sam", SETTINGS)
    trial = study.records("sam")[1]
    assert (trial.config.rho, trial.config.lr, trial.config.batch_size, trial.config.seed) == (0.1, 0.01, 64, 8)
    assert trial.started is trial.ended is trial.value is trial.checkpoint is None


@pytest.mark.parametrize("state", ENDINGS)
def test_an_ended_trial_has_its_record(study, state):
    ledger = Ledger(open_storage(study.home), "one", "base", SETTINGS)
    end(ledger, state, 0.75, epochs=6)
    note_run(open_storage(study.home), "one/base/0", "run-1")
    trial = study.records("base")[0]
    assert (trial.key, trial.state, trial.epochs, trial.seconds) == ("one/base/0", state, 6, 2.5)
    assert trial.value == (0.75 if state == "complete" else None)
    assert trial.reason == ("" if state == "complete" else "why")
    assert trial.mlflow_run_id == "run-1"
    assert trial.config.rho is None
    assert datetime.fromisoformat(trial.started) <= datetime.fromisoformat(trial.ended)


def test_the_best_is_the_first_of_the_highest_complete_ones(study):
    storage = open_storage(study.home)
    base, sam = (Ledger(storage, "one", name, SETTINGS) for name in ("base", "sam"))
    with pytest.raises(NothingComplete, match="no complete trial.*resume one"):
        study.best()
    end(base, "complete", 0.8)
    for state, value in (("complete", 0.8), ("pruned", 0.99), ("complete", 0.8), ("complete", 0.7)):
        end(sam, state, value)
    assert study.best().key == "one/base/0"
    assert study.best("sam").key == "one/sam/0"
    with pytest.raises(Refused, match="did not search 'asam'; it has base, sam"):
        study.best("asam")


def test_the_table_has_a_column_for_each_part(study):
    ledger = Ledger(open_storage(study.home), "one", "base", SETTINGS)
    metrics = {"val/accuracy": 0.8, "lr": 0.00008}  # as release 0.1 called the last epoch's rate, which has fallen
    ledger.end(ledger.suggest("tune").number, Outcome("complete", "", 10, metrics, 2.5, "node", 9))
    table = study.trials()
    assert len(table) == 1
    row = table.iloc[0]
    assert not {"config", "metrics"} & set(table.columns)
    assert (row["lr"], row["batch_size"], row["val/accuracy"], row["state"]) == (0.01, 64, 0.8, "complete")
    assert row["train/lr"] == 0.00008


def test_a_trial_without_a_checkpoint_or_with_a_lost_one_is_refused(study, tmp_path):
    end(Ledger(open_storage(study.home), "one", "base", SETTINGS), "complete", 0.8)
    trial = study.best()
    with pytest.raises(Refused, match="one/base/0 has no checkpoint"):
        trial.load_model()
    with pytest.raises(Refused, match="is gone"):
        replace(trial, checkpoint=str(tmp_path / "gone")).load_model()


def test_every_ending_has_a_word_in_every_ledger():
    assert STATES == ("waiting", "running", "complete", "pruned", "diverged", "failed")
    assert {ending.optuna for ending in ENDINGS.values()} <= {state.name for state in optuna.trial.TrialState}
    assert now().endswith("+00:00")


def of(study, objective, *outcomes):
    """The study with another objective and with complete trials of these metrics, in turn of base and sam."""
    changed = replace(study, name="other", settings=replace(SETTINGS, objective=objective))
    record = {
        "settings": changed.settings.to_json(),
        "created": study.created,
        "tracking_uri": "",
        "experiment_id": "",
        "mlflow_run_id": "",
        "storage": "",
    }
    books = []
    for optimizer in SETTINGS.optimizers:
        optuna.create_study(
            storage=open_storage(study.home),
            study_name=f"other/{optimizer}",
            directions=list(changed.settings.directions.values()),
        ).set_user_attr("record", record)
        books.append(Ledger(open_storage(study.home), "other", optimizer, changed.settings))
    for index, metrics in enumerate(outcomes):
        book = books[index % 2]
        book.end(book.suggest("t").number, Outcome("complete", "", 10, metrics, 2.5, "node", 9))
    return open_study("other", study.home.path)


def test_the_best_by_loss_is_the_lowest(study):
    found = of(study, "val/loss", *({"val/accuracy": 0.5, "val/loss": loss} for loss in (0.3, 0.1, 0.2, 0.4)))
    assert (found.best().key, found.best().value) == ("other/sam/0", 0.1)
    assert [trial.value for trial in found.complete()] == [0.1, 0.2, 0.3, 0.4]


def test_the_pareto_front_is_what_nothing_beats(study):
    points = [(0.9, 0.5), (0.8, 0.1), (0.85, 0.5), (0.8, 0.2), (0.9, 0.5), (0.7, 0.1), (0.82, 0.3)]
    found = of(study, "two", *({"val/accuracy": a, "val/sharpness": s} for a, s in points))
    assert {trial.key for trial in found.pareto()} == {"other/base/0", "other/base/2", "other/base/3", "other/sam/0"}
    assert [trial.key for trial in found.pareto("sam")] == ["other/sam/0"]
    optunas = optuna.load_study(study_name="other/base", storage=open_storage(study.home)).best_trials
    assert {trial.number for trial in found.pareto("base")} == {trial.number for trial in optunas}


def test_a_study_of_one_objective_has_no_front(study):
    with pytest.raises(Refused, match=r"study one has one objective, val/accuracy, .* --objective two"):
        study.pareto()


def test_a_network_is_loaded_without_a_draw(searched):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = load(open_study("one", searched).best("sam"))
    assert torch.get_rng_state().equal(before)
    assert found.workload.build(found.setting).state_dict().keys() == found.model.state_dict().keys()


def test_data_in_a_home_are_those_of_whichever_home_opens_the_study(searched, monkeypatch):
    monkeypatch.delenv("TUNE_SAM_DATA", raising=False)
    study = open_study("one", searched)
    named = replace(study, settings=replace(study.settings, data="/named"))
    for home in (study.home, Home(Path("/elsewhere"))):
        inside = replace(study, home=home, settings=replace(study.settings, data=None))
        assert inside.data == home.data
        assert replace(named, home=home).data == Path("/named")


def test_data_that_are_elsewhere_on_this_machine_are_named_by_the_environment(searched, monkeypatch, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    study = open_study("one", searched)
    study = replace(study, settings=replace(study.settings, workload="attention", dataset="mitbih", data=str(there)))
    monkeypatch.delenv("TUNE_SAM_DATA", raising=False)
    with pytest.raises(Refused, match=f"data of study one were in {there}, which .* set TUNE_SAM_DATA to the folder"):
        ensure_data(study)
    with pytest.raises(Refused, match=f"exists with data {there}, not {here}; .* or set TUNE_SAM_DATA to {here}"):
        refuse_other(study, replace(study.settings, data=str(here)))
    monkeypatch.setenv("TUNE_SAM_DATA", str(here))
    assert study.data == there, "neither is here"
    here.mkdir()
    assert study.data == here
    refuse_other(study, replace(study.settings, data=str(here)))
    there.mkdir()
    assert study.data == there


def test_a_study_that_has_the_folder_of_its_homes_data_in_its_record_is_gone_on_with(searched):
    """As studies have that were made before the home's own folder was left out."""
    study = open_study("one", searched)
    before = replace(study, settings=replace(study.settings, data=str(study.home.data)))
    refuse_other(before, replace(study.settings, data=None))
    with pytest.raises(Refused, match=r"study one exists with data .*/data, not /other;"):
        refuse_other(before, replace(study.settings, data="/other"))


def test_a_study_of_an_earlier_release_takes_what_an_optimizers_step_costs_from_the_optimizer(searched):
    now_asked = open_study("one", searched).settings
    assert now_asked.gradients == {"base": 1, "sam": 2}
    record = {name: value for name, value in now_asked.to_json().items() if name != "gradients"}
    before = StudySettings.from_json(record)
    assert [before.gradients_of(optimizer) for optimizer in before.optimizers] == [1, 2]
    study = replace(open_study("one", searched), settings=before)
    refuse_other(study, now_asked)
    with pytest.raises(Refused, match="exists with optimizers that took another number of gradients in a step; give"):
        refuse_other(open_study("one", searched), replace(now_asked, gradients={"base": 1, "sam": 3}))


def test_a_study_that_had_its_devices_precision_is_gone_on_with_at_that(searched):
    """As the searches of an earlier release had, in which it was not asked what the workload says."""
    study = open_study("one", searched)
    before = replace(study, settings=replace(study.settings, precision=None))
    refuse_other(before, replace(study.settings, precision="auto"))
    with pytest.raises(Refused, match="study one exists with precision None, not bf16;"):
        refuse_other(before, replace(study.settings, precision="bf16"))


@pytest.mark.parametrize("gradients", [{"sam": 0}, {"sam": -1.5}, {"sam": float("nan")}, {"sam": "2"}, [2]])
def test_a_record_whose_steps_cost_nothing_is_damaged(study, gradients):
    record = study.to_record()
    record["settings"]["gradients"] = gradients
    with pytest.raises(Refused, match="gradients"):
        Study.from_record("one", study.home, record)


def test_another_launch_of_a_study_may_give_trials_other_time_limits(searched):
    study = open_study("one", searched)
    assert (study.settings.trial_timeout, study.settings.stall_timeout) == (0, 3600), "as a search has by default"
    given = {"trial_timeout": "1h30m", "stall_timeout": "off", "time_budget": timedelta(hours=2), "epoch_budget": "50"}
    other = limited(study, SearchOptions.read({"workload": "gcn", **given}))
    assert [getattr(other.settings, name) for name in given] == [5400, 0, 7200, 50]
    refuse_other(study, other.settings)
    spaces = {one: replace(space, lr=replace(space.lr, default=0.01)) for one, space in other.settings.spaces.items()}
    refuse_other(study, replace(other.settings, spaces=spaces))  # whose grid, which a record has, is the same
    assert limited(other, SearchOptions.read({"workload": "gcn", "trial_timeout": None})) == other


def test_a_trial_is_found_by_its_optimizer_and_number(searched):
    study = open_study("one", searched)
    assert study.trial("sam/1") == study.trial("one/sam/1") == study.records("sam")[1]
    called, there = replace(study, name="sam"), study.records()
    with pytest.MonkeyPatch.context() as patch:  # a study may bear the name of an optimizer
        patch.setattr(Study, "records", lambda *_: there)
        assert called.trial("sam/1") == called.trial("sam/sam/1")
    assert study.trial("sam/1").read_log().startswith("--- attempt 1, ")
    with pytest.raises(Refused, match="study one has no trial 'sam 1', it has base/0 to sam/2; name one as sam/3"):
        study.trial("sam 1")


def test_the_first_trial_of_each_optimizer_keeps_its_place_before_the_controls():
    trials = [SimpleNamespace(optimizer=optimizer) for optimizer in ("base", "sam", "base")]
    assert best_of_each(trials) == trials[:2]


def test_a_command_names_the_code_that_no_package_has(study):
    def of(workload, *optimizers):
        return replace(study, settings=replace(study.settings, workload=workload, optimizers=optimizers))

    assert study.command("resume", "--trials 5") == "tune-sam resume one --trials 5"
    own = of("wine:Wine", "base", "my.optimizers:Half")
    assert own.command("resume", "--trials 5") == (
        "tune-sam resume one --trials 5 --workload wine:Wine --optimizer my.optimizers:Half"
    )
    assert own.command("analyze") == "tune-sam analyze one --workload wine:Wine", "its --optimizer chooses"
    assert of("__main__:Wine", "base").command("refit") == "tune-sam refit one", "a notebook's, no command can name"


def test_where_every_trial_has_ended_more_of_them_are_asked_for(searched, monkeypatch):
    study = open_study("one", searched)
    trials = [replace(trial, value=None) for trial in study.records()]
    monkeypatch.setattr(Study, "records", lambda self, optimizer=None: trials)
    with pytest.raises(NothingComplete, match=r"study one has no complete trial; run `tune-sam resume one --trials N`"):
        study.best()
    del trials[-1]
    with pytest.raises(NothingComplete, match=r"study one has no complete trial yet; run `tune-sam resume one`"):
        study.best()
