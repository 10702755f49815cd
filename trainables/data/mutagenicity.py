"""Mutagenicity of the TUDataset collection: 4,337 molecules, mutagen or not.

Sources: C. Morris et al., *TUDataset*, ICML 2020 GRL+ workshop; J. Kazius, R. McGuire, R. Bursi, Journal of Medicinal
Chemistry 48(1):312-320, 2005. PyG downloads and reads them; torch and PyG are imported only when graphs are read.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.extras import need
from tune_sam.trainables.data import files

if TYPE_CHECKING:
    from tune_sam.trainables.data.graphs import GraphStore

NAME = "Mutagenicity"
CLASSES = ("mutagen", "nonmutagen")
GRAPHS = 4_337

ATOMS = 14
"""Types of atoms."""

ROWS = {  # lines of each file, as published
    f"{NAME}_A.txt": 266_894,
    f"{NAME}_graph_indicator.txt": 131_488,
    f"{NAME}_graph_labels.txt": 4_337,
    f"{NAME}_node_labels.txt": 131_488,
    f"{NAME}_edge_labels.txt": 266_894,
}


SHA256 = {  # of each file as TUDataset has them, with the newline at the end that editors and copies may lose
    f"{NAME}_A.txt": "ae85e22b4b898ebd819d2ed3adc8f06a7bf1cda746b333086472d19b36711145",
    f"{NAME}_graph_indicator.txt": "88b2d83ff10fad75b3280654061e965976f74e75620058c371ed23567236b4bc",
    f"{NAME}_graph_labels.txt": "b604c7dcbfdf89193901e32abdcbf9b5b92137414ce22231f00ed65d48ec48f9",
    f"{NAME}_node_labels.txt": "b429ec418c831d02dc3088b2fe08d11214627850d2bbdacfa9797c0510e70ae7",
    f"{NAME}_edge_labels.txt": "bf8e783386ac22e6033bbce56d765c0a4336649bd590a6f1e467b27b549f2114",
}


def check(root: Path) -> None:
    """Check the raw files below `root` without parsing them.

    Raises:
        Refused: a file is missing, empty or cut short, or is neither the published one nor said to be a person's own.
    """
    folder = raw_folder(root)
    way_out = files.way_out(f"the TUDataset files of {NAME}", folder)
    own = files.own_sums(folder)
    for name, rows in ROWS.items():
        path = folder / name
        content = _whole(path, way_out)
        found = content.count(b"\n")
        sums = {hashlib.sha256(content).hexdigest(), hashlib.sha256(content.removesuffix(b"\n")).hexdigest()}
        if {(own or SHA256).get(name)} & sums:
            continue
        if not content.strip():
            what = "is empty"
        elif own:
            what = f"is not the one that {files.OWN} beside it names"
        elif found != rows:
            what = f"has {found} lines in place of {rows}"
        else:
            what = "is not the published one, by its SHA-256"
        raise Refused(
            f"the data file {path} {what}; {way_out}. If the files are meant to be so, say it with "
            f"`sha256sum *.txt > {files.OWN}` in their folder."
        )


def _whole(path: Path, way_out: str) -> bytes:
    """Read a file with a newline at the end of its last line, whether it is there or not."""
    with files.reading(path, way_out):
        return path.read_bytes().removesuffix(b"\n") + b"\n"


def raw_folder(root: Path) -> Path:
    """Name the folder of the raw files below `root`."""
    return root / NAME / "raw"


def download(root: Path) -> None:
    """Download the raw files by PyG; they appear below `root` complete or not at all.

    Raises:
        Refused: the download failed.
    """
    need("torch_geometric", "graphs")
    from torch_geometric.datasets import TUDataset

    def fetch(folder: Path) -> None:
        TUDataset(str(folder), NAME)
        check(folder)

    files.download(NAME, fetch, f"{NAME}/raw", root)


def load(root: Path) -> "GraphStore":
    """Read all graphs; node features are the one-hot atom types, [N, 14] of the published files.

    PyG's reader parses the raw files each time: its `TUDataset` would write a cache next to them, which a read-only
    folder forbids and which hides a raw file that changed since.

    Raises:
        Refused: the files hold neither the published graphs nor those that a person says are their own.
    """
    need("torch_geometric", "graphs")
    from torch_geometric.io import read_tu_data

    from tune_sam.trainables.data.graphs import GraphStore

    check(root)
    try:
        with tempfile.TemporaryDirectory(prefix="tune_sam-") as folder:
            for name in ROWS:  # the reader drops a last line without a newline
                (Path(folder) / name).write_bytes(_whole(raw_folder(root) / name, ""))
            data, slices, sizes = read_tu_data(folder, NAME)
    except (ValueError, IndexError, RuntimeError) as error:
        raise Refused(f"the files in {raw_folder(root)} are damaged ({error}); fetch them again.") from None
    # The reader numbers nodes within each graph, and its slices say where each graph begins.
    return GraphStore(
        x=data.x[:, -sizes["num_node_labels"] :].contiguous(),
        edge_index=data.edge_index,
        node_start=slices["x"],
        edge_start=slices["edge_index"],
        y=data.y,
    )
