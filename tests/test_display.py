"""What a person sees of an object at a prompt and in a notebook."""

from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest

from tune_sam import Analysis, Refit, Report, Study, Trial
from tune_sam.display import html_table
from tune_sam.evaluation.analysis import Plan
from tune_sam.flatness import Flatness, Measure
from tune_sam.home import Home
from tune_sam.space import Configuration, LogRange, Space
from tune_sam.study.settings import StudySettings

SPACE = Space(LogRange(0.001, 1), LogRange(1e-4, 1e-1), (32, 64), ())
SETTINGS = StudySettings(
    workload="gcn",
    dataset="digits",
    optimizers=("base", "sam"),
    trials=2,
    epochs=3,
    spaces={"base": replace(SPACE, rho=None), "sam": SPACE},
)


class MadeUp(Study):
    """A study whose trials are made up."""

    def records(self, optimizer=None):
        return [trial for trial in TRIALS[self.name] if optimizer in (None, trial.optimizer)]


def made_up(name="one", **settings):
    given = dict.fromkeys(field.name for field in fields(Study)) | {
        "name": name,
        "home": Home("/none", "postgresql://there"),
        "settings": replace(SETTINGS, **settings),
        "tracking_uri": "http://u:secret@there",
        "storage": "s3://u:secret@there",
    }
    return MadeUp(**given)


def trial(optimizer, number, value, rho=None, study="one", **more):
    given = dict.fromkeys(field.name for field in fields(Trial)) | {
        "key": f"{study}/{optimizer}/{number}",
        "study": study,
        "optimizer": optimizer,
        "number": number,
        "state": "pruned" if value is None else "complete",
        "value": value,
        "config": Configuration(optimizer, rho, 0.01, 64, number),
        "metrics": {"val/accuracy": value, "train/loss": 0.125, "train/accuracy": 0.96875},
        "epochs": 3,
        "seconds": 2.5,
    }
    return Trial(**given | more)


TRIALS = {
    "none": [],
    "one": [
        trial("base", 0, 0.91234),
        trial("base", 1, 0.9),
        trial("sam", 0, 0.925, rho=0.05),
        trial("sam", 1, None, rho=0.5),
    ],
    "one.refit": [
        trial("base", 0, 0.97, study="one.refit"),
        trial("base", 1, 0.97, study="one.refit"),
        trial("sam", 0, 0.98, rho=0.05, study="one.refit"),
        trial("sam", 1, 0.98, rho=0.05, study="one.refit"),
    ],
}


class Cells(HTMLParser):
    """The texts of a page, and the tags that it has."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def shown(thing):
    """The texts of what a notebook shows."""
    return Cells(thing._repr_html_()).texts


def test_a_study_says_what_was_found_so_far():
    assert repr(made_up()) == (
        "<Study one: gcn on digits, 3 complete, 1 pruned; best val/accuracy: "
        "base 0.9123 (lr 0.01, batch size 64), sam 0.925 (ρ 0.05, lr 0.01, batch size 64)>"
    )


def test_a_notebook_shows_the_best_of_each_optimizer_of_a_study():
    title, *cells = shown(made_up())
    assert title == "Study one: gcn on digits, 3 complete, 1 pruned"
    assert cells == [
        *("optimizer", "best val/accuracy", "ρ", "lr", "batch size", "trial"),
        *("base", "0.9123", "–", "0.01", "64", "0"),
        *("sam", "0.925", "0.05", "0.01", "64", "0"),
    ]


def test_a_study_without_a_trial_says_so():
    assert repr(made_up("none")) == "<Study none: gcn on digits, no trials>"
    assert shown(made_up("none"))[0] == "Study none: gcn on digits, no trials"


def test_a_study_whose_records_cannot_be_read_is_shown_without_them(monkeypatch):
    monkeypatch.setattr(MadeUp, "records", lambda self, optimizer=None: 1 / 0)
    assert repr(made_up()) == "<Study one: gcn on digits, no trials>"


def test_a_study_whose_home_is_gone_is_shown_and_no_home_is_made(tmp_path):
    study = replace(made_up(), home=Home(tmp_path / "gone"))
    assert repr(study) == "<Study one: gcn on digits, no trials>"
    assert not (tmp_path / "gone").exists()


def test_no_login_is_shown():
    assert "secret" not in repr(made_up()) + made_up()._repr_html_()


def test_a_trial_says_how_it_ended_and_what_it_was_given():
    best, pruned = TRIALS["one"][2:]
    assert repr(best) == "<Trial one/sam/0: complete, value 0.925, ρ 0.05, lr 0.01, batch size 64>"
    assert repr(pruned) == "<Trial one/sam/1: pruned, ρ 0.5, lr 0.01, batch size 64>"
    assert repr(replace(pruned, state="waiting", config=None)) == "<Trial one/sam/1: waiting>"
    assert shown(best) == [
        "Trial one/sam/0",
        *("state", "value", "ρ", "lr", "batch size", "seed", "epochs", "seconds"),
        *("complete", "0.925", "0.05", "0.01", "64", "0", "3", "2.5"),
    ]


@pytest.fixture
def refit():
    child = made_up("one.refit", kind="refit", refit_of="one", choice={}, objective="train/accuracy")
    tests = {one.key: {"accuracy": 0.9 + 0.02 * one.number, "loss": 0.25} for one in child.records()}
    return Refit(made_up(), (child,), tests, (0, 1), "")


def test_a_refit_shows_the_means_of_its_rows(refit):
    assert repr(refit) == "<Refit of one: 4 trainings tested, seeds 0, 1>"
    title, *cells = shown(refit)
    assert title == "Refit of one: 4 trainings tested, seeds 0, 1, means with 95 % intervals"
    rows = [cells[place : place + 5] for place in range(0, len(cells), 5)]
    assert [row[0] for row in rows[1:]] == ["base lr=0.01 batch=64", "sam ρ=0.05 lr=0.01 batch=64"]
    assert all(row[1] == "91.00" for row in rows[1:]), "two seeds give no interval"


def test_an_analysis_shows_each_measure_of_each_trial():
    plan = Plan(study=made_up(), trials=tuple(TRIALS["one"][::2]), sample=500, every=True)
    rest = dict.fromkeys(field.name for field in fields(Flatness))
    flat = {
        one.key: Flatness(**rest | {"samples": 500, "measures": {"trace": Measure(3.25, 0.0, one.optimizer == "base")}})
        for one in plan.trials
    }
    analysis = Analysis(plan, flat, {}, {}, {})
    assert repr(analysis) == "<Analysis of one: 2 trials on 500 training samples>"
    assert shown(analysis) == [
        "Analysis of one: 2 trials on 500 training samples",
        *("trial", "trace"),
        *("one/base/0", "3.25"),
        *("one/sam/0", "unresolved"),
    ]


def test_a_report_shows_where_its_page_is(tmp_path):
    report = Report(made_up(), None, tmp_path / "a'b.html", "")
    assert repr(report) == f"<Report of one: {tmp_path}/a'b.html>"
    assert report._repr_html_() == f'<a href="{tmp_path.as_uri()}/a%27b.html">Report of one</a>'


def test_what_is_shown_in_a_notebook_is_escaped():
    hostile = "<script>alert('a & b')</script>"
    page = Cells(html_table(hostile, [hostile], [[hostile]]))
    assert page.texts == [hostile] * 3
    assert "script" not in page.tags
    assert "script" not in Cells(made_up(workload=hostile)._repr_html_()).tags
