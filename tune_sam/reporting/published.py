"""Published results, which a page shows beside ours. A workload names the file that holds them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tune_sam.errors import Refused
from tune_sam.workload import Workload, find_workload, workload_names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table. None is what the study does not say.

    Attributes:
        optimizer: as the study calls it.
        train_loss, test_loss: in nats, after the final epoch.
        train_accuracy, test_accuracy: in %, after the final epoch.
        ratio: |λ_max/λ_min| of the loss's Hessian.
    """

    optimizer: str
    train_loss: float | None = None
    train_accuracy: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    ratio: float | None = None

    @property
    def gap(self) -> float | None:
        """Subtract the training loss from the test loss; None unless both are there."""
        return None if self.test_loss is None or self.train_loss is None else self.test_loss - self.train_loss


@dataclass(frozen=True)
class PublishedStudy:
    """A study whose table a page shows beside ours.

    Attributes:
        name: what sentences call it, such as "the published study".
        citation: authors, title, place and year.
        conditions: what a reader has to know to compare, as a sentence.
        rows: of each data set, by its name in the workload.
        test_samples: the size of each test set that the study says, by the data set's name.
        link: its address, http or https; empty if it has none.
    """

    name: str
    citation: str
    conditions: str
    rows: Mapping[str, tuple[PublishedRow, ...]]
    test_samples: Mapping[str, int] = field(default_factory=dict)
    link: str = ""


def read_published(file: Path) -> PublishedStudy:
    """Read a published study from YAML.

    The file holds the fields of :class:`PublishedStudy`, of which `test_samples` and `link` may be left out; under
    `rows`, each data set has a list of mappings with the fields of :class:`PublishedRow`. `trainables/published.yaml`
    is an example.

    Raises:
        Refused: the file cannot be read, or lacks a field.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
        rows = {str(dataset): tuple(_row(**row) for row in given) for dataset, given in data["rows"].items()}
        sizes = {str(dataset): int(size) for dataset, size in data.get("test_samples", {}).items()}
        if (link := str(data.get("link", ""))) and not link.startswith(("http://", "https://")):
            raise ValueError(f"link is no address of the web: {link}")
        return PublishedStudy(str(data["name"]), str(data["citation"]), str(data["conditions"]), rows, sizes, link)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise Refused(
            f"the published results {file} cannot be read ({reason}); mend the file, or let the workload name none."
        ) from None


def published_studies(workload: Workload) -> list[PublishedStudy]:
    """Read what the workload and the installed ones name, each file once, the workload's own first.

    Raises:
        Refused: the workload's own file cannot be read. Those of others are left out with a warning.
    """
    found = {file: read_published(file) for file in (workload.published,) if file}
    for name in workload_names():
        try:
            file = find_workload(name).published
            if file and file not in found:
                found[file] = read_published(file)
        except Refused as error:
            log.warning("The page lacks the published results of another workload: %s", error)
    return list(found.values())


def _row(optimizer: str, **numbers: Any) -> PublishedRow:
    return PublishedRow(str(optimizer), **{name: float(number) for name, number in numbers.items()})
