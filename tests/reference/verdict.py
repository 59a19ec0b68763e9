"""Slow second implementations of the statistics, each from its definition."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from scipy import stats


def sign_flip(differences: Sequence[float]) -> float:
    """Share of all sign assignments whose sum is at least as far from 0 as the observed one."""
    observed = abs(sum(differences))
    flips = list(itertools.product((1, -1), repeat=len(differences)))
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips]
    return sum(total >= observed - 1e-9 for total in sums) / len(flips)


def holm_rejections(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Holm's procedure as he wrote it: from the smallest p on, reject while p <= alpha / (number
    of hypotheses left)."""
    rejected = [False] * len(p_values)
    left = len(p_values)
    for p, i in sorted((p, i) for i, p in enumerate(p_values)):
        if p > alpha / left:
            break
        rejected[i] = True
        left -= 1
    return rejected


def two_one_sided_tests(differences: Sequence[float], margin: float) -> float:
    """The larger p of: the mean is above -margin; the mean is below margin."""
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    return max(float(above), float(below))
