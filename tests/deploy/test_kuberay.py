"""deploy/kuberay-rayjob.yaml, as far as it can be tried without Kubernetes: every field, down to the containers."""

import re
from pathlib import Path

import pytest
import yaml
from command_lines import check_ray_start, check_tune_sam
from kubernetes import client

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "kuberay-rayjob.yaml"
FIELDS = yaml.safe_load((Path(__file__).parent / "rayjob_fields.yaml").read_text())
PLAIN = {
    "text": str,
    "str": str,
    "integer": int,
    "int": int,
    "number": (int, float),
    "float": (int, float),
    "boolean": bool,
    "bool": bool,
    "object": (str, int),
}


def check(text):
    """Raise unless KubeRay knows every field, Ray and tune-sam the options, and each pod's parts fit together."""
    job = yaml.safe_load(text)
    _check(job, FIELDS, "RayJob")
    check_tune_sam(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        check_ray_start(f"--{name}={value}" for name, value in group["rayStartParams"].items())
        _check_pod(group["template"]["spec"])


def _check(value, kind, where):
    """Raise unless a value is what the list of fields, or a model of the package `kubernetes`, says it is."""
    if isinstance(kind, dict):
        names = {name.rstrip("!"): part for name, part in kind.items()}
        _check_fields(value, names, [name[:-1] for name in kind if name.endswith("!")], where)
    elif isinstance(kind, list) or kind.startswith(("List[", "list[")):
        part = kind[0] if isinstance(kind, list) else kind[5:-1]
        _expect(value, list, where)
        for number, one in enumerate(value):
            _check(one, part, f"{where}[{number}]")
    elif kind == "texts" or kind.startswith(("Dict[", "dict[")):
        _expect(value, dict, where)
        for name, one in value.items():
            _expect(one, str, f"{where}.{name}")
    elif kind in PLAIN:
        _expect(value, PLAIN[kind], where)
    elif model := getattr(client, kind, None):
        names = model.attribute_map
        _check_fields(value, {names[inside]: part for inside, part in model.openapi_types.items()}, [], where)
        model(**{inside: value.get(outside) for inside, outside in names.items()})  # raises for what has to be there
    elif value not in kind.split("|"):
        raise ValueError(f"{where} is {value}, not {kind}")


def _check_fields(value, names, required, where):
    _expect(value, dict, where)
    for name in [*value, *required]:
        if name not in names:
            raise ValueError(f"{where} has no field {name}")
        if name not in value:
            raise ValueError(f"{where} lacks {name}")
        _check(value[name], names[name], f"{where}.{name}")


def _expect(value, kind, where):
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} is {value!r}, not {kind}")


def _check_pod(pod):
    """Raise unless what a container mounts is there, and what it keeps secret comes from a Secret."""
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                raise ValueError(f"there is no volume {mount['name']}")
        for variable in container.get("env", []):
            if "value" in variable and re.search("PASSWORD|SECRET|KEY|STUDY_STORAGE|://.*@", str(variable)):
                raise ValueError(f"{variable['name']} stands in the file; take it from a Secret")


def test_kuberay_knows_every_field():
    check(FILE.read_text())


@pytest.mark.parametrize(
    ("good", "broken", "why"),
    [
        ("backoffLimit", "backofLimit", "no field backofLimit"),
        ("backoffLimit: 5", 'backoffLimit: "5"', "backoffLimit is '5'"),
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: yes please", "shutdownAfterJobFinishes"),
        ("mode: token", "mode: tokens", "authOptions.mode is tokens"),
        ("rayClusterSpec", "rayCluster", "no field rayCluster"),
        ("      - groupName: gpu\n        #", "      - #", "lacks groupName"),
        ("            - name: ray-head\n", "            -\n", "name"),
        ("envFrom", "envfrom", "no field envfrom"),
        ("secretRef: {name", "secretRef: {nam", "no field nam"),
        ('cpu: "16"', "cpu: 16", "cpu is 16"),
        ("fsGroup: 100", "fsGroups: 100", "no field fsGroups"),
        ("    - name: studies\n", "    - name: home\n", "no volume studies"),
        ('num-cpus: "0"', 'num-cpu: "0"', "num-cpu"),
        ("--trials", "--tials", "--tials"),
        ("value: https://FILL-IN}", "value: https://me:word@FILL-IN}", "from a Secret"),
        ("{name: TUNE_SAM_HOME, value: /studies}", "{name: MLFLOW_TRACKING_PASSWORD, value: word}", "from a Secret"),
    ],
)
def test_a_broken_copy_is_rejected(good, broken, why):
    text = FILE.read_text()
    assert good in text
    with pytest.raises(Exception, match=why):
        check(text.replace(good, broken))


def test_a_retry_finds_what_the_one_before_left():
    job = yaml.safe_load(FILE.read_text())["spec"]
    assert job["backoffLimit"] > 0
    assert " --name " in job["entrypoint"]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    variables = {variable["name"]: variable["value"] for variable in head["containers"][0]["env"]}
    assert variables["TUNE_SAM_STORAGE"].startswith("s3://")
    assert variables["TUNE_SAM_HOME"] == head["containers"][0]["volumeMounts"][0]["mountPath"]
    assert "persistentVolumeClaim" in head["volumes"][0]


def test_the_cluster_has_the_release_of_ray_that_is_installed():
    cluster = yaml.safe_load(FILE.read_text())["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_the_image_is_made_of_that_release():
    cluster = yaml.safe_load(FILE.read_text())["spec"]["rayClusterSpec"]
    assert f"ARG RAY={cluster['rayVersion']}\n" in (ROOT / "Dockerfile").read_text()
