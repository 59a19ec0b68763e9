"""Random-effects pooling of estimates from independent studies. Pure functions of numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from study.stats import Estimate, interval

FEWEST = 3
"""Estimates that pooling needs: with two, the spread between studies is anybody's guess."""
_GRID = 60  # values of tau^2 between which the likelihood is searched
_DECADES = 8  # below the largest one that is tried


@dataclass(frozen=True)
class Pooled:
    """A mean effect over k independent estimates, in their unit.

    low, high: its Hartung-Knapp interval. tau: standard deviation of the true effects, by REML.
    expected_low, expected_high: prediction interval of the true effect of a new study.
    """

    k: int
    mean: float
    low: float
    high: float
    tau: float
    expected_low: float
    expected_high: float


def pool(estimates: Sequence[Estimate], confidence: float = 0.95) -> Pooled:
    """The random-effects mean of independent estimates, of which there are at least FEWEST.

    Interval: Hartung and Knapp 2001, t with k - 1 degrees of freedom, the factor of the variance
    held at 1 or more (Knapp and Hartung 2003): without that, estimates that happen to agree better
    than their errors allow would give an interval shorter than that of a common effect. Prediction:
    Higgins, Thompson and Spiegelhalter 2009, t with k - 2. Standard errors must be above 0.
    """
    k = len(estimates)
    if k < FEWEST:
        raise ValueError(f"{k} estimates; pooling needs at least {FEWEST}")
    means, variances = [e.mean for e in estimates], [e.error**2 for e in estimates]
    between = reml(means, variances)
    weights = [1 / (v + between) for v in variances]
    mean = _weighted(means, weights)
    spread = _squares(means, weights, mean) / (k - 1)
    error = math.sqrt(max(1.0, spread) / math.fsum(weights))
    low, high = interval(Estimate(mean, error, k - 1), confidence)
    new = Estimate(mean, math.sqrt(between + error**2), k - 2)
    return Pooled(k, mean, low, high, math.sqrt(between), *interval(new, confidence))


def reml(means: Sequence[float], variances: Sequence[float]) -> float:
    """The variance tau^2 >= 0 between true effects that maximizes the restricted likelihood.

    variances: of each mean, above 0, taken as known. Source: Viechtbauer 2005, eq. 17 and 18.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    width = max(means) - min(means)
    if width == 0:
        return 0.0

    def loss(between: float) -> float:
        return -restricted_likelihood(means, variances, between)

    # beyond a multiple of the squared range the likelihood only falls; it may have several tops
    largest = 10 * (width**2 + max(variances))
    grid = [0.0, *map(float, largest * np.logspace(-_DECADES, 0, _GRID))]
    best = min(range(len(grid)), key=lambda i: loss(grid[i]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-9 * bounds[1]}
    )
    return min((grid[best], float(found.x)), key=loss)


def restricted_likelihood(
    means: Sequence[float], variances: Sequence[float], between: float
) -> float:
    """The logarithm of the restricted likelihood of tau^2 = `between`, up to a constant."""
    weights = [1 / (v + between) for v in variances]
    squares = _squares(means, weights, _weighted(means, weights))
    logs = math.fsum(map(math.log, weights))
    return 0.5 * (logs - math.log(math.fsum(weights)) - squares)


def merged(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate for studies that share data and seeds: their mean, with the largest error.

    How strongly they depend on each other is not known. The error of a mean is never above the
    largest of its parts, so this one is on the safe side.
    """
    widest = max(estimates, key=lambda e: e.error)
    return Estimate(statistics.mean(e.mean for e in estimates), widest.error, widest.freedom)


def _weighted(means: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(w * y for w, y in zip(weights, means, strict=True)) / math.fsum(weights)


def _squares(means: Sequence[float], weights: Sequence[float], mean: float) -> float:
    return math.fsum(w * (y - mean) ** 2 for w, y in zip(weights, means, strict=True))
