"""What setup.cfg cannot say: where the repository is, which whoever publishes the package says.

    make dist REPOSITORY=https://github.com/OWNER/tune_sam

An index shows the README by itself, so that its links and pictures lead nowhere there unless they are whole.
"""

import os
import re
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import urlsplit

from setuptools import setup

ROOT = Path(__file__).parent

RELATIVE = re.compile(r"\]\((?![a-z]+:|[#/])([^)\s]+)")
"""Where a link of Markdown to a file of the repository leads."""

PICTURES = (".png", ".svg", ".jpg", ".gif")


def published(repository: str) -> dict[str, object]:
    """Give the metadata that name the repository at this address.

    What they lead to is of this version's tag, by the paths that GitHub has and GitLab takes, too.
    """
    address = _address_of(repository)
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg", encoding="utf-8")
    tag = f"v{declared['metadata']['version']}"

    def whole(link: re.Match[str]) -> str:
        return f"]({address}/{'raw' if link[1].endswith(PICTURES) else 'blob'}/{tag}/{link[1]}"

    return {
        "long_description": RELATIVE.sub(whole, (ROOT / "README.md").read_text(encoding="utf-8")),
        "project_urls": {
            "Source": address,
            "Documentation": f"{address}/blob/{tag}/docs/quickstart.md",
            "Results": f"{address}/blob/{tag}/results/README.md",
            "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
            "Issues": f"{address}/issues",
        },
    }


def _address_of(repository: str) -> str:
    """Expect the address of a page that anybody can open, to which a path can be added."""
    parts = urlsplit(repository)
    if (
        parts.scheme != "https"
        or not parts.hostname
        or not parts.path.strip("/")
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not repository.isprintable()
        or " " in repository
    ):
        shown = repository.rpartition("@")[2]  # without a login
        raise SystemExit(f"TUNE_SAM_REPOSITORY {shown}: expected the address of a page, https://HOST/OWNER/NAME")
    return repository.rstrip("/").removesuffix(".git")


if __name__ == "__main__":
    repository = os.environ.get("TUNE_SAM_REPOSITORY")
    setup(**(published(repository) if repository else {}))
