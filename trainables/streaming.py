"""Images that stay in their files and are decoded when they are asked for. No torch."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trainables.data import Images
from trainables.data_error import DataError
from trainables.decoding import Encoded, decode_into

_AHEAD = 3
"""Batches that are being decoded while another is used."""
_BLOCK = 16
"""Files that a thread decodes at a time."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """What looks like a uint8 array [n, 3, H, H] where it is read at positions or at a slice.

    which: int64 [n], the number in `files` of each.
    """

    files: Encoded
    which: np.ndarray
    image_size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of the array."""
        return len(self.which), 3, self.image_size, self.image_size

    def __getitem__(self, positions: slice | np.ndarray) -> np.ndarray:
        wanted = np.arange(len(self.which))[positions]
        [images] = self.batches([wanted], os.cpu_count() or 1)
        return images

    def batches(
        self,
        positions: Iterable[np.ndarray],
        threads: int,
        draws: Callable[[int], np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """The images at each of these positions in turn, read and decoded some batches ahead, the
        same however many threads do it.

        draws: for batch number 0, 1, ... what decoding.window takes of each of its images; without
        it they are whole. Raises DataError for a file that is not, or no longer, an image.
        """
        wanted = (self.which[each] for each in positions)
        for numbers, images, decoded in decoded_batches(
            self.files, wanted, self.image_size, threads, draws
        ):
            if not decoded.all():
                name = self.files.name(numbers[np.argmin(decoded)])
                raise DataError(
                    f"{name} is missing or no longer the image that it was when the study began; "
                    "a folder that is streamed must stay as it is, on every node at the same path"
                )
            yield images


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """As data.Images, of images in files."""

    images: Streamed
    labels: np.ndarray


AnyImages: TypeAlias = Images | StreamedImages


class Pictures:
    """Arrays as if they were files. images: uint8 [n, 3, H, W]."""

    def __init__(self, images: np.ndarray) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def name(self, number: int) -> str:
        """As a message shows it."""
        return f"image {number}"

    def size(self, number: int) -> int:
        """In bytes, about."""
        return int(self._images[number].nbytes)

    def read(self, number: int) -> bytes:
        """A PNG file."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(self._images[number].transpose(1, 2, 0)).save(file, "PNG")
        return file.getvalue()


def decoded_batches(
    files: Encoded,
    wanted: Iterable[np.ndarray],
    image_size: int,
    threads: int,
    draws: Callable[[int], np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers of files, their images, and which of them decoded; some batches ahead."""
    pool = ThreadPoolExecutor(threads)

    def begun(batch: int, numbers: np.ndarray) -> _Batch:
        images = np.zeros((len(numbers), 3, image_size, image_size), np.uint8)
        decoded = np.zeros(len(numbers), bool)
        own = None if draws is None else draws(batch)
        parts = (slice(i, i + _BLOCK) for i in range(0, len(numbers), _BLOCK))
        work = [
            pool.submit(
                decode_into,
                files,
                numbers[part],
                images[part],
                decoded[part],
                None if own is None else own[part],
            )
            for part in parts
        ]
        return _Batch(numbers, images, decoded, work)

    under_way: deque[_Batch] = deque()
    try:
        for batch, numbers in enumerate(wanted):
            under_way.append(begun(batch, numbers))
            if len(under_way) > _AHEAD:
                yield under_way.popleft().finished()
        while under_way:
            yield under_way.popleft().finished()
    finally:  # also where nobody asks for the rest
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Batch:
    numbers: np.ndarray
    images: np.ndarray
    decoded: np.ndarray
    work: list[Future[None]]

    def finished(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        for each in self.work:
            each.result()
        return self.numbers, self.images, self.decoded
