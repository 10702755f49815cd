"""Rename, export, import and delete with real services, each killed in the middle."""

import os
import shutil
import signal
from importlib import import_module
from types import SimpleNamespace

import pytest
import warm
from mlflow import MlflowClient
from services import mlflow_server, postgres, s3
from studies import INLINE

import tune_sam
from tune_sam.home import Home
from tune_sam.operations.doctor import diagnose
from tune_sam.study.records import every_study


def killed_at(module, where, function, *words):
    """Call a public function in this process, which kills itself where that calls another one."""

    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(import_module(module), where, kill)
    *words, home = words
    place = Home.at(home, os.environ["STUDIES"], None, os.environ["TRACKING"])
    options = {"name": words.pop()} if function == "import_" else {}
    getattr(tune_sam, function)(*words, home=place, **options)


@pytest.fixture(scope="module")
def site(tmp_path_factory, tables_of_mlflow):
    """A home whose study `one` is in Postgres, with its results in S3 and its runs on an MLflow server."""
    folder = tmp_path_factory.mktemp("site")
    with postgres(folder) as database, s3(folder) as objects, pytest.MonkeyPatch.context() as patch:
        for name, value in objects.environment.items():
            patch.setenv(name, value)
        objects.create("results")
        shutil.copy(tables_of_mlflow, folder / "mlflow.db")
        with mlflow_server(f"sqlite:///{folder}/mlflow.db", folder) as tracking:
            studies = database.create("studies")
            patch.setenv("STUDIES", studies)
            patch.setenv("TRACKING", tracking.uri)
            options = {"study_storage": studies, "tracking_uri": tracking.uri}
            tune_sam.search(
                "gcn",
                dataset="digits",
                train_subset=128,
                optimizers=["base"],
                trials=2,
                epochs=1,
                name="one",
                home=folder / "home",
                storage=objects.uri("results", "ray"),
                executor=INLINE,
                **options,
            )
            home = Home.at(folder / "home", studies, None, tracking.uri)
            yield SimpleNamespace(home=home, folder=folder, client=MlflowClient(tracking.uri))


def killed(site, module, where, function, *words):
    """Call a public function in a process that is killed where it calls another one."""
    process = warm.Command(killed_at, module, where, function, *words, str(site.home.path))
    said = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, said


def troubles(site, name):
    return [one for one in diagnose(name, home=site.home) if one.trouble]


def studies_in_mlflow(site):
    experiments = [one.experiment_id for one in site.client.search_experiments()]
    runs = site.client.search_runs(experiments, max_results=1000)
    keys = [run.data.tags.get("tune_sam.key", "") for run in runs]
    return {name: sum(key.startswith(f"{name}/") for key in keys) for name in ("one", "two", "three")}


@pytest.mark.slow
def test_what_is_killed_in_the_middle_is_done_by_the_same_command(site):
    archive = site.folder / "one.tar.gz"
    killed(site, "tune_sam.operations.export", "ledger_of", "export", "one", str(archive))
    assert not archive.exists()
    tune_sam.export("one", archive, home=site.home)

    killed(site, "tune_sam.operations.import_", "store", "import_", str(archive), "two")
    assert [study.name for study in every_study(site.home)] == ["one"]
    imported = tune_sam.import_(archive, name="two", home=site.home)
    assert imported.counts() == {"complete": 2}
    assert imported.best().load_model()
    assert not troubles(site, "two")
    assert not list(site.home.path.glob(".import-*"))

    killed(site, "tune_sam.operations.rename", "rename_studies", "rename", "two", "three")
    assert tune_sam.rename("two", "three", home=site.home).best().load_model()
    assert not troubles(site, "three")
    assert studies_in_mlflow(site) == {"one": 2, "two": 0, "three": 2}

    killed(site, "shutil", "rmtree", "delete", "three")  # after the ledger has gone
    tune_sam.delete("three", home=site.home)
    killed(site, "tune_sam.operations.delete", "delete_runs", "delete", "one")
    assert [one for one in tune_sam.delete("one", home=site.home).stays if "s3://results" in one]
    assert studies_in_mlflow(site) == {"one": 0, "two": 0, "three": 0}
    assert every_study(site.home) == []
    assert not list((site.home.path / "studies").iterdir())
