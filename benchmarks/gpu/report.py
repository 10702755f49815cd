"""What a part has found: a short table, and JSON with the machine that it was found on."""

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tune_sam.provenance import versions
from tune_sam.training import default_device, device_name

Row = Mapping[str, Any]


def machine() -> dict[str, Any]:
    """Describe the machine, and the versions that numbers depend on."""
    device = default_device()
    found: dict[str, Any] = {
        "device": device_name(device),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": versions(),
    }
    if device.type == "cuda":
        found["memory"] = torch.cuda.get_device_properties(device).total_memory
    return found


def give(part: str, rows: Sequence[Row], folder: Path, **more: Any) -> None:
    """Write a part's rows as JSON, and print them as a table.

    Args:
        part: the file's name without its ending.
        rows: what was found.
        folder: of the file; it is made.
        more: what else is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{part}.json"
    when = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"part": part, "when": when, "machine": machine(), **more, "rows": list(rows)}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\n{part}, {device_name(default_device())}, torch {torch.__version__}; {file}")
    print(table(rows))


def table(rows: Sequence[Row]) -> str:
    """Lay rows out in columns, those of the first row that has them first."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_text(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(shown[column]) for shown in cells) for column in range(len(columns))]
    laid_out = (zip(shown, widths, strict=True) for shown in cells)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in shown).rstrip() for shown in laid_out)


def line(row: Row) -> str:
    """Lay a row out in a line, for who waits for the table."""
    return ", ".join(f"{what} {_text(value)}" for what, value in row.items())


def first_line(error: BaseException) -> str:
    """Give an error's kind, and the first line of what it says."""
    said, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
