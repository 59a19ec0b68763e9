"""What a variant keeps from step to step: nested lists and tuples of tensors, and plain values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def kept(old: Any, new: Any, skipped: Tensor) -> Any:
    """`new`, or on the device `old` where the step was skipped; zeros where there is no old one."""
    if isinstance(new, Tensor):
        if not isinstance(old, Tensor):
            old = torch.zeros_like(new)
        # Two batches may differ in size.
        return torch.where(skipped > 0, old, new) if old.shape == new.shape else new
    if isinstance(new, (list, tuple)):
        before = (
            old if isinstance(old, (list, tuple)) and len(old) == len(new) else [None] * len(new)
        )
        return type(new)(kept(a, b, skipped) for a, b in zip(before, new, strict=True))
    return new


def on_device(value: Any, device: torch.device) -> Any:
    """A copy of `value` with every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, dict):
        return {key: on_device(part, device) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_device(part, device) for part in value)
    return value
