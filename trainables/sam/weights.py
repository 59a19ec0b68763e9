"""Changes to parameters that last for one pass and are undone whatever happens in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


def cuda_devices(parameters: Iterable[Tensor]) -> list[torch.device]:
    """Where parameters lie, but for the CPU; in an order that does not change."""
    return sorted({p.device for p in parameters if p.is_cuda}, key=str)


def random_states(devices: Iterable[torch.device]) -> list[Tensor]:
    """Where torch's global generators are: that of the CPU, then those of these CUDA devices."""
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


class RandomNumbers:
    """The random numbers that layers such as dropout draw from torch's global generators.

    replay: give every slice the same ones in all passes of a step.
    """

    def __init__(self, parameters: Sequence[Tensor], *, replay: bool) -> None:
        self._devices = cuda_devices(parameters) if replay else []
        self._replay = replay
        self._states: dict[tuple[int, int], list[Tensor]] = {}

    @contextmanager
    def of(self, index: tuple[int, int]) -> Iterator[None]:
        """Inside, the slice of this chunk and number draws what it drew in the first pass."""
        if self._replay:
            if index in self._states:
                self._set(self._states[index])
            else:
                self._states[index] = random_states(self._devices)
        yield

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for device, state in zip(self._devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
