"""Data sets as arrays, and which part of one a trial trains and validates on. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from trainables import cifar, own_data, standin
from trainables.catalog import DATA_NAMES, data_set, is_own
from trainables.data_error import DataError
from trainables.fingerprint import fingerprint, in_blocks
from trainables.images import Listing, decode_part, list_both, undecodable

__all__ = [
    "Correct",
    "DataError",
    "Facts",
    "Images",
    "Split",
    "load_pool",
    "load_test",
    "split",
    "stand_in_images",
    "stream",
]

Part = Literal["pool", "test"]
Purpose = Literal[
    "subset",
    "label_noise",
    "initialisation",
    "order",
    "augmentation",
    "perturbation",
    "team",
    "measure",
    "policy",
    "window",
]
"""What a trial's seed draws; the order is part of every result, so new ones go to the end."""


@dataclass(frozen=True, eq=False)
class Images:
    """images: uint8 [n, C, H, W], perhaps read-only; labels: int64 [n]."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Correct:
    """Which of so many images a model got right: numpy.packbits of them, in their order."""

    images: int
    bits: bytes


@dataclass(frozen=True)
class Facts:
    """What is known of a data set once all but its test images are read.

    shape: (C, H, W). pool: images that are not test. test: test images; for imagefolder the number
    of files, since not one of them has been opened; None for a user's own data set. hash: sha256
    of the pool's images, labels and class names. undecodable: files of the pool left out, relative
    to root. mean, std: per channel over the pool, in units of 0..1.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    pool: int
    test: int | None
    hash: str
    undecodable: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """A trial's share of the pool: indices int64, and the labels to train on after label noise."""

    train: np.ndarray
    train_labels: np.ndarray
    validation: np.ndarray


def load_pool(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int = 32,
    split_seed: int = 0,
    stand_in: int | None = None,
) -> tuple[Images, Facts]:
    """All images of a data set that are not test, in an order that never changes.

    name: one of DATASETS or the import path of a user's own. root: where the images lie;
    image_size: height and width that imagefolder is brought to; split_seed: which of the digits
    are test; stand_in: take this many digits in place of the data set. Raises DataError where the
    data cannot be used.
    """
    left_out: tuple[str, ...] = ()
    test: int | None
    if stand_in is not None:
        images = stand_in_images(name, image_size, stand_in, "pool")
        classes, test = standin.class_names(name), standin.TEST
    elif name != "imagefolder":
        images, classes = _arrays(name, "pool", root, split_seed)
        test = data_set(name).test
    else:
        # Of test only names and counts: none of its images may be read before the search is over.
        listing, test_listing = list_both(root, image_size)
        images, left_out = _decode_folder(listing, image_size)
        classes, test = listing.classes, len(test_listing.files)
    _, channels, height, width = shape = images.images.shape
    prints = fingerprint(classes, shape, in_blocks(images.images), images.labels)
    facts = Facts(
        classes=classes,
        shape=(channels, height, width),
        pool=len(images.labels),
        test=test,
        undecodable=left_out,
        hash=prints.hash,
        mean=prints.mean,
        std=prints.std,
    )
    return images, facts


def load_test(
    name: str,
    *,
    root: str | Path | None = None,
    image_size: int = 32,
    split_seed: int = 0,
    stand_in: int | None = None,
) -> tuple[Images, tuple[str, ...]]:
    """The test images and the test files that do not decode; arguments and errors as load_pool."""
    if stand_in is not None:
        return stand_in_images(name, image_size, standin.TEST, "test"), ()
    if name != "imagefolder":
        return _arrays(name, "test", root, split_seed)[0], ()
    _, listing = list_both(root, image_size)
    return _decode_folder(listing, image_size)


def stream(seed: int, purpose: Purpose, *which: int) -> int:
    """A seed in 0 ... 2^63 - 1 for one purpose; the streams of a trial are independent.

    which: of several for one purpose, always as many numbers.
    """
    sequence = np.random.SeedSequence([seed, get_args(Purpose).index(purpose), *which])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def split(
    labels: np.ndarray,
    *,
    classes: int,
    seed: int,
    train_size: int | None,
    validation_size: int,
    label_noise: float,
) -> Split:
    """Draw a trial's training and validation images from the pool, and its label noise.

    labels: int64 [pool]. train_size None: all that validation leaves. label_noise: exactly this
    fraction of the training labels, rounded, becomes one of the other classes, uniformly;
    validation labels stay clean. With the same seed a larger train_size adds images to those of a
    smaller one, and a larger label_noise adds wrong labels and changes no other draw.
    Raises DataError where the sizes do not fit the pool.
    """
    pool = len(labels)
    size = pool - validation_size if train_size is None else train_size
    if validation_size < 0 or size < 1 or size + validation_size > pool:
        wanted = "the rest" if train_size is None else str(train_size)
        raise DataError(
            f"train_size {wanted} and validation_size {validation_size} do not fit into "
            f"{pool} images; train_size must be at least 1 and their sum at most {pool}"
        )
    if not 0 <= label_noise <= 1:
        raise DataError(f"label_noise {label_noise} is outside 0 ... 1")
    order = np.random.default_rng(stream(seed, "subset")).permutation(pool)
    validation, train = order[:validation_size], order[validation_size : validation_size + size]
    train_labels = labels[train].astype(np.int64)
    noise = np.random.default_rng(stream(seed, "label_noise"))
    shift = noise.integers(1, classes, size=size)
    wrong = noise.permutation(size)[: round(label_noise * size)]
    train_labels[wrong] = (train_labels[wrong] + shift[wrong]) % classes
    return Split(train, train_labels, validation)


def stand_in_images(name: str, image_size: int, count: int, part: Part) -> Images:
    """So many digits with the size and the classes of a data set."""
    digits = _digits(0, part)
    return Images(
        standin.resized(digits.images, name, image_size, count),
        standin.relabelled(digits.labels, len(standin.class_names(name)), count),
    )


def _arrays(
    name: str, part: Part, root: str | Path | None, split_seed: int
) -> tuple[Images, tuple[str, ...]]:
    """A part of a data set that is read as a whole, and its class names."""
    if name == "digits":
        return _digits(split_seed, part), tuple(str(digit) for digit in range(10))
    if name in cifar.SOURCES:
        images, labels, classes = cifar.load(name, part, root)
    elif is_own(name):
        images, labels, classes = own_data.load(name, part, root)
    else:
        raise DataError(f"data set {name!r} is not one of {', '.join(DATA_NAMES)}")
    return Images(images, labels), classes


def _digits(split_seed: int, part: Part) -> Images:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(split_seed).permutation(len(bunch.target))
    size = data_set("digits").test
    chosen = order[:size] if part == "test" else order[size:]
    images = np.round(bunch.images[chosen] * 255 / 16).astype(np.uint8)[:, None]
    return Images(images, bunch.target[chosen].astype(np.int64))


def _decode_folder(listing: Listing, image_size: int) -> tuple[Images, tuple[str, ...]]:
    images, decoded = decode_part(listing, image_size)
    labels = np.array(listing.labels, np.int64)[decoded]
    return Images(images, labels), undecodable(listing, decoded)
