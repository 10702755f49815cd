"""What a person sees in a browser: MLflow's pages and Optuna's dashboard on a real home of two searches."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import optuna
import pytest
from services import free_port
from studies import searched_study

from tune_sam.home import Home
from tune_sam.study.storage import open_storage

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]

PATIENCE = 60_000
"""Milliseconds."""

IN_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tune_sam.cli.main import main
main()
"""
"""Without what a shell in the background ignores."""


@pytest.fixture(scope="module")
def home(refitted):
    """Study `one` with its refit, and the newer study `two`."""
    searched_study(refitted, name="two", train_subset=128)
    return refitted


@pytest.fixture
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 2400, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


@contextmanager
def served(home, *options):
    """The address that `tune-sam ui` prints once the page is there; both it and the server end at Ctrl-C."""
    words = [sys.executable, "-c", IN_A_TERMINAL, "ui", "--home", str(home), "--port", str(free_port()), *options]
    process = subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


def names(page):
    page.wait_for_selector(".ag-row")
    return [one.inner_text().strip() for one in page.locator(".ag-row a[href*='/runs/']").all()]


def test_mlflow_opens_at_the_studies_with_their_numbers(home, page):
    with served(home) as address:
        page.goto(address)
        assert names(page) == ["two", "one"], "the newest first; what belongs to them is folded"
        headers = page.locator(".ag-header").inner_text()
        for column in ("val/accuracy", "test/accuracy", "optimizer", "rho", "lr", "batch_size", "tune_sam.state"):
            assert column in headers
        assert "Model training" in page.content()
        row = page.locator(".ag-center-cols-container .ag-row").first.inner_text()
        assert "0." in row, "a study has numbers"
        assert "complete" in row


def test_optunas_dashboard_shows_the_studies(home, page):
    pytest.importorskip("optuna_dashboard")
    with served(home, "--optuna") as address:
        page.goto(address)
        for name in ("one/sam", "one.refit/sam", "two/base"):
            page.wait_for_selector(f"text={name}")


def test_optuna_knows_what_a_trials_value_is(home):
    storage = open_storage(Home(home))
    assert optuna.load_study(study_name="two/sam", storage=storage).metric_names == ["val/accuracy"]
