"""Hooks of mkdocs: pages and files that lie outside of docs/ join the site, and links to them lead there.

The site is the repository with docs/ as its root. So a page says the same links in the repository and on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "deploy/README.md", "benchmarks/README.md",
         "results/README.md")  # fmt: skip
"""Pages outside of docs/."""

LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
ROLE = re.compile(r":(?:class|func|meth|data|attr|mod):(?=<code>)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and every file that a page links to."""
    for page in PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    pages = [file for file in files if file.src_uri.endswith(".md")]
    for page in pages:  # which grow by those that they link to
        for link in LINK.findall(Path(page.abs_src_path or "").read_text()):
            target = _target(page.src_uri, link)
            if (ROOT / target).is_file() and not files.get_file_from_path(_place(target)):
                files.append(found := File.generated(config, _place(target), abs_src_path=str(ROOT / target)))
                pages += [found] * target.endswith(".md")
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Have links lead to where the site has what they lead to in the repository."""
    here = page.file.src_uri

    def there(link: re.Match[str]) -> str:
        place = _place(_target(here, link[1]))
        return posixpath.relpath(place, posixpath.dirname(here) or ".")

    return LINK.sub(there, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Leave out the roles of docstrings, which other programs make links of."""
    return ROLE.sub("", html)


def _target(page: str, link: str) -> str:
    """Name what a page links to, from the root of the repository."""
    folder = posixpath.dirname(f"docs/{page}" if (ROOT / "docs" / page).is_file() else page)
    return posixpath.normpath(posixpath.join(folder, link))


def _place(target: str) -> str:
    """Name where the site has a file of the repository."""
    return target.removeprefix("docs/")
