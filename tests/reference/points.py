"""Search points the slow, obvious way."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
from scipy.stats import qmc


def sobol(seed: int, columns: int, rows: int) -> list[list[float]]:
    """The first `rows` scrambled Sobol points, drawn one at a time."""
    engine = qmc.Sobol(columns, scramble=True, rng=np.random.default_rng(seed))
    points: list[list[float]] = []
    while len(points) < rows:
        points += engine.random(1).tolist()
    return points


def uniform(seed: int, columns: int, rows: int) -> list[list[float]]:
    """The first `rows` uniform points, drawn one number at a time."""
    generator = np.random.default_rng(seed)
    return [[float(generator.random()) for _ in range(columns)] for _ in range(rows)]


def in_range(low: float, high: float, log: bool, u: float) -> float:
    """Position `u` of a range."""
    if log:
        return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    return low + u * (high - low)


def on_steps(low: float, high: float, step: float, u: float) -> float:
    """The step of a range that owns position `u`, each owning an equal share."""
    values = []
    value = Decimal(str(low))
    while value <= Decimal(str(high)):
        values.append(float(value))
        value += Decimal(str(step))
    return values[int(u * len(values))]
