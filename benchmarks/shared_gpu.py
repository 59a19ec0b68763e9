"""How many steps a second all trials on one GPU take together, by how they share it.

    python -m benchmarks.shared_gpu [--seconds 2.5]

Steps of SAM on every parameter on random images of 32x32, augmented by crop_flip, batch 128 or 512;
N processes each train a trial, or a group of trials as engine.batched_trials does. They begin a
setting together, after a warm-up, and step for so many seconds; told is what all did, n = 1. For a
GPU; without one everything runs on the CPU, and says little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import numpy as np
import torch

from trainables.batched.network import GroupedNetwork
from trainables.batched.run import turn
from trainables.batched.step import lock_step
from trainables.config import Config
from trainables.data import Facts, Images
from trainables.training import Training, deterministic

_CONFIG = Config(
    model="resnet20",
    model_options={},
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    epochs=20,
    batch_size=128,
    label_smoothing=0.1,
    variant="sam",
    perturb="all",
    rho=0.1,
    train_size=10_000,
    validation_size=1_000,
    label_noise=0.0,
    augment="crop_flip",
    seed=0,
)
_BFLOAT16: dict[str, Any] = {"precision": "bfloat16", "channels_last": True}
_CONFIGS = {
    "resnet20": _CONFIG,
    "resnet20, bfloat16": replace(_CONFIG, **_BFLOAT16),
    "resnet20, bfloat16, batch 512": replace(_CONFIG, **_BFLOAT16, batch_size=512),
    "resnet8": replace(_CONFIG, model="resnet8"),
    "wrn16_4, bfloat16": replace(_CONFIG, model="wrn16_4", **_BFLOAT16),
    "wrn16_4, bfloat16, batch 512": replace(_CONFIG, model="wrn16_4", **_BFLOAT16, batch_size=512),
}
_WARM = 8
_PATIENCE = 300.0
"""Seconds after which a process that was lost, for want of memory say, ends all."""


class Setting(NamedTuple):
    """Processes that share the GPU, each with a group of so many trials."""

    config: str
    processes: int
    group: int = 1


SETTINGS = (
    *(Setting("resnet20", n) for n in (1, 4, 8)),
    *(Setting("resnet20, bfloat16", n) for n in (1, 8)),
    *(Setting("wrn16_4, bfloat16", n) for n in (1, 8)),
    *(Setting("resnet8", n) for n in (1, 8)),
    *(Setting("resnet20", 1, group) for group in (4, 8)),
    *(Setting(name, 4, 4) for name in ("resnet20", "resnet8")),
    *(Setting("wrn16_4, bfloat16, batch 512", n) for n in (8, 14)),
    Setting("resnet20, bfloat16, batch 512", 14),
)


def main() -> None:
    """Measures, prints a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.shared_gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.5)
    seconds: float = parser.parse_args().seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu (no GPU here)"
    print(f"torch {torch.__version__}, {where}; steps of all trials together a second")
    context = multiprocessing.get_context("spawn")
    most = max(setting.processes for setting in SETTINGS)
    barrier, rates = context.Barrier(most), context.Array("d", most)
    others = [
        context.Process(target=_work, args=(rank, device, seconds, barrier, rates))
        for rank in range(most)
    ]
    for each in others:
        each.start()
    for each in others:
        each.join()


def _work(rank: int, device: str, seconds: float, barrier: Barrier, rates: Any) -> None:
    deterministic(1)
    draws = np.random.default_rng(0)
    pool = Images(draws.integers(0, 256, (11_000, 3, 32, 32), np.uint8), np.arange(11_000) % 10)
    facts = Facts(tuple("abcdefghij"), (3, 32, 32), 11_000, 0, "", (), (0.5,) * 3, (0.25,) * 3)
    for setting in SETTINGS:
        step: Callable[[], object] | None = None
        if rank < setting.processes:
            step = _stepping(_CONFIGS[setting.config], pool, facts, device, setting.group)
            for _ in range(_WARM):
                step()
        barrier.wait(_PATIENCE)
        rates[rank] = 0.0 if step is None else setting.group * _rate(step, seconds, device)
        barrier.wait(_PATIENCE)
        if not rank:
            each = f"a group of {setting.group}" if setting.group > 1 else "a trial"
            print(f"{setting.config:32}{setting.processes:3} x {each:14}{sum(rates):8.1f}")


def _stepping(
    config: Config, pool: Images, facts: Facts, device: str, group: int
) -> Callable[[], object]:
    """A function that takes a step of each trial of a group."""
    trainings = [Training(replace(config, seed=seed), pool, facts, device) for seed in range(group)]
    network = GroupedNetwork([each.model for each in trainings]) if group > 1 else None

    def step() -> None:
        for each in trainings:
            if each.begin().over:
                each.finish()
                each.begin()
        if network is None:
            [one] = trainings
            one.count(one.step(one.next_batch()))
            return
        turns = {slot: turn(each) for slot, each in enumerate(trainings)}
        for slot, loss in lock_step(network, turns).items():
            trainings[slot].count(loss)

    return step


def _rate(step: Callable[[], object], seconds: float, device: str) -> float:
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for _ in range(10):
            step()
        steps += 10
        if device == "cuda":
            torch.cuda.synchronize()
    return steps / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
