"""What the pages show: their blocks of code, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("*/*.md")))


def blocks(page: Path | str, *languages: str) -> list[str]:
    """Give the blocks of code of a page, or of one in docs/, that are in some languages."""
    # From fence to fence, whatever the language, so that what closes one block opens no other.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
    return [content for language, content in found if language in languages]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Give each command of ours that a page tells to type: the page, and its words without the program and comments."""
    for page in PAGES:
        for block in blocks(page, "", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("tune-sam "):
                    yield str(page.relative_to(ROOT)), shlex.split(line, comments=True)[1:]


def write_files(folder: Path) -> None:
    """Write the files that the pages have a reader write, under the names that their commands have for them."""
    smallest, _, module, further, _ = blocks("own-workload.md", "python")
    (folder / "wine.py").write_text(smallest)
    (folder / "mlp.py").write_text(module + further)
    (folder / "half.py").write_text(blocks("optimizers.md", "python")[1])
    (folder / "radii.yaml").write_text(blocks("refits.md", "yaml")[0])
