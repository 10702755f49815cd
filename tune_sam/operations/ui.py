"""Pages: MLflow's, or Optuna's dashboard, on the studies of a home, served until somebody stops them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tune_sam.cluster.signals import interruptible
from tune_sam.errors import Refused
from tune_sam.extras import need
from tune_sam.home import Home
from tune_sam.logins import with_driver
from tune_sam.study.records import studies
from tune_sam.tracking.local import ailment_of
from tune_sam.tracking.relocation import relocate_artifacts
from tune_sam.tracking.view import prepare_view

PATIENCE = 120.0
"""Seconds within which a server has to answer; MLflow's takes some to import."""

PAUSE = 0.2
"""Seconds between two questions whether it answers."""

TO_END = 10.0
"""Seconds that a server has to end by itself once it is asked to."""

HOST = "127.0.0.1"


def mlflow_pages(home: Home, port: int, ready: Callable[[str], None]) -> None:
    """Serve MLflow's pages, and open them at the newest study.

    Args:
        home: whose studies are shown.
        port: on this machine alone.
        ready: called with the address of the prepared view, once the server answers.

    Raises:
        Refused: there is no study with a log in the home, its database is damaged, or the server ends.
    """
    file = home.tracking_file
    if not file.exists():
        raise Refused(
            f"there is no study in {home.path} yet with a log there; make one with `tune-sam search`, "
            "give --home, or open the tracking server of those that there are."
        )
    if ailment := ailment_of(file):
        raise Refused(
            f"MLflow's database {file} {ailment}; put back a copy of it, or make it anew with "
            "`tune-sam doctor STUDY --fix`."
        )
    relocate_artifacts(file)  # MLflow's server reads the database as it is
    command = (
        *("-m", "mlflow", "server", "--backend-store-uri", home.tracking_uri),
        *("--default-artifact-root", home.artifacts.as_uri(), "--host", HOST, "--port", str(port), "--workers", "1"),
    )
    serve(
        command,
        port,
        "/health",
        lambda: _view(home),
        ready,
        {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # nothing here uses its workers; they start slowly
    )


def optuna_dashboard(home: Home, port: int, ready: Callable[[str], None]) -> None:
    """Serve Optuna's dashboard on all studies of a home.

    Args:
        home: whose studies are shown.
        port: on this machine alone.
        ready: called with the address, once the server answers.

    Raises:
        Refused: it is not installed, there is no study in the home, or the server ends.
    """
    need("optuna_dashboard", "ui")
    if not home.study_storage and not home.optuna_file.exists():
        raise Refused(f"there is no study in {home.path} yet; make one with `tune-sam search`, or give --home.")
    database = with_driver(home.study_storage) if home.study_storage else f"sqlite:///{home.optuna_file}"
    serve(
        ("-c", _DASHBOARD, HOST, str(port)),
        port,
        "/dashboard",
        lambda: "/dashboard",
        ready,
        # No argument, for it may hold a login, and who runs what can be seen.
        {"TUNE_SAM_DASHBOARD": database},
    )


_DASHBOARD = (
    "import os, sys, optuna_dashboard\n"
    "optuna_dashboard.run_server(os.environ['TUNE_SAM_DASHBOARD'], host=sys.argv[1], port=int(sys.argv[2]))"
)


def _view(home: Home) -> str:
    """Prepare the view of the newest study that is logged in the home, and give its address."""
    searches = [study for study in studies(home) if study.tracking_uri == home.tracking_uri]
    if not searches:
        return "/"
    experiment = searches[-1].experiment_id
    shown = [study for study in searches if study.experiment_id == experiment]
    optimizers = dict.fromkeys(optimizer for study in shown for optimizer in study.settings.optimizers)
    more = sorted({name for study in shown for name in study.settings.more})
    return prepare_view(home.tracking_uri, experiment, optimizers, more, shown[-1].settings.score)


def serve(
    command: Sequence[str],
    port: int,
    question: str,
    page: Callable[[], str],
    ready: Callable[[str], None],
    environment: Mapping[str, str],
) -> None:
    """Run a server in Python, say when it answers, and end it with this process.

    Args:
        command: the words after `python`.
        port: that it listens on.
        question: a path that it answers once it is of use.
        page: prepares the page that is to be seen, while the server starts, and gives its path.
        ready: called with the page's address, once the server answers.
        environment: of the server, on top of this process's.

    Raises:
        Refused: the port is taken, the server ends, or it does not answer in time.
    """
    _refuse_taken(port)
    with interruptible(waits_for=""):
        server = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdout=2,  # what it says is about its work; the page's address alone goes to the standard output
        )
        try:
            path = page()
            _wait(server, port, question)
            ready(f"http://{HOST}:{port}{path}")
            server.wait()
        except KeyboardInterrupt:
            return
        finally:
            _end(server)
    if server.returncode:
        raise Refused(f"the server on port {port} ended with exit status {server.returncode}; what it said is above.")


def _refuse_taken(port: int) -> None:
    """Refuse a port on which another server listens, whose answers would be taken for ours."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Refused(f"--port {port} cannot be used ({error.strerror}); give another.") from None


def _wait(server: "subprocess.Popen[bytes]", port: int, question: str) -> None:
    import requests

    here = requests.Session()
    here.trust_env = False  # a proxy that the environment names is not for this machine
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.poll() is not None:
            raise Refused(
                f"the server ended before it answered on port {port}, with exit status {server.returncode}; what it "
                "said is above."
            )
        try:
            if here.get(f"http://{HOST}:{port}{question}", timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(PAUSE)
    raise Refused(f"the server on port {port} did not answer within {PATIENCE:g} s; what it said is above.")


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End a server with all that it has started."""
    import psutil

    family = []
    with suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(family, TO_END)
    for process in left:
        process.kill()
    server.wait()
