"""Changes to parameters that last for one pass and are undone whatever happens in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainables.sam.geometry import Tensors


@contextmanager
def shifted(parameters: Tensors, shift: Tensors) -> Iterator[None]:
    """Inside, `parameters` are moved by `shift`; afterwards they hold the same bits as before."""
    with torch.no_grad():
        backup = torch._foreach_clone(parameters)
    try:
        with torch.no_grad():
            torch._foreach_add_(parameters, shift)
        # Autocast keeps low-precision copies of weights and does not see that they changed.
        torch.clear_autocast_cache()
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, backup)
        torch.clear_autocast_cache()


@contextmanager
def frozen(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside, no gradient of `parameters` is computed and no activation is kept for one."""
    trainable = [p for p in parameters if p.requires_grad]
    try:
        for p in trainable:
            p.requires_grad = False
        yield
    finally:
        for p in trainable:
            p.requires_grad = True
