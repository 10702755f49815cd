"""Whatever a person types, or has in a file: done, or refused in one sentence with nothing left behind."""

import sys
import textwrap
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

import tune_sam
from tune_sam.cli.main import main
from tune_sam.cluster import connection
from tune_sam.errors import Refused
from tune_sam.settings import SearchOptions, flag_of
from tune_sam.tuning import plan
from tune_sam.workload import find_workload

DIGITS = ["search", "gcn", "--dataset", "digits"]
TAKEN = "this would be a study"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where commands of this module run: nothing may be left here."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("place")
        for name in ("TUNE_SAM_DATA", "TUNE_SAM_STORAGE", "TUNE_SAM_TRACKING_URI", "TUNE_SAM_STUDY_STORAGE"):
            patch.delenv(name, raising=False)
        patch.setenv("TUNE_SAM_HOME", str(folder / "home"))
        patch.chdir(folder)

        def take(*_):
            raise Refused(TAKEN)

        patch.setattr(plan, "create", take)  # what is no bad input ends here
        patch.setattr(connection, "Start", Mock())  # and needs no Ray
        yield folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture
def refused(place, capsys, monkeypatch):
    """Runs the command line in this process; gives the one sentence that it is refused with."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tune-sam", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert left.value.code == 2, err
        assert out == ""
        assert err.startswith("tune-sam: ")
        assert len(err.strip().splitlines()) == 1, err
        assert len(err) < 3000
        assert list(place.iterdir()) == [], "it leaves nothing behind"
        return err

    return call


def nested(depth):
    return "[" * depth + "]" * depth


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--storage", "~nosuchuser/x"], "--storage ~nosuchuser/x cannot be used"),
        (["--home", "~nosuchuser/x"], "--home ~nosuchuser/x cannot be used"),
        (["--data", "~nosuchuser/x"], "--data ~nosuchuser/x cannot be used"),
        (["--tracking-uri", "sqlite:////"], "names a folder"),
        (["--tracking-uri", "sqlite:////tmp"], "names a folder"),
        (["--tracking-uri", f"sqlite:////tmp/{'x' * 300}/y.db"], "too long"),
        (["--tracking-uri", "http://[::1"], "http://[::1"),
        (["--tracking-uri", "u:pw@host"], "***@host"),
        (["--name", "😀" * 80], "--name"),
        (["--name", "𝒳" * 80], "320 bytes, too many for a folder's name"),
        (["--name", "a\udcff"], "--name"),
        (["--home", "a\udcff"], "half a character of Unicode"),
        (["--home", "x" * 300], "too long"),
        *((["--home", f"h{odd}x"], "means something else to a database") for odd in "?%{}'\"\\\n\t\x1b"),
        (["--home", "x/" * 3000], "too long"),
        (["--storage", "x/" * 3000], "too long"),
        (["--trials", "1000001"], "--trials 1000001"),
        (["--epochs", "9" * 30], "--epochs 9"),
        (["--batch-size", "9" * 5000], "--batch-size 9"),
        (["--rho", "1," * 5000], "--rho 1,"),
        (["--storage", "s3://k:s@b/p", "--address", "127.0.0.1:1"], "each node writes results with its own login"),
        (["--storage", "s3://b/p?access_key=x"], "each node writes results with its own login"),
        (["--storage", "abfs://container:s@account/p"], "each node writes results with its own login"),
        (["--study-storage", "sqlite:////x"], "--study-storage sqlite:////x is no database"),
        (["--config", "."], "cannot be read (Is a directory)"),
        (["--config", "/dev/zero"], "more than 100,000 bytes"),
    ],
)
def test_a_wrong_option_is_refused_in_one_sentence(refused, words, said):
    assert said in refused(*DIGITS, *words)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (nested(5000), "nested too deep"),
        (f"name: {nested(5000)}", "nested too deep"),
        (BOMB, "an alias, *a"),
        ("a: &a [*a]", "an alias, *a"),
        ("ranges: {sam: &r {rho: 0.1:1}, asam: {<<: *r}}", "an alias, *r"),
        ('name: "a\\0b"', "the character number 0"),
        ('home: "a\\0b"', "the character number 0"),
        ('tracking_uri: "sqlite:////a\\0b"', "the character number 0"),
        ('data: "\\ud800"', "half a character of Unicode"),
        ("trials: 3\ntrials: 4\n", "trials is given twice"),
        ("ranges: {sam: {lr: 0.1:1}, sam: {lr: 0.1:1}}", "sam is given twice"),
        ("trials: yes\n", "--trials True: yes and no, or true and false, are no value of this option"),
        ("trials: true\n", "--trials True"),
        ("gpus_per_trial: on\n", "--gpus-per-trial True"),
        ("rho: [true, 0.1]\n", "expected a range"),
        ("batch_size: yes\n", "--batch-size True"),
        ("ranges: {sam: {batch_size: no}}\n", "False"),
        ("ranges: yes\n", "--ranges True"),
        ("trials: 2.5\n", "--trials 2.5"),
        ("trials: .inf\n", "--trials"),
        ("trials: " + "9" * 5000, "is not YAML"),
        ("compile: maybe\n", "--compile maybe"),
        ("optimizers: adam\n", "there is no optimizer 'adam'"),
        ("optimizers: {sam: 1}\n", "--optimizer"),
        ("? [a, b]\n: 1\n", "is not YAML"),
        ("? {a: b}\n: 1\n", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        ("!!set {a, b}", "no `option: value` lines"),
        ("--- \na: 1\n--- \nb: 2\n", "is not YAML"),
        ("seed: 2020-13-45\n", "is not YAML"),
        ("seed: !!timestamp 'x'\n", "is not YAML"),
        ("seed: !!int 'x'\n", "is not YAML"),
        ("seed: !!binary '!'\n", "--seed"),
        ("<<: 3\n", "is not YAML"),
        ("\ttrials: 3", "is not YAML"),
        ("null: 3", "unknown option 'None'"),
        ("%YAML 3.0\n---\na: 1", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(refused, files, content, said):
    (files / "c.yaml").write_text(content)
    assert said in refused("search", "gcn", "--config", files / "c.yaml")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfdataset: digits\n", b"optimizers: sam\ndataset: digits\n"])
def test_a_file_as_editors_and_people_write_it_is_read(refused, files, content):
    (files / "c.yaml").write_bytes(content)
    assert TAKEN in refused("search", "gcn", "--config", files / "c.yaml")


def test_one_optimizer_may_be_a_word():
    assert SearchOptions.read({"workload": "gcn", "optimizers": "sam"}).optimizers == ("sam",)
    assert SearchOptions.read({"workload": "gcn", "optimizers": "sam,base"}).optimizers == ("sam", "base")


MODULES = {
    "syntax": "def",
    "raises": "raise RuntimeError('no licence')",
    "leaves": "import sys; sys.exit(0)",
    "no_datasets": """
        from tune_sam.trainables.gcn import GCN
        from tune_sam.workload import Workload

        class W(Workload):
            network = splits = test_split = None
            name = 'w'
        """,
    "no_data_set": "from tune_sam.trainables.gcn import GCN\nclass W(GCN):\n    datasets = {}",
    "no_setting": "from tune_sam.trainables.gcn import GCN\nclass W(GCN):\n    settings = {}",
    "init": "from tune_sam.trainables.gcn import GCN\nclass W(GCN):\n    def __init__(self): raise OSError('no file')",
    "asks": "from tune_sam.trainables.gcn import GCN\nclass W(GCN):\n    def __init__(self, size): pass",
    "no_class": "W = 3",
}


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("syntax", "cannot be imported (SyntaxError: "),
        ("raises", "cannot be imported (RuntimeError: no licence)"),
        ("leaves", "cannot be imported (SystemExit: 0)"),
        ("no_datasets", "is not complete; give its class datasets, settings, base_optimizer, lr, batch_size"),
        ("no_data_set", "has no data set; give its `datasets` one"),
        ("no_setting", "has no setting for the data set 'mutagenicity'"),
        ("init", "is not complete (no file)"),
        ("asks", "is not complete ("),
        ("no_class", "is not a subclass of tune_sam.workload.Workload"),
    ],
)
def test_a_workload_that_cannot_be_one_is_refused(refused, files, monkeypatch, module, said):
    (files / f"own_{module}.py").write_text(textwrap.dedent(MODULES[module]))
    monkeypatch.syspath_prepend(files)
    assert said in refused("search", f"own_{module}:W")


def test_numbers_of_numpy_are_numbers(place):
    chosen = SearchOptions.read(
        {
            "workload": "gcn",
            "trials": np.int64(3),
            "epochs": np.int32(2),
            "seed": np.uint8(1),
            "rho": np.array([0.01, 0.1]),
            "lr": np.float32(0.5),
            "batch_size": np.array([64, 32]),
            "gpus_per_trial": np.float64(0.25),
            "optimizers": np.array(["sam"]),
            "compile": np.bool_(True),
        }
    )
    plainly = SearchOptions.read(
        {
            "workload": "gcn",
            "trials": 3,
            "epochs": 2,
            "seed": 1,
            "rho": "0.01,0.1",
            "lr": 0.5,
            "batch_size": "32,64",
            "gpus_per_trial": 0.25,
            "optimizers": ["sam"],
            "compile": True,
        }
    )
    assert chosen == plainly


def test_a_workload_may_be_given_as_its_class(place):
    workload = type(find_workload("gcn"))
    with pytest.raises(Refused, match=TAKEN):
        tune_sam.search(workload, dataset="digits")
    local = type("Local", (workload,), {"__module__": "__main__"})
    with pytest.raises(Refused, match="cannot be imported"):
        tune_sam.search(local, dataset="digits")
    for wrong in (3, workload(), None, [workload], int):
        with pytest.raises(Refused):
            tune_sam.search(wrong, dataset="digits")


# ------------------------------------------------------------------------------------------- whatever may be generated

ANY = some.text(some.characters(exclude_characters="\0"), max_size=20)
ODD = some.sampled_from(
    ["", " ", "~", "~x", "/", "..", ".", "{x}", "{home}", "%", "%s", "?", "#", "\\", "*", "'", "🙂", "-"]
)
TEXT = some.one_of(ODD, ANY, some.lists(ODD, max_size=4).map("".join))
NUMBER = some.one_of(
    some.integers(-(10**20), 10**20).map(str),
    some.floats().map(repr),
    some.sampled_from(
        ["0", "-1", "1e999", "0x10", "1_000", "٣", "²", "1:2:3", ":", ",", "1,,2", "1:", "nan:inf", "True", "1e-400"]
    ),
    TEXT,
)
SCHEME = some.sampled_from(
    ["", "sqlite://", "sqlite:///", "http://", "https://", "file:", "nosuch://", "postgresql:", "mysql://"]
)
HOST = some.sampled_from(
    [
        "127.0.0.1:1",
        "u:p@127.0.0.1:1",
        "u:p/w@127.0.0.1:1",
        "[::1",
        "[::1]:1",
        "127.0.0.1:99999",
        "127.0.0.1:x",
        ":",
        "@",
        "{x}",
    ]
)
ADDRESS = some.builds("{}{}/{}".format, SCHEME, HOST, TEXT)
SQLITE = some.builds("sqlite:///{}".format, TEXT)
PORT = some.sampled_from(["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:65536", "[::1]:1", "u:p@127.0.0.1:1"])
VALUES = {
    "optimizers": TEXT,
    "trials": NUMBER,
    "budget": TEXT,
    "epochs": NUMBER,
    "dataset": TEXT,
    "preset": TEXT,
    "data": TEXT,
    "train_subset": NUMBER,
    "name": TEXT,
    "seed": NUMBER,
    "rho": NUMBER,
    "lr": NUMBER,
    "batch_size": NUMBER,
    "sampler": TEXT,
    "scheduler": TEXT,
    "objective": TEXT,
    "cpus_per_trial": NUMBER,
    "gpus_per_trial": NUMBER,
    "precision": TEXT,
    "max_concurrent": NUMBER,
    "trial_timeout": NUMBER,
    "stall_timeout": NUMBER,
    "time_budget": NUMBER,
    "epoch_budget": NUMBER,
    "patience": NUMBER,
    "address": PORT,
    "storage": some.one_of(TEXT, some.builds("nosuch://{}".format, TEXT)),
    "tracking_uri": some.one_of(ADDRESS, SQLITE, TEXT),
    "study_storage": some.one_of(ADDRESS, TEXT),
    "home": TEXT,
}
FLAG = some.sampled_from(sorted(VALUES)).flatmap(lambda name: some.tuples(some.just(flag_of(name)), VALUES[name]))
SEARCH = some.lists(FLAG, min_size=1, max_size=3).map(lambda flags: ["search", "gcn", *(f"{f}={v}" for f, v in flags)])
OTHER = some.builds(
    lambda command, name, home: [command, "--home", home or ".", "--", name],
    some.sampled_from(["best", "trials", "status", "resume", "refit", "analyze", "report", "sync", "doctor"]),
    TEXT,
    TEXT,
)
WORKLOAD = TEXT.map(lambda name: ["search", "--", name])
LEAF = some.one_of(
    some.none(), some.booleans(), some.integers(), some.floats(), TEXT, some.binary(max_size=4), some.dates(), NUMBER
)
TREE = some.recursive(
    LEAF,
    lambda part: some.one_of(some.lists(part, max_size=3), some.dictionaries(TEXT, part, max_size=3)),
    max_leaves=6,
)
KEY = some.one_of(some.sampled_from(sorted({*VALUES, "ranges", "grid", "compile"} - {"address"})), TEXT)
CONTENT = some.one_of(
    some.dictionaries(KEY, TREE, min_size=1, max_size=3).map(
        lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode()
    ),
    some.dictionaries(KEY, NUMBER, min_size=1, max_size=3).map(
        lambda lines: "".join(f"{key}: {value}\n" for key, value in lines.items()).encode("utf-8", "surrogatepass")
    ),
    some.text("ab:-[]{}&*!|>'\"%@`#,? \n\t\0\ufeff", max_size=40).map(str.encode),
    some.binary(max_size=40),
)


@pytest.fixture
def anything(refused, files):
    """Checks that a command with some content of its file is refused; what is right but for that ends as a study."""

    def check(command, content):
        (files / "c.yaml").write_bytes(content)
        file = [f"--config={files / 'c.yaml'}"] if content else []
        said = refused(*command[:1], *file, *command[1:])
        assert "Traceback" not in said

    return check


COMMAND = some.one_of(
    some.tuples(SEARCH, some.just(b"")),
    some.tuples(OTHER, some.just(b"")),
    some.tuples(WORKLOAD, some.just(b"")),
    some.tuples(some.just(["search", "gcn"]), CONTENT),
)


@pytest.mark.slow
def test_two_thousand_bad_inputs_are_refused_each_in_one_sentence_and_leave_nothing(anything):
    @settings(max_examples=2000, derandomize=True, deadline=None, database=None)
    @given(COMMAND)
    def one(command):
        anything(*command)

    one()
