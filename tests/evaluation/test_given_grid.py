"""A refit of a grid with several values of ρ, one of whose matched controls diverges."""

from types import SimpleNamespace

import pytest
from studies import INLINE

import tune_sam
from tune_sam.cli.main import main
from tune_sam.errors import Refused
from tune_sam.evaluation.answer import answer_of_refit, next_step
from tune_sam.evaluation.claims import answers
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.refit import tested_refit
from tune_sam.evaluation.selection import Choice, were_given
from tune_sam.evaluation.summary import summarize
from tune_sam.operations.refit import refit_grid
from tune_sam.reporting.answer import answer_section
from tune_sam.study.records import Study, open_study
from tune_sam.training import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures", "coarse_measures")]

SEEDS = (0, 1, 2, 3)
GRID = """dataset: digits
optimizers: [base, sam]
sampler: grid
epochs: 1
train_subset: 128
ranges:
  base: {lr: 0.01, batch_size: 64}
  sam: {rho: "0.05,0.5", lr: 0.003, batch_size: 64}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with the grid `two`, whose control with seed 1 diverged, and `other`, in which ρ is another."""
    home, finite = tmp_path_factory.mktemp("grid") / "home", Trainer._finite

    def but_one(self, losses):
        one = self.configuration
        return (one.optimizer, one.lr, one.seed) != ("base", 0.003, 1) and finite(self, losses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_finite", but_one)
        for name, grid in (("two", GRID), ("other", GRID.replace("0.05,0.5", "0.5,1"))):
            file = home.parent / f"{name}.yaml"
            file.write_text(grid)
            refit_grid("gcn", config=file, name=name, home=home, seeds=SEEDS, executor=INLINE)
    return home


@pytest.fixture
def refit(home):
    return tested_refit(open_study("two", home))


def test_a_control_that_diverges_is_named_and_takes_its_own_seed_away_alone(refit):
    found = answers(refit.of, refit)
    assert refit.seeds == SEEDS
    assert [claim.difference.mean.n for claim in found.help_at_equal_compute] == [4, 4]
    assert [claim.difference.mean.n for claim in found.by_rho] == [3, 3]
    (how,) = refit.left_out.items()
    assert how[0] == "two.controls/base/1"
    assert how[1].startswith("diverged (")
    section = answer_section(refit.of, refit, found, names_of(refit))
    assert any("two.controls/base/1 diverged" in sentence for sentence in section.sentences)
    assert names_of(refit)["base lr=0.003 batch=64 control"].endswith(" (3 of 4 seeds)")
    assert not any("No matched controls" in str(row) for row in section.tables[0].rows)
    assert not refit.lacks_controls
    assert next_step(refit.of, refit, found).command == "tune-sam analyze two"


def test_controls_of_more_seeds_are_asked_for_where_only_the_rows_have_them(home, tmp_path, monkeypatch):
    file = home.parent / "two.yaml"
    options = {"config": file, "name": "two", "home": tmp_path / "home", "executor": INLINE}
    refit_grid("gcn", seeds=3, **options)
    more = refit_grid("gcn", seeds=4, controls=False, **options)
    refit = tested_refit(more.of)
    assert len(refit.seeds) == 4
    assert [claim.difference.mean.n for claim in answers(refit.of, refit).by_rho] == [3, 3]
    assert refit.lacks_controls
    step = answer_of_refit(refit).next_step
    assert step.command == "tune-sam refit two --seeds 10000,10001,10002,10003"
    with pytest.raises(Refused, match="all points of study two are trained, for they were given; leave --top 2 out"):
        tune_sam.refit("two", home=tmp_path / "home", top=2)
    by_name = tune_sam.refit("two", home=tmp_path / "home", seeds=4, executor=INLINE)
    assert by_name.choice == Choice(planned=True)
    assert not by_name.lacks_controls
    monkeypatch.setattr(Study, "records", lambda self, *_: [SimpleNamespace(started="2026-11-30")])
    assert not were_given(refit.of), "a search of the same grid has begun, whose best the name stands for from now on"
    assert refit.command.startswith("tune-sam refit gcn --config study.yaml --name two")


def test_nothing_calls_one_of_several_points_the_best(refit):
    assert list(refit.best_rows) == ["base"]
    numbers = summarize(refit.of)
    assert "refit/base/test_accuracy" in numbers
    assert not [name for name in numbers if "/sam/" in name]


def test_the_points_of_two_grids_are_compared_where_they_are_the_same(home):
    found = tune_sam.compare(["two", "other"], home=home)
    assert [(row.study, row.config.rho, row.validation) for row in found.rows if row.optimizer == "sam"] == [
        ("two", 0.05, None),
        ("two", 0.5, None),
        ("other", 0.5, None),
        ("other", 1.0, None),
    ]
    assert [(claim.row, claim.to) for claim in found.claims] == [
        ("other: base lr=0.01 batch=64", "two: base lr=0.01 batch=64"),
        ("other: sam ρ=0.5 lr=0.003 batch=64", "two: sam ρ=0.5 lr=0.003 batch=64"),
    ]
    assert {claim.difference.mean.value for claim in found.claims} == {0.0}, "the same seeds train the same"
    assert ("ρ of sam", ("0.05, 0.5", "0.5, 1")) in [(one.name, one.values) for one in found.differing]


def test_the_base_optimizer_is_trained_at_equal_compute_where_one_point_of_it_is_given(refit, tmp_path):
    assert [study.name for study in refit.studies] == ["two.refit", "two.twice", "two.controls"]
    file = tmp_path / "bases.yaml"
    file.write_text(GRID.replace("lr: 0.01,", 'lr: "0.01,0.02",'))
    given = {"config": file, "home": tmp_path / "home", "controls": False, "executor": INLINE}
    with pytest.MonkeyPatch.context() as patch:  # as earlier releases did
        patch.setattr(Choice, "best_of", lambda self, chosen: list(chosen[:1]))
        before = refit_grid("gcn", seeds=1, **given)
    assert [study.name for study in before.studies] == ["gcn-bases.refit", "gcn-bases.twice"]
    several = refit_grid("gcn", seeds=2, **given)
    assert [study.name for study in several.studies] == ["gcn-bases.refit"]
    assert tested_refit(several.of).table().equals(several.table()), "what was trained before takes no seed away"
    assert list(several.table()["row"].unique()) == [
        "base lr=0.01 batch=64",
        "base lr=0.02 batch=64",
        "sam ρ=0.05 lr=0.003 batch=64",
        "sam ρ=0.5 lr=0.003 batch=64",
    ]
    assert "has no best one" in str(answer_of_refit(several))


def test_a_file_may_name_the_study_and_its_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_SAM_HOME", str(tmp_path / "elsewhere"))
    (tmp_path / "grid.yaml").write_text(f"{GRID}name: mine\nhome: {tmp_path / 'home'}\n")
    found = refit_grid("gcn", config=str(tmp_path / "grid.yaml"), seeds=1, controls=False, executor=INLINE)
    assert (found.of.name, found.of.home.path) == ("mine", tmp_path / "home")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("more", [(), ("--tracking-uri", "sqlite:///elsewhere.db")])
def test_the_file_of_a_grid_names_the_home_whatever_else_is_given(tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    homes, file = [], tmp_path / "grid.yaml"
    file.write_text(f"{GRID}home: {tmp_path / 'own'}\n")

    def given(*_, home, **__):
        homes.append(home)
        raise Refused("it is enough.")

    monkeypatch.setattr("tune_sam.operations.refit.refit_grid", given)
    monkeypatch.setattr("sys.argv", ["tune-sam", "refit", "gcn", "--config", str(file), *more])
    with pytest.raises(SystemExit):
        main()
    assert homes[0].path == tmp_path / "own"
    assert homes[0].named_tracking_uri == (more[1] if more else None)
