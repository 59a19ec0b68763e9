"""A folder of image files as one uint8 array, decoded once and then read from a cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from trainables.whole import written_whole

if TYPE_CHECKING:
    from PIL import Image

Part = Literal["train", "test"]

_LAYOUT = "expected ROOT/train/CLASS/ and ROOT/test/CLASS/ with image files in every CLASS folder"
_NOT_IMAGES = {"thumbs.db", "desktop.ini"}
# Pillow opens more, but some of it runs another program (EPS) or has no magic number (TGA).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_CACHE_VERSION = 1
_MAX_BYTES = 256 * 2**20
"""Of an image file; a larger one counts as undecodable, unread."""
_LARGE_BYTES, _LARGE_PIXELS = 16 * 2**20, 4 * 2**20
_BLOCK = 128
"""Files that a thread decodes at a time."""


_one_large = threading.RLock()
"""Held by the thread that decodes a large file, so that all threads share the memory of one."""


class DataError(ValueError):
    """A data set that cannot be used as asked; the message is for the user."""


@dataclass(frozen=True)
class Listing:
    """What lies in one part of a folder; nothing is opened.

    classes: sorted, in Unicode NFC. files: relative to root, sorted within their class.
    labels: class index of each file. stamps: size in bytes and time of change in ns of each file.
    """

    root: Path
    part: Part
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    stamps: tuple[tuple[int, int], ...]


def list_part(root: str | Path, part: Part) -> Listing:
    """List ROOT/PART/CLASS/..., skipping hidden files, Thumbs.db and desktop.ini.

    Raises DataError where the folder, its classes or a class's files are missing.
    """
    try:
        return _listed(Path(os.path.expanduser(root)).absolute(), part)
    except OSError as error:
        raise DataError(f"cannot read {shown(error.filename or root)}: {error.strerror}") from None


def _listed(root: Path, part: Part) -> Listing:
    top = root / part
    if not top.is_dir():
        folder = shown(root)
        where = f"{folder} holds {_names(root)}" if root.is_dir() else f"{folder} is no folder"
        raise DataError(f"no folder {shown(top)}: {where}; {_LAYOUT}")
    folders: dict[str, Path] = {}
    for entry in top.iterdir():
        if entry.name.startswith(".") or not entry.is_dir() or _holds(entry, top):
            continue
        name = _printable(entry.name)
        if name in folders:
            raise DataError(f"two folders of {shown(top)} are both named {name!r} (Unicode NFC)")
        folders[name] = entry
    if len(folders) < 2:
        raise DataError(
            f"{shown(top)} needs at least two class folders, it holds {_names(top)}; {_LAYOUT}"
        )
    classes = tuple(sorted(folders))
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(_files(folders[name], root), key=_printable)
        if not found:
            raise DataError(f"class {name!r} has no files: {shown(folders[name])} is empty")
        files += found
        labels += [label] * len(found)
    stamps = tuple(_stamp(root / file) for file in files)
    return Listing(root, part, classes, tuple(files), tuple(labels), stamps)


def decode_part(listing: Listing, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a listing as uint8 [n, 3, image_size, image_size], and bool [files]: which decoded.

    The images are those of the decoded files, in order; read-only. They come from the cache, or
    else are decoded and put there; without a writable cache folder a warning is given.
    Raises DataError for a file that may not be read and a class without a decoded image.
    """
    cached = _load(listing, image_size)
    images, decoded = cached or _decode_all(listing, image_size)
    if cached is None:
        try:
            _store(listing, image_size, images, decoded)
        except OSError as error:
            warnings.warn(
                f"decoded images are not kept, the next run decodes again: {error}", stacklevel=2
            )
    counts = np.bincount(np.array(listing.labels)[decoded], minlength=len(listing.classes))
    for name, count in zip(listing.classes, counts, strict=True):
        if not count:
            where = shown(listing.root / listing.part)
            raise DataError(f"class {name!r} of {where}: nothing decodable")
    return images, decoded


def undecodable(listing: Listing, decoded: np.ndarray) -> tuple[str, ...]:
    """Paths, relative to root, of the files that did not decode."""
    return tuple(shown(listing.files[i]) for i in np.flatnonzero(~decoded))


def decode(data: bytes, image_size: int) -> np.ndarray:
    """One image file as uint8 [3, image_size, image_size]: shorter side resized, then centre crop.

    Its EXIF orientation is applied, transparency shows white, 16-bit grey is scaled by 1/257, of
    an animation the first frame counts. Raises whatever Pillow raises, and ValueError for pixels
    without an agreed scale (float, 32 bits).
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        # A large JPEG is decoded at a half, quarter or eighth, still twice the size asked for.
        image.draft(None, (2 * image_size, 2 * image_size))
        with _turn(image.width * image.height > _LARGE_PIXELS):
            image.load()
            with contextlib.suppress(SyntaxError):  # a damaged EXIF block says no orientation
                ImageOps.exif_transpose(image, in_place=True)
            square = _rgb(image)
    side = min(square.size)
    left, top = (square.width - side) / 2, (square.height - side) / 2
    # Resizing only the centre square is resizing and cropping in one step.
    square = square.resize(
        (image_size, image_size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
    )
    return np.asarray(square).transpose(2, 0, 1)


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


def _decode_all(listing: Listing, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    count = len(listing.files)
    images = np.zeros((count, 3, image_size, image_size), np.uint8)
    decoded = np.zeros(count, bool)

    def block(start: int) -> None:
        for i in range(start, min(start + _BLOCK, count)):
            with _turn(listing.stamps[i][0] > _LARGE_BYTES):
                data = _read(listing.root / listing.files[i])
                try:
                    images[i] = decode(data, image_size)
                    decoded[i] = True
                except MemoryError:
                    raise
                except Exception:  # noqa: S110  Pillow fails in many ways; decoded tells which file
                    pass

    # Tiny files are mostly work in Python, where threads get in each other's way: 2 of them take
    # twice the time of one for CIFAR-10.
    tiny = sum(size for size, _ in listing.stamps) < 4096 * count
    workers = 1 if tiny else min(8, os.cpu_count() or 1)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as threads:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        list(threads.map(block, range(0, count, _BLOCK)))
    images = images if decoded.all() else images[decoded]
    images.flags.writeable = False
    return images, decoded


def _turn(large: bool) -> contextlib.AbstractContextManager[object]:
    return _one_large if large else contextlib.nullcontext()


def _read(path: Path) -> bytes:
    try:
        # A pipe, and a link to nowhere or to itself, count as files that do not decode. What has
        # no size, as the files of /proc, may never end.
        if not path.is_file() or not 0 < path.stat().st_size <= _MAX_BYTES:
            return b""
        return path.read_bytes()
    except OSError as error:
        # Not counted so: the file may be fine, and the cache would leave it out for ever.
        raise DataError(f"cannot read {shown(path)}: {error.strerror}") from error


def _files(folder: Path, root: Path) -> list[str]:
    """Files below folder, relative to root; links to folders are not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(place, root)
        found += [
            os.path.join(inside, name)
            for name in names
            if not name.startswith(".") and name.lower() not in _NOT_IMAGES
        ]
    return found


def _holds(folder: Path, other: Path) -> bool:
    """Whether folder is a link back to other or to a folder around it."""
    return other.resolve().is_relative_to(folder.resolve())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)


def _printable(name: str) -> str:
    """Unicode NFC, since file systems differ; bytes that are no UTF-8 as escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def shown(path: str | Path) -> str:
    """A path or a part of one as a message shows it: on one line, whatever its characters."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in _printable(str(path))
    )


def _names(folder: Path) -> str:
    names = sorted(shown(entry.name) for entry in folder.iterdir())
    listed = ", ".join(names[:10]) or "nothing"
    return f"{listed} and {len(names) - 10} more" if len(names) > 10 else listed


def cache_folder() -> Path:
    """This program's folder in the user's cache; it may not exist yet. Raises OSError without a
    home folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not base.is_absolute():
        raise OSError("no home folder; set XDG_CACHE_HOME to an absolute path")
    return base / "sam-study"


def _cache_files(listing: Listing, image_size: int) -> tuple[Path, Path]:
    """Where the images and the flags of a listing are kept; any change of it changes the names."""
    what = [_CACHE_VERSION, str(listing.root), listing.part, image_size]
    text = json.dumps([*what, listing.files, listing.stamps])
    key = hashlib.sha256(text.encode()).hexdigest()
    folder = cache_folder()
    return folder / f"{key}.images.npy", folder / f"{key}.decoded.npy"


def _load(listing: Listing, image_size: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What _store wrote, or None where it is absent or damaged."""
    try:
        images_file, decoded_file = _cache_files(listing, image_size)
        decoded = np.load(decoded_file, allow_pickle=False)
        # A plain array over the mapped file: Ray shares those without a copy, no subclass of them.
        images = np.asarray(np.load(images_file, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
    if decoded.shape != (len(listing.files),) or decoded.dtype != bool:
        return None
    if images.shape != (decoded.sum(), 3, image_size, image_size) or images.dtype != np.uint8:
        return None
    return images, decoded


def _store(listing: Listing, image_size: int, images: np.ndarray, decoded: np.ndarray) -> None:
    images_file, decoded_file = _cache_files(listing, image_size)
    images_file.parent.mkdir(parents=True, exist_ok=True)
    for path, array in ((images_file, images), (decoded_file, decoded)):
        with written_whole(path) as file:
            np.save(file, array, allow_pickle=False)
