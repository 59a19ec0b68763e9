"""The tests behind the verdict: Student's t, equivalence, Holm's correction, sign flips; and what
stands beside it: probability of improvement, bootstrap, leaving one out.

Pure functions of numbers. Differences that are all equal have a standard error of 0; every function
then gives the limit of ever smaller errors, never NaN.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

EXACT_FLIPS = 20
"""Up to this many pairs all 2^n sign flips are counted; beyond it, 2^16 random ones."""
RESAMPLES = 9999
"""Of the bootstrap."""


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


def improvement(differences: Sequence[float]) -> tuple[float, float]:
    """Probability that the next pair differs by more than 0, estimated in two ways.

    First by the normal predictive distribution: t with n - 1 degrees of freedom around the mean,
    scaled by the standard deviation times sqrt(1 + 1/n). Then without any model: the share of pairs
    above 0, a tie counting half. Needs at least two.
    """
    n, estimate = len(differences), paired(differences)
    share = (sum(d > 0 for d in differences) + sum(d == 0 for d in differences) / 2) / n
    if estimate.mean == estimate.error == 0:
        return 0.5, share
    return _below(estimate.mean, replace(estimate, error=estimate.error * math.sqrt(n + 1))), share


def bootstrap(differences: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """The BCa bootstrap interval of the mean (Efron 1987), RESAMPLES resamples from a fixed seed;
    None where it is not defined."""
    import numpy as np
    from scipy.stats import bootstrap as resampled

    if len(set(differences)) == 1:
        return differences[0], differences[0]
    low, high = resampled(
        (np.array(differences),),
        np.mean,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(differences)),  # so that it stays below some 50 MB
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def leave_one_out(differences: Sequence[float]) -> list[Estimate]:
    """The estimate without the first difference, without the second, and so on. Needs three.

    By exact sums, so that differences without spread have an error of 0 here too.
    """
    exact = [Fraction(d) for d in differences]
    n, total, squares = len(exact) - 1, sum(exact), sum(d * d for d in exact)
    estimates = []
    for d in exact:
        mean = (total - d) / n
        variance = (squares - d * d - n * mean * mean) / (n - 1)
        estimates.append(Estimate(float(mean), math.sqrt(variance / n), n - 1))
    return estimates


def _below(distance: float, estimate: Estimate) -> float:
    """Probability that t lies below distance / error."""
    from scipy.special import stdtr

    if estimate.error == 0:
        return 0.0 if distance < 0 else 1.0
    return float(stdtr(estimate.freedom, distance / estimate.error))
