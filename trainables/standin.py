"""The digits in place of another data set, with its shape and classes and without its files.

What a smoke run trains on: it shows that a study would run where the data set is not. No torch.
"""

from __future__ import annotations

import numpy as np

from trainables.catalog import data_set

TEST = 64
"""Test images of a stand-in."""


def class_names(name: str) -> tuple[str, ...]:
    """As many as the data set has; as the digits where only its files could tell."""
    count = data_set(name).classes or 10
    return tuple(map(str, range(count)))


def resized(images: np.ndarray, name: str, image_size: int, count: int) -> np.ndarray:
    """`count` images as those of data set `name`, uint8 [count, C, image_size, image_size].

    images: the digits [n, 1, 8, 8], which stay as they are for `digits`; taken in order, and again
    from the first. Each new pixel is the nearest old one, the same in the 3 channels.
    """
    taken = np.resize(images, (count, *images.shape[1:]))
    if name == "digits":
        return taken
    nearest = np.arange(image_size) * images.shape[-1] // image_size
    return np.repeat(taken[:, :, nearest[:, None], nearest], 3, axis=1)


def relabelled(labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Labels of `count` images taken as by `resized`, int64 in 0 ... classes - 1.

    labels: digits [n]. A digit becomes in turn each class number that ends in it, so that every
    class occurs once every digit has come often enough; of fewer classes than 10, its remainder.
    """
    digits = np.resize(labels, count) % min(classes, 10)
    spread = digits.copy()
    for digit in range(min(classes, 10)):
        ending_in_it = np.arange(digit, classes, 10)
        spread[digits == digit] = np.resize(ending_in_it, (digits == digit).sum())
    return spread
