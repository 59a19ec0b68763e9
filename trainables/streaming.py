"""Images that stay in their files and are decoded when they are asked for. No torch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trainables.data import Images
from trainables.data_error import DataError
from trainables.decoding import Encoded, cores, decoded_batches


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
        [images] = self.batches([wanted], cores())
        return images

    def batches(
        self,
        positions: Iterable[np.ndarray],
        decoders: Executor | int,
        draws: Callable[[int], np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """The images at each of these positions in turn, read and decoded some batches ahead, the
        same whoever does it.

        decoders, draws: as of decoding.decoded_batches. Raises DataError as that, and for a file
        that is not, or no longer, an image.
        """
        wanted = (self.which[each] for each in positions)
        for numbers, images, decoded in decoded_batches(
            self.files, wanted, self.image_size, decoders, draws
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

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._images)

    def part(self, numbers: np.ndarray) -> Pictures:
        """Those of these numbers, numbered anew."""
        return Pictures(self._images[numbers])

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
