"""Submit: send a command to a cluster as a Ray Job, which runs there also when its sender has left."""

import asyncio
import os
import secrets
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_sam.errors import Refused, masked
from tune_sam.logins import of_results, remember, without_login
from tune_sam.settings import ENVIRONMENT

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

COMMANDS = ("search", "run", "resume", "refit", "analyze")
"""What is worth a job: the commands that train or measure."""

CARRIED = ("TUNE_SAM_", "MLFLOW_TRACKING_", "AWS_", "PG")
"""Prefixes of the variables that a job takes along from where it is sent: places of services, and their logins."""

HERE = ("_HOME", "_DATA", "_CACHE", "FILE", "_PATH", "_BUNDLE", "SSLKEY", "SSLCERT", "SSLROOTCERT")
"""Suffixes of the variables that name files and folders of this machine."""

LEFT_OUT = (".git", ".venv", "**/__pycache__", "**/*.db", "**/*.env")
"""What does not travel with the working directory."""

STUDY = "tune_sam.study"


def submit(
    command: Sequence[str],
    *,
    dashboard: str | None = None,
    working_dir: Path | None = None,
    show: Callable[[str], None] | None = None,
) -> tuple[str, bool | None]:
    """Send a command of `tune-sam` to a cluster as a Ray Job.

    Every command resumes its study by name, so a job that the cluster restarts continues where it was.

    Args:
        command: as after `tune-sam`, such as `("search", "gcn", "--name", "mutagenicity")`.
        dashboard: of the cluster, `http://HOST:8265`; $RAY_API_SERVER_ADDRESS, else Ray's default.
        working_dir: a folder that is sent along, for a config file or a workload of your own; none by default.
        show: called with each piece of the job's output until it ends; None leaves without waiting.

    Returns:
        The job's id, and whether it succeeded; None if that was not waited for.

    Raises:
        Refused: the command cannot be a job, it would not resume when restarted, or the cluster does not take it.
    """
    if place := os.environ.get("TUNE_SAM_STORAGE"):
        remember(place)
        os.environ["TUNE_SAM_STORAGE"] = of_results(place)
    entrypoint, named = _split(command)
    study = _study_of(command)
    client = _client(dashboard)
    for job in client.list_jobs():
        if (job.metadata or {}).get(STUDY) == study and job.status.name in ("PENDING", "RUNNING"):
            raise Refused(
                f"job {job.submission_id} is at study {study} already; follow it with `ray job logs -f "
                f"{job.submission_id}`, or stop it."
            )
    # A job is on its cluster; without this it would start another Ray on its node.
    environment = {**carried(), **named, "TUNE_SAM_ADDRESS": "auto"}
    runtime: dict[str, Any] = {"env_vars": environment}
    if working_dir:
        runtime |= {"working_dir": str(working_dir), "excludes": list(LEFT_OUT)}
    try:
        job_id = client.submit_job(
            entrypoint=shlex.join(["tune-sam", *entrypoint]),
            runtime_env=runtime,
            submission_id=f"tune-sam-{study}-{secrets.token_hex(3)}",
            metadata={STUDY: study},
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise Refused(
            f"the cluster does not take the job ({_first_line(error)}); look at --working-dir and the "
            "cluster's dashboard."
        ) from None
    if not show:
        return job_id, None
    show(f"{job_id}\n")  # whoever leaves now knows what to follow
    asyncio.run(_follow(client, job_id, show))
    return job_id, client.get_job_status(job_id).name == "SUCCEEDED"


def carried() -> dict[str, str]:
    """Collect the variables that another machine needs to use the same services; none that names a file of this one."""
    return {name: value for name, value in os.environ.items() if name.startswith(CARRIED) and not name.endswith(HERE)}


def _split(command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take the places that hold a login out of a command and give them as variables: a command line is shown."""
    kept: list[str] = []
    named: dict[str, str] = {}
    flags = {f"--{name.replace('_', '-')}": variable for name, variable in ENVIRONMENT.items()}
    rest = iter(command)
    for word in rest:
        flag, equals, said = word.partition("=")
        if flag == "--address":
            raise Refused(
                "--address does not go with a job, which runs on the cluster that it is sent to; leave it out."
            )
        if flag not in flags:
            kept.append(word)
            continue
        value = said if equals else next(rest, None)
        if value is None:
            raise Refused(f"{flag} comes last and names nothing; give it a value, or leave it out.")
        if flag == "--storage":
            remember(value)
            value = of_results(value)
        if without_login(value) == value:  # an option, which a config file does not overrule
            kept += [flag, value]
        else:
            named[flags[flag]] = value
    return kept, named


def _study_of(command: Sequence[str]) -> str:
    """Find the study that a command is about.

    Raises:
        Refused: the command cannot be a job, or it names no study.
    """
    if not command or command[0] not in COMMANDS:
        raise Refused(
            f"{f'{command[0]} cannot be a job' if command else 'a job needs a command'}; give one of "
            f"{', '.join(COMMANDS)} with its options."
        )
    words = [part for word in command for part in word.split("=", 1)]
    if "--name" in words[:-1]:
        return words[words.index("--name") + 1]
    if command[0] in ("search", "run") or "--preset" in words or "--config" in words:
        raise Refused(
            f"tune-sam {command[0]} without --name would make another study each time that the cluster "
            "restarts the job; give --name."
        )
    if len(command) < 2:
        raise Refused(f"tune-sam {command[0]} needs the name of a study; give it.")
    if command[1].startswith("-"):
        raise Refused(
            f"tune-sam {command[0]} {command[1]} has an option where the study's name belongs; give the name first."
        )
    return command[1]


def _client(dashboard: str | None) -> "JobSubmissionClient":
    where = masked(dashboard or os.environ.get("RAY_API_SERVER_ADDRESS") or "the default address")
    try:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise Refused(f"jobs need Ray's own client ({_first_line(error)}); install tune-sam[cluster].") from None
    try:
        return JobSubmissionClient(dashboard)
    except AuthenticationError as error:
        raise Refused(
            f"the Ray dashboard at {where} refuses this process ({_first_line(error)}); give it "
            "RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN."
        ) from None
    except RuntimeError as error:
        raise Refused(
            f"the Ray dashboard at {where} takes no jobs from here ({_first_line(error)}); install the same "
            "Ray here and there, with tune-sam[cluster]."
        ) from None
    except (OSError, ValueError) as error:
        raise Refused(
            f"no Ray dashboard answers at {where} ({_first_line(error)}); give --dashboard "
            "http://HOST:8265 of the cluster's head."
        ) from None


async def _follow(client: "JobSubmissionClient", job_id: str, show: Callable[[str], None]) -> None:
    async for piece in client.tail_job_logs(job_id):
        show(piece)


def _first_line(error: Exception) -> str:
    return masked(str(error).strip().partition("\n")[0])
