"""The tests behind the verdict: Student's t, equivalence, Holm's correction, sign flips.

Pure functions of numbers. Differences that are all equal have a standard error of 0; every function
then gives the limit of ever smaller errors, never NaN.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

EXACT_FLIPS = 20
"""Up to this many pairs all 2^n sign flips are counted; beyond it, 2^16 random ones."""


@dataclass(frozen=True)
class Estimate:
    """A mean difference, its standard error, and the degrees of freedom of its t distribution."""

    mean: float
    error: float
    freedom: float


def paired(differences: Sequence[float]) -> Estimate:
    """The mean of paired differences. Needs at least two."""
    n = len(differences)
    return Estimate(statistics.mean(differences), statistics.stdev(differences) / n**0.5, n - 1)


def welch(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """mean(a) - mean(b) of independent samples of unequal variance (Welch 1947). Needs two each."""
    mean = statistics.mean(a) - statistics.mean(b)
    of_a, of_b = statistics.variance(a) / len(a), statistics.variance(b) / len(b)
    if of_a + of_b == 0:
        return Estimate(mean, 0.0, len(a) + len(b) - 2)
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    return Estimate(mean, math.sqrt(of_a + of_b), freedom)


def p_difference(estimate: Estimate) -> float:
    """Two-sided p of no difference."""
    return 2 * _below(-abs(estimate.mean), estimate) if estimate.mean else 1.0


def p_equivalence(estimate: Estimate, margin: float) -> float:
    """The larger p of the two one-sided tests that the difference lies within +-margin
    (Schuirmann 1987)."""
    return _below(abs(estimate.mean) - margin, estimate)


def interval(estimate: Estimate, confidence: float) -> tuple[float, float]:
    """The two-sided t interval of the difference."""
    from scipy.special import stdtrit

    quantile = float(stdtrit(estimate.freedom, (1 + confidence) / 2))
    return estimate.mean - quantile * estimate.error, estimate.mean + quantile * estimate.error


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their family (Holm 1979), in the order given."""
    adjusted = [1.0] * len(p_values)
    floor = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = floor
    return adjusted


def sign_flip(differences: Sequence[float]) -> tuple[float, float]:
    """Two-sided p of the sign-flip test on the mean, and the smallest p it can give.

    Exact over all 2^n flips up to EXACT_FLIPS pairs, floor 2/2^n. With more, over 2^16 flips drawn
    from a fixed seed with the observed signs counted in: the floor is then far below any use.
    """
    import numpy as np

    n, observed = len(differences), abs(math.fsum(differences))
    tolerance = 1e-9 * math.fsum(map(abs, differences))
    if n <= EXACT_FLIPS:
        # A flip and its opposite are equally extreme: the first sign can stay.
        sums = np.array(differences[:1])
        for difference in differences[1:]:
            sums = np.concatenate((sums + difference, sums - difference))
        return float(np.mean(np.abs(sums) >= observed - tolerance)), 2 / 2**n
    generator, flips = np.random.default_rng(0), 2**16
    sums = np.zeros(flips)
    for difference in differences:
        sums += difference * (1 - 2.0 * generator.integers(0, 2, flips))
    extreme = int(np.sum(np.abs(sums) >= observed - tolerance))
    return (extreme + 1) / (flips + 1), 1 / (flips + 1)


def _below(distance: float, estimate: Estimate) -> float:
    """Probability that t lies below distance / error."""
    from scipy.special import stdtr

    if estimate.error == 0:
        return 0.0 if distance < 0 else 1.0
    return float(stdtr(estimate.freedom, distance / estimate.error))
