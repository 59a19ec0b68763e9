"""GPUs that only Ray believes in: trials that hold some train on the CPU, in tests alone."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
import torch.distributed as dist
from ray.cluster_utils import Cluster
from torch import nn

from tests.study.command import ROOT

ON_CPU: Mapping[str, str] = {
    # Ray reads this where a job's own process starts, and calls the function in each of its others.
    "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(
        {"runtime_env": {"worker_process_setup_hook": f"{__name__}.train_on_cpu"}}
    ),
    "PYTHONPATH": str(ROOT),
}
"""Environment of a study whose trials train on the CPU whatever GPUs they hold."""
_PATIENCE = 200.0


def train_on_cpu() -> None:
    """Lets trials of this process train on the CPU."""
    from trainables import trainable

    trainable._device = lambda: "cpu"


@contextmanager
def clustered(*nodes: tuple[int, int]) -> Iterator[str]:
    """A cluster of nodes with so many CPUs and GPUs on this machine; gives its address."""
    cluster = Cluster()
    try:
        for cpus, gpus in nodes:
            cluster.add_node(num_cpus=cpus, num_gpus=gpus)
        yield cluster.address
    finally:
        cluster.shutdown()


def together(
    num_classes: int, in_channels: int, image_size: int, folder: str, trials: int
) -> nn.Module:
    """A model that is not built before as many trials are about to build theirs.

    folder: an empty one.
    """
    if ray.is_initialized() and ray.get_gpu_ids():  # and not where models are only checked
        (Path(folder) / uuid.uuid4().hex).touch()
        deadline = time.monotonic() + _PATIENCE
        while len(list(Path(folder).iterdir())) < trials:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {trials} trials at once")
            time.sleep(0.05)
    return _small(num_classes, in_channels, image_size)


def hanging(num_classes: int, in_channels: int, image_size: int, folder: str) -> nn.Module:
    """A model that hangs in its eighth pass, once, in the second worker of a trial.

    folder: an empty one.
    """
    passes = itertools.count(1)

    def hang(*_: object) -> None:
        if next(passes) == 8 and dist.is_initialized() and dist.get_rank() == 1:
            with suppress(FileExistsError):
                (Path(folder) / "hung").touch(exist_ok=False)
                time.sleep(10 * _PATIENCE)

    model = _small(num_classes, in_channels, image_size)
    model.register_forward_pre_hook(hang)
    return model


def _small(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_channels * image_size**2, num_classes),
        nn.LayerNorm(num_classes),
    )
