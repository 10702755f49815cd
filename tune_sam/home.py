"""Where studies live: a folder, or services, with records, results and data sets."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from tune_sam.errors import Refused, masked, shorten
from tune_sam.files import link_below, nearest
from tune_sam.logins import of_results, plain, remember, without_login

NO_PLACE = frozenset("?%{}'\"\\")
"""What no path of a home may have: it ends the path in a database's address, or is read in a statement of MLflow's."""

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


def absolute(storage: str) -> str:
    """Make a folder's path absolute; a URI is that already."""
    return storage if "://" in storage else str(folder_of(storage, "--storage"))


def taken(lock: FileLock) -> AbstractContextManager[object]:
    """Take the lock on a file of a home, whose folder is made.

    Raises:
        Refused: it is another person's.
        Timeout: another process holds it.
    """
    file = Path(lock.lock_file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return lock.acquire()
    except PermissionError:
        there = next(part for part in (file, *file.parents) if os.path.exists(part))  # false of what is not to be seen
        try:
            owner = there.owner()
        except KeyError:  # of whom this machine has no name
            owner = f"user {there.stat().st_uid}"
        raise Refused(
            f"{there} belongs to {owner}, and you may not write to it; give --home a folder of your own, or share "
            "studies by --study-storage."
        ) from None


LINKS_OF_WANDB = ("latest-run", "debug.log", "debug-internal.log", "debug-core.log")
"""Names of the links that wandb makes in the folder that it is given."""


@dataclass(frozen=True)
class Home:
    """Where studies live: Optuna's storage, MLflow's database and artifacts, Ray's results, data sets.

    A study's record may come from anybody. So it names places outside of the home in vain, unless the person names them
    too: those are attributes here.

    Attributes:
        path: the folder of everything that no service holds.
        study_storage: URI of the database of Optuna's storage; None for a file in the folder. It may hold a password.
        named_storage: folder or URI that the person names for Ray's results; without a login.
        named_tracking_uri: MLflow's server or database that the person names; without a login.
    """

    path: Path
    study_storage: str | None = field(default=None, repr=False)
    named_storage: str | None = None
    named_tracking_uri: str | None = None

    @classmethod
    def at(
        cls,
        home: "Place" = None,
        study_storage: str | None = None,
        storage: str | None = None,
        tracking_uri: str | None = None,
    ) -> "Home":
        """Choose the home at a folder, else at $TUNE_SAM_HOME, else at ~/.tune_sam. Nothing is created.

        Args:
            home: the folder; a Home is returned as it is.
            study_storage: `postgresql://USER@HOST/DATABASE`; $TUNE_SAM_STUDY_STORAGE by default, else a file in the
                folder.
            storage: folder or URI outside of it that Ray's results may be written to; $TUNE_SAM_STORAGE by default.
            tracking_uri: MLflow's server or database that studies may be logged to; $TUNE_SAM_TRACKING_URI by default.

        Raises:
            Refused: the path is a file, lies below one, or may not be entered; the storage is no Postgres.
        """
        if isinstance(home, Home):
            return home
        database = study_storage or os.environ.get("TUNE_SAM_STUDY_STORAGE") or None
        if database and (unusable(database) or not re.match(r"postgresql(\+\w+)?://", database)):
            raise Refused(
                f"--study-storage {database} is no database that many nodes can write to; give "
                "postgresql://USER@HOST/DATABASE, or leave it out for a file in the home."
            )
        chosen = folder_of(home or os.environ.get("TUNE_SAM_HOME") or "~/.tune_sam", "--home")
        if not NO_PLACE.isdisjoint(str(chosen)) or not str(chosen).isprintable():
            raise Refused(
                f"home {shorten(str(chosen))} has a character of {' '.join(sorted(NO_PLACE))} or one that cannot be "
                "printed, which means something else to a database; give --home another folder."
            )
        try:
            there = nearest(chosen)
        except OSError as error:
            raise Refused(
                f"home {shorten(str(chosen))} cannot be used ({error.strerror}); give --home another folder."
            ) from None
        if not there.is_dir():
            raise Refused(f"home {chosen} cannot be used because {there} is a file; give --home a folder.")
        if not os.access(there, os.X_OK):
            raise Refused(f"home {chosen} cannot be used because you may not enter it; give --home another folder.")
        results = storage or os.environ.get("TUNE_SAM_STORAGE") or ""
        tracking = tracking_uri or os.environ.get("TUNE_SAM_TRACKING_URI") or ""
        for place in (results, tracking):
            remember(place)
        return cls(
            chosen,
            database and plain(database),
            of_results(absolute(results)) if results else None,
            without_login(tracking) or None,
        )

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make the folder if there is none, and remove it again if the block raises Refused.

        One process at a time is inside: two that download one file or make MLflow's tables at once fail.

        Raises:
            Refused: the folder cannot be made or written to.
        """
        missing = [part for part in (self.path, *self.path.parents) if not part.exists()]
        lock = self.path / "home.lock"
        was_there = lock.exists()
        try:
            self._create()
            with taken(FileLock(lock, is_singleton=True)):  # one in a process, which may be inside already
                yield
        except Refused:
            if not was_there:
                lock.unlink(missing_ok=True)
            for folder in missing:
                with suppress(OSError):  # it has something in it by now, or was never made
                    folder.rmdir()
            raise

    def refuse_links(self, study: str) -> None:
        """Refuse symbolic links where a study writes: in a home that somebody sent, they lead to the reader's files.

        Those that wandb makes among its own files, and replaces without following them, may be there.

        Args:
            study: its name.

        Raises:
            Refused: there is one.
        """
        own = self.study(study)
        places = (own.parent, own, self.optuna_file, self.tracking_file, self.artifacts)

        def of_wandb(link: Path) -> bool:
            return link.name in LINKS_OF_WANDB and own / "wandb" in link.parents

        if link := next(filter(Path.is_symlink, places), None) or link_below(own, of_wandb):
            raise Refused(
                f"{link} is a link to {os.readlink(link)}, and study {study} may write nowhere but into its home; put "
                "in its place what it leads to, or remove it."
            )

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
    def storage(self) -> str:
        """The folder of Ray's results, if no other is given."""
        return str(self.path / "studies")

    @property
    def artifacts(self) -> Path:
        """The folder of MLflow's artifacts, if no server is given."""
        return self.path / "artifacts"

    @property
    def data(self) -> Path:
        """The folder of downloaded data sets."""
        return self.path / "data"

    @property
    def data_are_linked(self) -> bool:
        """Whether the folder of data sets is a link, or has one, so that nothing is downloaded through it."""
        return self.data.is_symlink() or link_below(self.data) is not None

    def study(self, name: str) -> Path:
        """Name the folder of one study: Ray's results, the lock of its driver."""
        return Path(self.storage) / name


Place = str | Path | Home | None
"""What names a home: its folder, the home itself, or None for the default."""
