"""The parts, each a command of under nine minutes: `python -m benchmarks.gpu PART`, from the root of the repository."""

import argparse
import sys
from pathlib import Path

from .cases import NETWORKS


def main() -> int:
    """Run a part, and give 1 where something did not hold."""
    chosen = _parser().parse_args()
    if chosen.part == "check":
        from .check import check

        return int(not all(row["passed"] for row in check(output=chosen.output, tiny=chosen.tiny)))
    if chosen.part == "throughput":
        from .throughput import WAYS, throughput

        ways = [way for way in WAYS if chosen.compile or not way.compile]
        rows = throughput(chosen.networks, output=chosen.output, ways=ways, minutes=chosen.minutes, tiny=chosen.tiny)
        return int(any("failed" in row["check"] for row in rows))
    from .sharing import sharing

    rows = sharing(chosen.networks, output=chosen.output, minutes=chosen.minutes, tiny=chosen.tiny)
    return int(any("failed" in row["check"] for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")

    def part(name: str, description: str) -> argparse.ArgumentParser:
        made = parts.add_parser(name, help=description, description=description)
        made.add_argument("--output", type=Path, default=Path("gpu-results"), help="folder of the JSON")
        return made

    for name, description in (
        ("check", "Check that the GPU computes what it should, and that trainings can share it."),
        ("throughput", "Measure how fast each network trains: as it is, compiled, and with CUDA graphs."),
        ("sharing", "Measure what several trainings at a time get out of the GPU in all."),
    ):
        one = part(name, description)
        one.add_argument("--tiny", action="store_true", help="small networks, for a machine without a GPU")
        if name != "check":
            one.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK", help=", ".join(NETWORKS))
            one.add_argument("--minutes", type=float, default=8, help="after which nothing more is begun")
        if name == "throughput":
            one.add_argument(
                "--no-compile", dest="compile", action="store_false", help="leave out what takes a compiler a minute"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
