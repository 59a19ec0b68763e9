from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from benchmarks import calibration
from study import crossed, stats
from study.records import Correct
from tests.reference import crossed as reference

Table = NDArray[np.int8]


def tables() -> st.SearchStrategy[Table]:
    sizes = st.tuples(st.integers(2, 5), st.integers(2, 9))
    cells = st.sampled_from((-1, 0, 0, 1))
    return sizes.flatmap(lambda size: arrays(np.int8, size, elements=cells))


def drawn(n: int, m: int, seed: int) -> Table:
    """Differences of arms that have luck with seeds and with images."""
    [found] = calibration.answers(np.random.default_rng(seed), (1, n, m), 0.1, 0.5).tolist()
    return np.array(found, np.int8)


@settings(deadline=None)
@given(tables())
def test_variance_and_freedom_are_those_of_the_analysis_cell_by_cell(table: Table) -> None:
    both, seeds = crossed.estimates(table)
    rows = table.tolist()
    assert both.mean == seeds.mean == pytest.approx(100 * table.mean(), abs=1e-12)
    assert both.error == pytest.approx(100 * reference.variance_of_mean(rows) ** 0.5, abs=1e-6)
    paired = stats.paired([100 * sum(row) / len(row) for row in rows])
    assert seeds.error == pytest.approx(paired.error, abs=1e-6)
    squares = reference.mean_squares(rows)
    apart = min(abs(squares[0] - squares[2]), abs(squares[1] - squares[2]))
    if max(squares) > 0 and apart > 1e-9:  # else rounding says which case it is
        assert both.freedom == pytest.approx(reference.freedom(rows))


@settings(deadline=None)
@given(tables())
def test_the_interval_is_finite_and_never_narrower_than_that_over_seeds_alone(table: Table) -> None:
    both, seeds = crossed.estimates(table)
    mean, low, high = crossed.interval(table, 0.95)
    inner_low, inner_high = stats.interval(seeds, 0.95)
    assert all(map(math.isfinite, (mean, low, high)))
    assert low <= inner_low <= mean <= inner_high <= high
    assert both.error >= seeds.error


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [-1, 0, 1])
def test_differences_without_spread_have_an_interval_without_width(value: int) -> None:
    table = np.full((4, 50), value, np.int8)
    assert crossed.interval(table, 0.95) == (100 * value,) * 3


def test_where_images_vary_the_interval_is_wider_and_near_the_pigeonhole_bootstrap() -> None:
    table = drawn(8, 300, 0)
    both, seeds = crossed.estimates(table)
    assert both.error > 1.1 * seeds.error
    _, _, rest = reference.mean_squares(table.tolist())
    bootstrap = 100 * reference.pigeonhole_error(table.tolist())
    # The bootstrap counts the rest three times (Owen 2007, section 4).
    three = math.hypot(both.error, 100 * math.sqrt(2 * rest / table.size))
    assert both.error < bootstrap == pytest.approx(three, rel=0.1)


def test_coverage_is_nominal_where_seeds_images_and_their_interplay_vary() -> None:
    both, alone = calibration.images_coverage((0.05, 0.5), 8, 600, seed=1)
    assert abs(both - 0.95) < 0.027  # three standard errors
    assert alone < 0.92


def test_pairs_are_found_by_seed_and_bits_are_in_the_order_of_images() -> None:
    def packed(rows: dict[int, list[int]]) -> dict[int, Correct]:
        return {i: Correct(len(row), np.packbits(row).tobytes()) for i, row in rows.items()}

    a = packed({0: [1] * 9 + [0], 1: [1, 0] * 5, 3: [1] * 10})
    b = packed({1: [0, 0] * 5, 2: [0] * 10, 3: [0] + [1] * 9})
    found = crossed.over_seeds_and_images(a, b, 0.9)
    assert found is not None
    table = np.array([[1, 0] * 5, [1] + [0] * 9], np.int8)
    assert (found.difference, found.low, found.high) == crossed.interval(table, 0.9)
    assert (found.pairs, found.images) == (2, 10)
    assert found.difference == 30
    assert crossed.right(a[0]).tolist() == [1] * 9 + [0]
    assert a[0].count == 9
    one = {1: a[1]}
    assert crossed.over_seeds_and_images(one, b, 0.9) is None
    assert crossed.over_seeds_and_images(a, {}, 0.9) is None
    assert crossed.over_seeds_and_images(a, {**b, 3: Correct(9, b[3].bits)}, 0.9) is None
