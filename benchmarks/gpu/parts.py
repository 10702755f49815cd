"""Data in parts small enough to be carried: packed on a machine that has them, unpacked on one that has not.

A part is a zip of whole files with a list of all files of all parts, so that any part says what is missing. Pictures
are kept as lossless WebP, everything else compressed as it is; each file is checked against its SHA-256, and is the
same, byte for byte, as it was.
"""

import hashlib
import io
import json
import lzma
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from PIL import Image

DATA = {
    "cifar10": "cifar-10-batches-py",
    "mitbih": "mitdb",
    "mutagenicity": "Mutagenicity/raw",
}
"""The folder of each data set, as torchvision, wfdb and PyG have it."""

MEGABYTES = 48
"""Largest part, so that one travels with the repository where 64 MiB may."""

LIST = "files.json"

PICTURES = ("data_batch", "test_batch")
"""How the names of files begin that hold pictures."""

SIDE, SHEET = 32, 500
"""Pixels of a picture of CIFAR-10, each way, and pictures on a sheet, one below the other: WebP has 16,383 at most."""

EFFORT, METHOD = 60, 3
"""Of the encoder: a tenth of the time of the most thorough one, and files that are larger by a few per cent."""


@dataclass(frozen=True)
class Listed:
    """A file of the data.

    Attributes:
        part: its part's number, from 1.
        sha256: of its content.
    """

    part: int
    sha256: str


def pack(data: Path, folder: Path, datasets: Sequence[str] = (*DATA,), megabytes: float = MEGABYTES) -> list[Path]:
    """Pack data sets into parts.

    Args:
        data: folder that holds them.
        folder: that the parts are written to; it is made.
        datasets: names of some of :data:`DATA`.
        megabytes: that a part has at most.

    Returns:
        The parts, in their order.

    Raises:
        FileNotFoundError: a data set is not there.
        ValueError: a file is larger than a part.
    """
    limit = megabytes * 1e6
    listed: dict[str, Listed] = {}
    parts: list[dict[str, Mapping[str, bytes]]] = [{}]
    room = limit
    for path in _files(data, datasets):
        content = path.read_bytes()
        members = _packed(path.name, content)
        size = sum(map(len, members.values()))
        if size > limit:
            raise ValueError(f"{path} takes {size / 1e6:.0f} MB, and a part has {megabytes:g} at most; give more")
        if size > room:
            parts.append({})
            room = limit
        room -= size
        name = path.relative_to(data).as_posix()
        parts[-1][name] = members
        listed[name] = Listed(len(parts), hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    index = json.dumps({name: vars(one) for name, one in listed.items()})
    written = []
    for number, files in enumerate(parts, start=1):
        written.append(folder / f"data-{number}-of-{len(parts)}.zip")
        with ZipFile(written[-1], "w") as archive:
            archive.writestr(LIST, index)
            for name, members in files.items():
                for member, some in members.items():
                    archive.writestr(f"{name}/{member}", some)
    return written


def unpack(parts: Sequence[Path], data: Path) -> dict[int, list[str]]:
    """Lay out the files of some parts, but for those that are there already.

    Args:
        parts: one or more of those that :func:`pack` wrote together.
        data: folder that gets them; it is made.

    Returns:
        The files that are still missing, by the number of their part; none where the data are whole.

    Raises:
        ValueError: the parts are of different packings, or a part is damaged.
    """
    listed: dict[str, Listed] = {}
    for path in parts:
        try:
            found, files = _read(path, data)
        except (BadZipFile, KeyError, lzma.LZMAError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}); carry that part again") from None
        if listed and found != listed:
            raise ValueError(f"{path} is of another packing than {parts[0]}; take the parts of one")
        listed = found
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != listed[name].sha256:
                raise ValueError(f"{name} in {path} is not what was packed; carry that part again")
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(content)
    missing: dict[int, list[str]] = {}
    for name, one in listed.items():
        if not _is_there(data / name, one):
            missing.setdefault(one.part, []).append(name)
    return missing


def _read(path: Path, data: Path) -> tuple[dict[str, Listed], dict[str, bytes]]:
    """Read the list in a part, and the content of its files that `data` has not."""
    with ZipFile(path) as archive:
        listed = {name: Listed(**one) for name, one in json.loads(archive.read(LIST)).items()}
        pieces: dict[str, dict[str, bytes]] = {}
        for member in archive.namelist():
            name, _, piece = member.rpartition("/")
            if name in listed and not _is_there(data / name, listed[name]):
                pieces.setdefault(name, {})[piece] = archive.read(member)
    return listed, {name: _unpacked(some) for name, some in pieces.items()}


def _files(data: Path, datasets: Sequence[str]) -> Iterator[Path]:
    for dataset in datasets:
        folder = data / DATA[dataset]
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there; fetch {dataset} first, or leave it out")
        yield from sorted(path for path in folder.iterdir() if path.is_file())


def _is_there(path: Path, listed: Listed) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == listed.sha256


def _packed(name: str, content: bytes) -> dict[str, bytes]:
    """Pack a file: as what is before its pictures, sheets of them, and what is after; or whole, if it has none."""
    if not name.startswith(PICTURES):
        return {"whole.xz": lzma.compress(content)}
    pixels = pickle.loads(content, encoding="latin1")["data"]  # as torchvision reads it
    begin = content.index(pixels.tobytes())
    pictures = pixels.reshape(-1, 3, SIDE, SIDE)
    sheets = {
        f"{index:02}.webp": _sheet(pictures[first : first + SHEET])
        for index, first in enumerate(range(0, len(pictures), SHEET))
    }
    end = begin + pixels.nbytes
    return {"before.xz": lzma.compress(content[:begin]), **sheets, "after.xz": lzma.compress(content[end:])}


def _unpacked(pieces: Mapping[str, bytes]) -> bytes:
    if "whole.xz" in pieces:
        return lzma.decompress(pieces["whole.xz"])
    sheets = [_of_sheet(pieces[name]) for name in sorted(pieces) if name.endswith(".webp")]
    before, after = lzma.decompress(pieces["before.xz"]), lzma.decompress(pieces["after.xz"])
    return before + b"".join(sheets) + after


def _sheet(pictures: "np.ndarray") -> bytes:
    """Write pictures, uint8 [n, 3, SIDE, SIDE], below one another as lossless WebP."""
    sheet = pictures.transpose(0, 2, 3, 1).reshape(-1, SIDE, 3)
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(written, "WEBP", lossless=True, quality=EFFORT, method=METHOD)
    return written.getvalue()


def _of_sheet(written: bytes) -> bytes:
    sheet = np.asarray(Image.open(io.BytesIO(written)).convert("RGB"))
    return sheet.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2).tobytes()
