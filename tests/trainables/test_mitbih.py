import hashlib
import logging
import math
import statistics
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy.signal import resample_poly
from wfdb.io.annotation import ann_labels

from tune_sam.errors import Refused
from tune_sam.trainables.data import mitbih
from tune_sam.trainables.data.mitbih import Beats, Counts

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas

FS = 360
CLASS_OF = {
    "N": 0,
    "L": 0,
    "R": 0,
    "e": 0,
    "j": 0,
    "S": 1,
    "A": 1,
    "a": 1,
    "J": 1,
    "V": 2,
    "E": 2,
    "F": 3,
    "/": 4,
    "f": 4,
    "Q": 4,
}
TOTALS = [90_589, 2_779, 7_236, 803, 8_039]
ARRAYS = ("signals", "labels", "records", "counts")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNE_SAM_CACHE", str(tmp_path / "cache"))


def write_record(folder, record, signals, beats):
    """A record in the form of the database's: `signals` by channel in mV, `beats` as (sample, symbol)."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(signals)
    wfdb.wrsamp(
        str(record),
        fs=FS,
        units=["mV"] * count,
        sig_name=list(signals),
        fmt=["212"] * count,
        p_signal=np.column_stack(list(signals.values())),
        adc_gain=[200] * count,
        baseline=[1024] * count,
        write_dir=str(folder),
    )
    samples, symbols = zip(*beats, strict=True)
    wfdb.wrann(str(record), "atr", np.array(samples), list(symbols), write_dir=str(folder))


def heart(peaks, seconds=30, height=1.0, seed=0):
    """A signal with a spike at each of the samples `peaks`, and some noise."""
    signal = 0.02 * np.random.default_rng(seed).standard_normal(seconds * FS)
    times = np.arange(seconds * FS)
    for peak in peaks:
        signal += height * np.exp(-(((times - peak) / 10) ** 2) / 2)
    return signal


def beats_at(*peaks, symbol="N"):
    return [(peak, symbol) for peak in peaks]


def publish(monkeypatch, folder, name="published.sha256"):
    """Take the files in `folder` for the published ones."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(folder.iterdir())]
    path = folder.parent.parent / name
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(mitbih, "CHECKSUMS", path)


def write_small(root, height=1.0):
    """Two records, with seven and five beats."""
    for record, step, symbols in [(100, 300, "NNAVNFN"), (202, 400, "NVQNN")]:
        peaks = [200 + step * n for n in range(len(symbols))]
        write_record(
            root / "mitdb",
            record,
            {"MLII": heart(peaks, 10, height), "V1": heart([], 10)},
            list(zip(peaks, symbols, strict=True)),
        )


@pytest.fixture
def root(monkeypatch, tmp_path):
    """A data folder with two small records, which pass for the published ones."""
    write_small(tmp_path / "data")
    publish(monkeypatch, tmp_path / "data" / "mitdb")
    return tmp_path / "data"


@pytest.fixture
def cut_one(monkeypatch, tmp_path):
    """Cuts the beats of one record, which it writes."""

    def cut(signals, beats, record=100):
        folder = tmp_path / "one" / "mitdb"
        write_record(folder, record, signals, beats)
        publish(monkeypatch, folder)
        return mitbih.cut(folder)

    return cut


def signal_at_125(folder, record, channel):
    raw = wfdb.rdrecord(str(folder / str(record)), channel_names=[channel]).p_signal[:, 0]
    return resample_poly(raw, 125, 360, padtype="line")


def slowly_cut(folder, record, channel):
    """The beats of a record as lists of 187 numbers, cut sample by sample from the words of the publication."""
    signal = signal_at_125(folder, record, channel).tolist()
    annotations = wfdb.rdann(str(folder / str(record)), "atr")
    peaks = [
        round(sample * 125 / 360)
        for sample, symbol in zip(annotations.sample, annotations.symbol, strict=True)
        if symbol in CLASS_OF
    ]
    rows = []
    for peak in peaks[:-1]:
        number = math.floor(peak / 1250)
        window = signal[1250 * number : 1250 * (number + 1)]
        neighbours = [other for other in peaks if other // 1250 == number]
        if len(neighbours) < 2:
            neighbours = peaks
        period = statistics.median(b - a for a, b in zip(neighbours, neighbours[1:], strict=False))
        low, high = min(window), max(window)
        row = []
        for place in range(187):
            if place < round(1.2 * period) and peak + place < len(signal):
                scaled = (signal[peak + place] - low) / (high - low)
                row.append(min(max(scaled, 0.0), 1.0))
            else:
                row.append(0.0)
        rows.append(row)
    return np.array(rows)


def lengths(beats):
    """Samples of each beat before its padding."""
    return [int(np.flatnonzero(row).max()) + 1 for row in beats.signals]


def test_the_module_imports_nothing_heavy():
    code = (
        "import sys, trainables.data.mitbih\nprint({'torch', 'wfdb', 'scipy', 'pandas', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_checksums_are_of_48_records():
    names = {line.split("  ")[1] for line in mitbih.CHECKSUMS.read_text().splitlines()}
    records = {*mitbih.DS1, *mitbih.DS2, 102, 104, 107, 217}
    assert len(records) == 48
    assert names == {f"{record}.{kind}" for record in records for kind in ("hea", "dat", "atr")}


def test_a_beat_starts_at_its_r_peak_and_lasts_for_1_2_intervals(cut_one):
    peaks = range(300, 10_500, 288)  # 100 samples at 125 Hz
    beats = cut_one({"MLII": heart(peaks)}, beats_at(*peaks))
    assert beats.signals.shape == (len(peaks) - 1, 187)
    assert beats.signals.dtype == np.float32
    assert lengths(beats) == [120] * (len(peaks) - 1)
    assert (beats.signals[:, 0] > 0.9).all()
    assert (np.argmax(beats.signals[:, :50], axis=1) <= 1).all()
    assert (np.abs(np.argmax(beats.signals[:, 50:], axis=1) + 50 - 100) <= 1).all(), "the next beat is in it"
    assert (beats.signals[:, 120:] == 0).all()


def test_each_window_has_a_scale_and_a_median_of_its_own(cut_one):
    first, second = range(200, 3500, 180), range(3700, 7100, 432)
    signal = heart(first, 20) + heart(second, 20, height=1.5)
    beats = cut_one({"MLII": signal}, beats_at(*first, *second))
    inner = len(first) - 1
    assert lengths(beats)[:inner] == [75] * inner
    assert lengths(beats)[len(first) :] == [180] * (len(second) - 1)
    assert (beats.signals[:, 0] > 0.9).all()
    assert beats.signals.min() == 0
    assert beats.signals.max() <= 1


def test_the_median_is_not_the_mean(cut_one):
    peaks = [100, 388, 676, 964, 2500, 3000]
    beats = cut_one({"MLII": heart(peaks, 10)}, beats_at(*peaks))
    assert lengths(beats) == [120] * 5


def test_a_beat_is_cut_at_187_samples(cut_one):
    peaks = [100, 900, 1700, 2500, 3300]
    beats = cut_one({"MLII": heart(peaks, 10)}, beats_at(*peaks))
    assert lengths(beats) == [187] * 4


@pytest.mark.parametrize("alone", [[5000], []])
def test_a_window_with_fewer_than_two_beats_takes_the_records_median(cut_one, alone):
    first, third = range(100, 3500, 288), range(7300, 10_700, 288)
    peaks = [*first, *alone, *third]
    beats = cut_one({"MLII": heart(peaks)}, beats_at(*peaks))
    assert lengths(beats) == [120] * (len(peaks) - 1)


def test_a_beat_goes_on_past_its_window_on_the_same_scale(cut_one):
    peaks = [500, 1000, 1500, 2000, 2500, 3000, 3500, 3900, 4400, 4900, 5400]
    signal = heart(peaks[:7], 20) + heart(peaks[7:], 20, height=2)
    signal[3700:3800] = -0.5
    beats = cut_one({"MLII": signal}, beats_at(*peaks))
    over = beats.signals[6]  # from 3500 to 4100, that is 208 samples; the window ends after 35
    assert 0.9 < over[0] < 1.01
    assert over[139] == 1, "the next peak is higher than all of this window"
    assert (over[75:100] == 0).all(), "this dip is lower"
    assert lengths(beats)[6] == 187


def test_a_beat_ends_with_its_record(cut_one):
    peaks = [100, 500, 900, 1300, 1700, 2100, 2500, 2900, 3300, 3550, 3580]
    beats = cut_one({"MLII": heart(peaks, 10)}, beats_at(*peaks))
    assert lengths(beats)[-1] == 1250 - round(3550 * 125 / 360)
    assert len(beats.signals) == 10


def test_a_flat_line_is_all_zeros(cut_one):
    signal = np.concatenate([heart([], 10), np.full(7200, 1.25)])
    beats = cut_one({"MLII": signal}, beats_at(500, 1000, 1500, 7500, 8000, 8500, 9000))
    assert (beats.signals[:3].max(axis=1) > 0.5).all()
    assert (beats.signals[3:] == 0).all()


def test_a_record_is_cut_as_the_publication_says(cut_one, tmp_path):
    random = np.random.default_rng(1)
    peaks = np.cumsum(random.integers(100, 700, 70))
    signal = heart(peaks, 90, height=0.8) + 0.3 * np.sin(np.arange(90 * FS) / 700)
    beats = cut_one({"V5": heart([], 90), "MLII": signal}, beats_at(*peaks[peaks < 90 * FS]))
    np.testing.assert_allclose(beats.signals, slowly_cut(tmp_path / "one" / "mitdb", 100, "MLII"), atol=1e-6)


@pytest.mark.parametrize("channels", [("MLII", "V5"), ("V5", "MLII"), ("V5", "V2"), ("V2", "V5")])
def test_the_channel_is_chosen_by_its_name(cut_one, channels):
    peaks = range(300, 3400, 288)
    wanted = "MLII" if "MLII" in channels else "V5"
    signals = {name: heart(peaks if name == wanted else [], 10) for name in channels}
    beats = cut_one(signals, beats_at(*peaks))
    assert (beats.signals[:, 0] > 0.9).all()


def test_every_symbol_has_its_class_and_the_others_are_no_beats(cut_one):
    symbols = [label.symbol for label in ann_labels if label.symbol.strip()]
    assert set(symbols) > set(CLASS_OF)
    marks = [(200 + 80 * n, symbol) for n, symbol in enumerate([*symbols, "N"])]
    beats = cut_one({"MLII": heart([], 12)}, marks, record=232)
    assert beats.labels.tolist() == [CLASS_OF[symbol] for symbol in symbols if symbol in CLASS_OF]
    assert beats.labels.dtype == np.int64
    assert beats.records.tolist() == [232] * 15
    assert beats.records.dtype == np.int16
    assert beats.counts == Counts(records=1, others=len(symbols) - 15, read=16, last=1, cut=15)
    assert mitbih.CLASSES == ("N", "S", "V", "F", "Q")


def test_what_is_no_beat_is_no_r_peak_either(cut_one):
    peaks = range(300, 3400, 288)
    marks = sorted([*beats_at(*peaks), (350, "+"), (700, "~"), (800, "x"), (810, "!"), (3450, '"')])
    beats = cut_one({"MLII": heart(peaks, 10)}, marks)
    assert lengths(beats) == [120] * (len(peaks) - 1)


def test_the_last_beat_of_each_record_is_left_out(root, caplog):
    caplog.set_level(logging.INFO)
    beats = mitbih.load(root)
    assert beats.labels.tolist() == [0, 0, 1, 2, 0, 3, 0, 2, 4, 0]
    assert beats.records.tolist() == [100] * 6 + [202] * 4
    assert beats.counts == Counts(records=2, others=0, read=12, last=2, cut=10)
    line = "2 records: 12 beats read, 10 cut, 2 left out as the last of their record; 0 annotations are not of beats"
    assert str(beats.counts) == line
    assert caplog.messages == [line]


def same(a, b):
    return (
        all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("signals", "labels", "records"))
        and a.counts == b.counts
    )


def count_cuts(monkeypatch):
    """The list grows with each cutting."""
    cuts, cut = [], mitbih.cut
    monkeypatch.setattr(mitbih, "cut", lambda folder: (cuts.append(folder), cut(folder))[1])
    return cuts


def test_the_beats_are_cut_once_and_mapped_into_memory(root, monkeypatch, tmp_path):
    cuts = count_cuts(monkeypatch)
    first, again = mitbih.load(root), mitbih.load(root)
    assert cuts == [root / "mitdb"]
    assert same(first, again)
    assert same(first, mitbih.cut(root / "mitdb"))
    for beats in (first, again):
        assert isinstance(beats.signals, np.memmap)
        assert not beats.signals.flags.writeable
        assert beats.test is None
    [cache] = (tmp_path / "cache").iterdir()
    assert {path.name for path in cache.iterdir()} == {"lock", *(f"{name}.npy" for name in ARRAYS)}


LOADS = """
import sys, time
from pathlib import Path
from trainables.data import mitbih

root, checksums, cuts = map(Path, sys.argv[1:])
mitbih.CHECKSUMS, cut = checksums, mitbih.cut

def counted(folder):
    with cuts.open("a") as file:
        file.write("cut\\n")
    time.sleep(1)  # the others come meanwhile
    return cut(folder)

mitbih.cut = counted
print(len(mitbih.load(root).signals))
"""


@pytest.mark.slow
def test_of_several_processes_one_cuts(root, tmp_path):
    command = [sys.executable, "-c", LOADS, root, mitbih.CHECKSUMS, tmp_path / "cuts"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["10\n"] * 3
    assert (tmp_path / "cuts").read_text() == "cut\n"


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_cache_that_was_cut_short_is_built_again(root, monkeypatch, tmp_path, name, kept):
    before = mitbih.load(root)
    [path] = (tmp_path / "cache").glob(f"*/{name}.npy")
    whole = path.read_bytes()
    damaged = path.with_name("damaged")
    damaged.write_bytes(whole[:kept])
    damaged.replace(path)
    cuts = count_cuts(monkeypatch)
    assert same(mitbih.load(root), before)
    assert len(cuts) == 1
    assert path.read_bytes() == whole


def test_a_cache_without_one_of_its_files_is_built_again(root, tmp_path):
    before = mitbih.load(root)
    [path] = (tmp_path / "cache").glob("*/labels.npy")
    path.unlink()
    assert same(mitbih.load(root), before)
    assert path.exists()


def test_a_cache_is_of_one_way_of_cutting_and_of_one_list_of_files(root, monkeypatch, tmp_path):
    first = mitbih.load(root)
    cuts = count_cuts(monkeypatch)
    monkeypatch.setattr(mitbih, "CUTTING", mitbih.CUTTING + 1)
    mitbih.load(root)
    assert len(cuts) == 1
    write_small(root, height=0.5)
    publish(monkeypatch, root / "mitdb", "others.sha256")
    assert not same(mitbih.load(root), first)
    assert len(cuts) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_the_same_files_elsewhere_have_the_same_cache(root, monkeypatch):
    mitbih.load(root)
    elsewhere = root.rename(root.with_name("elsewhere"))
    cuts = count_cuts(monkeypatch)
    mitbih.load(elsewhere)
    assert cuts == []


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"TUNE_SAM_CACHE": "{tmp}/own", "XDG_CACHE_HOME": "{tmp}/xdg"}, "own"),
        ({"TUNE_SAM_CACHE": "~/own"}, "home/own"),
        ({"XDG_CACHE_HOME": "{tmp}/xdg"}, "xdg/tune_sam"),
        ({"TUNE_SAM_CACHE": "", "XDG_CACHE_HOME": ""}, "home/.cache/tune_sam"),
        ({}, "home/.cache/tune_sam"),
    ],
)
def test_where_the_cache_is(root, monkeypatch, tmp_path, variables, place):
    for name in ("TUNE_SAM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    mitbih.load(root)
    assert [path.parent.parent for path in tmp_path.rglob("signals.npy")] == [tmp_path / place]


def fail(*_, **__):
    raise OSError("no space left")


def homeless(*_):
    raise RuntimeError("Could not determine home directory.")


def below_a_file(monkeypatch, tmp_path):
    (tmp_path / "cache").touch()


def without_a_lock(monkeypatch, tmp_path):
    monkeypatch.setattr(mitbih, "FileLock", fail)


def on_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(np, "save", fail)


def without_a_home(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "expanduser", homeless)


@pytest.mark.parametrize("trouble", [below_a_file, without_a_lock, on_a_full_disk, without_a_home])
def test_without_a_cache_the_beats_are_cut_all_the_same(root, monkeypatch, tmp_path, caplog, trouble):
    trouble(monkeypatch, tmp_path)
    cuts = count_cuts(monkeypatch)
    assert len(mitbih.load(root).signals) == 10
    assert len(cuts) == 1
    assert "the beats are not cached" in caplog.text
    assert "set TUNE_SAM_CACHE" in caplog.text
    assert not list(tmp_path.glob("cache/*/*.npy"))
    assert not list(tmp_path.glob("cache/*/.unfinished-*"))


def test_a_cache_of_someone_else_is_read_without_its_lock(root, monkeypatch):
    before = mitbih.load(root)
    cuts = count_cuts(monkeypatch)
    monkeypatch.setattr(mitbih, "FileLock", fail)
    assert same(mitbih.load(root), before)
    assert cuts == []


def tree(folder):
    """Everything in a folder, with the times of its last changes; those of folders tell of files that came and went."""
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_whole_files_pass_and_stay_as_they_are(root):
    before = tree(root)
    mitbih.check(root)
    mitbih.check(root, interpatient=True)
    mitbih.load(root)
    assert tree(root) == before


NAMES = [f"{record}.{kind}" for record in (100, 202) for kind in ("hea", "dat", "atr")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("look", [mitbih.check, mitbih.load])
def test_a_missing_file_is_named_with_a_way_out(root, look, name):
    path = root / "mitdb" / name
    path.unlink()
    with pytest.raises(Refused) as refused:
        look(root)
    assert str(refused.value) == (
        f"the data file {path} is missing; put the WFDB records of the MIT-BIH database into "
        f"{path.parent}, or let them be downloaded: move that folder away if it exists, "
        "and name none with --data or TUNE_SAM_DATA."
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content[:10] + bytes([content[10] ^ 1]) + content[11:],
    ],
    ids=["empty", "cut", "longer", "one bit"],
)
def test_a_damaged_file_is_named_with_a_way_out(root, name, damage):
    path = root / "mitdb" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refused) as refused:
        mitbih.check(root)
    assert f"the data file {path} is damaged, its SHA-256 is not the published one; put the WFDB" in str(refused.value)


def test_a_cache_does_not_hide_a_damaged_file(root):
    mitbih.load(root)
    (root / "mitdb" / "202.dat").write_bytes(b"?")
    with pytest.raises(Refused, match="202.dat is damaged"):
        mitbih.load(root)


def test_a_missing_file_is_seen_before_a_damaged_one(root):
    (root / "mitdb" / "100.dat").write_bytes(b"?")
    (root / "mitdb" / "202.dat").unlink()
    with pytest.raises(Refused, match="202.dat is missing"):
        mitbih.check(root)


def test_a_file_that_cannot_be_read_is_named(root):
    path = root / "mitdb" / "100.hea"
    path.unlink()
    path.mkdir()
    with pytest.raises(Refused, match="100.hea cannot be read"):
        mitbih.check(root)


@pytest.mark.parametrize("below", ["", "mitdb"])
def test_a_file_in_place_of_a_folder_is_a_missing_file(root, below):
    place = root.with_name("other") / below
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    with pytest.raises(Refused, match="100.atr is missing"):
        mitbih.check(root.with_name("other"))


@pytest.mark.parametrize("interpatient", [False, True])
def test_without_any_data_the_records_are_asked_for(tmp_path, interpatient):
    assert not mitbih.present(tmp_path)
    with pytest.raises(Refused, match="100.atr is missing; put the WFDB records"):
        mitbih.check(tmp_path, interpatient)


SMALL = {"mitbih_train.csv": (40, 20, 20, 20, 20), "mitbih_test.csv": (6, 2, 2, 2, 2)}
TRAIN, TEST = SMALL


@pytest.fixture
def csvs(monkeypatch, tmp_path):
    """A data folder with small CSV files, which pass for the published ones."""
    monkeypatch.setattr(mitbih, "CSVS", SMALL)
    folder = tmp_path / "csvs"
    folder.mkdir()
    for name, classes in SMALL.items():
        labels = np.repeat(np.arange(5), classes)
        signals = np.random.default_rng(sum(classes)).random((len(labels), 187))
        signals[:, 150:] = 0
        np.savetxt(folder / name, np.column_stack([signals, labels]), delimiter=",")  # the form of the published ones
    return folder


@pytest.mark.parametrize("below", [".", "mitbih"])
def test_the_csv_files_give_beats_of_the_same_form(csvs, tmp_path, below):
    root = tmp_path / "root"
    (root / below).parent.mkdir(parents=True, exist_ok=True)
    csvs.rename(root / below)
    assert mitbih.present(root)
    mitbih.check(root)
    beats = mitbih.load(root)
    assert beats.signals.shape == (134, 187)
    assert [array.dtype for array in (beats.signals, beats.labels, beats.records)] == [np.float32, np.int64, np.int16]
    assert beats.signals.flags.c_contiguous
    assert np.bincount(beats.labels).tolist() == [46, 22, 22, 22, 22]
    assert not beats.records.any()
    assert beats.test.tolist() == [False] * 120 + [True] * 14
    assert beats.counts is None
    for name, part in [(TRAIN, slice(120)), (TEST, slice(120, None))]:
        theirs = pd.read_csv(root / below / name, header=None).to_numpy()
        np.testing.assert_allclose(beats.signals[part], theirs[:, :187], atol=1e-7)
        assert beats.labels[part].tolist() == theirs[:, 187].tolist()


def test_beats_of_both_kinds_are_refused_for_a_study_has_one_of_them(root, csvs):
    for path in csvs.iterdir():
        path.rename(root / path.name)
    with pytest.raises(Refused, match="holds the WFDB records, in mitdb, and the CSV files, in .*; move one away"):
        mitbih.check(root)
    assert mitbih.load(root, interpatient=True).records.any()
    (root / "mitdb" / "100.dat").unlink()
    with pytest.raises(Refused, match="100.dat is missing"):
        mitbih.check(root, interpatient=True)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("look", [mitbih.check, mitbih.load])
def test_a_missing_csv_file_is_named(csvs, look, name):
    (csvs / name).unlink()
    with pytest.raises(Refused) as refused:
        look(csvs)
    assert str(refused.value) == (
        f"the data file {csvs / name} is missing; put the published mitbih_train.csv and "
        f"mitbih_test.csv into {csvs}, or let them be downloaded: move that folder away if "
        "it exists, and name none with --data or TUNE_SAM_DATA."
    )


@pytest.mark.parametrize(
    ("damage", "found"),
    [(lambda content: b"", 0), (lambda content: content[:-1], 13), (lambda content: content + b"1\n", 15)],
)
def test_a_csv_file_with_other_lines_is_named(csvs, damage, found):
    path = csvs / TEST
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Refused, match=f"{TEST} has {found} lines in place of 14; put the published"):
        mitbih.check(csvs)


def relabel(table):
    table[0, -1] = 1


def out_of_range(table):
    table[3, 20] = 1.5


def not_a_number(table):
    table[3, 20] = np.nan


@pytest.mark.parametrize("damage", [relabel, out_of_range, not_a_number])
def test_csv_files_with_other_beats_are_refused(csvs, damage):
    table = np.loadtxt(csvs / TRAIN, delimiter=",")
    damage(table)
    np.savetxt(csvs / TRAIN, table, delimiter=",")
    with pytest.raises(Refused, match=f"{TRAIN} does not hold the published beats; fetch it again"):
        mitbih.load(csvs)


@pytest.mark.parametrize(("line", "said"), [("?", "is damaged"), ("1,2", "does not hold"), ("", "is damaged")])
def test_csv_files_without_sense_are_refused(csvs, line, said):
    (csvs / TEST).write_text(f"{line}\n" * 14)
    with pytest.raises(Refused, match=f"{TEST} {said}.*fetch it again"):
        mitbih.load(csvs)


def test_with_the_csv_files_alone_there_is_no_interpatient_split(csvs):
    assert mitbih.present(csvs), "the records are not downloaded beside them"
    with pytest.raises(Refused) as refused:
        mitbih.check(csvs, interpatient=True)
    assert f"the CSV files in {csvs} do not say whose beat is whose" in str(refused.value)
    assert "put the WFDB records into mitdb in a folder of their own and name that" in str(refused.value)
    with pytest.raises(Refused, match="do not say whose they are.*give --data a folder that holds the WFDB records"):
        mitbih.interpatient(mitbih.load(csvs))


def test_present_tells_what_is_there(root):
    assert mitbih.present(root)
    assert not mitbih.present(root / "nowhere")


def pretend(monkeypatch, download):
    """Put `download(root)` in the place of wfdb's; returns the folders it was given."""
    asked = []

    def database(name, folder, records, annotators):
        assert name == "mitdb"
        assert records == ["100", "202"]
        assert annotators == ["atr"]
        print("Downloading files...")
        asked.append(Path(folder))
        download(Path(folder).parent)

    monkeypatch.setattr(wfdb, "dl_database", database)
    return asked


def stop_halfway(root):
    write_small(root)
    (root / "mitdb" / "202.dat").write_bytes(b"?")


@pytest.mark.parametrize(("download", "said"), [(fail, "no space left"), (stop_halfway, "202.dat is damaged")])
@pytest.mark.usefixtures("root")
def test_a_download_that_fails_leaves_nothing(monkeypatch, tmp_path, download, said):
    asked = pretend(monkeypatch, download)
    with pytest.raises(Refused, match=f"mitdb could not be downloaded.*{said}.*--data"):
        mitbih.download(tmp_path / "home" / "data")
    assert not (tmp_path / "home").exists()
    assert not asked[0].parent.exists()


@pytest.mark.usefixtures("root")
def test_a_download_appears_whole(monkeypatch, tmp_path, capsys):
    asked = pretend(monkeypatch, write_small)
    mitbih.download(tmp_path / "home" / "data")
    mitbih.check(tmp_path / "home" / "data", interpatient=True)
    assert [path.name for path in (tmp_path / "home" / "data").iterdir()] == ["mitdb"]
    assert not asked[0].parent.exists()
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Downloading files...\n")


@pytest.mark.usefixtures("root")
def test_a_download_leaves_the_files_of_a_faster_process(monkeypatch, tmp_path):
    target = tmp_path / "home" / "data"

    def late(folder):
        write_small(folder)
        write_small(target)
        (target / "mitdb" / "theirs").touch()

    pretend(monkeypatch, late)
    mitbih.download(target)
    assert [path.name for path in target.iterdir()] == ["mitdb"]
    assert (target / "mitdb" / "theirs").exists()


def published(from_csvs):
    """Beats in the published numbers, with nothing of use in them, in the order of either source."""
    if from_csvs:
        labels = np.concatenate([np.repeat(np.arange(5), classes) for classes in mitbih.CSVS.values()])
        test = np.arange(len(labels)) >= 87_554
    else:
        labels, test = np.random.default_rng(0).permutation(np.repeat(np.arange(5), TOTALS)), None
    signals = np.broadcast_to(np.float32(0), (len(labels), 187))
    return Beats(signals, labels, np.zeros(len(labels), np.int16), test=test)


def per_class(beats, part):
    return np.bincount(beats.labels[part], minlength=5).tolist()


def looks_like_a_split(indices, beats):
    parts = astuple(indices)
    everything = np.concatenate(parts)
    assert len(set(everything.tolist())) == len(everything)
    assert set(everything.tolist()) <= set(range(len(beats.labels)))
    for part in parts:
        assert type(part) is np.ndarray
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


def is_the_reports_split(beats):
    indices = mitbih.published(beats)
    looks_like_a_split(indices, beats)
    assert [len(part) for part in astuple(indices)] == [14_152, 1_572, 3_935]
    trained, validated = per_class(beats, indices.train), per_class(beats, indices.validation)
    assert [a + b for a, b in zip(trained, validated, strict=True)] == [641, 2223, 5788, 641, 6431]
    assert validated == [64, 222, 579, 64, 643]
    assert per_class(beats, indices.test) == [161, 556, 1448, 162, 1608]
    return indices


@pytest.mark.parametrize("from_csvs", [False, True])
def test_the_reports_split_has_the_reports_numbers(from_csvs):
    is_the_reports_split(published(from_csvs))


def test_the_reports_split_keeps_the_published_parts():
    beats = published(from_csvs=True)
    indices = mitbih.published(beats)
    assert beats.test[indices.test].all()
    assert not beats.test[indices.train].any()
    assert not beats.test[indices.validation].any()


@pytest.mark.parametrize("from_csvs", [False, True])
def test_the_reports_split_is_at_random_and_the_same_every_time(from_csvs):
    beats = published(from_csvs)
    np.random.seed(1)
    first = mitbih.published(beats)
    state = np.random.get_state()[1].tolist()
    np.random.seed(2)
    again = mitbih.published(beats)
    assert all((a == b).all() for a, b in zip(astuple(first), astuple(again), strict=True))
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() == state
    of_n = np.flatnonzero((beats.labels == 0) & (~beats.test if from_csvs else True))
    places = np.searchsorted(of_n, first.train[beats.labels[first.train] == 0]) / len(of_n)
    assert 0.45 < places.mean() < 0.55, "the beats of class N come from everywhere"


def test_no_person_is_on_two_sides():
    assert mitbih.person(201) == mitbih.person(202)
    assert len({mitbih.person(record) for record in (*mitbih.DS1, *mitbih.DS2)}) == 43
    every = np.array(sorted({*mitbih.DS1, *mitbih.DS2, 102, 104, 107, 217}), np.int16)
    beats = Beats(np.zeros((48, 187), np.float32), np.zeros(48, np.int64), every)
    indices = mitbih.interpatient(beats)
    looks_like_a_split(indices, beats)
    train, validation, test = ({mitbih.person(int(record)) for record in every[part]} for part in astuple(indices))
    assert not train & validation
    assert not (train | validation) & test
    assert [len(part) for part in astuple(indices)] == [16, 5, 22]
    assert set(every[indices.test].tolist()) == set(mitbih.DS2)
    assert {*every[indices.train].tolist(), *every[indices.validation].tolist(), 201} == set(mitbih.DS1)


@pytest.fixture(scope="session")
def real(real_data):
    """All beats, cut once; the folder of the records stays as it is."""
    before = tree(mitbih.records_folder(real_data))
    beats = mitbih.load(real_data)
    assert tree(mitbih.records_folder(real_data)) == before
    return beats


@pytest.mark.data
def test_the_beats_are_as_many_as_published(real):
    assert real.signals.shape == (109_446, 187)
    assert np.bincount(real.labels).tolist() == TOTALS
    assert real.counts == Counts(records=48, others=3_153, read=109_494, last=48, cut=109_446)
    assert len(set(real.records.tolist())) == 48
    assert (np.diff(real.records) >= 0).all()
    assert (real.signals.min(), real.signals.max()) == (0, 1)


@pytest.mark.data
@pytest.mark.parametrize(
    ("record", "channel"), [(100, "MLII"), (104, "V5"), (114, "MLII"), (207, "MLII")]
)  # 207 has windows with one beat
def test_a_real_record_is_cut_as_the_publication_says(real, real_data, record, channel):
    ours = real.signals[real.records == record]
    np.testing.assert_allclose(ours, slowly_cut(mitbih.records_folder(real_data), record, channel), atol=1e-6)


@pytest.mark.data
def test_the_reports_split_of_the_real_beats(real):
    first, again = is_the_reports_split(real), mitbih.published(real)
    assert all((a == b).all() for a, b in zip(astuple(first), astuple(again), strict=True))


@pytest.mark.data
def test_the_interpatient_split_of_the_real_beats(real):
    indices = mitbih.interpatient(real)
    looks_like_a_split(indices, real)
    assert per_class(real, indices.train) == [34_290, 602, 2_956, 379, 8]
    assert per_class(real, indices.validation) == [9_921, 213, 634, 34, 0]
    assert per_class(real, indices.test) == [44_238, 1_836, 3_221, 388, 7]
    persons = [{mitbih.person(int(record)) for record in set(real.records[part].tolist())} for part in astuple(indices)]
    assert [len(part) for part in persons] == [16, 5, 22]
    assert len(set.union(*persons)) == 43
