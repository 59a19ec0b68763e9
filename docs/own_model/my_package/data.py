"""A data set of one's own: noisy stripes in four directions, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES = ("horizontal", "rising", "vertical", "falling")
SIZE = 12


def load(part: str, root: Path | None) -> tuple[np.ndarray, np.ndarray, Sequence[str]]:
    """Images uint8 [n, C, H, W], labels [n] and class names of one part, the same in every call.

    part: "pool", from which trials draw their training and validation images, or "test". root:
    workload.data.root as an absolute path, or None where the study names none, as this one.
    """
    count, seed = {"pool": (600, 0), "test": (400, 1)}[part]
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(CLASSES), count)
    angle = np.pi / 4 * labels[:, None, None]
    row, column = np.mgrid[:SIZE, :SIZE]
    across = row * np.cos(angle) + column * np.sin(angle)
    phase = draw.uniform(0, 2 * np.pi, (count, 1, 1))
    images = 128 + 40 * np.sin(1.5 * across + phase) + draw.normal(0, 60, (count, SIZE, SIZE))
    return images.clip(0, 255).astype(np.uint8)[:, None], labels, CLASSES
