"""The beats of the MIT-BIH arrhythmia database, 187 samples at 125 Hz, in five classes.

Sources: G. B. Moody, R. G. Mark, IEEE Engineering in Medicine and Biology 20(3):45-50, 2001 (the 48 records);
A. L. Goldberger et al., Circulation 101(23):e215-e220, 2000 (PhysioNet); M. Kachuee, S. Fazeli, M. Sarrafzadeh,
arXiv 1805.00794, 2018 (how beats are cut, and the published beats).

Beats are read from the WFDB records, or from the published CSV files, which do not say whose beat is whose. Cutting
takes seconds, so the beats are kept in a cache; the data folder is only read. wfdb, scipy, pandas and scikit-learn are
imported only when they are needed.
"""

import hashlib
import logging
import os
import sys
import tempfile
from contextlib import redirect_stdout, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tune_sam.errors import Refused
from tune_sam.extras import need
from tune_sam.trainables.data import files

if TYPE_CHECKING:
    from tune_sam.trainables.data.split import Indices

log = logging.getLogger(__name__)

NAME = "mitdb"
CHECKSUMS = Path(__file__).with_name("mitdb.sha256")  # as PhysioNet publishes them
CUTTING = 1  # version of how beats are cut; older caches are not read
RATE = 125  # samples per second of a beat
LENGTH = 187  # samples of a beat
WINDOW = 10 * RATE
STEP = 0.005  # mV, of the converter that the records were made with
CHANNELS = ("MLII", "V5")  # the first that a record has: 114 has MLII second, 102 and 104 have none

CLASSES = ("N", "S", "V", "F", "Q")
SYMBOLS = ("NLRej", "AaJS", "VE", "F", "/fQ")  # of each class, ANSI/AAMI EC57; every other annotation is no beat
LABELS = {symbol: label for label, symbols in enumerate(SYMBOLS) for symbol in symbols}

CSVS = {
    "mitbih_train.csv": (72_471, 2_223, 5_788, 641, 6_431),  # beats of each class, as published
    "mitbih_test.csv": (18_118, 556, 1_448, 162, 1_608),
}
PUBLISHED = {"train": (641, 2_223, 5_788, 641, 6_431), "test": (161, 556, 1_448, 162, 1_608)}

# P. de Chazal, M. O'Dwyer, R. B. Reilly, IEEE Transactions on Biomedical Engineering 51(7):1196-1206, 2004. The four
# records with a pacemaker (102, 104, 107, 217) are in neither.
DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230)
DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
PERSON = {202: 201}  # records 201 and 202 are of one person; each other record is of a person of its own
# Chosen by the numbers of beats alone: 22 % of N, 26 % of S and 18 % of V. Record 208 holds 373 of the 413 beats of
# class F and has to train; the 34 F beats of these five are most of the others. Record 209, with 383 of 815 S, trains,
# too. The eight beats of class Q are too few to be split.
VALIDATION = (114, 124, 205, 220, 223)


@dataclass(frozen=True)
class Counts:
    """Numbers of annotations in the records, by what became of them.

    Attributes:
        records: number of records.
        others: annotations of rhythm, noise and the like.
        read: beats.
        last: beats that end their record, which are not cut.
        cut: beats that were cut.
    """

    records: int
    others: int
    read: int
    last: int
    cut: int

    def __str__(self) -> str:
        return (
            f"{self.records} records: {self.read:,} beats read, {self.cut:,} cut, {self.last:,} left out as the "
            f"last of their record; {self.others:,} annotations are not of beats"
        )


@dataclass(frozen=True)
class Beats:
    """Beats in the order of the records and of time, or of the CSV files. The arrays may be read-only.

    Attributes:
        signals: [n, LENGTH], 0 to 1.
        labels: indices into CLASSES, [n].
        records: numbers of the records, [n]; 0 where the source does not say.
        counts: of the records' annotations; None for the CSV files.
        test: true in the published test set, [n]; None for the records, which have none.
    """

    signals: NDArray[np.float32]
    labels: NDArray[np.int64]
    records: NDArray[np.int16]
    counts: Counts | None = None
    test: NDArray[np.bool_] | None = None


def check(root: Path, interpatient: bool = False) -> None:
    """Check the records below `root`, or else the CSV files, without parsing them.

    Args:
        root: folder that holds `mitdb`, or the CSV files, in itself or in `mitbih`.
        interpatient: refuse the CSV files, because only the records say whose beat is whose.

    Raises:
        Refused: a file is missing or damaged, or beats of both kinds are there, of which a study has one.
    """
    csvs, records = _csvs_below(root), records_folder(root)
    if os.path.exists(records) or csvs is None:
        if csvs and not interpatient:
            raise Refused(
                f"{root} holds the WFDB records, in {records.name}, and the CSV files, in {csvs}, which have other "
                "beats in other splits; move one away, so that each study keeps its own."
            )
        _check_records(records)
    elif interpatient:
        raise Refused(
            f"the CSV files in {csvs} do not say whose beat is whose, which the inter-patient split needs; "
            f"put the WFDB records into {NAME} in a folder of their own and name that, or, to download them, name "
            "none, with --data or TUNE_SAM_DATA."
        )
    else:
        _check_csvs(csvs)


def present(root: Path) -> bool:
    """Say whether `root` holds the records or the CSV files, complete or not: nothing is downloaded beside either."""
    return os.path.exists(records_folder(root)) or _csvs_below(root) is not None


def records_folder(root: Path) -> Path:
    """Name the folder of the records below `root`."""
    return root / NAME


def _csv_folder(root: Path) -> Path | None:
    """Find the folder of the CSV files; None if the beats come from the records."""
    if os.path.exists(records_folder(root)):  # Path.exists would raise where nobody may look
        return None
    return _csvs_below(root)


def _csvs_below(root: Path) -> Path | None:
    folders = (folder for folder in (root, root / "mitbih") for name in CSVS if os.path.exists(folder / name))
    return next(folders, None)


def _check_records(folder: Path) -> None:
    way_out = files.way_out("the WFDB records of the MIT-BIH database", folder)
    published = _checksums()
    for name in published:
        with files.reading(folder / name, way_out):
            (folder / name).stat()
    for name, checksum in published.items():
        with files.reading(folder / name, way_out), (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != checksum:
            raise Refused(f"the data file {folder / name} is damaged, its SHA-256 is not the published one; {way_out}.")


def _check_csvs(folder: Path) -> None:
    way_out = files.way_out(f"the published {' and '.join(CSVS)}", folder)
    for name, classes in CSVS.items():
        path, rows = folder / name, sum(classes)
        with files.reading(path, way_out), path.open("rb") as file:
            found = 0
            while block := file.read(1 << 20):
                found += block.count(b"\n")  # each line ends with one, so that a cut within the last line is seen
        if found != rows:
            raise Refused(f"the data file {path} has {found} lines in place of {rows}; {way_out}.")


def _checksums() -> dict[str, str]:
    """Read the published SHA-256 of every file of the records, by name."""
    lines = (line.split() for line in CHECKSUMS.read_text().splitlines())
    return {name: checksum for checksum, name in lines}


def download(root: Path) -> None:
    """Download the records from PhysioNet by wfdb; they appear below `root` complete or not at all.

    Raises:
        Refused: the download failed.
    """
    need("wfdb", "beats")
    import wfdb

    def fetch(folder: Path) -> None:
        with redirect_stdout(sys.stderr):  # it prints what it does, and our standard output is for results
            wfdb.dl_database(NAME, str(records_folder(folder)), records=_records(), annotators=["atr"])
        _check_records(records_folder(folder))

    files.download(NAME, fetch, NAME, root)


def _records() -> list[str]:
    return sorted(Path(name).stem for name in _checksums() if name.endswith(".hea"))


def load(root: Path, interpatient: bool = False) -> Beats:
    """Read all beats, from the records or else from the CSV files.

    Args:
        root, interpatient: as of :func:`check`.

    Raises:
        Refused: as by :func:`check`.
    """
    check(root, interpatient)
    csvs = _csv_folder(root)
    return _cached(records_folder(root)) if csvs is None else _read_csvs(csvs)


def _read_csvs(folder: Path) -> Beats:
    import pandas as pd

    parts = []
    for name, classes in CSVS.items():
        try:
            part = pd.read_csv(folder / name, header=None, dtype=np.float32).to_numpy()
        except ValueError as error:
            raise Refused(f"the data file {folder / name} is damaged ({error}); fetch it again.") from None
        signals, labels = part[:, :-1], part[:, -1]
        if (
            signals.shape[1] != LENGTH
            or tuple((labels == label).sum() for label in range(len(CLASSES))) != classes
            or not ((signals >= 0) & (signals <= 1)).all()
        ):
            raise Refused(f"the data file {folder / name} does not hold the published beats; fetch it again.")
        parts.append(part)
    beats = np.concatenate(parts)
    return Beats(
        signals=np.ascontiguousarray(beats[:, :-1]),
        labels=beats[:, -1].astype(np.int64),
        records=np.zeros(len(beats), np.int16),
        test=np.arange(len(beats)) >= len(parts[0]),
    )


_NO_CACHE = (OSError, ValueError, EOFError)  # what NumPy raises at a file that is missing or was cut short


def _cached(folder: Path) -> Beats:
    """Read the beats of the verified records in `folder`, cut by one process and mapped into memory by all.

    The key of the cache is the list of checksums, so that it does not matter where the records are.
    """
    key = hashlib.sha256(CHECKSUMS.read_bytes()).hexdigest()[:16]
    beats = None
    try:
        cache = _cache_folder() / f"{NAME}-{CUTTING}-{key}"
        with suppress(*_NO_CACHE):
            return _read_cache(cache)
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "lock"):
            with suppress(*_NO_CACHE):  # another process was first
                return _read_cache(cache)
            beats = cut(folder)
            _write_cache(cache, beats)
            return _read_cache(cache)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        log.warning("the beats are not cached (%s); set TUNE_SAM_CACHE to a folder that can be written.", error)
    return beats or cut(folder)


def _cache_folder() -> Path:
    if own := os.environ.get("TUNE_SAM_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tune_sam"


def _read_cache(folder: Path) -> Beats:
    signals, labels, records, counts = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("signals", "labels", "records", "counts")
    )
    return Beats(signals, labels, records, Counts(*counts.tolist()))


def _write_cache(folder: Path, beats: Beats) -> None:
    assert beats.counts
    arrays: dict[str, NDArray[np.generic]] = {
        "signals": beats.signals,
        "labels": beats.labels,
        "records": beats.records,
        "counts": np.array(astuple(beats.counts)),
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
        for name, array in arrays.items():
            np.save(Path(unfinished) / f"{name}.npy", array)
        for name in arrays:  # a process that has the old file mapped keeps it
            os.replace(Path(unfinished) / f"{name}.npy", folder / f"{name}.npy")


def cut(folder: Path) -> Beats:
    """Cut the beats of all records in `folder`."""
    signals, labels, records, others = [], [], [], 0
    for record in _records():
        signal, peaks, classes, not_beats = _read_record(folder / record)
        signals.append(_cut_record(signal, peaks)[:-1])  # no beat follows the last one; the published data lack it too
        labels.append(classes[:-1])
        records.append(np.full(len(signals[-1]), int(record), np.int16))
        others += not_beats
    beats, count = np.concatenate(signals), len(records)
    counts = Counts(records=count, others=others, read=len(beats) + count, last=count, cut=len(beats))
    log.info("%s", counts)
    return Beats(beats, np.concatenate(labels), np.concatenate(records), counts)


def _read_record(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], int]:
    """Read one record.

    Returns:
        The signal in mV at 125 Hz, the samples of its R peaks, the beats' classes, and the number of annotations that
        are no beats.
    """
    need("wfdb", "beats")
    import wfdb
    from scipy.signal import resample_poly

    header = wfdb.rdheader(str(path))
    channel = next(name for name in CHANNELS if name in header.sig_name)
    raw = wfdb.rdrecord(str(path), channel_names=[channel]).p_signal[:, 0]
    annotations = wfdb.rdann(str(path), "atr")
    beats = np.array([symbol in LABELS for symbol in annotations.symbol])
    labels = np.array([LABELS[symbol] for symbol in annotations.symbol if symbol in LABELS], np.int64)
    peaks = np.rint(annotations.sample[beats] * RATE / header.fs).astype(np.int64)
    # Beyond its ends the signal goes on along a line: zeros there would be a step, which rings.
    return resample_poly(raw, RATE, header.fs, padtype="line"), peaks, labels, int((~beats).sum())


def _cut_record(signal: NDArray[np.float64], peaks: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cut each R peak and what follows it for 1.2 median RR intervals of its window, [beats, LENGTH], padded with 0.

    Args:
        signal: in mV at 125 Hz, [samples].
        peaks: samples of the R peaks, ascending, [beats].
    """
    beats = np.zeros((len(peaks), LENGTH), np.float32)
    for begin in range(0, len(signal), WINDOW):
        window = signal[begin : begin + WINDOW]
        first, end = np.searchsorted(peaks, [begin, begin + WINDOW])
        inside = peaks[first:end]
        period = np.median(np.diff(inside if len(inside) > 1 else peaks))
        length = min(round(1.2 * period), LENGTH)
        low, span = window.min(), np.ptp(window)
        scale = 1 / span if span >= STEP else 0  # a flat line, and what resampling made of it, is all zeros
        for row, peak in enumerate(inside, start=first):
            piece = signal[peak : peak + length]  # it may reach past the window, on the window's scale
            beats[row, : len(piece)] = np.clip((piece - low) * scale, 0, 1)
    return beats


def published(beats: Beats) -> "Indices":
    """Split as the published study: class N cut down at random, then a tenth of the training beats for validation.

    The CSV files say which beats are the test set; of the records' beats, as many of each class are drawn. A person's
    beats are in all three splits.
    """
    from tune_sam.trainables.data.split import SPLIT_SEED, Indices, held_out

    random = np.random.default_rng(SPLIT_SEED)
    rest, test = [], []
    for label, (to_train, to_test) in enumerate(zip(PUBLISHED["train"], PUBLISHED["test"], strict=True)):
        drawn = random.permutation(np.flatnonzero(beats.labels == label))
        if beats.test is None:
            ours, theirs = drawn[:to_train], drawn[to_train:]
        else:
            ours, theirs = drawn[~beats.test[drawn]], drawn[beats.test[drawn]]
        rest.append(ours[:to_train])
        test.append(theirs[:to_test])
    kept = np.concatenate(rest)
    train, validation = held_out(beats.labels[kept], len(kept) // 10)
    return Indices(np.sort(kept[train]), np.sort(kept[validation]), np.sort(np.concatenate(test)))


def interpatient(beats: Beats) -> "Indices":
    """Split by person, as de Chazal et al. 2004: DS2 is the test set; of DS1 some records validate, the rest train.

    Record 201 is left out, because 202, of the same person, is in DS2.

    Raises:
        Refused: the beats are those of the CSV files.
    """
    from tune_sam.trainables.data.split import Indices

    if not beats.records.any():
        raise Refused(
            "the beats of the CSV files do not say whose they are, which the inter-patient split needs; "
            f"give --data a folder that holds the WFDB records in {NAME}."
        )
    tested = {person(record) for record in DS2}
    train = [record for record in DS1 if person(record) not in tested and record not in VALIDATION]
    return Indices(*(np.flatnonzero(np.isin(beats.records, part)) for part in (train, VALIDATION, DS2)))


def person(record: int) -> int:
    """Identify the person of a record by the number of the person's first record."""
    return PERSON.get(record, record)
