"""A user's own data set by import path, checked before anything is trained on it. No torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainables import own
from trainables.data_error import DataError

Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def load(path: str, part: Literal["pool", "test"], root: str | Path | None) -> Arrays:
    """A part as uint8 [n, C, H, H], int64 [n] and class names: what load(part, root=root) returns.

    root: passed as an absolute path, or as None. For the test part the pool is loaded too, since
    both must have the same classes and the same shape of images.
    Raises DataError, one line, where the callable fails or returns anything else.
    """
    images, labels, classes = _load(path, part, root)
    if part == "test":
        pool, _, of_pool = _load(path, "pool", root)
        if classes != of_pool:
            raise DataError(
                f"{path}: the classes of pool and test differ: {_few(of_pool)} and {_few(classes)}"
            )
        if images.shape[1:] != pool.shape[1:]:
            raise DataError(
                f"{path}: images of the pool are {_size(pool)}, those of test {_size(images)}"
            )
    return images, labels, classes


def _load(path: str, part: str, root: str | Path | None) -> Arrays:
    place = Path(os.path.expanduser(root)).absolute() if root else None
    try:
        made = own.call(path, part, root=place)
    except ValueError as error:
        raise DataError(str(error)) from error
    where = f"{path}, part {part!r}"
    if not isinstance(made, tuple) or len(made) != 3:
        got = f"{len(made)} values" if isinstance(made, tuple) else type(made).__name__
        raise DataError(f"{where}: must return images, labels and class names, not {got}")
    images, labels = _array(made[0], "images", where), _array(made[1], "labels", where)
    classes = _classes(made[2], where)
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise DataError(f"{where}: images must be uint8 [n, C, H, W], not {_kind(images)}")
    if images.shape[2] != images.shape[3]:
        raise DataError(f"{where}: images must be as high as wide, not {_size(images)}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{where}: labels must be whole numbers [{len(images)}], one an image, not "
            f"{_kind(labels)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise DataError(
            f"{where}: labels must be 0 ... {len(classes) - 1}, one for each of {len(classes)} "
            f"classes, not {low} ... {high}"
        )
    return np.ascontiguousarray(images), labels.astype(np.int64), classes


def _array(value: Any, what: str, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, tensors on a GPU: each fails in its own way
        raise DataError(f"{where}: {what} are no array: {own.told(error)}") from error


def _classes(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: class names must be a list of words, not {_shown(value)}")
    if isinstance(value, str) or len(value) < 2 or len(set(value)) < len(value):
        raise DataError(f"{where}: needs at least two class names, each once, not {_shown(value)}")
    return tuple(map(str, value))


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _size(images: np.ndarray) -> str:
    return " x ".join(map(str, images.shape[1:]))


def _shown(value: Any) -> str:
    return " ".join(repr(value).split())[:60]


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
