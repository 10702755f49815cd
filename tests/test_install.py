"""The package beside a user's own folders of the same names, installed for development and from a wheel."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]

REPOSITORY = "https://example.org/owner/tune_sam"


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    """The unpacked sdist of this tree, made from a copy, with all that git does not ignore, as it is published."""
    folder = tmp_path_factory.mktemp("sdist")
    source = shutil.copytree(
        ROOT,
        folder / "source",
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv*", "*.egg-info", "build", "__pycache__", ".*_cache"),
    )
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    made([sys.executable, "-c", code, folder], source)
    (file,) = folder.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        archive.extractall(folder / "site", filter="data")
    (unpacked,) = (folder / "site").iterdir()
    return unpacked


def made(words, folder):
    """Make a package with a command in a folder, as whoever publishes it."""
    published = os.environ | {"TUNE_SAM_REPOSITORY": REPOSITORY}
    done = subprocess.run(words, cwd=folder, env=published, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """The unpacked wheel that is made of the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    made(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, "."],
        sdist,
    )
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


def in_git():
    """What a commit of all that there is would have."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name}


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone")
def test_an_sdist_has_what_git_has(sdist):
    links = {"tune_sam/analysis", "tune_sam/trainables"}
    expected = {
        f"tune_sam/{name}" if name.startswith(("analysis/", "trainables/")) else name for name in in_git() - links
    }
    found = {str(file.relative_to(sdist)) for file in sdist.rglob("*") if file.is_file()}

    assert expected - found == set()
    assert {name for name in found - expected if not name.startswith("tune_sam.egg-info/")} == {"PKG-INFO"}


def shown(metadata):
    """Where the links and pictures of a description lead, by Markdown's own rules."""
    tokens = MarkdownIt().parse(metadata.get_payload())
    every = [inline for token in tokens for inline in token.children or ()]
    return [str(one.attrGet("href") or one.attrGet("src")) for one in every if one.type in ("link_open", "image")]


@pytest.mark.slow
def test_what_an_index_shows_of_a_wheel_leads_to_the_files_of_the_repository(wheel):
    (file,) = wheel.glob("*.dist-info/METADATA")
    metadata = message_from_string(file.read_text(encoding="utf-8"))
    declared = [one.split(", ")[1] for one in metadata.get_all("Project-URL")]
    ours = [one for one in shown(metadata) if REPOSITORY in one or not one.startswith("https://")]

    assert len(ours) > 20
    for one in ours + [one for one in declared if one not in (REPOSITORY, f"{REPOSITORY}/issues")]:
        tag = f"v{metadata['Version']}"
        kind, path = re.fullmatch(rf"{REPOSITORY}/(raw|blob)/{re.escape(tag)}/([^#]+)(?:#.*)?", one).groups()
        assert (ROOT / path).exists(), one
        assert (kind == "raw") == (path.endswith(".png")), one


@pytest.mark.parametrize("given", [f"{REPOSITORY}/", f"{REPOSITORY}.git", REPOSITORY])
def test_an_address_that_is_cloned_is_taken_for_that_of_the_page(given):
    urls = runpy.run_path(str(ROOT / "setup.py"))["published"](given)["project_urls"]

    assert urls["Source"] == REPOSITORY
    assert urls["Issues"] == f"{REPOSITORY}/issues"


@pytest.mark.parametrize(
    "given",
    [
        "git@example.org:owner/tune_sam.git", "http://example.org/owner/tune_sam", "https://", "https://example.org/",
        "https://me:word@example.org/owner/tune_sam", "https://example.org/owner/tune_sam?x=1",
        "https://example.org/owner/tune_sam#readme", "https://example.org/owner/tune sam",
    ],
)  # fmt: skip
def test_an_address_that_a_browser_cannot_open_or_that_has_a_login_is_refused(given):
    published = runpy.run_path(str(ROOT / "setup.py"))["published"]

    with pytest.raises(SystemExit, match=r"expected the address of a page, https://HOST/OWNER/NAME") as refused:
        published(given)
    assert "word" not in str(refused.value)


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
