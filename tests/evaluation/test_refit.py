from dataclasses import replace

import mlflow
import pandas as pd
import pytest
import torch
from studies import INLINE

import tune_sam
from tune_sam.checkpoint import Checkpoint
from tune_sam.cluster.tasks import result_of
from tune_sam.errors import Refused
from tune_sam.evaluation.answer import answer_of_refit
from tune_sam.evaluation.claims import answers
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.refit import _tests_of, cost_in_words, refit_study, row_name, significant_digits, tested_refit
from tune_sam.evaluation.selection import FIRST_SEED, Choice, best_alone, control_points
from tune_sam.metrics import Calibration, Classification, Merged
from tune_sam.operations.refit import refit, refit_grid
from tune_sam.reporting.compute import compute_section
from tune_sam.reporting.page import report
from tune_sam.samples import with_train_subset
from tune_sam.space import Configuration
from tune_sam.study.records import Study, open_study, studies
from tune_sam.tracking.client import Away
from tune_sam.training import Trainer, evaluate
from tune_sam.tuning.listener import SearchListener
from tune_sam.tuning.recipe import as_yaml
from tune_sam.workload import find_workload

pytestmark = pytest.mark.usefixtures("blank_figures", "coarse_measures")

GCN = find_workload("gcn")
SEEDS = (FIRST_SEED, FIRST_SEED + 1)


@pytest.fixture
def asked(refitted, monkeypatch):
    """For each time that the test part is read: the states of all trainings of refits then."""
    states, read = [], type(GCN).test_split

    def test_split(self, dataset, root):
        refits = [open_study(name, refitted) for name in ("one.refit", "one.twice")]
        states.append([trial.state for study in refits for trial in study.records()])
        return read(self, dataset, root)

    monkeypatch.setattr(type(GCN), "test_split", test_split)
    return states


@pytest.fixture(scope="module")
def found(refitted):
    return refit("one", home=refitted, seeds=2, executor=INLINE)


def test_the_same_seeds_train_the_best_configuration_of_each(refitted, found):
    table = found.table()
    assert len(table) == 6
    assert table.groupby("row")["seed"].apply(tuple).tolist() == [SEEDS] * 3
    study = open_study("one", refitted)
    for optimizer, part in table[table["kind"] == "refit"].groupby("optimizer"):
        best = study.best(optimizer).config
        assert set(zip(part["lr"], part["batch_size"], strict=True)) == {(best.lr, best.batch_size)}
        assert part["rho"].dropna().unique().tolist() == ([best.rho] if best.rho else [])


@pytest.mark.slow
def test_training_and_test_are_what_a_trainer_gives(refitted, found):
    """Without Ray: on the study's training samples, then once on the test part."""
    splits = with_train_subset(GCN.splits("digits", None), 256)  # which the study has
    test = GCN.test_split("digits", None)
    for trial in (found.studies[0].records("sam")[1], found.studies[1].records("base")[0]):
        trainer = Trainer(
            GCN,
            GCN.settings["digits"],
            trial.config,
            splits.alone(),
            epochs=trial.epochs,
            device=torch.device("cpu"),
        )
        while not trainer.finished:
            metrics = trainer.epoch().metrics
        assert trial.metrics["train/loss"] == metrics["train/loss"]
        row = found.table().set_index("key").loc[trial.key]
        if torch.cuda.is_available():
            continue  # another device gives other sums
        metric = Merged((Classification(), Calibration()))
        expected = evaluate(trainer.model.eval(), GCN, test, torch.device("cpu"), metric)
        assert row["test/loss"] == expected.loss
        assert {name: row[f"test/{name}"] for name in expected.scores} == expected.scores
        assert row["gap/loss"] == expected.loss - metrics["train/loss"]


def test_no_training_of_a_refit_sees_a_held_out_part(found):
    for study in found.studies:
        for trial in study.records():
            assert not [name for name in trial.metrics if name.startswith(("val/", "test/"))]


def test_the_base_optimizer_at_equal_compute_costs_what_sam_costs(found):
    summary = found.summary()
    gradients = {row: means["gradients"].value for row, means in summary.items()}
    base, sam, twice = gradients
    assert twice == f"{base} twice"
    assert gradients[base] == 2 * 256  # of two epochs
    assert gradients[twice] == gradients[sam] == 2 * gradients[base], "whatever the batch sizes are"


def test_what_is_tested_in_part_at_equal_compute_costs_the_refit_no_seed(refitted, found, monkeypatch):
    of = open_study("one", refitted)

    def but_the_first(study):
        tests = _tests_of(study)
        return dict(list(tests.items())[1:]) if study.settings.kind == "equal-compute" else tests

    monkeypatch.setattr("tune_sam.evaluation.refit._tests_of", but_the_first)
    fewer = tested_refit(of)
    assert fewer.seeds == found.seeds == SEEDS
    seeds = fewer.table().groupby("kind")["seed"].nunique().to_dict()
    assert seeds == {"refit": 2, "equal-compute": 1}
    asked = answers(of, fewer).asked
    assert [claim.difference.mean.n for claim in asked["use"]] == [2]
    assert [claim.difference.mean.n for claim in asked["compute"]] == [1]
    assert [name for name in names_of(fewer).values() if "seeds" in name] == ["Adam × 2 epochs (1 of 2 seeds)"]
    assert (found.lacks_equal_compute, fewer.lacks_equal_compute) == (False, True)


def test_a_refit_of_a_study_on_few_samples_or_wrong_labels_has_no_more_or_right_ones(found):
    def of(**settings):
        return replace(
            found, studies=tuple(replace(one, settings=replace(one.settings, **settings)) for one in found.studies)
        )

    assert all(study.settings.train_alone for study in found.studies)
    assert (found.samples, found.wrong_labels) == (256, 0)
    assert of(label_noise=0.2).wrong_labels == 0.2
    earlier = of(label_noise=0.2, train_alone=False)
    assert (earlier.samples, earlier.wrong_labels) == (435, pytest.approx(0.2 * 256 / 435))


def test_mlflow_has_the_test_results_beside_the_training(found):
    table = found.table().set_index("key")
    for study in found.studies:
        client = mlflow.MlflowClient(study.tracking_uri)
        for trial in study.records():
            metrics = client.get_run(trial.mlflow_run_id).data.metrics
            assert metrics["test/accuracy"] == table.loc[trial.key, "test/accuracy"]
            assert metrics["gap/loss"] == table.loc[trial.key, "gap/loss"]
        assert client.get_run(study.mlflow_run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_the_test_part_is_read_when_all_trainings_are_done_and_once(refitted, found, asked):
    again = refit("one", home=refitted, seeds=2, executor=INLINE)
    assert not asked
    pd.testing.assert_frame_equal(again.table(), found.table())
    more = refit("one", home=refitted, seeds=3, executor=INLINE)
    assert asked == [["complete"] * 9] * 2
    both = more.table().merge(found.table(), on=list(found.table()))
    assert len(both) == len(found.table()), "what was there is as it was"
    assert len(more.table()) == 9


def test_searches_are_listed_without_their_refits(refitted, found):
    assert [study.name for study in studies(refitted)] == ["one"]
    assert open_study("one.refit", refitted).settings.refit_of == "one"


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (0, "--seeds 0: there is nothing to train"),
        ((3, 4, 3), "--seeds 3,4,3: a seed comes twice"),
        ((-1,), "--seeds -1: give a number of seeds"),
    ],
)
def test_seeds_that_cannot_be_are_refused(searched, seeds, said):
    with pytest.raises(Refused, match=said):
        refit("one", home=searched, seeds=seeds, executor=INLINE)


def test_configurations_that_differ_have_names_that_differ():
    near = [Configuration("sam", 0.05, lr, 32, seed) for lr in (0.0010001, 0.0010003) for seed in (1, 2)]
    digits = significant_digits(near)
    assert [row_name(one, digits) for one in near] == ["sam ρ=0.05 lr=0.0010001 batch=32"] * 2 + [
        "sam ρ=0.05 lr=0.0010003 batch=32"
    ] * 2
    assert significant_digits(near[:2]) == 3


def test_controls_that_the_refit_trains_anyway_are_trained_once():
    sam, base = {"rho": 0.1, "lr": 0.01, "batch_size": 64}, {"lr": 0.01, "batch_size": 64}
    other = {"lr": 0.02, "batch_size": 64}
    assert control_points({"base": [base], "sam": [sam], "asam": [sam | {"lr": 0.02}]}) == [other]
    assert control_points({"sam": [sam], "asam": [sam | {"rho": 1.0}]}) == [base], "also without a base optimizer"
    assert control_points({"base": [base, other], "sam": [sam]}) == []


@pytest.mark.slow
def test_an_existing_refit_gets_its_matched_controls_and_is_not_trained_again(tmp_path):
    home, grid, heard = tmp_path / "home", tmp_path / "two.yaml", Heard()
    grid.write_text(
        "dataset: digits\noptimizers: [base, sam]\nsampler: grid\nepochs: 1\ntrain_subset: 256\nranges:\n"
        "  base: {lr: 0.01, batch_size: 64}\n  sam: {rho: 0.05, lr: 0.003, batch_size: 128}\n"
    )

    def train(seeds, **options):
        return refit_grid("gcn", config=grid, name="two", home=home, seeds=seeds, executor=INLINE, **options)

    before = train(2, controls=False)
    assert [study.name for study in before.studies] == ["two.refit", "two.twice"]
    found = train(2, listener=heard)
    assert [study.name for study in found.studies] == ["two.refit", "two.twice", "two.controls"]
    assert heard.trained == ["base"] * 2
    (said,) = heard.said
    assert "the refit 4 trainings of 1 epoch (2 configurations, 2 seeds)" in said
    assert "matched controls 2 trainings of 1 epoch (1 configuration, 2 seeds, which --no-controls leaves" in said
    study, table = open_study("two", home), found.table()
    assert tested_refit(study).table().equals(table)

    sam, control = table[table["optimizer"] == "sam"], table[table["kind"] == "control"]
    for same in ("lr", "batch_size", "epochs", "seed"):
        assert control[same].tolist() == sam[same].tolist()
    assert control["optimizer"].unique().tolist() == ["base"]
    assert control["gradients"].tolist() == [gradients / 2 for gradients in sam["gradients"]]

    analysis = tune_sam.analyze("two", home=home, sample=24, grid=3, executor=INLINE)
    networks = analysis.table().set_index("key")
    assert list(networks.index) == [
        *(f"two.refit/{trial}" for trial in ("base/0", "base/1", "sam/0", "sam/1")),
        *(f"two.controls/{trial}" for trial in ("base/0", "base/1")),
    ], "all seeds, and the matched controls"
    answered = answers(study, found, analysis.table())
    (flatter,) = [claim for claim in answered.flatter if claim.measure == "lambda_max"]
    assert flatter.values.value == pytest.approx(
        networks.loc[["two.refit/sam/0", "two.refit/sam/1"], "lambda_max"].mean()
    )
    assert flatter.others.value == pytest.approx(networks["lambda_max"].iloc[4:].mean())
    page = report("two", home=home).page.with_name("report.md").read_text()
    names = names_of(found)
    assert f"| {names[flatter.row]} | {names[flatter.to]} | " in page
    assert "(of 2 seeds, too few for an interval)" in page
    train(3, controls=False)
    assert len(tested_refit(study).seeds) == 3, "the controls of two seeds take none away"


class Heard(SearchListener):
    """What a listener is told."""

    def __init__(self):
        self.said, self.trained = [], []

    def announced(self, text):
        self.said.append(text)

    def started(self, optimizer, number):
        self.trained.append(optimizer)


def test_what_will_be_trained_has_the_seeds_that_were_asked_for_before(found):
    assert cost_in_words(found.studies, SEEDS) == (
        "To train: the refit 4 trainings of 2 epochs (2 configurations, 2 seeds); at equal compute 2 trainings of 4 "
        "epochs (1 configuration, 2 seeds)."
    )
    assert cost_in_words(found.studies[:1], SEEDS[:1]) == (
        "To train: the refit 4 trainings of 2 epochs (2 configurations, 2 seeds, 1 of them asked for before)."
    )


def test_a_refit_is_of_a_search(refitted, found):
    with pytest.raises(Refused, match="one.refit is a refit itself; give the study that it is of, one"):
        refit("one.refit", home=refitted, executor=INLINE)


def test_a_study_without_a_complete_trial_is_told(searched, monkeypatch):
    monkeypatch.setattr(Study, "records", lambda *_: [])
    with pytest.raises(Refused, match="study one has no complete trial.*`tune-sam resume one --trials N`"):
        refit("one", home=searched, executor=INLINE)


@pytest.fixture
def without_sam(monkeypatch):
    """As if no trial of sam were complete."""
    ranked = Study.ranked

    def without(study, trials):
        return [trial for trial in ranked(study, trials) if trial.optimizer != "sam"]

    monkeypatch.setattr(Study, "ranked", without)


@pytest.mark.usefixtures("without_sam")
def test_the_best_alone_leave_out_an_optimizer_without_a_complete_trial(searched, caplog):
    study = open_study("one", searched)
    assert best_alone(study).optimizers == ("base",)
    assert "no complete trial of sam, which the file leaves out" in caplog.text


@pytest.mark.usefixtures("without_sam")
def test_an_optimizer_without_a_complete_trial_does_not_stop_the_others(searched, monkeypatch, caplog):
    trained, one = [], open_study("one", searched)
    monkeypatch.setattr(
        "tune_sam.evaluation.refit.create", lambda name, settings, *_: replace(one, name=name, settings=settings)
    )
    monkeypatch.setattr(
        "tune_sam.operations.refit.launch", lambda child, *_, again: trained.append(child.settings.optimizers)
    )
    monkeypatch.setattr("tune_sam.operations.refit.test_all", lambda *_: {})
    monkeypatch.setattr("tune_sam.operations.refit._publish", lambda _: "")
    monkeypatch.setattr("tune_sam.operations.refit.log_models", lambda *_: "")
    refit("one", home=searched, seeds=(77,), executor=INLINE)
    assert trained == [("base",), ("base",)], "the refit, and it at equal compute; no row needs a control"
    assert "no complete trial of sam, which the refit leaves out" in caplog.text


def test_a_new_login_of_the_search_is_its_refits_too(refitted, found):
    study = replace(open_study("one", refitted), tracking_uri="http://me:new@host:5000", storage="s3://bucket?key=new")
    settings = found.studies[0].settings
    child = refit_study(study, "refit", settings.epochs, found.choice.of_all(study), found.seeds, found.choice)
    assert (child.name, child.tracking_uri, child.storage) == ("one.refit", study.tracking_uri, study.storage)


def test_a_server_of_mlflow_that_is_away_when_a_refit_begins_is_waited_for(searched, monkeypatch, caplog):
    attempts, study = [], open_study("one", searched)

    def away_once(name, settings, *_):
        attempts.append(name)
        if len(attempts) == 1:
            raise Away("MLflow cannot be reached")
        return replace(study, name=name, settings=settings)

    monkeypatch.setattr("tune_sam.study.patience.FIRST_WORD", 0.0)
    monkeypatch.setattr("tune_sam.evaluation.refit.create", away_once)
    made = refit_study(study, "refit", 2, Choice().of_all(study), SEEDS, Choice())
    assert (made.name, len(attempts)) == ("one.refit", 2)
    assert "MLflow at sqlite:///" in caplog.text
    assert "is away; waiting for it" in caplog.text


def test_tests_are_kept_as_files(refitted, found):
    kept = refitted / "studies" / "one.refit" / "test" / "sam-0.json"
    assert result_of(kept) == found.tests["one.refit/sam/0"]


@pytest.mark.slow
def test_a_refit_may_be_longer_than_its_search(refitted, found):
    """It is another one, also at equal compute."""
    longer = refit("one", home=refitted, seeds=1, epochs=3, executor=INLINE)
    assert [(study.name, study.settings.epochs) for study in longer.studies] == [
        ("one.refit2", 3),
        ("one.twice2", 6),
    ]
    assert tested_refit(open_study("one", refitted)).table().equals(longer.table())
    assert (longer.choice, longer.stale) == (Choice(), False)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there both are in bf16")
def test_a_search_in_bf16_on_the_cpu_is_trained_again_in_fp32_unless_bf16_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("tune_sam.training.multiplies_bf16", lambda: True)
    monkeypatch.setitem(GCN.settings, "digits", replace(GCN.settings["digits"], bf16_on_cpu=True))
    for asked, trained, said in (
        ("auto", "fp32", "Passes on CPU were in bf16 in the search, fp32 in the refit."),
        ("bf16", "bf16", "Passes were in bf16 on CPU."),
    ):
        study = tune_sam.search(
            "gcn", dataset="digits", train_subset=64, optimizers=["sam"], trials=1, epochs=1, precision=asked,
            name=asked, home=tmp_path, executor=INLINE,
        )  # fmt: skip
        assert (study.settings.precision, [trial.precision for trial in study.records()]) == (asked, ["bf16"])
        found = refit(asked, home=tmp_path, seeds=1, controls=False, executor=INLINE)
        assert [trial.precision for trial in found.studies[0].records()] == [trained]
        told = "".join(compute_section(study, found, names_of(found)).sentences)
        assert said in told


@pytest.mark.slow
def test_all_points_of_a_presets_grid_are_trained_without_a_search(searched):
    every = refit_grid("odd_workload:Reported", preset="report", home=searched, seeds=1, epochs=1, executor=INLINE)
    table = every.table().query("epochs == 1")
    assert table["rho"].dropna().tolist() == list(GCN.published_rho)
    assert table["optimizer"].value_counts().to_dict() == {"base": 1, "asam-all": 4}
    assert open_study("reported-report", searched).records() == []
    assert every.choice == Choice(planned=True)
    again = refit_grid("odd_workload:Reported", preset="report", home=searched, seeds=1, epochs=1, executor=INLINE)
    assert again.table().equals(every.table())
    page = report("reported-report", home=searched).page.with_name("report.md").read_text()
    assert "refit odd_workload:Reported --config study.yaml --name reported-report --epochs 1 --seeds 10000," in page
    assert "Nothing was searched." in page
    assert "Nothing was searched: the configurations were given." in str(answer_of_refit(every))


@pytest.mark.slow
def test_the_best_configurations_are_trained_in_another_home_as_in_their_own(refitted, found, tmp_path):
    file = tmp_path / "best.yaml"
    file.write_text(as_yaml(best_alone(open_study("one", refitted))))
    there = refit_grid("gcn", config=file, name="other", home=tmp_path / "home", seeds=2, executor=INLINE)
    numbers = [name for name in found.table() if name.startswith(("train/", "test/", "gap/")) or name == "row"]
    pd.testing.assert_frame_equal(there.table()[numbers], found.table()[numbers])


@pytest.mark.slow
def test_one_command_trains_a_configuration_on_another_split_and_tests_it_there(searched, tmp_path):
    config = tmp_path / "one.yaml"
    config.write_text("dataset: digits\ntrain_subset: 128\noptimizers: [base]\nsampler: grid\nlr: 0.01\nepochs: 1\n")
    given = {"config": config, "name": "split", "home": searched, "seeds": 1, "executor": INLINE}
    of = refit_grid("gcn", split_seed=3, **given)
    (trial,) = of.studies[0].records()

    workload, setting, cpu = GCN.split_by(3), GCN.setting("digits"), torch.device("cpu")
    splits = with_train_subset(workload.read("digits", None), 128).alone()
    training = Trainer(workload, setting, trial.config, splits, epochs=1, threads=1, device=cpu)

    assert trial.metrics["train/loss"] == training.epoch().metrics["train/loss"]
    tested = evaluate(training.model.eval(), GCN, workload.read_test("digits", None), cpu, GCN.metrics(setting))
    assert of.tests[trial.key]["loss"] == tested.loss
    assert of.of.settings.split_seed == Checkpoint.read(trial.checkpoint).split_seed == 3
    with pytest.raises(Refused, match="split seed"):
        refit_grid("gcn", split_seed=4, **given)


# Last, for the refit that it makes is the latest from then on.
@pytest.mark.slow
def test_other_configurations_are_another_refit(refitted, found):
    wider = refit("one", home=refitted, seeds=1, top=2, executor=INLINE)
    assert [study.name for study in wider.studies][:2] == ["one.refit3", "one.twice"]
    assert wider.table()["kind"].value_counts()[["refit", "equal-compute"]].tolist() == [4, 1]
    assert wider.choice == Choice(top=2)


def test_the_best_of_each_batch_size_are_chosen(searched, monkeypatch):
    study = open_study("one", searched)
    trial = study.best("sam")
    configs = [
        replace(trial.config, batch_size=size, lr=lr)
        for size, lr in ((64, 0.1), (16, 0.2), (64, 0.3), (16, 0.4), (32, 0.5), (64, 0.6))
    ]
    monkeypatch.setattr(Study, "ranked", lambda *_: [replace(trial, config=config) for config in configs])

    def rates(**asked):
        return [config.lr for config in Choice(**asked).of(study, "sam")]

    assert rates(each_batch_size=True) == [0.1, 0.2, 0.5]
    assert rates(top=3) == [0.1, 0.2, 0.3]
