"""When a step perturbs and how far: decisions without a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Epoch = tuple[int, int]
"""The epoch, counted from 0, and how many there are."""


def perturbs(options: Mapping[str, Any], epoch: Epoch | None, steps: int) -> bool:
    """Whether the step after `steps` others perturbs, by start_epoch, end_epoch and every.

    Raises RuntimeError where an option depends on the epoch and nobody told it.
    """
    start, end = options["start_epoch"], options["end_epoch"]
    scheduled = options["rho_schedule"] in ("linear", "cosine")
    if epoch is None and (start > 0 or end is not None or scheduled):
        raise RuntimeError(
            "start_epoch, end_epoch and rho_schedule need to know the epoch: call "
            "begin_epoch(epoch, epochs) before the first step of each"
        )
    if epoch is not None and (epoch[0] < start or (end is not None and epoch[0] >= end)):
        return False
    every: int = options.get("every", 1)
    return steps % every == 0


def scheduled_rho(
    options: Mapping[str, Any], group: Mapping[str, Any], epoch: Epoch | None
) -> float:
    """rho of a parameter group by its rho_schedule; docs/variants.md has the formulas.

    linear and cosine need `epoch`, which `perturbs` has asked for.
    """
    schedule, end = options["rho_schedule"], options["rho_end"]
    rho: float = group["rho"]
    if schedule == "constant":
        return rho
    if schedule == "lr":
        return float(rho * (end + (1 - end) * group["lr"] / group["initial_lr"]))
    assert epoch is not None
    number, count = epoch
    progress = number / (count - 1) if count > 1 else 0.0
    if schedule == "linear":
        return float(rho * (1 - progress + progress * end))
    return float(rho * (end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2))
