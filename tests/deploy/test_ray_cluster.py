"""deploy/ray-cluster.yaml, as far as it can be tried without a cloud."""

import shlex
import subprocess
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from command_lines import check_ray_start
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "ray-cluster.yaml"


def check(text):
    """Raise unless Ray takes the file, EC2 its nodes, and bash and `ray start` its commands."""
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    instances = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in config["available_node_types"].values():
        found = ParamValidator().validate({**node["node_config"], "MinCount": 1, "MaxCount": 1}, instances)
        if found.has_errors():
            raise ValueError(found.generate_report())
    for command in [command for key in config if key.endswith("_commands") for command in config[key]]:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        if command.startswith("ray start"):
            check_ray_start(shlex.split(command)[2:])


def test_ray_and_ec2_take_the_file():
    check(FILE.read_text())


@pytest.mark.parametrize(
    ("good", "broken", "why"),
    [
        ("max_workers: 2\n\n", "max_workers: 2\nidle_timeout: 5\n\n", "idle_timeout"),
        ("worker_start_ray_commands", "worker_start_commands", "worker_start_commands"),
        ("min_workers", "min_worker", "min_worker"),
        ("max_workers: 2\n\n", "max_workers: 1\n\n", "smaller"),
        ("head_node_type: head", "head_node_type: main", "head_node_type"),
        ("  container_name: tune-sam\n", "", "container"),
        ("InstanceType", "InstanceKind", "InstanceKind"),
        ("VolumeSize: 150", "VolumeSize: large", "VolumeSize"),
        ("'.[all]'", "'.[all]", "bash"),
        ("--object-manager-port", "--object-port", "--object-port"),
    ],
)
def test_a_broken_copy_is_rejected(good, broken, why):
    text = FILE.read_text()
    assert good in text
    with pytest.raises(Exception, match=why):
        check(text.replace(good, broken))


def test_the_images_have_the_release_of_ray_that_is_installed():
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    docker = yaml.safe_load(FILE.read_text())["docker"]
    for image in (docker["head_image"], docker["worker_image"]):
        assert image.startswith(f"rayproject/ray:{pinned.removeprefix('ray==')}-py311")


def test_nobody_without_the_token_can_use_the_cluster():
    config = yaml.safe_load(FILE.read_text())
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
