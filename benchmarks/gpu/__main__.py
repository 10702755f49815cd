"""The parts, each a command of under nine minutes: `python -m benchmarks.gpu PART`, from the root of the repository."""

import argparse
import sys
from pathlib import Path

from .cases import NETWORKS
from .parts import DATA, MEGABYTES


def main() -> int:
    """Run a part, and give 1 where something did not hold."""
    chosen = _parser().parse_args()
    if chosen.part in ("pack", "unpack"):
        return _carry(chosen)
    if chosen.part == "rows":
        from .rows import PUBLISHED, rows

        done = rows(
            chosen.network,
            PUBLISHED[chosen.network],
            data=chosen.data,
            folder=chosen.folder,
            output=chosen.output,
            seeds=chosen.seeds,
            compile=chosen.compile,
            minutes=chosen.minutes,
        )
        return int(not done)
    if chosen.part == "check":
        from .check import check

        return int(not all(row["passed"] for row in check(output=chosen.output, tiny=chosen.tiny)))
    if chosen.part == "throughput":
        from .throughput import WAYS, throughput

        ways = [way for way in WAYS if chosen.compile or not way.compile]
        rows = throughput(chosen.networks, output=chosen.output, ways=ways, minutes=chosen.minutes, tiny=chosen.tiny)
        return int(not all(row["held"] for row in rows))
    from .sharing import sharing

    rows = sharing(chosen.networks, output=chosen.output, minutes=chosen.minutes, tiny=chosen.tiny)
    return int(not all(row["held"] for row in rows))


def _carry(chosen: argparse.Namespace) -> int:
    """Pack or unpack data, and give 1 where files are still missing."""
    from .parts import pack, unpack

    if chosen.part == "pack":
        for path in pack(chosen.data, chosen.folder, chosen.dataset or (*DATA,), chosen.megabytes):
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
        return 0
    missing = unpack(chosen.parts, chosen.data)
    for number, files in sorted(missing.items()):
        print(f"part {number} is missing, with {len(files)} files: {', '.join(files[:3])}{' …' * (len(files) > 3)}")
    print(f"{chosen.data} is {'not whole yet' if missing else 'whole'}")
    return int(bool(missing))


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
    one = part("rows", "Train and test the published study's rows; the same command resumes what a call leaves.")
    one.add_argument("network", choices=("wideresnet", "attention"))
    one.add_argument("--data", type=Path, required=True, help="folder that holds the data set")
    one.add_argument("--folder", type=Path, default=Path("gpu-checkpoints"), help="that keeps what is trained")
    one.add_argument(
        "--seeds", type=int, default=1, help="of each row; more of them in a later call train the new ones"
    )
    one.add_argument("--compile", action="store_true", help="run networks through torch.compile")
    one.add_argument("--minutes", type=float, default=8, help="after which no epoch is begun")
    one = parts.add_parser("pack", help="Pack data sets into parts that can be carried.")
    one.add_argument("data", type=Path, help="folder that holds the data sets")
    one.add_argument("folder", type=Path, help="that the parts are written to")
    one.add_argument("--dataset", action="append", choices=DATA, help="only this one; may be given several times")
    one.add_argument("--megabytes", type=float, default=MEGABYTES, help="of a part at most")
    one = parts.add_parser("unpack", help="Lay out parts, and say what is missing.")
    one.add_argument("data", type=Path, help="folder that gets the data sets")
    one.add_argument("parts", type=Path, nargs="+", help="one or more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
