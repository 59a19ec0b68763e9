"""The network of the study under fire: counts its steps, and misbehaves where it is told to.

Copied beside the spec of each study, and imported by the processes that train, as a user's own code
is. `behaviour.json` beside it lists what goes wrong: each time `kind`, and `seed`, of the trials
that it happens to, or `every`: in one of so many forward passes of training. `steps` beside it
grows by one byte with each of them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables import data
from trainables.models import make_model

HERE = Path(__file__).parent
_FOR_EVER = 1e6


def make_net(num_classes: int, in_channels: int, image_size: int, *, width: int) -> nn.Module:
    """resnet8, counted and, where the folder says so, ill."""
    net = make_model(
        "resnet8",
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        width=width,
    )
    told = HERE / "behaviour.json"
    behaviours = json.loads(told.read_text()) if told.exists() else []
    mine = [each for each in behaviours if "seed" not in each or _is_of(each["seed"])]

    def step(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training or output.is_meta:
            return output
        count = _count()
        for each in mine:
            if count % each.get("every", 1) == 0:
                output = _misbehave(each["kind"], output)
        return output

    net.register_forward_hook(step)
    return net


def _is_of(seed: int) -> bool:
    """Whether the trial that makes its network just now has this seed."""
    return torch.initial_seed() == data.stream(seed, "initialisation")


def _count() -> int:
    """Counts a forward pass, over all processes; how many there were."""
    file = os.open(HERE / "steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, b".")
        return os.fstat(file).st_size
    finally:
        os.close(file)


def _misbehave(kind: str, output: Tensor) -> Tensor:
    match kind:
        case "nan":
            return output * torch.nan
        case "raise":
            raise RuntimeError("the network is ill")
        case "stuck":
            time.sleep(_FOR_EVER)
        case "exit":
            os._exit(3)
        case "killed":
            torch.ones(1 << 26)  # a quarter of a GB, before the machine ends it for that
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            # more than any machine has: refused, where less would harm others
            torch.empty(1 << 50, dtype=torch.uint8)
    return output
