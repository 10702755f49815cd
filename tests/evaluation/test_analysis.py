import json
import math
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import warm
from rich.console import Console
from studies import INLINE

import tune_sam
from tune_sam.analysis import spectrum
from tune_sam.analysis.evaluation import mean_loss
from tune_sam.analysis.landscape import grid, losses, random_directions
from tune_sam.cli.tables import show_flatness
from tune_sam.errors import NothingComplete, Refused
from tune_sam.evaluation.analysis import SEED, _line
from tune_sam.evaluation.measured import Measured, measurements
from tune_sam.flatness import batch_size, batches_of
from tune_sam.samples import with_train_subset
from tune_sam.study.lock import is_going, study_lock
from tune_sam.study.records import Study, open_study
from tune_sam.tuning.listener import Silent
from tune_sam.workload import find_workload

pytestmark = pytest.mark.usefixtures("blank_figures")

GCN = find_workload("gcn")
SAMPLE, SIDE = 32, 9  # 81 points: two parts
FLATNESS = "flatness/lambda_max"


@pytest.fixture(scope="module")
def analysis(searched):
    return tune_sam.analyze("one", home=searched, sample=SAMPLE, grid=SIDE, verify=True, executor=INLINE)


def test_what_a_control_has_beside_one_refit_is_not_taken_for_the_next(analysis):
    """Two refits of ρ alone have the same control, whose line and surface depend on the minimum beside them."""
    first = analysis.plan.trials[0]
    control = replace(first, study="one.controls", key="one.controls/base/0", optimizer="base")
    refits = [
        replace(analysis.plan, trials=(replace(first, study=study, started=started), control))
        for study, started in (("one.refit", "2026-01-01T00:00:00+00:00"), ("one.refit", "2026-02-01T00:00:00+00:00"))
    ]
    for file_of in (lambda plan: plan.line_file(control), lambda plan: plan.surface_files(control)[0]):
        one, other = map(file_of, refits)
        assert one.parent == other.parent
        assert one != other


@pytest.fixture
def another(searched, tmp_path):
    """A study of the same trials that may be spoiled, in a home of its own; its runs are the first one's."""
    shutil.copytree(searched, tmp_path / "home", ignore=shutil.ignore_patterns("flatness"))
    return tmp_path / "home"


def sample():
    trained = with_train_subset(GCN.splits("digits", None), 256)  # which the study has
    part = with_train_subset(trained, SAMPLE).train
    return batches_of(part, batch_size(GCN), torch.device("cpu"))


def latest(study, trial, name=FLATNESS):
    return mlflow.MlflowClient(study.tracking_uri).get_metric_history(trial.mlflow_run_id, name)


@pytest.mark.slow
def test_the_numbers_are_those_of_the_analysis_package(analysis):
    for trial in analysis.trials:
        found = spectrum(trial.load_model(), GCN.loss, sample())
        told = analysis.flatness[trial.key]
        assert told.samples == SAMPLE
        for name in ("lambda_max", "lambda_min", "trace", "ratio"):
            assert told.measures[name].value == pytest.approx(float(getattr(found, name)), rel=1e-3), name
            assert told.measures[name].resolved == getattr(found, name).resolved


def test_the_best_trial_of_each_optimizer_is_measured(analysis):
    assert [trial.optimizer for trial in analysis.trials] == ["base", "sam"]
    for trial in analysis.trials:
        assert trial == analysis.study.best(trial.optimizer)


def test_all_surfaces_have_the_directions_of_the_first_network(analysis):
    directions = random_directions(analysis.trials[0].load_model(), SEED)
    drawn = pd.read_csv(analysis.folder / "surfaces.csv")
    for trial in analysis.trials:
        expected = losses(trial.load_model(), GCN.loss, sample(), directions, grid(2, steps=SIDE))
        np.testing.assert_allclose(drawn[drawn["optimizer"] == trial.optimizer]["loss"], expected, rtol=1e-6)


@pytest.mark.slow
def test_mlflow_has_each_number_once_and_the_figures(searched, analysis):
    study = analysis.study
    tune_sam.analyze("one", home=searched, sample=SAMPLE, grid=SIDE, executor=INLINE)
    for trial in analysis.trials:
        for name, value in analysis.flatness[trial.key].metrics().items():
            (point,) = [point for point in latest(study, trial, f"flatness/{name}") if point.step == SAMPLE]
            assert point.value == value or (math.isnan(value) and math.isnan(point.value)), name
    client = mlflow.MlflowClient(study.tracking_uri)
    folder = f"flatness/{SAMPLE}-grid{SIDE}"
    there = {file.path.rpartition("/")[2] for file in client.list_artifacts(study.mlflow_run_id, folder)}
    assert there == {file.name for file in analysis.folder.iterdir()}
    assert {"surfaces.png", "contours.csv", "spectral-density.png", "learning-curves.png", "flatness.csv"} <= there
    assert client.get_run(study.mlflow_run_id).info.status == "FINISHED"


def test_the_table_has_configurations_gaps_and_measures(analysis):
    table = analysis.table()
    assert list(table["key"]) == [trial.key for trial in analysis.trials]
    assert {
        "rho",
        "lr",
        "batch_size",
        "seed",
        "gap/loss",
        "lambda_max",
        "lambda_max_error",
        "lambda_max_resolved",
        "worst_case_own_rho",
    } <= set(table)
    assert table["worst_case_own_rho"].isna().tolist() == [True, False], "the base optimizer has no ρ of its own"
    told = json.loads((analysis.folder / "analysis.json").read_text())
    assert (told["sample"], told["samples"], told["of"], told["seed"]) == (SAMPLE, SAMPLE, "training split", SEED)
    fewer = Measured(analysis.folder, told | {"sample": 2048, "samples": 100})
    assert "--sample 2048" in fewer.command, "the folder is named after what was asked for"
    assert all("version.torch" in made and made["device"] for made in told["measured_by"].values())


class Tasks(Silent):
    """Hears of tasks alone."""

    def __init__(self, task):
        self.task = task


def told(analysis, **changes):
    """What was measured of each network, as text: since Python 3.13 a record with a nan equals none."""
    return {key: repr(replace(one, **changes)) for key, one in analysis.flatness.items()}


@pytest.mark.slow
def test_what_is_measured_already_is_not_measured_again(searched, analysis):
    seen = []
    again = tune_sam.analyze(
        "one", home=searched, sample=SAMPLE, grid=SIDE, listener=Tasks(lambda *part: seen.append(part)), executor=INLINE
    )
    assert not seen
    assert told(again) == told(analysis)


@pytest.mark.slow
def test_an_interrupted_analysis_goes_on_where_it_was(another, analysis):
    def interrupt(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_sam.analyze("one", home=another, sample=SAMPLE, grid=SIDE, listener=Tasks(interrupt), executor=INLINE)
    assert [place.name for place in (another / "studies" / "one" / "flatness").iterdir()] == ["parts"], "no half report"
    counts = []
    counted = Tasks(lambda *part: counts.append(part))
    done = tune_sam.analyze("one", home=another, sample=SAMPLE, grid=SIDE, listener=counted, executor=INLINE)
    assert [part[1:] for part in counts] == [(count, 7) for count in (3, 4, 5, 6, 7)]
    assert told(done, seconds=0) == told(analysis, seconds=0)
    assert (done.folder / "surfaces.csv").read_text() == (analysis.folder / "surfaces.csv").read_text()


@pytest.mark.slow
def test_every_complete_trial_gets_the_cheap_measures(searched, analysis):
    found = tune_sam.analyze("one", home=searched, sample=SAMPLE, every=True, executor=INLINE)
    assert [trial.number for trial in found.trials if trial.optimizer == "sam"] == [
        trial.number for trial in sorted(found.study.records("sam"), key=lambda trial: -trial.value)
    ]
    assert len(found.trials) == 6
    assert not (found.folder / "surfaces.png").exists()
    assert pd.read_csv(found.folder / "gap-flatness.csv")["name"].value_counts()["lambda_max"] == 6
    for trial in analysis.trials:
        assert float(found.flatness[trial.key].measures["lambda_max"].value) == pytest.approx(
            float(analysis.flatness[trial.key].measures["lambda_max"].value), rel=1e-3
        )


@contextmanager
def spoiled(trial, how):
    """Another checkpoint in the place of a trial's own."""
    file = Path(trial.checkpoint) / "training.pt"
    own = file.read_bytes()
    state = torch.load(file, weights_only=True)
    weights = state["training"]["model"]
    first = next(iter(weights))

    def save_with(other):
        torch.save({**state, "training": {**state["training"], "model": weights | other}}, file)

    match how:
        case "gone":
            file.unlink()
        case "cut":
            file.write_bytes(own[:1000])
        case "other":
            save_with({first: weights[first][:, :-1]})
        case "nan":
            save_with({first: weights[first] * torch.nan})
    try:
        yield
    finally:
        file.write_bytes(own)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("gone", "is gone; search again"),
        ("cut", "is damaged; search again"),
        ("other", "is of another network than workload gcn makes now"),
        ("nan", "cannot be measured: the weights .* is not finite"),
    ],
)
def test_a_network_that_cannot_be_measured_is_told_and_nothing_is_logged(another, how, said):
    study = open_study("one", another)
    best = study.best("sam")
    before = len(latest(study, best))
    with spoiled(best, how), pytest.raises(Refused, match=said) as refused:
        tune_sam.analyze("one", home=another, sample=24, grid=3, executor=INLINE)
    assert best.key in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert len(latest(study, best)) == before
    assert not (another / "studies" / "one" / "flatness" / "24-grid3").exists()


@pytest.mark.slow
def test_of_all_trials_those_that_can_be_measured_are(another):
    study = open_study("one", another)
    best = study.best("sam")
    with spoiled(best, "nan"):
        found = tune_sam.analyze("one", home=another, sample=24, every=True, verify=True, executor=INLINE)
        assert set(found.failed) == {best.key, f"{best.key}, by PyHessian"}
        assert list(found.checks) == [study.best("base").key]
        assert len(found.trials) == len(found.table()) == 5
        with pytest.raises(Refused, match=f"{best.key} cannot be measured"):
            tune_sam.analyze("one", home=another, sample=16, optimizers=["sam"], executor=INLINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("it knows no such layer"), "it knows no such layer"),
        (TypeError("no such call"), "PyHessian cannot measure it: TypeError: no such call"),
    ],
)
def test_a_cross_check_that_fails_takes_no_measurement_with_it(another, monkeypatch, error, said):
    def fails(*_):
        raise error

    monkeypatch.setattr("tune_sam.analysis.peer.cross_check", fails)
    best = open_study("one", another).best("sam")
    found = tune_sam.analyze("one", home=another, sample=24, grid=3, optimizers=["sam"], verify=True, executor=INLINE)
    assert found.failed == {f"{best.key}, by PyHessian": said}
    assert found.checks == {}
    assert list(found.flatness) == [best.key]


def test_the_line_leads_from_the_first_minimum_to_the_others(analysis):
    start, end = (trial.load_model() for trial in analysis.trials)
    drawn = pd.read_csv(analysis.folder / "lines.csv").set_index("position")["loss"]
    for place, model in ((0, start), (1, end)):
        assert drawn[place] == pytest.approx(mean_loss(model, GCN.loss, sample())[0], rel=1e-5)


@pytest.mark.parametrize(("more", "there"), [({}, True), ({"label_smoothing": 0.4}, False)])
def test_no_line_leads_to_another_function_of_the_weights(searched, more, there):
    study = open_study("one", searched)
    start, end = study.best("base"), study.best("sam")
    other = replace(end, config=replace(end.config, more=more))
    splits = with_train_subset(GCN.splits("digits", None), 64)
    data = SimpleNamespace(splits=lambda: splits)
    assert bool(_line(study, start, other, GCN, data)) == there


@pytest.mark.slow
def test_pyhessian_stands_beside_the_best_network_of_each_optimizer(analysis, capsys):
    assert set(analysis.checks) == {trial.key for trial in analysis.trials}
    for check in analysis.checks.values():
        assert abs(check["difference"]) < 1e-2
        assert abs(check["trace_difference"]) < 4
    show_flatness(analysis, Console(width=200))
    said = capsys.readouterr().out
    assert f"One batch of {SAMPLE} samples, ours beside PyHessian's" in said
    assert "standard errors apart" in said


@pytest.mark.slow
def test_each_plan_has_a_folder_of_its_own(searched, analysis):
    before = {file.name: file.read_bytes() for file in analysis.folder.iterdir()}
    (analysis.folder / "stale.png").touch()
    found = tune_sam.analyze("one", home=searched, sample=SAMPLE, grid=SIDE, optimizers=["sam"], executor=INLINE)
    assert found.folder.name == f"{SAMPLE}-grid{SIDE}-sam"
    assert {file.name: file.read_bytes() for file in analysis.folder.iterdir() if file.name != "stale.png"} == before
    tune_sam.analyze("one", home=searched, sample=SAMPLE, grid=SIDE, executor=INLINE)
    assert not (analysis.folder / "stale.png").exists()


@pytest.mark.slow
def test_results_that_mlflow_does_not_take_are_delivered_by_the_next_call(searched, analysis, monkeypatch):
    def away(uri):
        raise Refused("MLflow at http://away cannot be reached")

    study, (_, trial) = analysis.study, analysis.trials
    options = {"home": searched, "sample": 20, "grid": 3, "optimizers": ["sam"], "executor": INLINE}
    before = len(latest(study, trial))
    with monkeypatch.context() as patched:
        patched.setattr("tune_sam.tracking.client.check", away)
        found = tune_sam.analyze("one", **options)
    assert found.undelivered == "MLflow at http://away cannot be reached"
    assert (found.folder / "surfaces.png").exists()
    assert len(latest(study, trial)) == before
    assert tune_sam.analyze("one", **options).undelivered == ""
    assert len(latest(study, trial)) == before + 1


def test_a_study_without_a_complete_trial_is_told(searched, monkeypatch):
    monkeypatch.setattr(Study, "records", lambda *_: [])
    with pytest.raises(NothingComplete, match=r"no complete trial yet; run `tune-sam resume one`"):
        tune_sam.analyze("one", home=searched, executor=INLINE)


def test_an_optimizer_that_was_not_searched_is_told(searched):
    with pytest.raises(Refused, match="did not search 'asam'"):
        tune_sam.analyze("one", home=searched, optimizers=["asam"], executor=INLINE)


def test_a_study_that_is_searched_is_left_alone(searched, analysis):
    with study_lock(analysis.study.home, "one"), pytest.raises(Refused, match="in use by another process"):
        tune_sam.analyze("one", home=searched, executor=INLINE)


def test_an_analysis_delivers_what_mlflow_lacks_as_the_one_process_that_uses_the_study(another, monkeypatch):
    held = []

    def delivered(study, **_):
        held.append(is_going(study.home, study.name))
        raise InterruptedError

    monkeypatch.setattr("tune_sam.evaluation.analysis.deliver", delivered)
    with pytest.raises(InterruptedError):
        tune_sam.analyze("one", home=another, sample=SAMPLE, grid=SIDE, executor=INLINE)
    assert held == [True]


def measured_in(home):
    return tune_sam.analyze("one", home=home, sample=SAMPLE, grid=SIDE, executor=INLINE)


@pytest.mark.slow
def test_a_killed_analysis_goes_on_where_it_was(another, analysis):
    parts = another / "studies" / "one" / "flatness" / "parts" / str(SAMPLE)
    first = warm.Command(measured_in, another)
    while not (kept := {file: file.stat().st_mtime_ns for file in parts.glob("*.json")}):
        assert first.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
    first.kill()
    done = measured_in(another)
    for key, one in analysis.flatness.items():
        for name, measure in one.measures.items():
            assert done.flatness[key].measures[name].value == measure.value, name
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_an_analysis_of_a_study_that_had_the_name_before_is_no_other_ones(searched, analysis):
    study = open_study("one", searched)
    assert measurements(study, None)[0] is not None
    assert measurements(replace(study, created="2024-01-01T00:00:00+00:00"), None)[0] is None


def test_the_newest_analysis_is_the_one_that_was_made_last_wherever_its_files_came_from(searched, analysis):
    study = open_study("one", searched)
    before, about = measurements(study, None)[0].folder, json.loads((analysis.folder / "analysis.json").read_text())
    other = analysis.folder.with_name("another")
    other.mkdir()
    try:
        for measured, newest in (("2020-01-01T00:00:00+00:00", before), ("2100-01-01T00:00:00+00:00", other)):
            (other / "analysis.json").write_text(json.dumps({**about, "measured": measured}))  # the newer file
            assert measurements(study, None)[0].folder == newest
        (other / "analysis.json").write_text(json.dumps({**about, "measured": ""}))  # of 0.2.0, copied just now
        assert measurements(study, None)[0].folder == before
        (other / "analysis.json").write_text('{"study')
        assert measurements(study, None)[0].folder == before, "whatever became of an older one"
    finally:
        shutil.rmtree(other)
