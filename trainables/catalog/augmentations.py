"""Augmentation of training images, by words joined with +: crop_flip+autoaugment+cutout.

resized_crop_flip cuts out of a file as it is decoded; the other bases take decoded images.
"""

from __future__ import annotations

from collections.abc import Collection

IN_MEMORY = ("none", "crop", "crop_flip")
BASES = (*IN_MEMORY, "resized_crop_flip")
POLICIES = ("autoaugment", "randaugment")
EXTRAS = (*POLICIES, "cutout", "mixup")
"""What may follow a base, in this order; one policy at most."""


def parts(text: str) -> tuple[str, ...]:
    """The words of an augmentation: a base, then extras. Raises ValueError for anything else."""
    base, *extras = text.split("+")
    known = [word for word in extras if word in EXTRAS]
    one_policy = len(set(POLICIES) & set(extras)) < 2
    in_order = extras == sorted(set(known), key=EXTRAS.index)
    if base not in BASES or not (one_policy and in_order):
        raise ValueError(
            f"unknown augmentation {text!r}; allowed: {', '.join(BASES)}, followed by +autoaugment "
            "or +randaugment, +cutout, +mixup in this order or some of them"
        )
    return base, *extras


def fits(text: str, bases: Collection[str], extras: Collection[str]) -> bool:
    """Whether this is an augmentation of one of these bases with some of these extras."""
    try:
        base, *more = parts(text)
    except ValueError:
        return False
    return base in bases and set(more) <= set(extras)
