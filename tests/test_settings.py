import os
import shutil
import tempfile
from pathlib import Path

import pytest
from foreign_workload import Regression

from tune_sam import ASAM
from tune_sam.errors import Refused, masked
from tune_sam.home import Home
from tune_sam.settings import RangeOptions, SearchOptions
from tune_sam.space import LogRange, Values
from tune_sam.tracking.local import GONE, ailment_of


def read(given=None, yaml=None, tmp_path=None):
    config = None
    if yaml is not None:
        config = tmp_path / "search.yaml"
        config.write_text(yaml)
    return SearchOptions.read({"workload": "gcn", **(given or {})}, config)


def test_what_is_given_directly_comes_on_top_of_the_file(tmp_path):
    options = read({"trials": 3, "epochs": None}, "trials: 9\nepochs: 7\nlr: 0.001:0.1\n", tmp_path)
    assert (options.trials, options.epochs, options.lr) == (3, 7, LogRange(0.001, 0.1))


def test_a_file_may_switch_limits_off_in_yamls_own_word(tmp_path):
    options = read(yaml="stall_timeout: off\nepoch_budget: off\n", tmp_path=tmp_path)
    assert (options.stall_timeout, options.epoch_budget) == (0, 0)


def test_an_optimizers_own_range_comes_before_the_common_one(tmp_path):
    file = "ranges:\n  sam: {rho: 0.01:0.5, batch_size: [64, 128]}\n"
    options = read({"rho": "0.1:1", "batch_size": "32"}, file, tmp_path)
    assert options.ranges_of("sam") == RangeOptions(rho="0.01:0.5", batch_size=[64, 128])
    assert options.ranges_of("asam") == RangeOptions(rho="0.1:1", batch_size="32")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"trials": 0}, "--trials 0: "),
        ({"trials": "many"}, "--trials many: "),
        ({"epochs": 0}, "--epochs 0: "),
        ({"seed": -1}, "--seed -1: "),
        ({"seed": 2**31}, "--seed 2147483648: "),
        ({"rho": "1:0.1"}, "--rho 1:0.1: "),
        ({"rho": "-1:1"}, "--rho -1:1: "),
        ({"lr": "fast"}, "--lr fast: "),
        ({"batch_size": "0,32"}, "--batch-size 0,32: "),
        (
            {"optimizers": ["base", "adamw"]},
            "--optimizer base adamw: there is no optimizer 'adamw'; choose from base, ",
        ),
        ({"optimizers": []}, "--optimizer"),
        ({"scheduler": "pbt"}, "--scheduler pbt: "),
        ({"sampler": "cma"}, "--sampler cma: "),
        (
            {"sampler": "grid", "grid": False},
            "--sampler grid: it tries the points of the grid, which --no-grid leaves out",
        ),
        ({"precision": "fp16"}, "--precision fp16: "),
        ({"train_subset": 0}, "--train-subset 0: "),
        ({"name": "a/b"}, "--name a/b: use letters"),
        ({"name": ""}, "--name"),
        ({"name": "-x"}, "--name -x"),
        ({"name": "_x"}, "--name _x: use letters"),
        ({"name": ".."}, "--name ..: use letters"),
        ({"name": "a b"}, "--name a b: use letters"),
        ({"name": "x" * 81}, "at most 80 characters"),
        ({"gpus_per_trial": 1.5}, "--gpus-per-trial 1.5: a GPU fraction from 0 to 1 is possible"),
        ({"gpus_per_trial": 2}, "--gpus-per-trial 2: a GPU fraction from 0 to 1 is possible, for a training computes"),
        ({"gpus_per_trial": -1}, "--gpus-per-trial -1"),
        ({"gpus_per_trial": float("inf")}, "--gpus-per-trial inf"),
        ({"gpus_per_trial": float("nan")}, "--gpus-per-trial nan"),
        ({"cpus_per_trial": 0}, "--cpus-per-trial 0"),
        (
            {"cpus_per_trial": 1.5},
            "--cpus-per-trial 1.5: a whole number of CPUs is possible, or a fraction of one from",
        ),
        ({"cpus_per_trial": 0.001}, "--cpus-per-trial 0.001: a whole"),
        ({"cpus_per_trial": "nan"}, "--cpus-per-trial nan: a whole"),
        ({"max_concurrent": 0}, "--max-concurrent 0"),
        (
            {"trial_timeout": "soon"},
            "--trial-timeout soon: a time above 0 such as 90, 30m or 1h30m is possible, or off",
        ),
        ({"stall_timeout": -1}, "--stall-timeout -1: a time above 0"),
        ({"time_budget": "2 hours"}, "--time-budget 2 hours: a time above 0 such as 90, 30m or 1h30m is possible"),
        ({"epoch_budget": 0}, "--epoch-budget 0: a whole number from 1 to 1000000 is possible, or off"),
        ({"epoch_budget": 1.5}, "--epoch-budget 1.5: a whole number"),
        ({"raduis": 1}, "unknown option 'raduis'"),
        ({"workload": Regression()}, "it is an object; give the class itself, Regression."),
        ({"optimizers": [ASAM]}, "it makes one optimizer; give the name of what is searched, one of base, sam, asam,"),
        ({"ranges": {"sam": "0.01:0.5"}}, "say what is in that range, as {'sam': {'rho': '0.01:0.5'}}."),
    ],
)
def test_a_wrong_option_is_one_sentence_with_its_value(given, said):
    with pytest.raises(Refused) as refused:
        read(given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("trails: 3\n", "unknown option 'trails' in "),
        ("ranges: {sam: {roh: 0.1:1}}\n", "unknown option 'ranges.sam.roh' in "),
        ("ranges: {sam: {rho: 1:0.1}}\n", "rho 1:0.1: the lower end must come first"),
        ("rho: {low: 0.1, high: 1}\n", "LOW:HIGH"),
        ("1: 2\n", "unknown option '1' in "),
        ("ranges: {adamw: {lr: 0.1:1}}\n", "there is no optimizer 'adamw'"),
        ("trials: [\n", "is not YAML"),
        ("just words\n", "holds no `option: value` lines"),
        ("", "holds no `option: value` lines"),
        ("rho: [a]\n", "LOW:HIGH"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, yaml, said):
    with pytest.raises(Refused) as refused:
        read(yaml=yaml, tmp_path=tmp_path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("lr", ["0.001,0.1", "[0.001, 0.1]", "[1e-3, 1e-1]"])
@pytest.mark.parametrize("sizes", ["32,64", "[64, 32]"])
def test_a_file_may_give_lists_as_text_or_as_yaml(tmp_path, lr, sizes):
    file = f"lr: {lr}\nbatch_size: {sizes}\noptimizers: [sam, base, sam]\n"
    options = read(yaml=file, tmp_path=tmp_path)
    assert (options.lr, options.batch_size) == (Values((0.001, 0.1)), (32, 64))
    assert options.optimizers == ("sam", "base"), "each once, in the order given"


@pytest.mark.parametrize("name", ["a", "gcn-2026.1_x", "0", "x" * 80])
def test_a_plain_name_is_taken(name):
    assert read({"name": name}).name == name


def test_an_unknown_range_is_told_the_ranges_there_are(tmp_path):
    with pytest.raises(Refused, match=r"known options are rho, lr, batch_size, params\.$"):
        read(yaml="ranges: {sam: {roh: 0.1:1}}\n", tmp_path=tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="is not YAML"):
        SearchOptions.read({"workload": "gcn"}, tmp_path / "c.yaml")
    with pytest.raises(Refused, match=r"cannot be read \(Is a directory\)"):
        SearchOptions.read({"workload": "gcn"}, tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(Refused, match="nope.yaml cannot be read"):
        SearchOptions.read({"workload": "gcn"}, tmp_path / "nope.yaml")


def test_a_home_is_the_one_named_else_the_variables_else_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNE_SAM_HOME", str(tmp_path / "env"))
    assert Home.at(tmp_path / "named").path == tmp_path / "named"
    assert Home.at().path == tmp_path / "env"
    monkeypatch.delenv("TUNE_SAM_HOME")
    assert Home.at().path == Path("~/.tune_sam").expanduser()
    assert not (tmp_path / "named").exists()


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_home_that_is_a_file_or_below_one_is_refused(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="file is a file"):
        Home.at(tmp_path / "file" / below)


@pytest.fixture
def nobody():
    """A folder that this process may look at and not write to, with one inside that it may not even look at."""
    folder = Path(tempfile.mkdtemp())
    (folder / "locked" / "inner").mkdir(parents=True)
    root = os.geteuid() == 0
    (folder / "locked").chmod(0o700 if root else 0o000)
    folder.chmod(0o755 if root else 0o555)
    if root:  # which may do everything, so be somebody else for a while
        os.setresuid(65534, 65534, 0)
    yield folder
    if root:
        os.setresuid(-1, 0, -1)
        os.setresuid(0, 0, 0)
    folder.chmod(0o755)
    (folder / "locked").chmod(0o755)
    shutil.rmtree(folder)


def test_a_home_that_nobody_may_make_or_look_at_is_refused(nobody):
    with (
        pytest.raises(Refused, match=f"home {nobody}/new cannot be written; give --home a folder"),
        Home.at(nobody / "new").made(),
    ):
        pass
    with pytest.raises(Refused, match=f"home {nobody} cannot be written"), Home.at(nobody).made():
        pass
    with pytest.raises(Refused, match=f"home {nobody}/locked/inner cannot be used .Permission denied"):
        Home.at(nobody / "locked" / "inner")
    with pytest.raises(Refused, match=f"home {nobody}/locked cannot be used because you may not enter it"):
        Home.at(nobody / "locked")


def test_nothing_is_known_of_a_database_of_mlflow_that_nobody_may_look_at(nobody):
    assert ailment_of(nobody / "locked" / "mlflow.db") == ""
    assert ailment_of(nobody / "mlflow.db") == ailment_of(nobody / "a\0b") == ailment_of(nobody / ("x" * 300)) == GONE


def test_a_home_is_made_and_stays(tmp_path):
    home = Home.at(tmp_path / "a" / "b")
    with home.made():
        assert home.path.is_dir()
    with home.made():
        pass
    assert home.path.is_dir()


def test_a_home_goes_with_a_refusal_if_it_was_made_for_it(tmp_path):
    def refuse(home, *files):
        def work():
            with home.made():
                for file in files:
                    (home.path / file).touch()
                raise Refused("no")

        with pytest.raises(Refused, match="no"):
            work()

    refuse(Home.at(tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()
    refuse(Home.at(tmp_path / "a" / "b"), "something")
    assert (tmp_path / "a" / "b" / "something").exists(), "what is not empty stays"
    (tmp_path / "old").mkdir()
    refuse(Home.at(tmp_path / "old"))
    assert (tmp_path / "old").exists(), "what was there before stays"


def test_optuna_and_mlflow_have_databases_of_their_own(tmp_path):
    home = Home.at(tmp_path)
    assert home.tracking_uri.startswith("sqlite:////")
    assert str(home.optuna_file) not in home.tracking_uri


def test_a_presets_options_lie_under_what_is_given(tmp_path):
    preset = {"sampler": "grid", "scheduler": "none", "optimizers": ("base", "asam-all")}
    found = read({"scheduler": "asha"}).under(preset)
    assert (found.sampler, found.scheduler, found.optimizers) == ("grid", "asha", ("base", "asam-all"))
    file = tmp_path / "search.yaml"
    file.write_text("optimizers: [sam]\nranges: {sam: {rho: '0.01:0.5'}}\n")
    found = SearchOptions.read({"workload": "gcn"}, file).under(preset)
    assert found.optimizers == ("sam",)
    assert str(found.ranges_of("sam").rho) == "0.01:0.5"
    limits = read({"time_budget": 1.5, "trial_timeout": 90.5, "stall_timeout": "off", "patience": "off"}).under(preset)
    assert (limits.time_budget, limits.trial_timeout, limits.stall_timeout, limits.patience) == (1.5, 90.5, 0, 0)


@pytest.mark.parametrize(
    ("rho", "read_as"),
    [
        ("1:2", LogRange(1, 2)),
        ("0:59.5", None),
        ("1e-3:1e-1", LogRange(0.001, 0.1)),
        ("1e-2", Values((0.01,))),
        (".5", Values((0.5,))),
    ],
)
def test_a_file_has_the_numbers_that_a_person_reads(tmp_path, rho, read_as):
    """YAML 1.1 would read 1:2 as 62 and 1e-2 as a text."""
    if read_as is None:
        with pytest.raises(Refused, match="rho 0:59.5: both ends must be finite and above 0"):
            read(yaml=f"rho: {rho}\n", tmp_path=tmp_path)
    else:
        assert read(yaml=f"rho: {rho}\n", tmp_path=tmp_path).rho == read_as


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("postgresql://me:sec/ret@host/db", "postgresql://***@host/db"),
        (
            "postgresql://host/db?user=me&password=secret&sslmode=require",
            "postgresql://host/db?user=***&password=***&sslmode=require",
        ),
        ("s3://b/p?access_key=secret&secret_key=secret&region=eu", "s3://b/p?access_key=***&secret_key=***&region=eu"),
        ("http://u:secret@a and http://b/c", "http://***@a and http://b/c"),
    ],
)
def test_a_password_is_masked_wherever_it_stands_in_a_uri(text, shown):
    assert masked(text) == shown


def test_options_never_show_a_password():
    chosen = SearchOptions(workload="gcn", tracking_uri="http://u:secret@h", storage="s3://k:secret@b")
    assert "secret" not in repr(chosen)


def test_a_cluster_elsewhere_has_a_dashboard_of_its_own():
    with pytest.raises(Refused, match=r"--dashboard True: the cluster at auto has a dashboard of its own"):
        SearchOptions.read({"workload": "gcn", "address": "auto", "dashboard": True})
    assert SearchOptions.read({"workload": "gcn", "address": "local", "dashboard": True}).dashboard


def test_loggers_are_given_by_name():
    assert SearchOptions.read({"workload": "gcn", "log": "csv,tensorboard"}).log == ("csv", "tensorboard")
    assert SearchOptions.read({"workload": "gcn", "log": ["csv"]}).log == ("csv",)
    with pytest.raises(Refused, match="--log visdom: input should be 'tensorboard', 'csv' or 'wandb'"):
        SearchOptions.read({"workload": "gcn", "log": "visdom"})
