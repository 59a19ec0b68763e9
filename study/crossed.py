"""A difference over new seeds and new test images at once: both are samples, and every seed meets
every image. numpy is imported where it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from study import stats
from study.records import Correct
from study.stats import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Crossed:
    """The mean difference and its interval, in percentage points, over so many pairs and images."""

    difference: float
    low: float
    high: float
    pairs: int
    images: int


def over_seeds_and_images(
    a: Mapping[int, Correct], b: Mapping[int, Correct], confidence: float
) -> Crossed | None:
    """The difference a - b of two arms that share seeds. a, b: by seed index.

    None with fewer than two pairs that both have, or two images, or runs on other images.
    """
    import numpy as np

    shared = sorted(a.keys() & b.keys())
    images = {c[i].images for c in (a, b) for i in shared}
    if len(shared) < 2 or len(images) > 1 or min(images) < 2:
        return None
    differences = np.stack([right(a[i]) - right(b[i]) for i in shared])
    mean, low, high = interval(differences, confidence)
    return Crossed(mean, low, high, *differences.shape)


def right(correct: Correct) -> NDArray[Any]:
    """1 for each image that is right, else 0: int8, [images]."""
    import numpy as np

    packed = np.frombuffer(correct.bits, dtype=np.uint8)
    return np.unpackbits(packed, count=correct.images).astype(np.int8)


def interval(differences: NDArray[Any], confidence: float) -> tuple[float, float, float]:
    """The mean in percentage points, and the ends of its t interval over new seeds and images.

    differences: integers [seeds, images], two each at least. Never narrower than the t interval
    over seeds alone, whose variance is a part of this one: with few seeds Satterthwaite's degrees
    of freedom may be too many.
    """
    both, seeds = estimates(differences)
    low, high = zip(*(stats.interval(each, confidence) for each in (both, seeds)), strict=True)
    return both.mean, min(low), max(high)


def estimates(differences: NDArray[Any]) -> tuple[Estimate, Estimate]:
    """The mean over new seeds and new images, and over new seeds on these images (the paired t).

    differences: as of `interval`. Two-way random effects, one observation a cell: with mean squares
    S of seeds, I of images and R of the rest, the variance of the mean over n seeds and m images is
    (S + I - R) / (n m) (Brennan, Generalizability Theory, 2001, ch. 3; Owen, The pigeonhole
    bootstrap, Ann. Appl. Stat. 1, 2007). Where S or I is below R, its component is 0 and R stands
    for it. Degrees of freedom: Satterthwaite (1946). Sums are exact, so no spread is an error of 0.
    """
    import numpy as np

    n, m = differences.shape
    rows = differences.sum(axis=1, dtype=np.int64)
    columns = differences.sum(axis=0, dtype=np.int64)
    whole = differences.astype(np.int64)
    total = int(rows.sum())
    mean = Fraction(total * total, n * m)
    of_seeds = Fraction(int(rows @ rows), m) - mean
    of_images = Fraction(int(columns @ columns), n) - mean
    rest = int(np.vdot(whole, whole)) - mean - of_seeds - of_images
    s, i, r = of_seeds / (n - 1), of_images / (m - 1), rest / ((n - 1) * (m - 1))
    terms = [
        (s, n - 1, s > r),
        (i, m - 1, i > r),
        (r, (n - 1) * (m - 1), (s > r) == (i > r)),
    ]
    variance = max(s, r) + max(i, r) - r
    spread = sum(square * square / freedom for square, freedom, counts in terms if counts)
    freedom = float(variance * variance / spread) if spread else n - 1
    difference = 100 * total / (n * m)

    def error(square: Fraction) -> float:
        return 100 * math.sqrt(square / (n * m))

    return (
        Estimate(difference, error(variance), freedom),
        Estimate(difference, error(s), n - 1),
    )
