import base64
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from html import unescape
from html.parser import HTMLParser

import pandas
import pytest
from studies import INLINE

from tune_sam import open_study
from tune_sam.errors import NothingComplete, Refused
from tune_sam.evaluation.answer import answer_of
from tune_sam.evaluation.claims import answers, pairs
from tune_sam.evaluation.measured import Measured
from tune_sam.evaluation.names import names_of
from tune_sam.evaluation.refit import Refit, tested_refit
from tune_sam.operations.analyze import analyze
from tune_sam.operations.refit import refit, refit_grid
from tune_sam.reporting.again import again_section
from tune_sam.reporting.answer import answer_section
from tune_sam.reporting.compute import compute_section
from tune_sam.reporting.page import _take_measured, report
from tune_sam.reporting.pictures import CAPTIONS, MORE
from tune_sam.reporting.results import _our_rows, results_section
from tune_sam.reporting.searched import at_edge, chosen_section
from tune_sam.settings import SearchOptions
from tune_sam.space import LogRange, Range
from tune_sam.study.records import Study
from tune_sam.tuning.plan import define
from tune_sam.tuning.recipe import as_options
from tune_sam.tuning.runner import search
from tune_sam.workload import find_workload

pytestmark = pytest.mark.usefixtures("blank_figures", "coarse_measures")


@pytest.fixture(scope="module")
def bare(searched):
    """The page of a search that nothing else was done with, as text."""
    return report("one", home=searched).page.with_name("report.md").read_text()


@pytest.fixture(scope="module")
def measured(refitted):
    """What was measured of the refit, and of all trials."""
    options = {"home": refitted, "sample": 32, "executor": INLINE}
    return analyze("one", grid=3, **options), analyze("one", every=True, **options)


@pytest.fixture(scope="module")
def full(refitted, measured):
    """The page after a refit and both analyses."""
    return report("one", home=refitted).page


@pytest.fixture
def study(refitted):
    return open_study("one", refitted)


class Page(HTMLParser):
    """What a page loads, and the text of its tables."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.open, self.rows = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        (self.links if tag == "a" else self.loads).extend(value for name, value in attrs if name in ("src", "href"))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_a_refit_is_what_analyze_measures(measured, study):
    """With the gaps to the test set; `--all` measures the search's trials."""
    of_refit, of_all = measured
    table = of_refit.table().set_index("key")
    assert list(table.index) == [f"one.refit/{trial}" for trial in ("base/0", "base/1", "sam/0", "sam/1")], "all seeds"
    assert of_refit.surfaces.keys() == {"base", "sam"}, "one surface of each optimizer"
    expected = tested_refit(study).table().set_index("key").loc[table.index]
    pandas.testing.assert_series_equal(table["gap/loss"], expected["gap/loss"])
    assert (of_refit.folder / "surfaces.png").exists()
    assert {trial.study for trial in of_all.trials} == {"one"}


def test_a_search_alone_is_told_as_one(bare, study):
    assert "- **Help?** ? not known. Nothing is tested yet" in bare
    assert "- **Flatter?** ? not known. It takes a refit with several seeds and matched controls, and an" in bare
    assert "**Next:** Only 3 trials of Adam are complete, so search at least 5 of each optimizer: `tune-sam re" in bare
    assert "Not measured; tune-sam analyze one --all" in bare
    for name, trial in (("Adam", study.best("base")), ("SAM", study.best("sam"))):
        assert f"| {name} | {trial.number} |" in bare
        assert f"{trial.value:.4f}" in bare
    assert "Of 6 trials that ended: 6 complete." in bare


def test_the_page_begins_with_the_answer(full, study):
    begin = unescape(full.read_text().partition("<main>")[0]).replace("\u00a0", " ")
    answer = answer_of(study)
    for line in answer.lines:
        assert f"{line.symbol} {line.word}" in begin
        assert line.sentence in begin
    assert f"<code>{answer.next_step.command}</code>" in begin


def test_the_page_needs_no_other_file_and_no_network(full):
    page = Page(full.read_text())
    assert page.open == []
    assert page.loads
    assert all(load.startswith("data:") for load in page.loads)
    assert all(link.startswith(("#", "data:")) for link in page.links), "of a home without a server"
    assert not any(word in full.read_text() for word in ("url(", "@import", "<script src", "srcset"))
    assert full.read_text().count('id="plotly"') == 1
    assert full.stat().st_size < 4e6


def test_a_single_refit_says_nothing_of_others(full):
    assert "refits of this study" not in full.read_text()


def test_the_page_says_how_the_data_were_split_and_at_which_precision(bare, study, tmp_path):
    sizes = find_workload("gcn").datasets["digits"]
    held = f"{sizes.validation:,} validate and {sizes.test:,} are the test set, split by seed 0."
    assert f"of digits, 256 samples train, {held}" in bare
    whole = replace(study, settings=replace(study.settings, train_subset=None))
    assert f"{sizes.train:,} samples train, {held}" in again_section(whole, None, None, None, tmp_path).sentences[0]
    assert "Passes were in fp32 on CPU." in bare


def test_every_figure_has_a_caption_and_its_data(full):
    text = full.read_text()
    files = sorted(file.stem for file in (full.parent / "figures").glob("*.png"))
    assert {"surfaces", "contours", "lines", "spectral-density", "gap-flatness", "over-rho"} <= set(files)
    page = Page(text)
    images = [load for load in page.loads if load.startswith("data:image/png")]
    data = [base64.b64decode(load.partition(",")[2]) for load in page.links if load.startswith("data:text/csv")]
    assert len(images) == len(data) == len(files)
    for name in files:
        assert CAPTIONS[name].format(score="accuracy", **MORE)[:40] in unescape(text).replace("\u00a0", " ")
        assert (full.parent / "figures" / f"{name}.csv").read_bytes() in data


def test_the_table_holds_the_means_of_the_refit(full, study):
    found = tested_refit(study)
    rows = Page(full.read_text()).rows
    means, names = found.summary(), names_of(found)
    assert list(names.values()) == ["Adam", "SAM", "Adam × 2 epochs"]
    for name, columns in means.items():
        accuracy, loss = columns["test/accuracy"], columns["train/loss"]
        (row,) = [row for row in rows if row[0] == names[name] and row[1] == f"{100 * accuracy.value:.2f}"]
        assert f"{loss.value:.4f}" in row, "of two seeds, which have no interval"
    for claim in answers(study, found).help + answers(study, found).by_rho:
        difference = f"{100 * claim.difference.mean.value:+.2f}"
        assert [names[claim.row], names[claim.to], "2", difference, "", "", "", "no verdict"] in rows


def test_configurations_costs_and_runs_are_tabulated_by_name(full, study):
    rows, found = Page(full.read_text()).rows, tested_refit(study)
    best = study.best("sam").config
    values = [f"{best.rho:.4g}", f"{best.lr:.4g}", str(best.batch_size), "2", "10000, 10001"]
    assert ["SAM", "chosen by validation", *values] in rows
    gradients = {row[0]: row[4] for row in rows if row[1:3] in (["2", "4"], ["2", "8"])}
    assert gradients["SAM"] == gradients["Adam × 2 epochs"] == f"{found.table().query('rho > 0')['gradients'].sum():,}"
    for one in (study, *found.studies):
        assert one.mlflow_run_id in [row[-1] for row in rows if row[0] == one.name]


def test_the_commands_are_those_that_made_it(bare, full):
    """Of a search alone, the search's and the page's."""
    lines = full.with_name("report.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("tune-sam ")]
    assert commands == [
        "tune-sam search gcn --config study.yaml --name one",
        "tune-sam refit one --seeds 10000,10001",
        "tune-sam analyze one --sample 32 --grid 3",
        "tune-sam analyze one --sample 32 --all",
        "tune-sam report one",
    ]
    assert [line for line in bare.splitlines() if line.startswith("tune-sam ")] == [commands[0], commands[-1]]


def test_gradients_of_what_has_not_ended_are_not_said_to_be_counted(study):
    (sentence,) = compute_section(study, None, {}).sentences
    assert "are estimated where a training diverged, has not ended or is of an earlier release" in sentence


@pytest.mark.parametrize(("controls", "ends"), [(None, " --no-controls"), ("some", "")])
def test_a_refit_without_controls_is_made_again_without_them(study, tmp_path, monkeypatch, controls, ends):
    monkeypatch.setattr(Refit, "lacks_controls", True)
    monkeypatch.setattr(Refit, "controls", controls)
    code = again_section(study, tested_refit(study), None, None, tmp_path).code
    assert f"tune-sam refit one --seeds 10000,10001{ends}\n" in code


def test_the_numbers_lie_beside_the_page(full, bare, study):
    read = partial(pandas.read_csv, float_precision="round_trip")  # by default pandas 2 reads some last digits wrong
    found = tested_refit(study)
    table = read(full.with_name("table.csv")).set_index("row")
    for row, means in found.summary().items():
        accuracy = means["test/accuracy"]
        assert table.loc[row, "test/accuracy"] == accuracy.value
    trainings = read(full.with_name("trainings.csv"))
    assert trainings["test/loss"].tolist() == found.table()["test/loss"].tolist()
    trials = read(full.with_name("trials.csv"))
    assert trials["val/accuracy"].tolist() == study.trials()["val/accuracy"].tolist()


def test_no_file_of_numbers_says_where_the_home_is(full, refitted):
    of_analyses = [file for file in refitted.glob("studies/*/flatness/*/*.csv") if file.name == "flatness.csv"]
    beside = list(full.parent.glob("*.csv"))
    assert (len(beside), len(of_analyses)) == (3, 2)
    for file in (*beside, *of_analyses):
        assert str(refitted) not in file.read_text()


def test_html_and_markdown_say_the_same(full):
    markdown = full.with_name("report.md").read_text()
    cells = [
        [cell.strip(" *").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in markdown.splitlines()
        if line.startswith("|") and not set(line) <= {"|", "-"}
    ]
    rows = Page(full.read_text()).rows
    assert [[cell for cell in row if cell] for row in cells] == [[cell for cell in row if cell] for row in rows]


def test_mlflow_has_the_page(full, study):
    from mlflow import MlflowClient

    files = {file.path for file in MlflowClient(study.tracking_uri).list_artifacts(study.mlflow_run_id, "report")}
    assert files == {
        f"report/{name}"
        for name in ("index.html", "report.md", "figures", "study.yaml", "trials.csv", "table.csv", "trainings.csv")
    }


def test_a_page_that_mlflow_does_not_take_is_kept(full, refitted, monkeypatch):
    monkeypatch.setattr("tune_sam.tracking.runs.publish", refuse)
    found = report("one", home=refitted)
    assert found.undelivered == "MLflow is away"
    assert found.page.exists()


def refuse(*_):
    raise Refused("MLflow is away")


def test_the_options_make_the_same_study_again(full, study):
    """Read back from the file that lies beside the page."""
    chosen = SearchOptions.read({"workload": "gcn"}, full.with_name("study.yaml"))
    assert define(chosen, study.home) == study.settings


@pytest.mark.parametrize(
    "given",
    [
        {"sampler": "grid", "optimizers": ["base", "asam"]},
        {"sampler": "grid", "optimizers": ["sam"], "rho": "0.01:0.5"},
        {"grid": False, "lr": "0.001:0.1", "batch_size": "16,32", "train_subset": 500, "scheduler": "none"},
        {
            "ranges": {"sam": {"rho": "0.01:0.5"}},
            "precision": "fp32",
            "compile": True,
            "gpus_per_trial": 0.25,
            "seed": 7,
        },
        {"gpus_per_trial": 0},
        {"objective": "two", "sampler": "random"},
        {"objective": "val/loss"},
        {"sampler": "grid", "rho": "0.05", "lr": "0.001,0.01", "batch_size": "16,32"},
        {
            "sampler": "grid",
            "optimizers": ["base", "asam"],
            "ranges": {"base": {"lr": 0.002, "batch_size": 32}, "asam": {"rho": "0.1", "lr": "0.001,0.003"}},
        },
        {"sampler": "grid", "optimizers": ["asam"], "lr": "0.01", "ranges": {"asam": {"rho": "0.1,0.7"}}},
    ],
)
def test_other_studies_are_made_again_too(study, given):
    settings = define(SearchOptions.read({"workload": "gcn", "dataset": "digits", **given}), study.home)
    options = as_options(settings)
    assert define(SearchOptions.read({"workload": "gcn", **options}), study.home) == settings


@pytest.mark.parametrize(
    ("value", "end"),
    [(0.001, "lower"), (0.0013, "lower"), (0.0015, ""), (0.03, ""), (0.7, ""), (0.8, "upper"), (1, "upper")],
)
def test_the_edge_is_a_twentieth_of_the_logarithm(value, end):
    assert at_edge(value, LogRange(0.001, 1)) == end


def test_a_single_value_has_no_edge():
    assert at_edge(0.01, LogRange(0.01, 0.01)) == ""


def test_a_figure_that_is_gone_is_named(full, refitted):
    folder = next(file.parent for file in (refitted / "studies" / "one").glob("flatness/all-*/analysis.json"))
    before = full.read_bytes()
    for gone in (["png"], ["png", "csv"]):
        files = [folder / f"gap-flatness.{kind}" for kind in gone]
        kept = [file.read_bytes() for file in files]
        for file in files:
            file.unlink()
        try:
            with pytest.raises(Refused, match=r"gap-flatness.png is gone, .*; tune-sam analyze one --sample 32 --all "):
                report("one", home=refitted)
        finally:
            for file, content in zip(files, kept, strict=True):
                file.write_bytes(content)
    assert full.read_bytes() == before


def test_an_analysis_that_does_not_say_what_it_drew_is_told(full, refitted):
    """As one that an earlier version made."""
    file = next((refitted / "studies" / "one").glob("flatness/all-*/analysis.json"))
    kept = file.read_text()
    file.write_text(json.dumps({name: part for name, part in json.loads(kept).items() if name != "figures"}))
    try:
        with pytest.raises(Refused, match="of an earlier version.*; tune-sam analyze one --sample 32 --all draws"):
            report("one", home=refitted)
    finally:
        file.write_text(kept)


def test_a_study_whose_files_are_gone_is_told(full, refitted):
    folder = refitted / "studies" / "one"
    shutil.move(folder, refitted / "elsewhere")
    try:
        with pytest.raises(Refused, match="the files of study one are gone"):
            report("one", home=refitted)
    finally:
        shutil.move(refitted / "elsewhere", folder)


def test_a_report_is_of_a_search(full, refitted):
    with pytest.raises(Refused, match="study one.refit is a refit itself; give the study that it is of, one"):
        report("one.refit", home=refitted)


def test_a_study_without_a_complete_trial_is_told(full, refitted, monkeypatch):
    monkeypatch.setattr(Study, "records", lambda self, optimizer=None: [])
    with pytest.raises(NothingComplete, match="study one has no complete trial yet"):
        report("one", home=refitted)


def test_seeds_that_not_all_rows_have_are_left_out(full, study, monkeypatch):
    """As when a refit with more seeds was interrupted between its tests."""
    file = study.home.study("one.refit") / "test" / "sam-1.json"
    kept = file.read_bytes()
    file.unlink()
    try:
        found = tested_refit(study)
        assert len(found.seeds) == 1
        assert found.table().groupby("row")["seed"].apply(tuple).tolist() == [found.seeds] * 3
    finally:
        file.write_bytes(kept)


@pytest.mark.slow
def test_a_refit_of_each_batch_size_shows_flatness_over_it(refitted):
    """Of a plain grid of two learning rates at each of two batch sizes."""
    search(
        "gcn",
        name="sizes",
        home=refitted,
        dataset="digits",
        train_subset=256,
        optimizers=["sam", "base"],
        sampler="grid",
        rho="0.05",
        lr="0.003,0.01",
        batch_size="64,128",
        epochs=2,
        scheduler="none",
        executor=INLINE,
    )
    analyze("sizes", home=refitted, sample=32, grid=3, executor=INLINE)
    found = refit("sizes", home=refitted, seeds=2, each_batch_size=True, executor=INLINE)
    assert len(found.table().query("kind != 'control'")) == 2 * (2 * 2) + 2
    rows = found.table().query("kind != 'control'").drop_duplicates("row")
    assert list(zip(rows["epochs"], rows["batch_size"], rows["optimizer"], strict=True))[:4] == [
        (2, 64, "sam"),
        (2, 64, "base"),
        (2, 128, "sam"),
        (2, 128, "base"),
    ]
    sizes = found.table().set_index("row")["batch_size"].to_dict()
    compared = pairs(found.table(), found.choice, "use")
    assert [(sizes[row], sizes[to]) for row, to in compared] == [(64, 64), (128, 128)]
    report("sizes", home=refitted)  # before the refit is analysed
    measured = analyze("sizes", home=refitted, sample=32, grid=3, executor=INLINE).table()
    measured = measured[measured["study"] == "sizes.refit"]
    assert len(measured) == 8, "two seeds of each configuration"
    page = report("sizes", home=refitted).page
    assert (page.parent / "figures" / "batch-size.png").exists()
    rows = {tuple(row[:2]): row for row in Page(page.read_text()).rows if row[0] in ("64", "128")}
    assert list(rows) == [("64", "SAM"), ("64", "Adam"), ("128", "SAM"), ("128", "Adam")]
    cell = measured.query("batch_size == 64 and optimizer == 'sam' and lambda_max_resolved")["lambda_max"]
    assert rows["64", "SAM"][4].startswith(f"{cell.mean():.1f}")
    assert rows["64", "SAM"][2] == "0.05"
    commands = page.with_name("report.md").read_text()
    assert "tune-sam refit sizes --each-batch-size --seeds 10000,10001" in commands
    assert "tune-sam analyze sizes --sample 32 --grid 3" in commands


@pytest.mark.slow
def test_where_rho_alone_was_varied_its_figure_is_there(tmp_path):
    config = tmp_path / "radii.yaml"
    config.write_text(
        "dataset: digits\ntrain_subset: 128\noptimizers: [base, sam]\nsampler: grid\nlr: 0.01\nepochs: 1\n"
        'ranges:\n  sam: {rho: "0.01,0.1,0.5"}\n'
    )
    given = {"home": tmp_path / "home", "executor": INLINE}
    found = refit_grid("gcn", config=config, name="radii", seeds=2, controls=False, **given)
    analyze("radii", sample=32, grid=3, **given)
    page = report("radii", home=given["home"]).page
    drawn = pandas.read_csv(page.parent / "figures" / "radius.csv")
    of_sam = found.table().query("optimizer == 'sam'").groupby("rho")["test/accuracy"].mean()
    shown = drawn.query("name == 'test/accuracy' and optimizer == 'sam'").groupby("rho")["value"].mean()
    pandas.testing.assert_series_equal(shown, 100 * of_sam, check_names=False)
    assert len(drawn) == 3 * (2 + 3 * 2)
    assert "Test accuracy, gap and curvature over ρ" in page.read_text()


def test_the_figure_over_rho_stays_when_all_trials_were_measured_too(tmp_path):
    drawn = {"close": ["radius", "gap-flatness", "contours"], "wide": ["gap-flatness"]}
    for name, figures in drawn.items():
        for file in (f"{figure}.{ending}" for figure in figures for ending in ("png", "csv")):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(name)
    close, wide = (Measured(tmp_path / name, {"figures": figures}) for name, figures in drawn.items())
    (into := tmp_path / "figures").mkdir()
    _take_measured(close, wide, wide, into)
    assert {file.stem: file.read_text() for file in into.glob("*.png")} == {
        "radius": "close",
        "contours": "close",
        "gap-flatness": "wide",
    }


def test_the_table_shows_the_published_studys_other_data_sets(full, refitted, study, monkeypatch):
    """As if the digits of this home were molecules, and another study's were beats."""
    found = tested_refit(study)
    molecules, beats = (
        replace(study, name=name, settings=replace(study.settings, dataset=dataset))
        for name, dataset in (("m", "mutagenicity"), ("b", "mitbih"))
    )
    monkeypatch.setattr("tune_sam.reporting.results.every_study", lambda _: [beats, molecules])
    monkeypatch.setattr("tune_sam.reporting.results.tested_refit", lambda _: found)
    section = results_section(molecules, found, None)
    names = [row[0] for row in section.tables[0].rows]
    ours = list(names_of(found).values())
    (cited,) = [name for name in names if "Fainello" in name]
    assert cited.startswith("The published study: F. Fainello, F. Pettenon and F. Venturi, ")
    assert names == [
        "This study",
        *ours,
        cited,
        *("Adam", "SAM"),
        "cifar10, the published study",
        *("SGD", "SAM"),
        "mitbih, this study",
        *ours,
        "mitbih, the published study",
        *("SGD", "SAM"),
    ]
    assert "cifar10 was not run here and our rows of mitbih are of study b, gcn, trained on" in section.sentences[-1]
    (row, *_) = _our_rows(found, None, "r2")
    assert row[1] == "", "a score that the columns have and the refit has not"
    assert row[2], "its test loss"


@pytest.mark.slow
def test_the_refit_that_was_asked_for_last_is_shown(full, refitted, study):
    """Not the one that was made last, nor one that is not tested yet."""
    short = refit("one", home=refitted, seeds=1, epochs=1, executor=INLINE)
    assert tested_refit(study).epochs == 1
    for file in study.home.study(short.studies[0].name).glob("test/*.json"):
        file.rename(file.with_suffix(".away"))
    assert tested_refit(study).epochs == 2
    for file in study.home.study(short.studies[0].name).glob("test/*.away"):
        file.rename(file.with_suffix(".json"))
    again = refit("one", home=refitted, seeds=2, executor=INLINE)
    assert tested_refit(study).table().equals(again.table())
    said = "\n".join(answer_section(study, again, answers(study, again), names_of(again)).sentences)
    assert "2 refits of this study have been tested, and this page shows one of them" in said


def test_the_edge_of_a_plain_grid_is_its_last_value(study):
    settings = define(SearchOptions.read({"workload": "gcn", "dataset": "digits", "sampler": "grid"}), study.home)
    (largest,) = [point["rho"] for point in settings.spaces["sam"].grid][-1:]
    best = study.best("sam")
    best = replace(best, config=replace(best.config, rho=largest))
    section = chosen_section(replace(study, settings=settings), [best], study.home.path)
    assert f"SAM: the best ρ, {largest:.4g}, lies at the upper edge of" in section.sentences[1]
    sam = settings.spaces["sam"]
    points = tuple(point | {"dropout": 0.0} for point in sam.grid)
    linear = replace(sam, grid=points, more={"dropout": Range(0, 0.5)})
    best = replace(best, config=replace(best.config, more={"dropout": 0.0}))
    spaces = {**settings.spaces, "sam": linear}
    section = chosen_section(replace(study, settings=replace(settings, spaces=spaces)), [best], study.home.path)
    assert f"SAM: the best ρ, {largest:.4g}, lies at the upper edge of" in section.sentences[1]
    assert not any("dropout" in sentence for sentence in section.sentences), "it has one value"


@pytest.mark.parametrize(("size", "where"), [(32, "smallest"), (64, ""), (128, "largest")])
def test_a_best_batch_size_at_the_end_of_those_offered_is_named(study, size, where):
    best = study.best("sam")
    space = replace(study.settings.spaces["sam"], batch_size=(32, 64, 128), grid=())
    settings = replace(study.settings, spaces={**study.settings.spaces, "sam": space})
    best = replace(best, config=replace(best.config, batch_size=size))
    section = chosen_section(replace(study, settings=settings), [best], study.home.path)
    tried = tuple({"rho": rho, "lr": 0.01, "batch_size": size} for rho in (0.05, 0.5))
    grid = replace(settings, sampler="grid", spaces={**settings.spaces, "sam": replace(space, grid=tried)})
    sentences = chosen_section(replace(study, settings=grid), [best], study.home.path).sentences
    assert not any("best batch size" in sentence for sentence in sentences), "a plain grid tries one"
    said = (
        f"SAM: the best batch size, {size}, is the {where} of 32,64,128; the optimum may lie beyond, so search others."
    )
    assert (said in section.sentences) == bool(where)
