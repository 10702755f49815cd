"""CIFAR-10: 60,000 colour images of ten classes (A. Krizhevsky, technical report, University of Toronto, 2009).

torchvision downloads and reads them; it is imported only when images are read.
"""

import hashlib
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.errors import Refused
from tune_sam.extras import need
from tune_sam.trainables.data import files

if TYPE_CHECKING:
    from tune_sam.trainables.data.images import ImageStore

FOLDER = "cifar-10-batches-py"
MD5 = {  # as torchvision has them, here so that files are checked without importing it
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of each channel over the 50,000 training images."""


def check(root: Path) -> None:
    """Check the files below `root` without reading images.

    Raises:
        Refused: a file is missing, or its MD5 is not the published one.
    """
    folder = root / FOLDER
    way_out = files.way_out("the Python version of CIFAR-10", folder)
    for name, expected in MD5.items():
        path = folder / name
        with files.reading(path, way_out), path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != expected:
            raise Refused(f"the data file {path} is damaged (its MD5 is {found}, not {expected}); {way_out}.")


def download(root: Path) -> None:
    """Download the files by torchvision; they appear below `root` complete or not at all.

    Raises:
        Refused: the download failed.
    """
    need("torchvision", "images")
    from torchvision.datasets import CIFAR10

    def fetch(folder: Path) -> None:
        with redirect_stdout(sys.stderr):  # it prints what it does, and our standard output is for results
            CIFAR10(str(folder), download=True)
        check(folder)

    files.download("CIFAR-10", fetch, FOLDER, root)


def load(root: Path, train: bool) -> "ImageStore":
    """Read the 50,000 training images or the 10,000 test images, in the published order.

    Raises:
        Refused: a file is missing or damaged.
    """
    need("torchvision", "images")
    import numpy as np
    import torch
    from torchvision.datasets import CIFAR10

    from tune_sam.trainables.data.images import ImageStore

    try:
        images = CIFAR10(str(root), train=train)  # which takes the MD5 of every file
    except RuntimeError:
        check(root)
        raise
    # The array is a view of channels-first memory.
    return ImageStore(torch.from_numpy(np.ascontiguousarray(images.data)), torch.tensor(images.targets), MEAN, STD)
