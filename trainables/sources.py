"""Where a trial's batches of images come from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.streaming import Streamed


class Source(Protocol):
    """Images uint8 [n, C, H, W], by position."""

    def batches(
        self, positions: Tensor, size: int, draws: Callable[[int], np.ndarray] | None
    ) -> Iterator[Tensor]:
        """The images at these positions, on the device, `size` at a time and in the end the rest.

        draws: as of Streamed.batches, where windows are cut out of the files.
        """


def source(images: np.ndarray | Streamed, device: torch.device) -> Source:
    """Of images that lie in memory, and then on the device, or in files."""
    if isinstance(images, Streamed):
        return _Files(images, device)
    return _Memory(on_device(images, device))


def on_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The array as a tensor on the device, without a copy where it lies there already."""
    # Arrays from Ray's object store are read-only, which torch has no word for; nothing here
    # writes to them.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


class _Memory:
    def __init__(self, images: Tensor) -> None:
        self._images = images

    def batches(
        self, positions: Tensor, size: int, draws: Callable[[int], np.ndarray] | None
    ) -> Iterator[Tensor]:
        for part in torch.split(positions, size):
            yield self._images[part]


class _Files:
    def __init__(self, images: Streamed, device: torch.device) -> None:
        self._images = images
        self._device = device

    def batches(
        self, positions: Tensor, size: int, draws: Callable[[int], np.ndarray] | None
    ) -> Iterator[Tensor]:
        parts = [part.numpy() for part in torch.split(positions.cpu(), size)]
        # As many threads as the trial holds cores: on a GPU they have little else to do.
        for images in self._images.batches(parts, torch.get_num_threads(), draws):
            batch = torch.from_numpy(images)
            if self._device.type == "cuda":  # nobody waits for a copy from pinned memory
                batch = batch.pin_memory()
            yield batch.to(self._device, non_blocking=True)
