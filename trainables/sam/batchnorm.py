"""Which forward passes update the running statistics of normalization layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.sam.subsets import norm_layers


class RunningStatistics:
    """The running statistics of the normalization layers of a model."""

    def __init__(self, model: nn.Module) -> None:
        layers = norm_layers(model)
        self._switched = [layer for layer in layers if isinstance(layer, _BatchNorm)]
        # InstanceNorm, EvoNorm-B and InplaceABN update their buffers whatever the flag says.
        self._copied: list[Tensor] = [
            buffer
            for layer in layers
            if not isinstance(layer, _BatchNorm)
            for buffer in layer.buffers(recurse=False)
        ]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, training passes leave the statistics and their counters as they are.

        May be nested. Layers in evaluation mode go on normalizing with their statistics.
        """
        switched = [layer for layer in self._switched if layer.track_running_stats]
        copies = [buffer.clone() for buffer in self._copied]
        for layer in switched:
            layer.track_running_stats = False
        try:
            yield
        finally:
            for layer in switched:
                layer.track_running_stats = True
            if copies:
                torch._foreach_copy_(self._copied, copies)
