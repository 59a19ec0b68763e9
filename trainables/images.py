"""A folder of image files as one uint8 array, decoded once and then read from a cache."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.data_error import DataError, printable, shown
from trainables.decoding import Files, cores, decoded_batches, quietly
from trainables.whole import written_whole

Part = Literal["train", "test"]

_LAYOUT = "expected ROOT/train/CLASS/ and ROOT/test/CLASS/ with image files in every CLASS folder"
_NOT_IMAGES = {"thumbs.db", "desktop.ini"}
_CACHE_VERSION = 1
_BLOCK = 128
"""Files that are decoded together."""


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
        name = printable(entry.name)
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
        found = sorted(_files(folders[name], root), key=printable)
        if not found:
            raise DataError(f"class {name!r} has no files: {shown(folders[name])} is empty")
        files += found
        labels += [label] * len(found)
    stamps = tuple(_stamp(root / file) for file in files)
    return Listing(root, part, classes, tuple(files), tuple(labels), stamps)


def list_both(root: str | Path | None, image_size: int) -> tuple[Listing, Listing]:
    """Train and test of a folder. Raises DataError as list_part, and where their classes differ."""
    if root is None:
        raise DataError("imagefolder needs root: the folder that holds train/ and test/")
    if image_size < 1:
        raise DataError(f"image_size {image_size} is below 1")
    train, test = list_part(root, "train"), list_part(root, "test")
    if train.classes == test.classes:
        return train, test
    only = [
        f"only in {listing.part}: {', '.join(map(repr, extra))}"
        for listing, other in ((train, test), (test, train))
        if (extra := [name for name in listing.classes if name not in other.classes])
    ]
    raise DataError(
        f"the classes of train and test in {shown(train.root)} differ; {'; '.join(only)}"
    )


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
    check_classes(listing, decoded)
    return images, decoded


def check_classes(listing: Listing, decoded: np.ndarray) -> None:
    """Raises DataError for a class none of whose files decoded."""
    counts = np.bincount(np.array(listing.labels)[decoded], minlength=len(listing.classes))
    for name, count in zip(listing.classes, counts, strict=True):
        if not count:
            where = shown(listing.root / listing.part)
            raise DataError(f"class {name!r} of {where}: nothing decodable")


def undecodable(listing: Listing, decoded: np.ndarray) -> tuple[str, ...]:
    """Paths, relative to root, of the files that did not decode."""
    return tuple(shown(listing.files[i]) for i in np.flatnonzero(~decoded))


def encoded(listing: Listing) -> Files:
    """The files of a listing, not yet read."""
    names = np.array([os.fsencode(file) for file in listing.files])
    return Files(str(listing.root), names, np.array([size for size, _ in listing.stamps]))


def _decode_all(listing: Listing, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    files, count = encoded(listing), len(listing.files)
    images = np.zeros((count, 3, image_size, image_size), np.uint8)
    decoded = np.zeros(count, bool)
    blocks = (np.arange(i, min(i + _BLOCK, count)) for i in range(0, count, _BLOCK))
    # Tiny files are mostly work in Python, where threads get in each other's way: 2 of them take
    # twice the time of one for CIFAR-10.
    tiny = files.sizes.sum() < 4096 * count
    threads = 1 if tiny else min(8, cores())
    with quietly():
        for which, found, flags in decoded_batches(files, blocks, image_size, threads):
            images[which], decoded[which] = found, flags
    images = images if decoded.all() else images[decoded]
    images.flags.writeable = False
    return images, decoded


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


def cache_file(listing: Listing, image_size: int, ending: str) -> Path:
    """Where something about a listing is kept; any change of it changes the name. Raises OSError
    as cache_folder."""
    what = [_CACHE_VERSION, str(listing.root), listing.part, image_size]
    text = json.dumps([*what, listing.files, listing.stamps])
    key = hashlib.sha256(text.encode()).hexdigest()
    return cache_folder() / f"{key}.{ending}"


def _cache_files(listing: Listing, image_size: int) -> tuple[Path, Path]:
    """Of the images, and of the flags which of them decoded."""
    return (
        cache_file(listing, image_size, "images.npy"),
        cache_file(listing, image_size, "decoded.npy"),
    )


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
