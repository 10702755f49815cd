import io
import json
import tarfile

import pytest
from studies import INLINE, searched_study

import tune_sam
from tune_sam.cli.main import main
from tune_sam.errors import Refused
from tune_sam.operations.doctor import diagnose
from tune_sam.study.records import every_study, open_study


def content_of(home, name="one"):
    """What the records say of a study and its trials but for their names and places."""
    study = open_study(name, home)
    local = ("key", "study", "checkpoint", "log", "mlflow_run_id")
    trials = [{key: value for key, value in one.to_json().items() if key not in local} for one in study.records()]
    return trials, [study.history(one) for one in study.records()]


@pytest.fixture(scope="module")
def archive(refitted, tmp_path_factory):
    return tune_sam.export("one", tmp_path_factory.mktemp("export") / "one.tar.gz", home=refitted)


def test_logs_that_are_another_users_are_left_out_with_a_warning(searched, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tune_sam.operations.export.is_hidden", lambda place: place.endswith("sam-0001.log"))
    with tarfile.open(tune_sam.export("one", tmp_path / "one.tar.gz", home=searched, checkpoints=False)) as archive:
        logs = [name.rpartition("/")[2] for name in archive.getnames() if name.endswith(".log")]
    assert len(logs) == 5
    assert "sam-0001.log" not in logs
    assert "1 of 6 logs of study one may not be read by you, and are left out" in caplog.text


def test_a_name_that_is_too_long_is_refused_as_for_a_search(archive, tmp_path):
    with pytest.raises(Refused, match="can be no study's name: .* at most 80 characters; .* --name"):
        tune_sam.import_(archive, name="x" * 81, home=tmp_path / "there")


@pytest.mark.slow
def test_a_study_is_the_same_in_another_home_under_another_name(refitted, archive, tmp_path):
    there = tmp_path / "home"
    study = tune_sam.import_(archive, name="theirs", home=there)
    assert study.name == "theirs"
    assert {file.stat().st_mode & 0o777 for file in there.rglob("*-000?.log")} == {0o600}
    assert content_of(there, "theirs") == content_of(refitted)
    assert sorted(one.name for one in every_study(there)) == ["theirs", "theirs.refit", "theirs.twice"]
    assert not [one for one in diagnose("theirs", home=there) if one.trouble]
    assert study.best().key.startswith("theirs/")
    ours, own = open_study("one", refitted).best().load_model(), study.best().load_model()
    assert all((a == b).all() for a, b in zip(ours.parameters(), own.parameters(), strict=True))
    again = tune_sam.refit("theirs", home=there, seeds=2, executor=INLINE)
    before = tune_sam.refit("one", home=refitted, seeds=2, executor=INLINE)
    assert again.table()["test/accuracy"].tolist() == before.table()["test/accuracy"].tolist()
    resumed = tune_sam.resume("theirs", home=there, trials=4, executor=INLINE)
    assert resumed.counts() == {"complete": 8}
    with pytest.raises(Refused, match="there is a study theirs"):
        tune_sam.import_(archive, name="theirs", home=there)


@pytest.mark.slow
def test_a_quasi_random_search_goes_on_where_it_was(tmp_path):
    searched_study(tmp_path / "here", train_subset=64, sampler="qmc", grid=False)
    archive = tune_sam.export("one", tmp_path / "one.tar.gz", home=tmp_path / "here")
    tune_sam.import_(archive, home=tmp_path / "there")
    for place in ("here", "there"):
        tune_sam.resume("one", home=tmp_path / place, trials=5, executor=INLINE)
    here, there = ([one.config for one in open_study("one", tmp_path / place).records()] for place in ("here", "there"))
    assert there == here
    assert len({one.lr for one in here if one.optimizer == "sam"}) == 5


@pytest.mark.slow
def test_an_archive_without_checkpoints_has_all_numbers(searched, tmp_path):
    small = tune_sam.export("one", tmp_path / "small.tar.gz", home=searched, checkpoints=False)
    tune_sam.import_(small, home=tmp_path / "home")
    assert content_of(tmp_path / "home") == content_of(searched)
    assert not [one for one in diagnose("one", home=tmp_path / "home") if one.trouble]
    with pytest.raises(Refused, match="has no checkpoint"):
        open_study("one", tmp_path / "home").best().load_model()


def forged(archive, tmp_path, *members, content=None):
    """The archive's studies, as another wrote them, with more members."""
    with tarfile.open(archive) as before:
        text = content or before.extractfile("study.json").read()
    with tarfile.open(tmp_path / "forged.tar.gz", "w:gz") as after:
        first = tarfile.TarInfo("study.json")
        first.size = len(text)
        after.addfile(first, io.BytesIO(text))
        for member, link in members:
            one, content = tarfile.TarInfo(member), link if isinstance(link, bytes) else b""
            one.size = len(content)
            one.type, one.linkname = (tarfile.SYMTYPE, link) if isinstance(link, str) else (tarfile.REGTYPE, "")
            after.addfile(one, io.BytesIO(content))
    return tmp_path / "forged.tar.gz"


@pytest.mark.parametrize(
    "members",
    [
        [("files/one/test/../../../../../evil.json", None)],
        [("/evil.json", None)],
        [("files/../evil.json", None)],
        [("files/one/test/link", "/etc")],
        [("files/one/test", "/tmp"), ("files/one/test/evil.json", None)],
        [("files/one/test/twice.json", None), ("files/one/test/twice.json", None)],
    ],
    ids=["above", "absolute", "beside", "link", "through a link", "twice"],
)
def test_an_archive_that_leads_elsewhere_is_refused_and_nothing_is_made(archive, tmp_path, members):
    forgery = forged(archive, tmp_path, *members)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Refused, match="a link or device|a path that leads elsewhere|File exists"):
        tune_sam.import_(forgery, home=tmp_path / "home")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.update(format=99),
        lambda content: content.update(name="../one"),
        lambda content: content["studies"][0].update(name="../one"),
        lambda content: content["studies"][0]["record"].update(settings={}),
        lambda content: content["studies"][0]["ledger"]["sam"]["trials"][0].update(state="DONE"),
        lambda content: content["studies"][0]["ledger"]["sam"]["trials"][0].update(number=7),
        lambda content: content["studies"][0]["ledger"].pop("sam"),
        lambda content: content["studies"][0]["ledger"]["sam"].update(sequence={"record": 1}),
    ],
    ids=["format", "name", "study", "record", "state", "number", "ledger", "sequence"],
)
def test_an_archive_of_another_content_is_refused_and_leaves_no_study(archive, tmp_path, damage):
    with tarfile.open(archive) as file:
        content = json.load(file.extractfile("study.json"))
    damage(content)
    forgery = forged(archive, tmp_path, content=json.dumps(content).encode())
    with pytest.raises(Refused, match="no format 1|can be no study's|are not those|cannot be read"):
        tune_sam.import_(forgery, home=tmp_path / "home")
    assert every_study(tmp_path / "home") == []
    assert not list((tmp_path / "home").glob("studies/*"))


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "file").write_text("no archive")
    with pytest.raises(Refused, match="is no archive of"):
        tune_sam.import_(tmp_path / "file", home=tmp_path / "home")
    with pytest.raises(Refused, match="is no archive of"):
        tune_sam.import_(tmp_path / "none", home=tmp_path / "home")


def test_what_programs_printed_is_its_owners_alone(archive):
    assert archive.stat().st_mode & 0o777 == 0o600


def test_numbers_of_an_archive_that_are_no_text_are_refused_and_leave_no_study(archive, tmp_path):
    forgery = forged(archive, tmp_path, ("files/one/flatness/a/flatness.csv", b"key\n\xff"))
    with pytest.raises(Refused, match=r"archive .* cannot be read \(.*; have it exported again"):
        tune_sam.import_(forgery, name="theirs", home=tmp_path / "home")
    assert every_study(tmp_path / "home") == []


def test_an_archive_takes_the_place_of_no_file(searched, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(Refused, match="exists"):
        tune_sam.export("one", tmp_path / "mine", home=searched)
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.slow
def test_a_study_of_others_has_the_data_of_here_and_sends_nothing_elsewhere(archive, tmp_path, monkeypatch):
    with tarfile.open(archive) as file:
        content = json.load(file.extractfile("study.json"))
    for one in content["studies"]:
        one["record"]["settings"]["log"] = ["wandb"]
    forgery = forged(archive, tmp_path, content=json.dumps(content).encode())
    monkeypatch.setenv("TUNE_SAM_DATA", str(tmp_path / "from the environment"))
    study = tune_sam.import_(forgery, name="two", home=tmp_path / "home")
    assert study.settings.log == ()
    assert study.data == tmp_path / "from the environment"
    assert (
        tune_sam.import_(forgery, name="three", home=tmp_path / "home", data=tmp_path / "own").data == tmp_path / "own"
    )
    words = ["import", str(forgery), "--name", "four", "--home", str(tmp_path / "home")]
    monkeypatch.setattr("sys.argv", ["tune-sam", *words, "--data", str(tmp_path / "mine")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert open_study("four", tmp_path / "home").data == tmp_path / "mine"
