"""Which forward passes update the running statistics of normalization layers, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.sam.subsets import norm_layers

Run: TypeAlias = Callable[[], AbstractContextManager[None]]


class RunningStatistics:
    """The running statistics of the normalization layers of a model."""

    def __init__(self, model: nn.Module) -> None:
        layers = norm_layers(model)
        self.layers = [layer for layer in layers if any(True for _ in layer.buffers(recurse=False))]
        self._switched = [layer for layer in self.layers if isinstance(layer, _BatchNorm)]
        # InstanceNorm, EvoNorm-B and InplaceABN update their buffers whatever the flag says.
        self._copied = [layer for layer in self.layers if not isinstance(layer, _BatchNorm)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, training passes leave the statistics and their counters as they are.

        May be nested. Layers in evaluation mode go on normalizing with their statistics.
        """
        switched = [layer for layer in self._switched if layer.track_running_stats]
        for layer in switched:
            layer.track_running_stats = False
        try:
            with _restored(_buffers(self._copied)):
                yield
        finally:
            for layer in switched:
                layer.track_running_stats = True

    def restored(self) -> AbstractContextManager[None]:
        """Inside, whoever shares the memory of the statistics may change them; afterwards they are
        as before."""
        return _restored(_buffers(self.layers))

    @contextmanager
    def averaged(self, runs: int) -> Iterator[Run]:
        """Inside, each of `runs` blocks under the function that is given starts from the statistics
        as they are now; afterwards they hold the mean of what the blocks left.

        So a batch in parts is one update with the mean over its parts, whatever the momentum.
        """
        buffers = _buffers(self.layers) if runs > 1 else []
        if not buffers:
            yield nullcontext
            return
        before = [buffer.clone() for buffer in buffers]
        means = [torch.zeros_like(b) if b.is_floating_point() else None for b in buffers]

        @contextmanager
        def run() -> Iterator[None]:
            torch._foreach_copy_(buffers, before)
            yield
            for mean, buffer in zip(means, buffers, strict=True):
                if mean is not None:
                    mean.add_(buffer, alpha=1 / runs)

        yield run
        for mean, buffer in zip(means, buffers, strict=True):
            if mean is not None:  # a counter has gone up by one in each run
                buffer.copy_(mean)

    def moving(self) -> list[Tensor]:
        """The statistics that are numbers with fractions: what replicas have to agree on."""
        return [buffer for buffer in _buffers(self.layers) if buffer.is_floating_point()]


@contextmanager
def _restored(buffers: list[Tensor]) -> Iterator[None]:
    copies = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if copies:
            torch._foreach_copy_(buffers, copies)


def _buffers(layers: list[nn.Module]) -> list[Tensor]:
    return [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
