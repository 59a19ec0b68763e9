"""Data sets by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.catalog.augmentations import EXTRAS
from trainables.catalog.own import OWN, is_own


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is read.

    pool, test, classes: their numbers where fixed; size: height of an image, where fixed; takes:
    keys of workload.data that other data sets do not take; needs_root: whether data.root must be
    given; augment: allowed bases of an augmentation, the first is the default; flips only where a
    mirrored image is one of the same class; extras: what may follow one.
    """

    title: str
    augment: tuple[str, ...]
    takes: tuple[str, ...] = ()
    needs_root: bool = False
    pool: int | None = None
    test: int | None = None
    classes: int | None = None
    size: int | None = None
    extras: tuple[str, ...] = EXTRAS


def _cifar(classes: int) -> DataSet:
    return DataSet(
        title=f"CIFAR-{classes}: photographs, 32x32, colour",
        augment=("crop_flip", "crop", "none"),
        takes=("root",),
        pool=50_000,
        test=10_000,
        classes=classes,
        size=32,
    )


DATASETS: Mapping[str, DataSet] = {
    "digits": DataSet(
        title="handwritten digits of scikit-learn, 8x8, grey",
        augment=("crop", "none"),
        pool=1100,
        test=697,
        classes=10,
        size=8,
        extras=("cutout", "mixup"),
    ),
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
    "imagefolder": DataSet(
        title="a folder with train/CLASS/ and test/CLASS/ of image files",
        augment=("crop_flip", "crop", "none", "resized_crop_flip"),
        takes=("root", "image_size", "stream"),
        needs_root=True,
    ),
}

_OWN_DATA = DataSet(
    title="a data set of the user's own", augment=("none", "crop", "crop_flip"), takes=("root",)
)
DATA_NAMES = (*DATASETS, OWN)


def data_set(name: str) -> DataSet:
    """What is known of a data set. Raises KeyError for a name of no known form."""
    return _OWN_DATA if is_own(name) else DATASETS[name]
