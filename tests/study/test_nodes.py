"""What every node of a cluster must have, and what is told where one has not."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from study import nodes
from study.home import Home

pytestmark = pytest.mark.ray

HERE = {"torch": "2.14.1", "code": "abc"}


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({"versions": HERE, "token": "t"}, None),
        (
            {"versions": {**HERE, "torch": "2.13.0"}, "token": "t"},
            "has other versions, so its numbers would differ: torch 2.13.0, here 2.14.1",
        ),
        (
            {"versions": HERE, "token": "no: [Errno 2] No such file or directory"},
            "does not see /data/studies, where trials keep checkpoints; name a place that all "
            "nodes share with --storage: a mounted folder, or s3://BUCKET/FOLDER",
        ),
    ],
)
def test_a_node_that_cannot_take_part_is_told(seen: dict[str, object], told: str | None) -> None:
    assert nodes.problem(seen, HERE, "t", "/data/studies") == told


def test_nodes_that_share_storage_and_versions_pass(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        nodes.check(Home(tmp_path, "tiny"))
        assert list(tmp_path.iterdir()) == []
    finally:
        ray.shutdown()
        cluster.shutdown()
