"""Where a trial's batches of images come from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.decoders import decoders
from trainables.streaming import Streamed


class Source(Protocol):
    """Images uint8 [n, C, H, W], by position."""

    def batches(
        self, positions: Sequence[Tensor], draws: Callable[[int], np.ndarray] | None = None
    ) -> Iterator[Tensor]:
        """The images at each of these positions in turn, on the device.

        draws: as of Streamed.batches, where windows are cut out of the files. Raises ValueError
        where images that lie in memory are to be cut.
        """


def source(images: np.ndarray | Streamed, device: torch.device) -> Source:
    """Of images that lie in memory, and then on the device, or in files."""
    if isinstance(images, Streamed):
        return _Files(images, device)
    return _Memory(as_tensor(images, device))


def as_tensor(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
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
        self, positions: Sequence[Tensor], draws: Callable[[int], np.ndarray] | None = None
    ) -> Iterator[Tensor]:
        if draws is not None:
            raise ValueError("windows are cut out of files, and these images lie in memory")
        return (self._images[each] for each in positions)


class _Files:
    def __init__(self, images: Streamed, device: torch.device) -> None:
        self._images = images
        self._device = device

    def batches(
        self, positions: Sequence[Tensor], draws: Callable[[int], np.ndarray] | None = None
    ) -> Iterator[Tensor]:
        if not positions:
            return
        every = torch.cat(list(positions)).cpu()  # the device is waited for once
        parts = [part.numpy() for part in torch.split(every, [len(each) for each in positions])]
        for images in self._images.batches(parts, decoders(torch.get_num_threads()), draws):
            batch = torch.from_numpy(images)
            if self._device.type == "cuda":  # nobody waits for a copy from pinned memory
                batch = batch.pin_memory()
            yield batch.to(self._device, non_blocking=True)
