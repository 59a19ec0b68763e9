"""CIFAR-10 and CIFAR-100 through torchvision, downloaded on first use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainables.data_error import DataError
from trainables.images import cache_folder

SOURCES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
"""Names of the data sets and of their readers in torchvision.datasets."""

_PATIENCE = 30.0
"""Seconds without an answer after which the server counts as out of reach."""


def load(
    name: str, part: Literal["pool", "test"], root: str | Path | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The 50,000 images of the pool or the 10,000 of test: uint8 [n, 3, 32, 32], int64 [n], names.

    root: folder that holds the unpacked data set or its archive, or where it is downloaded to;
    default sam-study/data in the user's cache. torchvision checks every file by its MD5 first.
    Raises DataError where the files are neither there nor can be had.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive

    reader = getattr(datasets, SOURCES[name])
    folder = _folder(name, root)
    try:
        found = _read(reader, folder, part)
        if found is None:
            with _alone(folder / f"{name}.lock"), _patience():
                # Another process may have brought it meanwhile.
                found = _read(reader, folder, part)
                if found is None:
                    # Not the reader's download=True, which overlooks damaged class names.
                    download_and_extract_archive(
                        reader.url, folder, filename=reader.filename, md5=reader.tgz_md5
                    )
                    found = reader(folder, train=part == "pool")
    except (OSError, HTTPException, RuntimeError) as error:
        raise DataError(_missing(name, reader, folder, error)) from error
    # torchvision turned each image to height, width, channel: turned back, nothing is copied.
    images = np.ascontiguousarray(found.data.transpose(0, 3, 1, 2))
    return images, np.array(found.targets, np.int64), tuple(found.classes)


def _folder(name: str, root: str | Path | None) -> Path:
    if root:
        return Path(os.path.expanduser(root)).absolute()
    try:
        return cache_folder() / "data"
    except OSError as error:
        raise DataError(f"{name}: {error}, or name a folder: workload.data.root") from None


def _read(reader: Any, folder: Path, part: str) -> Any:
    """The data set, or None where its files are not all there and whole."""
    try:
        return reader(folder, train=part == "pool")
    except RuntimeError:
        return None


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits until no other process downloads or unpacks the data set."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """torchvision waits for ever for a server that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _missing(name: str, reader: Any, folder: Path, error: Exception) -> str:
    from torchvision.datasets.utils import check_integrity

    archive = folder / reader.filename
    parts = {archive: check_integrity(archive, reader.tgz_md5), folder / reader.base_folder: False}
    bad = [path.name for path, whole in parts.items() if path.exists() and not whole]
    state = f" (damaged or incomplete there: {', '.join(bad)})" if bad else ""
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{name}: no whole copy in {folder}{state}, and getting one failed: {reason}; put "
        f"{reader.filename} from {reader.url}, or the folder {reader.base_folder} unpacked from "
        f"it, into {folder}"
    )
