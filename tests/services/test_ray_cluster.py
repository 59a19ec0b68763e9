"""deploy/ray-cluster.yaml, read by Ray's own launcher and autoscaler, on AWS as moto has it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.event_summarizer import EventSummarizer
from ray.autoscaler._private.node_launcher import BaseNodeLauncher
from ray.autoscaler._private.node_provider_availability_tracker import (
    NodeProviderAvailabilityTracker,
)
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.autoscaler._private.util import ConcurrentCounter, prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "ray-cluster.yaml"
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
TRIAL = {"CPU": 1.0}


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The file as Ray completes it."""
    prepared: dict[str, Any] = prepare_config(yaml.safe_load(FILE.read_text()))
    return prepared


@pytest.fixture
def aws(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The cluster after `ray up` has looked for networks, keys and roles in an account."""
    monkeypatch.setenv("HOME", str(tmp_path))  # for the key that it makes
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "of-moto")
    with mock_aws():
        roles = boto3.client("iam", region_name=cluster["provider"]["region"])
        for role in ("sam-study-head", "sam-study-worker"):
            roles.create_instance_profile(InstanceProfileName=role)
        yield AWSNodeProvider.bootstrap_config(cluster)


def kinds(cluster: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Head, spot workers, on-demand workers."""
    nodes = cluster["available_node_types"]
    assert set(nodes) == {"head", "gpu_spot", "gpu_on_demand"}
    return nodes["head"], nodes["gpu_spot"], nodes["gpu_on_demand"]


def starting(cluster: Mapping[str, Any], who: str) -> str:
    """The command that starts Ray on a kind of node."""
    [command] = [each for each in cluster[f"{who}_start_ray_commands"] if "ray start" in each]
    return str(command)


def test_ray_takes_it(cluster: dict[str, Any]) -> None:
    validate_config(cluster)


def test_no_trial_fits_on_the_head(cluster: dict[str, Any]) -> None:
    head, *workers = kinds(cluster)
    assert cluster["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert {"--num-cpus=0", "--num-gpus=0"} <= set(starting(cluster, "head").split())
    assert all(worker["resources"]["GPU"] >= 1 for worker in workers)


def test_workers_come_with_work_and_go_without_it(cluster: dict[str, Any]) -> None:
    head, spot, on_demand = kinds(cluster)
    assert head["max_workers"] == 0
    assert spot["min_workers"] == on_demand["min_workers"] == 0
    assert max(spot["max_workers"], on_demand["max_workers"]) <= cluster["max_workers"]
    assert 0 < cluster["idle_timeout_minutes"] <= 30


def test_the_two_kinds_of_workers_differ_in_how_they_are_bought_alone(
    cluster: dict[str, Any],
) -> None:
    _, spot, on_demand = kinds(cluster)
    bought = spot["node_config"].pop("InstanceMarketOptions")
    assert bought == {"MarketType": "spot"}
    assert spot["node_config"] == on_demand["node_config"]
    assert spot["resources"] == on_demand["resources"]


def test_the_head_keeps_its_disk(cluster: dict[str, Any]) -> None:
    head, *workers = kinds(cluster)
    for kind, kept in ((head, True), *((worker, False) for worker in workers)):
        [disk] = kind["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["DeleteOnTermination"] is not kept
        assert disk["Ebs"]["Encrypted"]


@pytest.mark.parametrize("who", ["head", "worker"])
def test_nobody_gets_in_without_the_token(cluster: dict[str, Any], who: str) -> None:
    before, _, _ = starting(cluster, who).partition("ray start")
    assert "RAY_AUTH_MODE=token" in before.split()
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_listens_to_the_head_alone(cluster: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in starting(cluster, "head").split()


def test_bash_can_read_every_command(cluster: dict[str, Any]) -> None:
    commands = [command for key in COMMANDS for command in cluster[key]]
    assert len(commands) >= 6
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_what_it_copies_and_runs_is_there(cluster: dict[str, Any]) -> None:
    mounts = dict(cluster["file_mounts"])
    del mounts["~/.ray/auth_token"]  # made by whoever starts a cluster
    assert all((ROOT / local).exists() for local in mounts.values())
    assert all(remote == f"~/sam-study/{local}" for remote, local in mounts.items())
    commands = " ".join(command for key in COMMANDS for command in cluster[key])
    ours = re.findall(r"~/sam-study/(\S+)", commands)
    assert {"deploy/node.sh", "deploy/head.sh"} == set(ours)
    assert all((ROOT / path).is_file() for path in ours)


def test_aws_gives_what_it_asks_for(aws: dict[str, Any]) -> None:
    region = aws["provider"]["region"]
    [rule] = [
        rule
        for group in boto3.client("ec2", region_name=region).describe_security_groups()[
            "SecurityGroups"
        ]
        if group["GroupName"] == "ray-autoscaler-sam-study"
        for rule in group["IpPermissions"]
        if rule["IpRanges"]
    ]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)  # nothing else from outside

    provider = AWSNodeProvider(aws["provider"], aws["cluster_name"])
    made: dict[str, Any] = {}
    for name, kind in aws["available_node_types"].items():
        tags = {
            "ray-node-type": "head" if name == "head" else "worker",
            "ray-launch-config": name,
            "ray-user-node-type": name,
        }
        [made[name]] = provider.create_node(kind["node_config"], tags, 1).values()
    roles = {name: node.iam_instance_profile["Arn"].split("/")[-1] for name, node in made.items()}
    assert roles == {
        "head": "sam-study-head",
        "gpu_spot": "sam-study-worker",
        "gpu_on_demand": "sam-study-worker",
    }
    spot = {name for name, node in made.items() if node.instance_lifecycle == "spot"}
    assert spot == {"gpu_spot"}

    provider.terminate_nodes([made["head"].id])  # as `ray down` does
    made["head"].reload()
    assert made["head"].state["Name"] == "stopped"


def test_on_demand_workers_come_where_spot_ones_are_not_to_be_had(
    aws: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = starting(aws, "head")
    [scorer] = re.findall(r"\bRAY_AUTOSCALER_UTILIZATION_SCORER=([^\s;]+)", start)
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", scorer)
    assert re.search(r"\bRAY_enable_autoscaler_v2=0\b", start)  # the only one that asks the scorer
    nodes = aws["available_node_types"]
    scheduler = ResourceDemandScheduler(
        None, nodes, aws["max_workers"], aws["head_node_type"], aws["upscaling_speed"]
    )
    late = 0.0
    known = NodeProviderAvailabilityTracker(timer=lambda: time.time() + late)
    launcher = BaseNodeLauncher(
        AWSNodeProvider(aws["provider"], aws["cluster_name"]),
        ConcurrentCounter(),
        EventSummarizer(),
        known,
        node_types=nodes,
    )

    def wanted(trials: int) -> dict[str, int]:
        chosen, _ = scheduler.get_nodes_to_launch(
            nodes=[],
            launching_nodes={"head": 1},
            resource_demands=[TRIAL] * trials,
            unused_resources_by_ip={},
            pending_placement_groups=[],
            max_resources_by_ip={},
            ensure_min_cluster_size=[],
            node_availability_summary=known.summary(),
        )
        return dict(chosen)

    def launch(kind: str) -> None:
        launcher.pending.inc(kind, 1)
        launcher.launch_node(aws, 1, kind)

    there = nodes["gpu_spot"]["node_config"]["SubnetIds"]
    assert wanted(0) == {}
    assert wanted(9) == {"gpu_spot": 3}
    nodes["gpu_spot"]["node_config"]["SubnetIds"] = ["subnet-0"]  # AWS refuses, as without capacity
    launch("gpu_spot")
    assert wanted(9) == {"gpu_on_demand": 3}
    launch("gpu_on_demand")
    assert wanted(9) == {"gpu_on_demand": 3}
    late = 31 * 60
    assert wanted(9) == {"gpu_spot": 3}
    late = 0
    nodes["gpu_spot"]["node_config"]["SubnetIds"] = there
    launch("gpu_spot")
    assert wanted(9) == {"gpu_spot": 3}
