"""Mutagenicity of the TUDataset collection: 4,337 molecules, mutagen or not.

Sources: C. Morris et al., *TUDataset*, ICML 2020 GRL+ workshop; J. Kazius, R. McGuire, R. Bursi, Journal of Medicinal
Chemistry 48(1):312-320, 2005. PyG downloads and reads them; torch and PyG are imported only when graphs are read.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.trainables.data import files

if TYPE_CHECKING:
    from tune_sam.trainables.data.graphs import GraphStore

NAME = "Mutagenicity"
CLASSES = ("mutagen", "nonmutagen")
GRAPHS = (2401, 1936)
"""Graphs of each class. There are no published checksums; these numbers and that of the atoms tell damaged files."""

ATOMS = 14
"""Types of atoms."""

ROWS = {  # lines of each file, as published
    f"{NAME}_A.txt": 266_894,
    f"{NAME}_graph_indicator.txt": 131_488,
    f"{NAME}_graph_labels.txt": 4_337,
    f"{NAME}_node_labels.txt": 131_488,
    f"{NAME}_edge_labels.txt": 266_894,
}


def check(root: Path) -> None:
    """Check the raw files below `root` without parsing them.

    Raises:
        Refused: a file is missing, empty or cut short.
    """
    for name, rows in ROWS.items():
        path = raw_folder(root) / name
        way_out = files.way_out(f"the TUDataset files of {NAME}", path.parent)
        with files.reading(path, way_out):
            content = path.read_bytes()
        found = content.count(b"\n")  # each line ends with one, so that a cut within the last line is seen
        if found != rows:
            what = "is empty" if not content else f"has {found} lines in place of {rows}"
            raise Refused(f"the data file {path} {what}; {way_out}.")


def raw_folder(root: Path) -> Path:
    """Name the folder of the raw files below `root`."""
    return root / NAME / "raw"


def download(root: Path) -> None:
    """Download the raw files by PyG; they appear below `root` complete or not at all.

    Raises:
        Refused: the download failed.
    """
    from torch_geometric.datasets import TUDataset

    def fetch(folder: Path) -> None:
        TUDataset(str(folder), NAME)
        check(folder)

    files.download(NAME, fetch, f"{NAME}/raw", root)


def load(root: Path) -> "GraphStore":
    """Read all graphs; node features are the one-hot atom types, [N, 14].

    PyG's reader parses the raw files each time: its `TUDataset` would write a cache next to them, which a read-only
    folder forbids and which hides a raw file that changed since.

    Raises:
        Refused: the files do not hold the published graphs.
    """
    from torch_geometric.io import read_tu_data

    from tune_sam.trainables.data.graphs import GraphStore

    check(root)
    try:
        data, slices, sizes = read_tu_data(str(raw_folder(root)), NAME)
    except (ValueError, IndexError, RuntimeError) as error:
        raise Refused(f"the files in {raw_folder(root)} are damaged ({error}); fetch them again.") from None
    counts = tuple(data.y.bincount().tolist())
    if counts != GRAPHS or sizes["num_node_labels"] != ATOMS:
        raise Refused(
            f"the files in {raw_folder(root)} are damaged (graphs of each class: {counts} in place of "
            f"{GRAPHS}; kinds of atoms: {sizes['num_node_labels']} in place of {ATOMS}); fetch them again."
        )
    # The reader numbers nodes within each graph, and its slices say where each graph begins.
    return GraphStore(
        x=data.x[:, -sizes["num_node_labels"] :].contiguous(),
        edge_index=data.edge_index,
        node_start=slices["x"],
        edge_start=slices["edge_index"],
        y=data.y,
    )
