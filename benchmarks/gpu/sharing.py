"""What a GPU gives in all to several trainings at a time: in processes, or packed into one by `torch.vmap`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cases import NETWORKS
from .packed import packed_rate
from .processes import Job, together
from .report import first_line, give, line


def sharing(
    networks: Sequence[str] = NETWORKS,
    *,
    output: Path,
    counts: Sequence[int] = (1, 2, 4, 8),
    packs: Sequence[int] = (1, 4, 16, 64),
    seconds: float = 8,
    minutes: float = 8,
    tiny: bool = False,
) -> list[dict[str, Any]]:
    """Measure and give the table.

    Args:
        networks: to measure, in this order.
        output: folder of the JSON.
        counts: of trainings in processes of their own; the others are compared with the first.
        packs: of graph networks in one process.
        seconds: that each is repeated for.
        minutes: after which nothing more is begun; what is left out is said.
        tiny: small networks, for a machine without a GPU.
    """
    end = time.monotonic() + 60 * minutes
    rows: list[dict[str, Any]] = []
    for name in networks:
        of_network = [(name, "processes", count) for count in counts]
        of_network += [(name, "packed", count) for count in packs if name == "gcn"]
        alone = None
        for network, how, count in of_network:
            row: dict[str, Any] = {"network": network, "how": how, "trainings": count}
            if time.monotonic() > end:
                rows.append(row | {"held": True, "check": "not measured: no time was left"})
                continue
            try:
                errors = ""
                if how == "packed":
                    total, check = packed_rate(count, seconds, tiny=tiny), "same losses as alone"
                else:
                    fraction = 1 / count
                    done = together([Job(network, seconds=seconds, fraction=fraction, tiny=tiny)] * count)
                    total = sum(one.rate for one in done)
                    errors = "; ".join(one.error for one in done if one.error)
                    check = errors or "all ended"
            except Exception as error:  # of one way, on a device that nobody has tried it on
                rows.append(row | {"held": False, "check": f"failed: {first_line(error)}"})
                continue
            if (how, count) == ("processes", 1) and not errors:
                alone = total  # a pack, too, is to beat one training that has the Trainer's own step
            compared = {"× one alone": total / alone} if alone else {}
            rows.append(row | {"samples/s in all": total, **compared, "held": not errors, "check": check})
            print(line(rows[-1]), flush=True)
    give("sharing", rows, output)
    return rows
