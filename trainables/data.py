"""Data sets as arrays, and which part of one a trial trains and validates on. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from trainables import cifar, own_data, standin
from trainables.catalog import DATA_NAMES, data_set, is_own
from trainables.images import DataError, Listing, decode_part, list_part, shown, undecodable

__all__ = [
    "Correct",
    "DataError",
    "Facts",
    "Images",
    "Split",
    "load_pool",
    "load_test",
    "split",
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
        images = _stand_in(name, image_size, stand_in, "pool")
        classes, test = standin.class_names(name), standin.TEST
    elif name != "imagefolder":
        images, classes = _arrays(name, "pool", root, split_seed)
        test = data_set(name).test
    else:
        listing = _list_folder(root, image_size, "train")
        # Only names and counts: no test image may be read before the search is over.
        test_listing = _list_folder(root, image_size, "test")
        _check_same_classes(listing, test_listing)
        images, left_out = _decode_folder(listing, image_size)
        classes, test = listing.classes, len(test_listing.files)
    mean, std = _moments(images.images)
    _, channels, height, width = images.images.shape
    facts = Facts(
        classes=classes,
        shape=(channels, height, width),
        pool=len(images.labels),
        test=test,
        hash=_hash(images, classes),
        undecodable=left_out,
        mean=mean,
        std=std,
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
        return _stand_in(name, image_size, standin.TEST, "test"), ()
    if name != "imagefolder":
        return _arrays(name, "test", root, split_seed)[0], ()
    listing = _list_folder(root, image_size, "test")
    _check_same_classes(_list_folder(root, image_size, "train"), listing)
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


def _stand_in(name: str, image_size: int, count: int, part: Part) -> Images:
    digits = _digits(0, part)
    return Images(
        standin.resized(digits.images, name, image_size, count),
        standin.relabelled(digits.labels, len(standin.class_names(name)), count),
    )


def _list_folder(
    root: str | Path | None, image_size: int, part: Literal["train", "test"]
) -> Listing:
    if root is None:
        raise DataError("imagefolder needs root: the folder that holds train/ and test/")
    if image_size < 1:
        raise DataError(f"image_size {image_size} is below 1")
    return list_part(root, part)


def _decode_folder(listing: Listing, image_size: int) -> tuple[Images, tuple[str, ...]]:
    images, decoded = decode_part(listing, image_size)
    labels = np.array(listing.labels, np.int64)[decoded]
    return Images(images, labels), undecodable(listing, decoded)


def _check_same_classes(train: Listing, test: Listing) -> None:
    if train.classes == test.classes:
        return
    only = [
        f"only in {listing.part}: {', '.join(map(repr, extra))}"
        for listing, other in ((train, test), (test, train))
        if (extra := [name for name in listing.classes if name not in other.classes])
    ]
    raise DataError(
        f"the classes of train and test in {shown(train.root)} differ; {'; '.join(only)}"
    )


def _hash(images: Images, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps([classes, images.images.shape]).encode())
    digest.update(np.ascontiguousarray(images.images).data)
    digest.update(images.labels.astype("<i8").data)
    return digest.hexdigest()


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, from sums of integers: exact in any order."""
    channels = images.shape[1]
    total, squares = np.zeros(channels, np.uint64), np.zeros(channels, np.uint64)
    for start in range(0, len(images), 4096):
        block = images[start : start + 4096].astype(np.uint16)
        total += block.sum((0, 2, 3), dtype=np.uint64)
        squares += (block * block).sum((0, 2, 3), dtype=np.uint64)
    count = images.size // channels
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
