"""What setup.cfg cannot say: where the repository is, which whoever publishes the package says.

    make dist REPOSITORY=https://github.com/OWNER/tune_sam

An index shows the README by itself, so that its links and pictures lead nowhere there unless they are whole.
"""

import os
import re
from pathlib import Path

from setuptools import setup

RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
"""Where a link of Markdown to a file of the repository leads."""

PICTURES = (".png", ".svg")


def published(repository: str) -> dict[str, object]:
    """Give the metadata that name the repository at this address.

    Its default branch is what they lead to, by the paths that GitHub has and GitLab takes, too.
    """
    if not repository.startswith("https://"):
        raise SystemExit(f"TUNE_SAM_REPOSITORY {repository!r}: expected the address of a page, https://…")
    address = repository.rstrip("/").removesuffix(".git")

    def whole(link: re.Match[str]) -> str:
        file = link[1]
        return f"]({address}/{'raw' if file.endswith(PICTURES) else 'blob'}/HEAD/{file})"

    return {
        "long_description": RELATIVE.sub(whole, Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
        "project_urls": {
            "Source": address,
            "Documentation": f"{address}/blob/HEAD/docs/quickstart.md",
            "Results": f"{address}/blob/HEAD/results/README.md",
            "Changelog": f"{address}/blob/HEAD/CHANGELOG.md",
            "Issues": f"{address}/issues",
        },
    }


repository = os.environ.get("TUNE_SAM_REPOSITORY")
setup(**(published(repository) if repository else {}))
