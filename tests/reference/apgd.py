"""APGD in a ball around 0 (Croce and Hein, arXiv 2003.01690, algorithm 1), as plain NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from tests.reference.geometry import Array


def nearest(point: Array, norm: str, radius: float) -> Array:
    """The nearest point of the ball."""
    if norm == "linf":
        return np.minimum(np.maximum(point, -radius), radius)
    length = float(np.sqrt(np.sum(point**2)))
    return point if length <= radius else point * radius / length


def search(
    value: Callable[[Array], float],
    gradient: Callable[[Array], Array],
    size: int,
    norm: str,
    radius: float,
    iterations: int,
) -> tuple[float, Array]:
    """The best value and point found. Of a step size that is halved, the search goes on from the
    best point, without momentum; a step counts as a gain where it gives a new best."""
    p, w = [Fraction(0), Fraction(22, 100)], [0]
    while p[-1] < 1:
        w.append(math.ceil(p[-1] * iterations))
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    x, old = np.zeros(size), np.zeros(size)
    best, best_x = value(x), x
    step, gains = 2 * radius, 0
    last = (0, math.inf, best)
    for k in range(iterations):
        g = gradient(x)
        ascent = np.sign(g) if norm == "linf" else g / max(np.sqrt(np.sum(g**2)), 1e-300)
        z = nearest(x + step * ascent, norm, radius)
        if k > 0:
            z = nearest(x + 0.75 * (z - x) + 0.25 * (x - old), norm, radius)
        old, x = x, z
        if value(x) > best:
            best, best_x, gains = value(x), x, gains + 1
        if k + 1 in w:
            few = gains < 0.75 * (k + 1 - last[0])
            stuck = last[1] == step and last[2] == best
            last = (k + 1, step, best)
            gains = 0
            if few or stuck:
                step, x, old = step / 2, best_x, best_x
    return best, best_x
