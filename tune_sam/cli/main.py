"""Where the command line begins: it imports nothing before an interrupt is taken."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status; an interrupt, whenever it comes, is one line and status 130."""
    try:
        from tune_sam.cli.app import run_app

        status = run_app()
    except KeyboardInterrupt:
        status = 130
    if status == 130:
        print("Interrupted.", file=sys.stderr)
    sys.exit(status)
