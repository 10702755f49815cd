"""Where studies live: a folder, or services, with records, results and data sets."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from tune_sam.errors import Refused, masked, shorten
from tune_sam.logins import plain

HERE = "{home}"
"""Stands in a record for the folder of the home that the record is in."""


def unusable(text: str) -> str | None:
    """Say why a text can be no name, path or address; None if it can."""
    if "\0" in text:
        return "it has the character number 0 in it"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "it has half a character of Unicode in it"
    return None


def folder_of(given: str | Path, option: str) -> Path:
    """Give the absolute path of a folder that a person names.

    Args:
        given: its path, in which `~` stands for a person's own folder.
        option: that names it, for the refusal.

    Raises:
        Refused: no folder can have that path.
    """
    if wrong := unusable(str(given)):
        raise Refused(f"{option} {shorten(str(given))!r} cannot be used ({wrong}); give a folder.")
    try:
        return Path(given).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # nobody has that name; or the working directory is gone
        raise Refused(f"{option} {shorten(str(given))} cannot be used ({error}); give a folder.") from None


def moved(place: str, old: str, new: str) -> str:
    """Give a path, or `sqlite:///` and a path, with the folder `new` in place of `old`, if it is that or below it."""
    for scheme in ("", "sqlite:///"):
        if place == scheme + old or place.startswith(f"{scheme}{old}/"):
            return scheme + new + place.removeprefix(scheme + old)
    return place


def inside(storage: str, path: str) -> str:
    """Give a path below a folder or a URI, which may carry options after a question mark."""
    if "://" not in storage:
        return f"{storage}/{path}"
    parts = urlsplit(storage)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{path}"))


@dataclass(frozen=True)
class Home:
    """Where studies live: Optuna's storage, MLflow's database and artifacts, Ray's results, data sets.

    Attributes:
        path: the folder of everything that no service holds.
        study_storage: URI of the database of Optuna's storage; None for a file in the folder. It may hold a password.
    """

    path: Path
    study_storage: str | None = field(default=None, repr=False)

    @classmethod
    def at(cls, path: "Place" = None, study_storage: str | None = None) -> "Home":
        """Choose the home at `path`, else at $TUNE_SAM_HOME, else at ~/.tune_sam. Nothing is created.

        Args:
            path: of the folder; a Home is returned as it is.
            study_storage: `postgresql://USER@HOST/DATABASE`; $TUNE_SAM_STUDY_STORAGE by default, else a file in the
                folder.

        Raises:
            Refused: the path is a file, lies below one, or may not be read; the storage is no Postgres.
        """
        if isinstance(path, Home):
            return path
        storage = study_storage or os.environ.get("TUNE_SAM_STUDY_STORAGE") or None
        if storage and (unusable(storage) or not re.match(r"postgresql(\+\w+)?://", storage)):
            raise Refused(
                f"--study-storage {storage} is no database that many nodes can write to; give "
                "postgresql://USER@HOST/DATABASE, or leave it out for a file in the home."
            )
        chosen = folder_of(path or os.environ.get("TUNE_SAM_HOME") or "~/.tune_sam", "--home")
        if {"?", "%"} & set(str(chosen)):
            raise Refused(
                f"home {chosen} has a '?' or '%', which mean something else in the address of a database; "
                "give --home another folder."
            )
        for part in (chosen, *chosen.parents):
            try:
                usable = part.is_dir() or not part.exists()
            except OSError as error:
                raise Refused(
                    f"home {shorten(str(chosen))} cannot be used ({error.strerror}); give --home another folder."
                ) from None
            if not usable:
                raise Refused(f"home {chosen} cannot be used because {part} is a file; give --home a folder.")
        return cls(chosen, storage and plain(storage))

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the folder if there is none, and remove it again if the block raises Refused.

        One process at a time is inside: two that download one file or make MLflow's tables at once fail.

        Raises:
            Refused: the folder cannot be made or written to.
        """
        missing = [part for part in (self.path, *self.path.parents) if not part.exists()]
        try:
            self._create()
            with FileLock(self.path / "home.lock"):
                yield
        except Refused:
            if self.path in missing:
                (self.path / "home.lock").unlink(missing_ok=True)
            for folder in missing:
                with suppress(OSError):  # it has something in it by now, or was never made
                    folder.rmdir()
            raise

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.path, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise Refused(f"home {self.path} cannot be written; give --home a folder that you may write to.")

    def kept(self, place: str) -> str:
        """Give a folder, file or database as a record in this home holds it, so that the home can be moved or copied.

        Args:
            place: an absolute path, a URI, or `sqlite:///` and an absolute path.

        Returns:
            `{home}` in place of this home's folder where the place is in it; the place itself elsewhere, and where the
            records are in a database that other homes share.
        """
        return place if self.study_storage else moved(place, str(self.path), HERE)

    def found(self, kept: str) -> str:
        """Give the place that a record means by what :meth:`kept` gave, now that the home is here."""
        return moved(kept, HERE, str(self.path))

    @property
    def optuna_file(self) -> Path:
        """The database of Optuna's storage, unless `study_storage` names another."""
        return self.path / "optuna.db"

    @property
    def tracking_uri(self) -> str:
        """MLflow's URI of the home's own database."""
        # Optuna and MLflow both keep a table `alembic_version`, so each has a database of its own.
        return f"sqlite:///{self.tracking_file}"

    @property
    def tracking_file(self) -> Path:
        """MLflow's database, if no server is given."""
        return self.path / "mlflow.db"

    @property
    def identity(self) -> str:
        """A name that tells this home's studies from another's on a tracking server that both share."""
        return masked(self.study_storage) if self.study_storage else f"{socket.gethostname()}:{self.path}"

    @property
    def artifacts(self) -> Path:
        """The folder of MLflow's artifacts, if no server is given."""
        return self.path / "artifacts"

    @property
    def data(self) -> Path:
        """The folder of downloaded data sets."""
        return self.path / "data"

    def study(self, name: str) -> Path:
        """Name the folder of one study: Ray's results, the lock of its driver."""
        return self.path / "studies" / name


Place = str | Path | Home | None
"""What names a home: its folder, the home itself, or None for the default."""
