"""A folder of image files that are too many for memory: what is known of it, looked at once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter

from trainables import standin
from trainables.data import Facts, Images, stand_in_images
from trainables.decoding import cores, decoded_batches, quietly
from trainables.fingerprint import Fingerprint, fingerprint, in_blocks
from trainables.images import (
    Listing,
    cache_file,
    check_classes,
    encoded,
    list_both,
    undecodable,
)
from trainables.streaming import Pictures, Streamed, StreamedImages
from trainables.whole import written_whole

_BLOCK = 2**26
"""Bytes of decoded images that are looked at together."""


@dataclass(frozen=True)
class _Kept:
    """What is kept of a survey."""

    undecodable: list[Annotated[int, Field(ge=0)]]
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_KEPT = TypeAdapter(_Kept)


def stream_pool(
    name: str, root: str | Path | None, image_size: int, stand_in: int | None
) -> tuple[StreamedImages, Facts]:
    """As data.load_pool, but the images stay in their files; the facts are the same."""
    left_out: tuple[str, ...] = ()
    if stand_in is not None:
        arrays = stand_in_images(name, image_size, stand_in, "pool")
        classes, test = standin.class_names(name), standin.TEST
        images = _as_files(arrays)
        prints = fingerprint(classes, images.images.shape, in_blocks(arrays.images), arrays.labels)
    else:
        listing, test_listing = list_both(root, image_size)
        classes, test = listing.classes, len(test_listing.files)
        images, left_out, prints = _streamed(listing, image_size)
    return images, Facts(
        classes=classes,
        shape=images.images.shape[1:],
        pool=len(images.labels),
        test=test,
        undecodable=left_out,
        hash=prints.hash,
        mean=prints.mean,
        std=prints.std,
    )


def stream_test(
    name: str, root: str | Path | None, image_size: int, stand_in: int | None
) -> tuple[StreamedImages, tuple[str, ...]]:
    """As data.load_test, but the images stay in their files."""
    if stand_in is not None:
        return _as_files(stand_in_images(name, image_size, standin.TEST, "test")), ()
    _, listing = list_both(root, image_size)
    images, left_out, _ = _streamed(listing, image_size)
    return images, left_out


def _streamed(
    listing: Listing, image_size: int
) -> tuple[StreamedImages, tuple[str, ...], Fingerprint]:
    found, prints = _survey(listing, image_size)
    images = Streamed(encoded(listing), np.flatnonzero(found), image_size)
    labels = np.array(listing.labels, np.int64)[found]
    return StreamedImages(images, labels), undecodable(listing, found), prints


def _as_files(images: Images) -> StreamedImages:
    """A stand-in as if it lay in files."""
    count, _, _, size = images.images.shape
    return StreamedImages(Streamed(Pictures(images.images), np.arange(count), size), images.labels)


def _survey(listing: Listing, image_size: int) -> tuple[np.ndarray, Fingerprint]:
    """Looks at all images of a listing, or at what was kept of that beside the decoded images:
    bool [files], which decode, and the fingerprint of those.

    Without a writable cache folder a warning is given. Raises DataError as images.decode_part.
    """
    found = _load(listing, image_size)
    if found is None:
        found = _surveyed(listing, image_size)
        try:
            _store(listing, image_size, *found)
        except OSError as error:
            warnings.warn(
                f"what is known of the images is not kept, the next run looks again: {error}",
                stacklevel=2,
            )
    check_classes(listing, found[0])
    return found


def _surveyed(listing: Listing, image_size: int) -> tuple[np.ndarray, Fingerprint]:
    files, found = encoded(listing), np.zeros(len(listing.files), bool)
    labels = np.array(listing.labels, np.int64)

    def looked(numbers: np.ndarray) -> Fingerprint:
        size = max(1, _BLOCK // (3 * image_size**2))
        blocks = (numbers[i : i + size] for i in range(0, len(numbers), size))

        def looked_at() -> Iterator[np.ndarray]:
            for which, images, flags in decoded_batches(files, blocks, image_size, cores()):
                found[which] = flags
                yield images

        shape = len(numbers), 3, image_size, image_size
        return fingerprint(listing.classes, shape, looked_at(), labels[numbers])

    every = np.arange(len(found))
    with quietly():
        prints = looked(every)
        while not found[every].all():  # it is of those alone that decode
            every = np.flatnonzero(found)
            prints = looked(every)
    return found, prints


def _load(listing: Listing, image_size: int) -> tuple[np.ndarray, Fingerprint] | None:
    """What _store wrote, or None where it is absent or damaged."""
    try:
        kept = _KEPT.validate_json(cache_file(listing, image_size, "survey.json").read_bytes())
    except (OSError, ValueError):
        return None
    decoded = np.ones(len(listing.files), bool)
    if any(number >= len(decoded) for number in kept.undecodable):
        return None
    decoded[list(kept.undecodable)] = False
    return decoded, Fingerprint(kept.hash, kept.mean, kept.std)


def _store(listing: Listing, image_size: int, decoded: np.ndarray, prints: Fingerprint) -> None:
    path = cache_file(listing, image_size, "survey.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"undecodable": np.flatnonzero(~decoded).tolist(), **vars(prints)}
    with written_whole(path) as file:
        file.write(json.dumps(content).encode())
