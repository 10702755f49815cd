"""Whether a search will find what it needs: each service tried from here and from a worker on every node."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tune_sam.cluster import results
from tune_sam.cluster.connection import connected
from tune_sam.errors import Refused, masked
from tune_sam.home import Home, absolute
from tune_sam.operations.submit import carried
from tune_sam.settings import SearchKeywords, SearchOptions, takes_options
from tune_sam.study.storage import try_out
from tune_sam.tracking import client
from tune_sam.tuning.plan import home_of, prepared_data
from tune_sam.workload import find_workload, workload_names

if TYPE_CHECKING:
    from tune_sam.cluster.sharing import Shared

SAME = ("tune-sam", "torch", "ray", "optuna")
"""Packages whose versions must be equal everywhere: numbers, checkpoints and records depend on them."""

CLOCKS = 2.0
"""Seconds that two clocks may differ: trials of several nodes are put in order, and S3 refuses what is minutes off."""

ANSWER = 120.0
"""Seconds in which a node must have tried everything."""

NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "beegfs",
    "gpfs",
    "ceph",
    "gluster",
    "sshfs",
    "juicefs",
    "afs",
    "9p",
    "wekafs",
    "panfs",
)
"""How the names of file systems begin on which locks of SQLite are not to be relied on."""


@dataclass(frozen=True)
class Finding:
    """One thing that was tried.

    Attributes:
        where: `driver`, or a node by its name and the beginning of Ray's id.
        what: that was tried.
        trouble: what is wrong and how to mend it; empty where it works.
        seconds: that it took; None where that means nothing.
    """

    where: str
    what: str
    trouble: str = ""
    seconds: float | None = None


@takes_options
def check(
    workload: str | None = None, *, config: str | Path | None = None, **options: Unpack[SearchKeywords]
) -> tuple[Finding, ...]:
    """Try each place that a search with these options would use, from here and from every node of its cluster.

    Everywhere: Ray's results, Optuna's storage and MLflow are written to and read back, where they are not files of
    the home. On each node: the versions of :data:`SAME`, the clock, and the data as trials get them.

    Args:
        workload: whose data are read and sent to each node, too; None tries no data.
        config: a YAML file of options; those given here come on top.
        options: of the search, each below.

    Returns:
        What was tried where; `trouble` is empty where it works.

    Raises:
        Refused: an option is wrong, there is no such workload, or no cluster answers.
    """
    chosen = SearchOptions.read({**options, "workload": workload or workload_names()[0]}, config)
    find_workload(chosen.workload)  # one that there is not is refused before anything starts
    home = home_of(chosen)
    uri = chosen.tracking_uri
    storage = chosen.storage or home.storage
    with home.made():
        found = [*driver_findings(chosen, home, storage, uri)]
        if workload:
            found.append(attempted("driver", "data", lambda: prepared_data(chosen, home)))
    with connected(chosen.address) as other_nodes, ExitStack() as stack:
        from tune_sam.cluster.sharing import share

        data = None
        if workload and not found[-1].trouble:
            of, dataset, root = prepared_data(chosen, home)
            data = stack.enter_context(share(of.read(dataset, root), other_nodes=other_nodes))
        written_to = None if found[0].trouble else absolute(storage)  # which may take long to be refused once more
        return (*found, *_of_nodes(written_to, uri, home.study_storage, data, other_nodes))


def driver_findings(options: SearchOptions, home: Home, storage: str, uri: str | None) -> Iterator[Finding]:
    """Probe what the driver itself needs: storage, studies and MLflow."""
    yield attempted("driver", f"results in {masked(storage)}", lambda: _try_storage(storage, options.address))
    studies = masked(home.study_storage) if home.study_storage else str(home.optuna_file)
    yield attempted("driver", f"studies in {studies}", lambda: _try_studies(home))
    if uri:
        yield attempted("driver", f"MLflow at {masked(uri)}", lambda: _try_tracking(uri))
    else:
        yield attempted("driver", f"MLflow's place, {home.path}", lambda: _refuse_network(home.tracking_file))


def _try_storage(storage: str, address: str | None) -> None:
    if address and "://" not in storage and not Path(storage).is_absolute():
        raise Refused(
            f"--storage {storage} is another folder in each process's working directory; give an absolute "
            "path that all nodes see, or a URI."
        )
    with results.probe(absolute(storage)):
        pass


def _try_studies(home: Home) -> None:
    if not home.study_storage:
        _refuse_network(home.optuna_file)
    try_out(home)


def _try_tracking(uri: str) -> None:
    if uri.startswith("sqlite"):
        _refuse_network(Path(uri.partition(":///")[2].partition("?")[0]))
    client.try_out(uri)


def _refuse_network(file: Path) -> None:
    """SQLite's locks do not hold on most network file systems, and then its files break."""
    import psutil

    file = file.resolve()
    there = [part for part in psutil.disk_partitions(all=True) if file.is_relative_to(part.mountpoint)]
    kind = max(there, key=lambda part: len(part.mountpoint)).fstype.lower().removeprefix("fuse.") if there else ""
    if kind.startswith(NETWORK):
        raise Refused(
            f"{file} is a SQLite file on a network file system ({kind}), where it can break; give --home a "
            "local folder, or --study-storage and --tracking-uri a database and a server."
        )


def _of_nodes(
    storage: str | None, uri: str | None, study_storage: str | None, data: "Shared | None", other_nodes: bool
) -> list[Finding]:
    """Collect what each node finds. All are asked at once; no storage is tried that the driver cannot write to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def on(node: dict[str, Any], work: Callable[..., Any], *arguments: Any) -> Any:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(num_cpus=0, max_retries=0)(work)
        return task.options(scheduling_strategy=place).remote(*arguments)

    # Not those of the results' storage, which trials use with what their node has.
    logins = {name: value for name, value in carried().items() if name.startswith(("MLFLOW_TRACKING_", "PG"))}
    nodes = {f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})": node for node in ray.nodes() if node["Alive"]}
    found: list[Finding] = []
    with ExitStack() as stack:
        written = None
        with suppress(Refused):  # it could be written to a moment ago
            written = stack.enter_context(results.probe(storage)) if storage else None
        until = time.time() + ANSWER
        asked = {
            name: on(
                node,
                _on_node,
                name,
                written,
                storage if other_nodes else None,
                uri,
                study_storage,
                data,
                package_versions(),
                logins,
            )
            for name, node in nodes.items()
        }
        for name, reference in asked.items():
            try:
                found += ray.get(reference, timeout=max(1.0, until - time.time()))
                sent = time.time()
                found.append(clock_finding(name, sent, ray.get(on(nodes[name], _now), timeout=ANSWER), time.time()))
            except Exception as error:  # whatever stands between here and there
                reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
                found.append(
                    Finding(
                        name,
                        "worker",
                        f"no worker of the node answers ({reason}); install tune-sam "
                        "there in the same version, or look at its Ray logs.",
                    )
                )
    return found


def _on_node(
    name: str,
    written: tuple[str, bytes] | None,
    storage: str | None,
    uri: str | None,
    study_storage: str | None,
    data: "Shared | None",
    versions: dict[str, str],
    logins: dict[str, str],
) -> list[Finding]:
    """Probe on one node, with the driver's logins at Postgres and MLflow: trials leave both to the driver."""
    os.environ.update({name: value for name, value in logins.items() if name not in os.environ})
    found = [attempted(name, "versions", lambda: compare_versions(versions))]
    if storage and written:
        found.append(attempted(name, "results", lambda: _read_and_write(storage, *written)))
    if study_storage:
        found.append(attempted(name, "studies", lambda: try_out(Home(Path("/"), study_storage))))
    if uri and not uri.startswith("sqlite"):
        found.append(attempted(name, "MLflow", lambda: client.try_out(uri)))
    if data:
        found.append(attempted(name, "data", lambda: _map(data)))
    return found


def compare_versions(versions: dict[str, str]) -> None:
    """Refuse a node whose packages are not the driver's."""
    here = package_versions()
    other = [f"{package} {here[package]}, not {there}" for package, there in versions.items() if here[package] != there]
    if other:
        raise Refused(f"it has {', '.join(other)}; install the driver's versions.")


def package_versions() -> dict[str, str]:
    """Read the installed versions of the packages that must agree."""
    found = {}
    for package in SAME:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def _read_and_write(storage: str, place: str, content: bytes) -> None:
    try:
        there = results.read(place)
    except OSError as error:
        raise Refused(
            f"what the driver wrote is not there ({masked(str(error))}); give --storage a folder "
            "that all nodes share, or a URI."
        ) from None
    if there != content:
        raise Refused("what the driver wrote is not what is read; look at the storage.")
    with results.probe(storage):
        pass


def _map(data: "Shared") -> None:
    if not len(data.splits().train):
        raise Refused("the data came without a sample; look at the node's Ray logs.")
    data.forget()


def _now() -> float:
    return time.time()


def clock_finding(name: str, sent: float, answered: float, received: float) -> Finding:
    """Compare a node's time with those at which it was asked and answered."""
    apart = max(sent - answered, answered - received, 0.0)
    trouble = f"its clock is {apart:.0f} s off the driver's; start a time service (NTP)." if apart > CLOCKS else ""
    return Finding(name, "clock", trouble)


def attempted(where: str, what: str, work: Callable[[], object]) -> Finding:
    """Do it, and say how that went."""
    begun = time.perf_counter()
    try:
        work()
    except Exception as error:
        said = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        return Finding(where, what, masked(said))
    return Finding(where, what, seconds=time.perf_counter() - begun)
