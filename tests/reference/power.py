"""Power and its ranges by integration and simulation, instead of distribution functions."""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate, stats


def power(effect: float, freedom: float, alpha: float) -> float:
    """T = (Z + effect) / S with S^2 a mean square: given S, a probability of the normal Z;
    integrated over the quantiles of S."""
    critical = stats.t.isf(alpha / 2, freedom)

    def given(u: float) -> float:
        s = math.sqrt(stats.chi2.ppf(u, freedom) / freedom)
        return float(stats.norm.sf(critical * s - effect) + stats.norm.cdf(-critical * s - effect))

    return float(integrate.quad(given, 0, 1, limit=400, epsabs=1e-9)[0])


def simulated_power(difference: float, deviation: float, n: int, alpha: float) -> float:
    """Share of 40,000 samples of n normal differences in which the t test rejects."""
    draws = np.random.default_rng(3).normal(difference, deviation, (40_000, n))
    p = stats.ttest_1samp(draws, 0, axis=1).pvalue
    return float(np.mean(p <= alpha))


def deviation_coverage(factors: tuple[float, float], n: int) -> float:
    """Share of 40,000 samples of n standard normals whose deviation, times both factors, holds
    the true one, which is 1."""
    seen = np.random.default_rng(4).normal(0, 1, (40_000, n)).std(axis=1, ddof=1)
    return float(np.mean((seen * factors[0] <= 1) & (seen * factors[1] >= 1)))
