"""What a comparison could have found: power of the two-sided t test, by the noncentral t.

Standard errors and margins in percentage points. The deviation between pairs is itself estimated:
`spread` says how far off it may be, and so does every number that rests on it.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from study.stats import Estimate

POWER = 0.8
MOST_SEEDS = 10_000
"""As many as a study may have."""


@dataclass(frozen=True)
class Range:
    """A number by the deviation seen, and by both ends of the deviation's interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Seeds:
    """As Range, in whole seeds; None: more than MOST_SEEDS."""

    value: int | None
    low: int | None
    high: int | None


def power(effect: float, freedom: float, alpha: float) -> float:
    """Probability that a two-sided t test at `alpha` rejects, with a true difference of `effect`
    standard errors."""
    from scipy.special import nctdtr, stdtrit

    critical = float(stdtrit(freedom, 1 - alpha / 2))

    def missed(shift: float) -> float:
        below = float(nctdtr(freedom, shift, critical))
        # SciPy's series ends in NaN where the probability rounds to 0 or, far on the other side, 1.
        return below if math.isfinite(below) else float(shift < 0)

    return 1 - missed(effect) + (1 - missed(-effect))


def spread(freedom: float, confidence: float) -> tuple[float, float]:
    """Ends of the chi-square interval of a standard deviation, as multiples of the one seen."""
    from scipy.special import chdtri

    tail = (1 - confidence) / 2
    return (
        math.sqrt(freedom / float(chdtri(freedom, tail))),
        math.sqrt(freedom / float(chdtri(freedom, 1 - tail))),
    )


def detectable(estimate: Estimate, alpha: float, confidence: float) -> Range | None:
    """The true difference that the test at `alpha` finds with probability POWER, with the seeds at
    hand; range: by the interval of the deviation at `confidence`. None without any spread."""
    from scipy.optimize import brentq

    if estimate.error == 0:
        return None

    def lacking(effect: float) -> float:
        return power(effect, estimate.freedom, alpha) - POWER

    enough = 1.0
    while lacking(enough) < 0:
        enough *= 2
    value = float(brentq(lacking, 0, enough, xtol=1e-12)) * estimate.error
    low, high = spread(estimate.freedom, confidence)
    return Range(value, low * value, high * value)


def seeds_needed(
    estimate: Estimate, n: int, margin: float, alpha: float, confidence: float
) -> Seeds | None:
    """The seeds with which the test at `alpha` finds a true difference as large as `margin` with
    probability POWER. n: seeds that `estimate` comes from. Range and None as in `detectable`."""
    if estimate.error == 0:
        return None

    def enough(factor: float) -> int | None:
        def of(seeds: int) -> float:
            error = factor * estimate.error * math.sqrt(n / seeds)
            return power(margin / error, estimate.freedom * (seeds - 1) / (n - 1), alpha)

        tried = range(2, MOST_SEEDS + 1)
        found = bisect.bisect_left(tried, POWER, key=of)
        return tried[found] if found < len(tried) else None

    low, high = spread(estimate.freedom, confidence)
    return Seeds(enough(1.0), enough(low), enough(high))
