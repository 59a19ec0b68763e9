"""Image files to arrays of one size."""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trainables.data_error import DataError, shown

if TYPE_CHECKING:
    from PIL import Image

# Pillow opens more, but some of it runs another program (EPS) or has no magic number (TGA).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_MAX_BYTES = 256 * 2**20
"""Of an image file; a larger one counts as undecodable, unread."""
_LARGE_BYTES, _LARGE_PIXELS = 16 * 2**20, 4 * 2**20

_AHEAD = 3
"""Batches that are being decoded while another is used."""
_BLOCK = 16
"""Files that a thread or process decodes at a time."""

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
WINDOW_DRAWS = 2 * _TRIES + 2
"""Numbers that `window` takes."""

_one_large = threading.RLock()
"""Held by the thread that decodes a large file, so that those of a process share the memory of
one."""


class Encoded(Protocol):
    """`count` image files by number, from 0 on."""

    @property
    def count(self) -> int:
        """How many there are."""

    def part(self, numbers: np.ndarray) -> Encoded:
        """Those of these numbers, numbered anew."""

    def name(self, number: int) -> str:
        """As a message shows it."""

    def size(self, number: int) -> int:
        """In bytes, before it is read."""

    def read(self, number: int) -> bytes:
        """What it holds, nothing where that is no image. Raises DataError where it may not be
        read."""


@dataclass(frozen=True, eq=False)
class Files:
    """Files below a folder. names: bytes, relative to root [n]; sizes: int64 in bytes [n]."""

    root: str
    names: np.ndarray
    sizes: np.ndarray

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.sizes)

    def part(self, numbers: np.ndarray) -> Files:
        """Those of these numbers, numbered anew."""
        return Files(self.root, self.names[numbers], self.sizes[numbers])

    def name(self, number: int) -> str:
        """As a message shows it."""
        return shown(self._path(number))

    def size(self, number: int) -> int:
        """In bytes, as it was listed."""
        return int(self.sizes[number])

    def read(self, number: int) -> bytes:
        """What it holds, nothing where that is no image. Raises DataError where it may not be
        read."""
        path = self._path(number)
        try:
            # A pipe, and a link to nowhere or to itself, count as files that do not decode. What
            # has no size, as the files of /proc, may never end.
            if not path.is_file() or not 0 < path.stat().st_size <= _MAX_BYTES:
                return b""
            data = path.read_bytes()
        except OSError as error:
            # Not counted so: the file may be fine, and the cache would leave it out for ever.
            raise DataError(f"cannot read {shown(path)}: {error.strerror}") from error
        return data if len(data) == self.size(number) else b""  # not what was listed

    def _path(self, number: int) -> Path:
        return Path(self.root, os.fsdecode(self.names[number]))


def decoded_batches(
    files: Encoded,
    wanted: Iterable[np.ndarray],
    image_size: int,
    decoders: Executor | int,
    draws: Callable[[int], np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Numbers of files, their images, and which of them decoded; some batches ahead.

    decoders: processes, or how many threads of this one. draws: of batch 0, 1, ... as of `window`
    [n, WINDOW_DRAWS]; without it images are whole. Raises DataError where a file may not be read,
    or a process ended.
    """
    pool = ThreadPoolExecutor(decoders) if isinstance(decoders, int) else decoders

    def begun(batch: int, numbers: np.ndarray) -> _Batch:
        own = None if draws is None else draws(batch)
        parts = [slice(i, i + _BLOCK) for i in range(0, max(1, len(numbers)), _BLOCK)]
        work = [
            pool.submit(
                _decode_block,
                files.part(numbers[part]),
                image_size,
                None if own is None else own[part],
            )
            for part in parts
        ]
        return _Batch(numbers, work)

    under_way: deque[_Batch] = deque()
    try:
        for batch, numbers in enumerate(wanted):
            under_way.append(begun(batch, numbers))
            if len(under_way) > _AHEAD:
                yield under_way.popleft().finished()
        while under_way:
            yield under_way.popleft().finished()
    except BrokenExecutor as error:
        raise DataError(
            "a process that decodes images was ended, perhaps by the system for want of memory; "
            "with a smaller resources.cpu there are fewer of them"
        ) from error
    finally:  # also where nobody asks for the rest
        if isinstance(decoders, int):
            pool.shutdown(wait=False, cancel_futures=True)


def decode(data: bytes, image_size: int, draws: np.ndarray | None = None) -> np.ndarray:
    """One image file as uint8 [3, image_size, image_size]: shorter side resized, then centre crop;
    with draws, as of `window`, that window of it resized.

    Its EXIF orientation is applied, transparency shows white, 16-bit grey is scaled by 1/257, of
    an animation the first frame counts. Raises whatever Pillow raises, and ValueError for pixels
    without an agreed scale (float, 32 bits).
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and width * height > most:  # Pillow only warns, up to twice as many
            raise ValueError(f"{width} x {height} pixels are more than {most}")
        wanted = 2 * image_size, 2 * image_size
        if draws is not None:
            left, top, right, bottom = window(width, height, draws)
            wanted = (
                math.ceil(2 * image_size * width / (right - left)),
                math.ceil(2 * image_size * height / (bottom - top)),
            )
        # A large JPEG is decoded at a half, quarter or eighth, still twice the size asked for.
        image.draft(None, wanted)
        with _in_turn(image.width * image.height > _LARGE_PIXELS):
            image.load()
            if draws is not None:
                across, down = image.width / width, image.height / height
                whole: Image.Image = image
                image = whole.crop(  # type: ignore[assignment]
                    (
                        round(left * across),
                        round(top * down),
                        max(round(right * across), round(left * across) + 1),
                        max(round(bottom * down), round(top * down) + 1),
                    )
                )
            with contextlib.suppress(SyntaxError):  # a damaged EXIF block says no orientation
                ImageOps.exif_transpose(image, in_place=True)
            square = _rgb(image)
    if draws is not None:
        square = square.resize((image_size, image_size), Image.Resampling.BILINEAR)
        return np.asarray(square).transpose(2, 0, 1)
    side = min(square.size)
    x, y = (square.width - side) / 2, (square.height - side) / 2
    # Resizing only the centre square is resizing and cropping in one step.
    square = square.resize(
        (image_size, image_size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side)
    )
    return np.asarray(square).transpose(2, 0, 1)


def window(width: int, height: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random part of an image, in pixels: 8 to 100 % of its area
    and 3:4 to 4:3 in shape, as torchvision's RandomResizedCrop by default.

    draws: [WINDOW_DRAWS], uniform between 0 and 1. Where none of ten windows fits, the largest one
    in the centre of such a shape.
    """
    for area, shape in draws[:-2].reshape(_TRIES, 2):
        wanted = width * height * (_AREA[0] + area * (_AREA[1] - _AREA[0]))
        ratio = _RATIO[0] * (_RATIO[1] / _RATIO[0]) ** shape
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws[-2] * (width - w + 1)), int(draws[-1] * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * _RATIO[1])))
    h = min(height, max(1, round(width / _RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps what Pillow has to say of a damaged image from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def cores() -> int:
    """Of this machine, those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class _Batch:
    numbers: np.ndarray
    work: list[Future[tuple[np.ndarray, np.ndarray]]]

    def finished(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images, decoded = zip(*(each.result() for each in self.work), strict=True)
        return self.numbers, np.concatenate(images), np.concatenate(decoded)


def _decode_block(
    files: Encoded, image_size: int, draws: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """All of these files as images uint8 [n, 3, H, H], and which could be decoded, bool [n]; draws
    as of `window` [n, WINDOW_DRAWS], none for the whole.

    Raises DataError where a file may not be read.
    """
    images = np.zeros((files.count, 3, image_size, image_size), np.uint8)
    decoded = np.zeros(files.count, bool)
    for number in range(files.count):
        with _in_turn(files.size(number) > _LARGE_BYTES):
            data = files.read(number)
            try:
                own = None if draws is None else draws[number]
                images[number] = decode(data, image_size, own)
                decoded[number] = True
            except MemoryError:
                raise
            except Exception:  # noqa: S110  Pillow fails in many ways; decoded tells which file
                pass
    return images, decoded


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"mode {image.mode} has no agreed scale")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _in_turn(large: bool) -> contextlib.AbstractContextManager[object]:
    return _one_large if large else contextlib.nullcontext()
