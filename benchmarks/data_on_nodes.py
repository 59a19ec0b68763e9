"""What a data set costs the nodes of a cluster: loaded once, sent to each node once, then shared.

    python -m benchmarks.data_on_nodes [--images 50000] [--trials 4] [--rounds 5]

A cluster of two nodes on this machine, linked as nodes are, by their object stores. Images of
CIFAR's shape are put into the store of one; processes on the other take them, as trials do, one
after another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

_STORE = 2_000_000_000  # bytes of each node's object store


class Trial:
    """A process that trains, as far as its images are concerned."""

    def take(self, images: Sequence[Any]) -> Mapping[str, float]:
        """Gets the images and reads all of them; seconds until they were there, and bytes that this
        process alone holds of them."""
        before, begun = _private(), time.perf_counter()
        [array] = ray.get(list(images))
        seconds = time.perf_counter() - begun
        array.max()
        self._array = array
        return {"seconds": seconds, "private": _private() - before}


def _private() -> int:
    """Bytes of memory that no other process shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    values = [line.split() for line in lines if line.startswith("Private_")]
    return sum(1024 * int(value[1]) for value in values)


def measure(images: int, trials: int) -> dict[str, Any]:
    """One round: the first process on the other node, and those after it."""
    pool = np.random.default_rng(0).integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    begun = time.perf_counter()
    stored = ray.put(pool)
    put = time.perf_counter() - begun
    actor = ray.remote(Trial).options(num_cpus=1, resources={"other": 1})
    there = [actor.remote() for _ in range(trials)]
    ray.get([each.__ray_ready__.remote() for each in there])
    taken = [ray.get(each.take.remote([stored])) for each in there]
    for each in there:
        ray.kill(each)
    return {"bytes": pool.nbytes, "put": put, "taken": taken}


def main() -> None:
    """Prints a table and writes data_on_nodes.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False},
    )
    cluster.add_node(
        num_cpus=options.trials,
        resources={"other": options.trials},
        object_store_memory=_STORE,
    )
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=50)
        cluster.wait_for_nodes()
        rounds = [measure(options.images, options.trials) for _ in range(options.rounds)]
    finally:
        ray.shutdown()
        cluster.shutdown()
    size = rounds[0]["bytes"]
    first = [each["taken"][0] for each in rounds]
    later = [trial for each in rounds for trial in each["taken"][1:]]
    print(f"{options.images:,} images, {size / 1e6:.0f} MB, {options.rounds} rounds")
    _line("into the store of its node", [each["put"] for each in rounds])
    _line("first process on another node: sent there", [each["seconds"] for each in first])
    _line("every other process there", [each["seconds"] for each in later])
    held = max(each["private"] for each in [*first, *later])
    print(f"memory of a process's own: at most {held / 1e6:.1f} MB of the {size / 1e6:.0f}")
    Path("data_on_nodes.json").write_text(json.dumps(rounds, indent=2) + "\n")


def _line(title: str, seconds: Sequence[float]) -> None:
    milliseconds = [1000 * each for each in seconds]
    print(
        f"{title}: median {median(milliseconds):.1f} ms, {min(milliseconds):.1f} to "
        f"{max(milliseconds):.1f}, n = {len(milliseconds)}"
    )


if __name__ == "__main__":
    main()
