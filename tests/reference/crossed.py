"""The two-way random-effects analysis of a table of seeds by images, cell by cell; and a bootstrap
of both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Table = Sequence[Sequence[int]]


def mean_squares(table: Table) -> tuple[float, float, float]:
    """Of seeds (rows), of images (columns), and of what is left of each cell."""
    n, m = len(table), len(table[0])
    grand = sum(sum(row) for row in table) / (n * m)
    rows = [sum(row) / m for row in table]
    columns = [sum(row[j] for row in table) / n for j in range(m)]
    left = 0.0
    for i in range(n):
        for j in range(m):
            left += (table[i][j] - rows[i] - columns[j] + grand) ** 2
    return (
        m * sum((row - grand) ** 2 for row in rows) / (n - 1),
        n * sum((column - grand) ** 2 for column in columns) / (m - 1),
        left / ((n - 1) * (m - 1)),
    )


def variance_of_mean(table: Table) -> float:
    """By the components of variance, none of which is below 0."""
    n, m = len(table), len(table[0])
    seeds, images, rest = mean_squares(table)
    of_seeds = max(0.0, (seeds - rest) / m)
    of_images = max(0.0, (images - rest) / n)
    return of_seeds / n + of_images / m + rest / (n * m)


def freedom(table: Table) -> float:
    """Satterthwaite's, of the sum of mean squares that the variance of the mean is."""
    n, m = len(table), len(table[0])
    seeds, images, rest = mean_squares(table)
    if seeds > rest and images > rest:
        parts = [(seeds, n - 1), (images, m - 1), (-rest, (n - 1) * (m - 1))]
    elif seeds > rest:
        parts = [(seeds, n - 1)]
    elif images > rest:
        parts = [(images, m - 1)]
    else:
        parts = [(rest, (n - 1) * (m - 1))]
    return sum(part for part, _ in parts) ** 2 / sum(part**2 / df for part, df in parts)


def pigeonhole_error(table: Table) -> float:
    """Standard deviation of the mean of 20,000 tables of as many rows and as many columns, either
    drawn with replacement, independently of each other (Owen 2007)."""
    generator, values = np.random.default_rng(5), np.array(table)
    n, m = values.shape
    means = []
    for _ in range(20_000):
        rows, columns = generator.integers(0, n, n), generator.integers(0, m, m)
        means.append(values[rows][:, columns].mean())
    return math.sqrt(np.var(means))
