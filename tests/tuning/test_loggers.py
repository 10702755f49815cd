"""Loggers beside a search: what they are given, and that none stands in its way."""

import csv
from dataclasses import replace

import pytest
import wandb
from ray.tune.logger import CSVLoggerCallback
from studies import INLINE, searched_study

import tune_sam
from tune_sam import extras
from tune_sam.errors import Refused
from tune_sam.tuning.loggers import logging_aside


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    home = tmp_path_factory.mktemp("logged") / "home"
    return searched_study(home, log=["csv", "tensorboard"])


def test_each_epoch_of_each_trial_is_a_row(logged):
    for trial in logged.records():
        file = logged.home.study("one") / "csv" / f"{trial.optimizer}-{trial.number}" / "progress.csv"
        rows = list(csv.DictReader(file.open()))
        assert [row["training_iteration"] for row in rows] == ["1", "2"]
        assert float(rows[-1]["val/accuracy"]) == trial.value


@pytest.mark.slow
def test_a_table_has_the_objective_that_comes_with_the_last_epoch_alone(tmp_path):
    study = searched_study(tmp_path, train_subset=64, objective="two", log="csv")
    for trial in study.records():
        file = study.home.study("one") / "csv" / f"{trial.optimizer}-{trial.number}" / "progress.csv"
        first, last = csv.DictReader(file.open())
        assert first["val/sharpness"] == ""
        assert float(last["val/sharpness"]) == trial.metrics["val/sharpness"]


def test_tensorboard_has_the_curves_of_each_trial(logged):
    for trial in logged.records():
        folder = logged.home.study("one") / "tensorboard" / f"{trial.optimizer}-{trial.number}"
        written = b"".join(file.read_bytes() for file in folder.glob("events.out.tfevents.*"))
        assert written.count(b"ray/tune/val/accuracy") >= 2


def test_a_study_remembers_its_loggers(logged):
    assert tune_sam.open_study("one", logged.home).settings.log == ("csv", "tensorboard")


def test_a_logger_that_fails_is_named_and_the_search_goes_on(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError("no such place")

    monkeypatch.setattr(CSVLoggerCallback, "log_trial_result", fail)
    study = tune_sam.search(
        "gcn", dataset="digits", train_subset=256, optimizers=["base"], trials=1, epochs=1, log="csv", home=tmp_path,
        executor=INLINE,
    )  # fmt: skip
    assert [trial.state for trial in study.records()] == ["complete"]
    assert "--log csv logs no more of this search (no such place); the search goes on." in caplog.text


@pytest.fixture
def fresh_wandb(tmp_path, monkeypatch):
    """As a process has it that has not used it, without a login."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_wandb")
def test_weights_and_biases_has_a_run_of_each_trial(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    study = searched_study(tmp_path, log="wandb")
    for trial in study.records():
        folder = study.home.study("one") / "wandb" / f"{trial.optimizer}-{trial.number}" / "wandb"
        (file,) = folder.glob(f"offline-run-*/run-one-{trial.optimizer}-{trial.number}-*.wandb")
        kept = file.read_bytes()
        assert kept.count(f"{trial.config.lr!r}".encode()) >= 1, "its configuration"
        assert repr(trial.value).encode() in kept, "its last epoch"
        assert kept.count(b"_step") >= 2
    own = study.home.study("one")
    assert any(path.is_symlink() for path in (own / "wandb").rglob("*")), "which wandb makes"
    assert tune_sam.refit("one", home=study.home, seeds=1, controls=False, executor=INLINE).table()["row"].nunique()
    other = own / "wandb" / "other"
    other.symlink_to(tmp_path)
    with pytest.raises(Refused, match="wandb/other is a link to"):
        tune_sam.delete("one", home=study.home)
    other.unlink()
    tune_sam.delete("one", home=study.home)
    assert not own.exists()


@pytest.mark.parametrize(
    ("key", "said"), [("", "has no login; run `wandb login`, set WANDB_API"), ("abc", "cannot use")]
)
def test_weights_and_biases_without_a_login_is_refused_and_asks_nothing(searched, tmp_path, monkeypatch, key, said):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    study = tune_sam.open_study("one", searched)
    study = replace(study, settings=replace(study.settings, log=("wandb",)))
    with pytest.raises(Refused, match=f"--log wandb {said}"), logging_aside(study):
        pass


def test_a_logger_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    with pytest.raises(Refused, match=r"wandb is not installed; install it with `pip install 'tune-sam\[wandb\]'"):
        searched_study(tmp_path, log="wandb")
    assert list(tmp_path.iterdir()) == []
