"""deploy/slurm.sbatch without Slurm: two nodes are network namespaces, and `srun` and `scontrol` are scripts.

Each node has its own address and sees its own processes alone, as machines do. It has to: `ray symmetric-run` tells by
the address whether it is on the head, refuses a node where it sees another Ray, and stops every Ray that it sees.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from services import wait_for

from tune_sam.study.records import open_study

FILE = Path(__file__).parents[2] / "deploy" / "slurm.sbatch"
SEARCH = (
    "search", "gcn", "--dataset", "digits", "--optimizer", "base", "--scheduler", "none", "--trials", "2",
    "--train-subset", "64",
)  # fmt: skip
NODES = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]

ON_REQUEST = pytest.mark.skipif(
    "TUNE_SAM_SLURM" not in os.environ,
    reason="makes network namespaces, and stops every Ray that it sees; TUNE_SAM_SLURM=1 asks for it",
)

OPTIONS = {
    "cpus-per-task", "exclusive", "gpus-per-node", "job-name", "nodes", "ntasks-per-node", "open-mode", "output",
    "requeue", "signal", "time",
}  # fmt: skip
"""Long options of sbatch, as its manual has them, that the file may use."""

# The job's first node runs the batch script. On the second waits what srun sends there.
CLUSTER = """
set -e
ip link add name one type veth peer name two
boot() {
  unshare --net --pid --mount --fork --mount-proc --kill-child bash node "$@" &
  while ip link show "$1" > /dev/null 2>&1; do ip link set "$1" netns $!; sleep 0.1; done
}
boot two 10.9.0.2 bash -c 'until [ -e task ]; do sleep 0.2; done; bash task; echo $? > ended'
boot one 10.9.0.1 bash "$@"
wait $!
"""
NODE = """
until ip link set "$1" up 2> /dev/null; do sleep 0.1; done
ip address add "$2/24" dev "$1"
ip link set lo up
shift 2
exec "$@"
"""
# Runs the command once on each node, with its own environment; its status is the highest. As soon as there is a file
# that STOP_AT names, Slurm's signal comes to the batch script.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
  case $1 in
    --nodes=2 | --ntasks=2 | --cpus-per-task=1) shift ;;
    *) echo "srun: unrecognized option '$1'" >&2; exit 1 ;;
  esac
done
{ export -p; printf '%q ' "$@"; } > part
mv part task
if [ "${STOP_AT:-}" ]; then
  (until compgen -G "$STOP_AT" > /dev/null; do sleep 0.1; done; kill -TERM $PPID) &
fi
"$@" && status=0 || status=$?
until [ -e ended ]; do sleep 0.2; done
exit $((status > $(< ended) ? status : $(< ended)))
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> scontrol.log
"""


def check(text):
    """Raise unless bash and sbatch could read the file."""
    subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=True)
    for option in re.findall(r"^#SBATCH --([^=\n]*)", text, re.MULTILINE):
        if option not in OPTIONS:
            raise ValueError(f"sbatch has no option --{option}")


def submit(text, folder, *command, stop_at="", **variables):
    """Run the file as a job of two nodes with a CPU each. Raise if it fails, or is not stopped by what stops it."""
    check(text)
    for name, script in (("cluster", CLUSTER), ("node", NODE), ("srun", SRUN), ("scontrol", SCONTROL), ("job", text)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    for name in ("task", "ended", "scontrol.log"):
        (folder / name).unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_SAM_"))}
    environment |= {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}", "STOP_AT": stop_at,
        "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1",
        "TUNE_SAM_HOME": str(folder / "home"), **variables,
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(
            [*NODES, "bash", "cluster", "job", *command], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        status = job.wait(900)
    finally:
        job.kill()  # all of its processes go with it; unshare does not heed SIGTERM
        job.wait()
        _forget(folder)
    if status != (130 if stop_at else 0):
        print((folder / "log").read_text())
        raise subprocess.CalledProcessError(status, command)


def _forget(folder):
    """Ray's own folder, which a job leaves on its nodes."""
    if (folder / "task").exists():
        place = re.search(r'RAY_TMPDIR="(/tmp/ray-\w+)"', (folder / "task").read_text()).group(1)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def nodes():
    link = ["ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "two"]
    if subprocess.run([*NODES, *link], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a network namespace")


def test_bash_and_sbatch_can_read_it():
    check(FILE.read_text())


@pytest.mark.parametrize(
    ("good", "broken", "error"),
    [
        ("; fi\n", "\n", subprocess.CalledProcessError),
        ("--requeue", "--reque", ValueError),
        ("--ntasks-per-node", "--tasks-per-nod", ValueError),
    ],
)
def test_a_broken_copy_is_rejected(good, broken, error):
    text = FILE.read_text()
    assert good in text
    with pytest.raises(error):
        check(text.replace(good, broken))


@pytest.mark.parametrize(
    ("command", "path", "why"),
    [
        ([], f"{Path(sys.executable).parent}:{os.environ['PATH']}", "there is no command; give one"),
        (["search", "gcn"], "/usr/bin:/bin", "there is no tune-sam on the PATH"),
    ],
)
def test_what_is_missing_is_named(command, path, why):
    ended = subprocess.run(
        ["/bin/bash", FILE, *command], env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"slurm.sbatch: {why}")


@pytest.fixture
def batch(tmp_path):
    """The batch script by itself: one node, and short scripts in place of Ray and tune-sam."""
    scripts = {
        "srun": "echo $RAY_TMPDIR > place; while [[ $1 == --* ]]; do shift; done; exec \"$@\"",
        "ray": "[ $DO != nothing ] || exit 0; while [ $1 != -- ]; do shift; done; shift; \"$@\"; echo ray ends >> log",
        "tune-sam": "trap 'exit 130' TERM; echo $RAY_AUTH_MODE $TUNE_SAM_ADDRESS \"$@\" >> log; "
                    "[ $DO = wait ] || exit $DO; while true; do sleep 0.1; done",
        "scontrol": "echo scontrol \"$@\" >> log",
        "apptainer": "echo $1 $2 $3 >> log; shift 3; \"$@\"",
    }  # fmt: skip
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)

    def run(what, **more):
        environment = {
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DO": what,
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "1",
            **more,
        }
        job = subprocess.Popen(["bash", FILE, "search", "gcn", "--name", "a b"], cwd=tmp_path, env=environment)
        if what == "wait":
            wait_for((tmp_path / "log").exists, "tune-sam runs")
            job.terminate()
        status = job.wait(300)
        shutil.rmtree((tmp_path / "place").read_text().strip())
        return status, (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []

    return run


@pytest.mark.slow
def test_the_signal_reaches_tune_sam_alone_and_the_job_is_queued_again(batch):
    status, log = batch("wait")
    assert status == 130
    assert log[0] == "token auto search gcn --name a b"
    assert sorted(log[1:]) == ["ray ends", "scontrol requeue 7"]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "status"), [("0", 0), ("3", 3), ("nothing", 1)])
def test_the_job_ends_as_tune_sam_does_and_fails_where_it_did_not_run(batch, what, status):
    ended, log = batch(what)
    assert ended == status
    assert not [line for line in log if line.startswith("scontrol")]


def test_an_image_is_run_where_one_is_named(batch):
    ended, log = batch("0", TUNE_SAM_IMAGE="image.sif")
    assert ended == 0
    assert log == ["exec --nv image.sif", "token auto search gcn --name a b", "ray ends"]


@pytest.mark.slow
@ON_REQUEST
def test_a_job_whose_time_is_up_goes_on_when_it_was_requeued(nodes, tmp_path):
    text = FILE.read_text()
    command = (*SEARCH, "--epochs", "40", "--name", "s")
    submit(text, tmp_path, *command, stop_at=f"{tmp_path}/home/studies/s/ray-*/base-*/checkpoint_*")
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"
    stopped = open_study("s", tmp_path / "home")
    assert stopped.counts().get("complete", 0) < 2
    assert "Interrupted" in (tmp_path / "log").read_text()

    submit(text, tmp_path, *command)
    assert not (tmp_path / "scontrol.log").exists()
    trials = open_study("s", tmp_path / "home").records()
    assert [(trial.state, trial.epochs) for trial in trials] == [("complete", 40)] * 2
    assert len({trial.node for trial in trials}) == 2, "each node trained one"


@pytest.mark.slow
@ON_REQUEST
@pytest.mark.parametrize(
    ("good", "broken"),
    [
        ("ray symmetric-run", "ray symetric-run"),
        ('--cpus-per-task="', '--cpus="'),
        ("--num-cpus", "--numb-cpus"),
    ],
)
def test_a_job_that_cannot_run_is_rejected(nodes, good, broken, tmp_path):
    text = FILE.read_text()
    assert good in text
    # No head comes up, for which the other node waits half a minute by default.
    waits = {"RAY_py_gcs_connect_timeout_s": "5"}
    with pytest.raises(subprocess.CalledProcessError):
        submit(text.replace(good, broken), tmp_path, *SEARCH, "--epochs", "1", "--name", "s", **waits)
