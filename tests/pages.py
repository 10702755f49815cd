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
            yield from _commands_in(page, block)


def commands_of_examples() -> Iterator[tuple[str, list[str]]]:
    """Give each command that an example says of itself, as :func:`commands` does."""
    for example in sorted(ROOT.glob("examples/*.py")):
        yield from _commands_in(example, example.read_text())


def _commands_in(file: Path, text: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip().startswith("tune-sam "):
            yield str(file.relative_to(ROOT)), shlex.split(line, comments=True)[1:]


def links() -> Iterator[tuple[Path, Path, str]]:
    """Give each link from a page to a file of ours: the page, the file, and the anchor in it, perhaps empty."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md")):
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
            if not re.match(r"\w+:", target):
                place, _, anchor = target.partition("#")
                yield page, page.parent / place if place else page, anchor


def without_code(page: Path) -> str:
    """Read a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Name the headings of a page as its repository and its site both do: the site leaves out what is not ASCII."""
    titles = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles if title.isascii()}


def write_files(folder: Path) -> None:
    """Write the files that the pages have a reader write, under the names that their commands have for them."""
    smallest, _, module, further, _ = blocks("own-workload.md", "python")
    (folder / "wine.py").write_text(smallest)
    (folder / "mlp.py").write_text(module + further)
    (folder / "half.py").write_text(blocks("optimizers.md", "python")[1])
    (folder / "radii.yaml").write_text(blocks("refits.md", "yaml")[0])
