"""The package beside a user's own folders of the same names, installed for development and from a wheel."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

REPOSITORY = "https://example.org/owner/tune_sam"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The unpacked wheel of this tree, made from a copy, with all that git does not ignore, as it is published."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(
        ROOT,
        folder / "source",
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv*", "*.egg-info", "build", "__pycache__", ".*_cache"),
    )
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TUNE_SAM_REPOSITORY": REPOSITORY},
    )
    assert made.returncode == 0, made.stderr
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(params=["regular", "namespace", "modules"])
def mine(request, tmp_path):
    """A user's folder with an analysis and trainables of their own."""
    folder = tmp_path / "project"
    for name in ("analysis", "trainables", "deploy", "tests"):
        (folder / name).mkdir(parents=True)
        (folder / name / "mine.py").touch()
        if request.param == "regular":
            (folder / name / "__init__.py").touch()
    if request.param == "modules":
        for name in ("analysis", "trainables"):
            shutil.rmtree(folder / name)
            (folder / f"{name}.py").write_text("mine = True\n")
    return folder


def run(words, folder, site):
    """Run a command in a folder, with the package from `site`, or as it is installed for these tests."""
    others = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = {"PYTHONPATH": str(site)} if site else {}
    done = subprocess.run(words, cwd=folder, env=others | path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_an_index_shows_of_a_wheel_leads_to_the_files_of_the_repository(wheel):
    (file,) = wheel.glob("*.dist-info/METADATA")
    metadata = message_from_string(file.read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!https://(?!example\.org))(\S+)\)", metadata.get_payload())
    addresses = [one.split(", ")[1] for one in metadata.get_all("Project-URL")]

    assert len(links) > 20
    files = [one for one in links + addresses if one not in (REPOSITORY, f"{REPOSITORY}/issues")]
    for one in files:
        kind, path = re.fullmatch(rf"{REPOSITORY}/(raw|blob)/HEAD/([^#]+)(?:#.*)?", one).groups()
        assert (ROOT / path).exists(), one
        assert (kind == "raw") == (path.endswith(".png")), one


def test_a_repository_that_a_browser_cannot_open_is_refused():
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env=os.environ | {"TUNE_SAM_REPOSITORY": "git@example.org:owner/tune_sam.git"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert done.stderr.endswith(
        "TUNE_SAM_REPOSITORY 'git@example.org:owner/tune_sam.git': expected the address of a page, https://…\n"
    )


LOADED = """
import json, tune_sam.analysis.lanczos, tune_sam.trainables.gcn
import analysis.mine, trainables.mine
print(json.dumps([module.__file__ for module in
                  (tune_sam.analysis.lanczos, tune_sam.trainables.gcn, analysis.mine, trainables.mine)]))
"""


@pytest.mark.slow
def test_each_gets_their_own_analysis(mine, wheel):
    code = LOADED
    if (mine / "analysis.py").exists():
        code = code.replace("analysis.mine, trainables.mine", "analysis, trainables")
    for site in (None, wheel):
        ours, _, *theirs = json.loads(run([sys.executable, "-c", code], mine, site))
        assert Path(ours).is_relative_to(site) if site else not Path(ours).is_relative_to(mine)
        assert all(Path(file).is_relative_to(mine) for file in theirs)


OTHERS = """
import sys
from tune_sam.cli.main import main
for command in ("studies", "best s", "trials s", "status s", "doctor s", "report s"):
    sys.argv = ["tune-sam", *command.split(), "--home", "home"]
    try:
        main()
    except SystemExit as left:
        assert left.code == 0, command
    print(command, end=", ")
"""
"""Commands that read a study, in one process: their imports take longest."""


SMALL = (
    "gcn", "--dataset", "digits", "--optimizer", "base", "--trials", "1", "--epochs", "1", "--name", "s",
    "--home", "home", "--json",
)  # fmt: skip


def type_in(mine, site, *words):
    """Type a command of ours that makes a study, then those that read it; give the JSON document that it prints."""
    told = run([Path(sys.executable).with_name("tune-sam"), *words], mine, site)
    assert "best s, " in run([sys.executable, "-c", OTHERS], mine, site)
    return json.loads(told)


@pytest.mark.slow
@pytest.mark.parametrize("mine", ["namespace"], indirect=True)
def test_a_whole_study_runs_from_a_wheel_beside_a_users_folders(mine, wheel):
    told = type_in(mine, wheel, "run", *SMALL, "--seeds", "1", "--sample", "64")
    assert Path(told["page"]).read_text().startswith("<!doctype html>")


@pytest.mark.slow
@pytest.mark.parametrize("mine", ["regular"], indirect=True)
def test_workers_and_driver_of_a_tree_that_is_developed_leave_a_users_packages_alone(mine):
    """Of a search: its workers find our modules as those of a whole study do."""
    assert type_in(mine, None, "search", *SMALL).keys() == {"base"}
