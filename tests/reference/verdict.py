"""Slow second implementations of the statistics, each from its definition."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
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


def word(family: Sequence[Sequence[float]], which: int, margin: float, alpha: float) -> str:
    """The word of one comparison of a family of paired differences."""
    differences = family[which]
    if not any(differences):
        return "identical"
    p = [float(stats.ttest_1samp(d, 0).pvalue) for d in family]
    if holm_rejections(p, alpha)[which]:
        return "better" if sum(differences) > 0 else "worse"
    p = [two_one_sided_tests(d, margin) for d in family]
    return "equivalent" if holm_rejections(p, alpha)[which] else "undecided"


def words_without_one(
    family: Sequence[Sequence[float]], which: int, margin: float, alpha: float
) -> list[str]:
    """The word of one comparison without its first pair, without its second, and so on."""
    found = []
    for i in range(len(family[which])):
        left = [list(differences) for differences in family]
        del left[which][i]
        found.append(word(left, which, margin, alpha))
    return found


def improvement(differences: Sequence[float]) -> float:
    """Share of new pairs above 0: for each of 400,000 draws, a variance and a mean that the
    differences leave possible (prior 1/variance), and a pair with these."""
    generator, draws, n = np.random.default_rng(7), 400_000, len(differences)
    variance = (n - 1) * np.var(differences, ddof=1) / generator.chisquare(n - 1, draws)
    mean = generator.normal(np.mean(differences), np.sqrt(variance / n))
    return float(np.mean(generator.normal(mean, np.sqrt(variance)) > 0))


def bca(differences: Sequence[float], confidence: float) -> tuple[float, float]:
    """Efron's interval as he wrote it: percentiles of 100,000 resampled means, moved for bias and
    for acceleration."""
    values = np.array(differences)
    picked = np.random.default_rng(8).integers(0, len(values), (100_000, len(values)))
    means = values[picked].mean(axis=1)
    seen = values.mean()
    below = np.mean(means < seen) + np.mean(means == seen) / 2
    bias = stats.norm.ppf(below)
    left = np.array([np.delete(values, i).mean() for i in range(len(values))])
    away = left.mean() - left
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + stats.norm.ppf(tail)
        ends.append(np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z))))
    return float(ends[0]), float(ends[1])
