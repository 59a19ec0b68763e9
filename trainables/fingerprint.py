"""What tells the images of one data set from those of another, and how they are normalised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fingerprint:
    """hash: sha256 of class names, shape, images and labels. mean, std: per channel over all
    images, in units of 0..1."""

    hash: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def fingerprint(
    classes: Sequence[str],
    shape: tuple[int, ...],
    blocks: Iterable[np.ndarray],
    labels: np.ndarray,
) -> Fingerprint:
    """Of images that come block by block. shape: (n, C, H, W) of all; blocks: uint8 [any, C, H, W]
    in their order; labels: int64 [n]."""
    digest = hashlib.sha256(json.dumps([classes, shape]).encode())
    sums, squares = np.zeros((2, shape[1]), np.uint64)
    for images in blocks:
        digest.update(np.ascontiguousarray(images).data)
        # Sums of integers are exact in any order.
        wide = images.astype(np.uint16)
        sums += wide.sum((0, 2, 3), dtype=np.uint64)
        squares += (wide * wide).sum((0, 2, 3), dtype=np.uint64)
    digest.update(labels.astype("<i8").data)
    count = int(np.prod(shape)) // shape[1]
    mean = sums / count
    std = np.sqrt(squares / count - mean**2)
    return Fingerprint(
        digest.hexdigest(), tuple((mean / 255).tolist()), tuple((std / 255).tolist())
    )


def in_blocks(images: np.ndarray) -> Iterable[np.ndarray]:
    """An array [n, C, H, W] in parts that take little memory."""
    return (images[start : start + 4096] for start in range(0, len(images), 4096))
