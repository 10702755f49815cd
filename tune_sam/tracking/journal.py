"""Events for MLflow on disk, a JSON line each, and how many bytes of them are delivered."""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.errors import Refused

if TYPE_CHECKING:
    from io import FileIO


log = logging.getLogger("tune_sam")


class Journal:
    """Events on disk, a JSON line each, and how many bytes of them are delivered."""

    NAME = "mlflow.jsonl"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / self.NAME
        self.rejected = folder / "mlflow.rejected.jsonl"
        self._offset_path = folder / "mlflow.offset"
        self._lock = _lock_folder(folder)
        self._guard = threading.Lock()
        self._file: FileIO | None = None
        self._torn = False
        self._offset = self._mend()

    def _mend(self) -> int:
        """Cut off the line that a crash left half written; begin anew if everything before it was delivered."""
        data = self.path.read_bytes() if self.path.exists() else b""
        end = data.rfind(b"\n") + 1
        try:
            offset = int(self._offset_path.read_text())
        except (FileNotFoundError, ValueError):  # nothing was delivered, or the machine lost power: send all again
            offset = 0
        if offset >= end:
            offset = end = 0
        if end < len(data):
            os.truncate(self.path, end)
        if offset == 0:
            self._offset_path.unlink(missing_ok=True)
        return offset

    def append(self, event: Mapping[str, Any]) -> None:
        """Add a line; the kernel has it before this returns. A full disk costs the event, not the search."""
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._guard:
            try:
                if self._file is None:
                    self._file = self.path.open("ab", buffering=0)
                data = b"\n" + line if self._torn else line
                if self._file.write(data) < len(data):
                    raise OSError("no space for a line")
                self._torn = False
            except OSError as error:
                if not self._torn:
                    log.warning("MLflow's events are lost while %s cannot be written (%s)", self.path, error)
                self._torn = True

    def waiting(self, limit: int | None = None) -> list[bytes]:
        """The next complete lines that are not delivered, at most `limit`."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                complete = itertools.takewhile(lambda line: line.endswith(b"\n"), file)
                return list(itertools.islice(complete, limit))
        except FileNotFoundError:
            return []

    def advance(self, size: int) -> None:
        """Remember that `size` more bytes are delivered. A kill leaves the old number or the new one."""
        temporary = self._offset_path.with_suffix(".tmp")
        temporary.write_text(str(self._offset + size))
        temporary.replace(self._offset_path)
        self._offset += size

    def reject(self, event: Any, error: str) -> None:
        """Put an event aside, with the reason."""
        with self.rejected.open("a") as file:
            file.write(json.dumps({"error": error, "event": event}) + "\n")

    def remove_if_delivered(self) -> bool:
        with self._guard:
            if self.waiting(1):
                return False
            if self._file is not None:
                self._file.close()
                self._file = None
            self.path.unlink(missing_ok=True)  # first, because an offset alone still means that all was delivered
            self._offset_path.unlink(missing_ok=True)
            self._offset = 0
            return True

    def unlock(self) -> None:
        os.close(self._lock)


def _lock_folder(folder: Path) -> int:
    """Lock the folder for as long as the returned descriptor is open; after a kill the kernel closes it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Refused(
            f"the journal in {folder} is in use by a search that still runs; wait for it, or stop it."
        ) from None
    except OSError:
        log.debug("%s is on a file system without locks", folder)
    return descriptor
